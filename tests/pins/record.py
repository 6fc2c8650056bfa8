"""Write down the pinned facts anew: `python -m tests.pins.record [NAME ...]`, then look at what git says has changed.

For changes that are meant. Whoever makes one tells in the changelog what users' stores or scripts see of it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.pins.command_line import command_line
from tests.pins.keys import run_keys
from tests.pins.snapshots import file_of, written
from tests.pins.stores import recorded_studies, stored_words

FACTS: Mapping[str, Callable[[Path], Any]] = {
    "keys": lambda _: run_keys(),
    "stored_words": stored_words,
    "command_line": command_line,
    "recorded_studies": recorded_studies,
}
"""Each fact by the name of its file, found anew in an empty folder."""


def main(names: list[str]) -> None:
    """Write the named facts, or all."""
    for name in names or FACTS:
        with tempfile.TemporaryDirectory() as folder:
            file_of(name).write_text(written(FACTS[name](Path(folder))) + "\n", encoding="utf-8")
        sys.stdout.write(f"{file_of(name)}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
