"""The command line: parse, call, print. Knows no Optuna, MLflow or torch; heavy modules load inside the commands."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import typer

from studies.text.redact import note_command, redact, redact_output
from studies.text.visible import visible
from sweeper.cli.verbs.preparing import doctor, init, plan
from sweeper.cli.verbs.results import SAFE_PATH, evaluate, export, records, report, status, table, ui
from sweeper.cli.verbs.running import pause, resume, retry, run, stop, wait

if TYPE_CHECKING:
    pass


class _Commands(typer.core.TyperGroup):
    """The commands, which know the secrets among their words before they complain of any."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        note_command(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            told = vars(error)  # of typer's own: it is printed in a box, which may break a secret in two
            if isinstance(told.get("message"), str):
                told["message"] = visible(redact(told["message"]))
            raise


app = typer.Typer(
    cls=_Commands,
    help="Which DPO loss, with which settings, for my model and my data?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


# In the order in which `sweeper --help` lists them.
_READING = (status, table, report, records, evaluate, export, ui)
for command in (init, plan, run, retry, wait, stop, pause, resume, *_READING, doctor):
    app.command()(command)


def main() -> None:
    """Entry point of the command `sweeper`."""
    os.environ |= SAFE_PATH
    redact_output()
    app()
