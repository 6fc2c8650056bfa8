"""What a study would run, and how far it is: the types of the commands' JSON, with the commands' text."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from html import escape
from typing import TypeVar

from sweeper.documents.plan import PlanDocument
from sweeper.documents.status import StatusDocument, SweepState

Value = TypeVar("Value")


@dataclass(frozen=True)
class Plan:
    """All that a study would run. `runs` of it are planned and `missing` not done yet; `power` says what differences
    they can show. `details`: the object of `sweeper plan --json`; `str()`: the text of `sweeper plan`.
    """

    runs: int
    missing: int
    power: str
    details: PlanDocument = field(repr=False)
    text: str = field(repr=False)

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return _as_text(self.text)


@dataclass(frozen=True)
class Status:
    """How far a study is: runs that are `planned`, have `ended` and are `missing`; `running`: whether a sweep trains
    it; `sweep`: the last one, None where none has run here. `details`: the object of `sweeper status --json`; `str()`:
    the text of `sweeper status`.
    """

    planned: int
    ended: int
    missing: int
    running: bool
    sweep: SweepState | None = field(repr=False)
    details: StatusDocument = field(repr=False)
    text: str = field(repr=False)

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return _as_text(self.text)


def planned(found: PlanDocument, text: str) -> Plan:
    """A plan with its text."""
    return Plan(found.runs, found.state.missing, found.power, found, text)


def counted(found: StatusDocument, text: str) -> Status:
    """A status with its text."""
    counts, sweep = found.counts, found.sweep
    running = sweep is not None and sweep.state == "running"
    return Status(counts.planned, counts.ended, counts.missing, running, sweep, found, text)


def with_text(command: Callable[[], Value]) -> tuple[Value, str]:
    """What a command gives, and what it prints."""
    text = io.StringIO()
    with redirect_stdout(text):
        found = command()
    return found, text.getvalue()


def _as_text(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"
