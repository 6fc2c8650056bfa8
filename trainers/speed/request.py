"""What is asked of the process that measures, and what it answers; loads no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from studies.records import RunConfig
from studies.records.configs import Frozen
from studies.records.speed import Timings

MODULE: Final = "trainers.speed"
IN_A_WORKER: Final = "trainers.speed.worker:StepTimer"
REQUEST_FILE: Final = "request.json"
TIMING: Final = "timing: "
"""With this the news of a worker that measures begins."""
ANSWER_FACT, MACHINE_FACT = "answer", "machine"
"""Of a worker's result: the line that the process would have written, and `machine_kind` as JSON."""


class Request(Frozen):
    """Measure these runs, by variant, against the baseline's. `check`: rounds of whole steps, 0 for none; `bf16`: as
    `Placement` has it; `folder`: for TRL's own files.
    """

    baseline: str
    runs: Mapping[str, RunConfig]
    check: int
    bf16: bool | None
    folder: str


class News(Frozen):
    """What is measured now, and for how many seconds at most; None where that is not known."""

    doing: str
    left: float | None = None


class Answer(Frozen):
    """What was measured; see `studies.records.speed.Speed`."""

    device: str
    threads: int
    step_seconds: float
    losses: Timings
    steps: Timings | None
    failed: Mapping[str, str]


class Refusal(Frozen):
    """Why nothing could be measured."""

    message: str


Line = News | Answer | Refusal
_KINDS: Final[Mapping[str, type[News] | type[Answer] | type[Refusal]]] = {
    "news": News,
    "answer": Answer,
    "refusal": Refusal,
}


def to_line(said: Line) -> str:
    """One line of the process's output."""
    (kind,) = (name for name, of in _KINDS.items() if type(said) is of)
    return json.dumps({kind: said.model_dump(mode="json")}) + "\n"


def from_line(line: str | bytes) -> Line:
    """What a line says. Raises ValueError for one that says nothing of this kind."""
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict) or len(found) != 1 or next(iter(found)) not in _KINDS:
        raise ValueError(f"no line of {MODULE}: {line!r:.200}")
    ((kind, said),) = found.items()
    return _KINDS[kind].model_validate(said)
