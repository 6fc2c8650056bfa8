"""What the page is handed by who starts it: how it learns what sweeps tell of themselves, and the acts that steer them.

The page itself writes nothing. `sweeper/commands/page/` implements all of this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from studies.design.answers import Answers
from studies.records import RunRecord
from studies.requests import Request
from studies.spec import Study

Event = Mapping[str, Any]
"""A line of a study's `events.jsonl`, as `sweeper/folder/events.py` describes it."""


@dataclass(frozen=True)
class Sweep:
    """The last sweep of a study. `said`: where it stands, in a line; `planned` and `done` count `what`; `failures` by
    kind; `best`: variant, scenario and value; `silent`: seconds since its last event; `here`: it runs on this machine.
    """

    id: str
    state: Literal["running", "ended", "dead"]
    how: str
    said: str
    host: str
    process: int
    here: bool
    phase: str
    planned: int = 0
    done: int = 0
    training: int = 0
    what: str = "runs"
    failures: Mapping[str, int] = field(default_factory=dict)
    seconds_left: float | None = None
    best: tuple[str, str, float | None] | None = None
    silent: float = 0.0


@dataclass(frozen=True)
class Told:
    """How the page learns what is not in MLflow. `folders`: name -> run folder of the studies that ran here; `follow`:
    run folder -> what gives its events since the last call; `sweep`: where the last sweep of a run folder stands;
    `paused`: variants of a run folder; `among`: what answers a study of its records, by its tags in the store;
    `file`: what a terminal calls a study, its file or its name, None where nobody knows.
    """

    folders: Callable[[], Mapping[str, Path]]
    follow: Callable[[Path], Callable[[], Sequence[Event]]]
    sweep: Callable[[Path], Sweep | None]
    paused: Callable[[Path], frozenset[str]]
    among: Callable[[Study, Sequence[RunRecord], Mapping[str, str]], Answers[RunRecord]]
    file: Callable[[str], str | None]


@dataclass(frozen=True)
class Run:
    """Train what is missing, in a process of its own."""


@dataclass(frozen=True)
class Edit:
    """Make `text` the next version of the study file, which was `before`; the old one is kept beside it. A sweep that
    runs is asked to take it.
    """

    before: str
    text: str


Act = Request | Run | Edit


@dataclass(frozen=True)
class Done:
    """What became of an act: `done`, `refused` or `too_late`, in words; `id`: of its request, where it was one."""

    outcome: Literal["done", "refused", "too_late"]
    message: str
    id: str = ""


@dataclass(frozen=True)
class Version:
    """The next version of a study file, as an edit would write it: `diff` against the one that is there, line by line;
    `problems`: why it is refused.
    """

    file: str
    kept_as: str
    edit: Edit
    diff: tuple[str, ...]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Hands:
    """The acts. `do`: carry one out for a study, which may take seconds; `command`: the line that does the same in a
    terminal; `clone`: the study file with a copy of a variant under another name, with other settings (`name: value`,
    as YAML has them); `more`: the study file with another value of a key, such as `budget.trials`.
    """

    do: Callable[[str, Act], Done]
    command: Callable[[str, Act], str]
    clone: Callable[[str, str, str, Mapping[str, str]], Version]
    more: Callable[[str, str, str], Version]
