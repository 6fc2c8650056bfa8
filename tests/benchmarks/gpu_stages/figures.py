"""Figures as JSON lines, written down as they come, so that a cut or a crash costs only what was not yet measured."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

FILE: Final = "figures.jsonl"
_DIGITS: Final = 5
_LONGEST: Final = 90
"""Characters of a text in a line that is printed again."""


class Figures:
    """Where a stage writes its figures: `folder`/figures.jsonl, and its output."""

    def __init__(self, folder: Path, stage: str) -> None:
        self.folder, self.stage = folder, stage
        self._began = time.monotonic()

    def note(self, what: str, **found: Any) -> None:
        """Write a line at once: `what` was measured, and its figures."""
        line = {"stage": self.stage, "at_s": round(time.monotonic() - self._began, 1), "what": what}
        text = json.dumps(line | {name: _rounded(value) for name, value in found.items()}, default=str)
        with (self.folder / FILE).open("a", encoding="utf-8") as file:
            file.write(text + "\n")
        print(text, flush=True)  # noqa: T201

    @contextmanager
    def part(self, what: str) -> Iterator[None]:
        """What fails inside is noted as `failed`, and leaves the rest of the stage standing."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.note(what, failed=f"{type(error).__name__}: {str(error)[:600]}")


def _rounded(value: Any) -> Any:
    """Numbers to five digits, also those in lists and mappings."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value


def read_figures(folder: Path, skip: int = 0) -> list[dict[str, Any]]:
    """The lines of a folder, less the first few."""
    file = folder / FILE
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [json.loads(line) for line in lines[skip:]]


def is_bad(line: Mapping[str, Any]) -> bool:
    """Whether a line says that something failed, does not hold, or did not come to its end."""
    return "failed" in line or line.get("holds") is False or line.get("ended", "done") != "done"


def recap(lines: Sequence[Mapping[str, Any]], decides: Mapping[str, Sequence[str]]) -> list[str]:
    """The lines that decide, by stage, and those that are bad: short, without lists and long texts."""
    found = []
    for line in lines:
        if line["what"] in decides.get(line["stage"], ()) or is_bad(line):
            mark = "FAILED " if is_bad(line) else ""
            kept = [f"{name}={value}" for name, value in line.items() if name not in _HEAD and _is_short(value)]
            why = [str(line["failed"])[:_LONGEST]] if "failed" in line and not _is_short(line["failed"]) else []
            found.append(f"{mark}{line['stage']}: {line['what']}: {' '.join([*kept, *why])}")
    return found


_HEAD: Final = ("stage", "at_s", "what")


def _is_short(value: Any) -> bool:
    return not isinstance(value, list | dict) and len(str(value)) <= _LONGEST and "\n" not in str(value)
