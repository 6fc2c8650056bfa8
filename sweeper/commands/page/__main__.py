"""The page's own process, which `sweeper ui` becomes: it takes no code from the working folder (`python -P`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dashboards.store.connection import store_uri
from studies.text.redact import redact_output
from sweeper.commands.page.serve import serve_page


def main(host: str, port: int, study: Annotated[str | None, typer.Argument()] = None) -> None:
    """Serve the live page of the working folder; `sweeper ui` has looked whether it can."""
    redact_output()
    serve_page(store_uri(None, Path.cwd()), Path.cwd(), study, host, port, typer.echo)


if __name__ == "__main__":
    typer.run(main)
