"""What a sweep tells of itself: `events.jsonl` in the study's folder, for everybody who watches it.

One JSON object a line:

    {"v": 1, "sweep": "9f2c41d07ab3", "n": 17, "at": 1790000000.123, "event": "run_ended", "key": "...", ...}

- `v`: version of the format. A reader leaves out lines of another one, and fields and events that it does not know.
- `sweep`: id of the sweep, new for every `sweeper run`. `n`: number of the line in the sweep, from 1; a gap means that
  lines were lost. `at`: seconds since 1970 by the clock of the sweep's machine.
- `event`, with its fields: the types below, by the names in `EVENTS`. Numbers that are not finite are null.

Lines are written whole, and secrets are taken out. A line that a full disk cut short is followed by a line end and left
out by readers. A sweep begins a new file, and so does a file of 16 MiB; the one before is kept as `events.1.jsonl`, so
that both together stay below twice that. A file that continues a sweep first repeats its beginning, its phase, its
workers and the runs in training. A new file gets its name once that stands in it, so that a reader finds where the
sweep stands at any moment. Reports of a run are told at most every 5 seconds. `steering/event_log.py` writes all this.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Final

from pydantic import TypeAdapter, ValidationError

from studies.text.files import open_file
from studies.text.redact import redact
from sweeper.folder.names import EVENTS_FILE

VERSION: Final = 1
LATEST: Final = 1e11  # seconds since 1970; what is later is no time
LONGEST_LINE: Final = 1 << 14
LONGEST_TEXT: Final = 500  # of one field
MOST_METRICS: Final = 64  # of one report
TAIL_BYTES: Final = 1 << 18  # in which the last heartbeat stands


@dataclass(frozen=True)
class SweepBegan:
    """A sweep has locked the study and begins."""

    study: str
    host: str
    process: int


@dataclass(frozen=True)
class PhaseBegan:
    """Another phase begins: measure, train, verify, speed, report."""

    phase: str


@dataclass(frozen=True)
class RunStarted:
    """A worker has begun an attempt at a run."""

    key: str
    worker: str
    variant: str
    scenario: str
    trial: int
    block: int
    seed: int


@dataclass(frozen=True)
class RunReported:
    """A run in training has logged a step."""

    key: str
    step: int
    metrics: Mapping[str, float | None]


@dataclass(frozen=True)
class RunEnded:
    """An attempt has ended, for this cause (a `studies.records.Cause`); the sweep may try it again."""

    key: str
    cause: str
    message: str = ""


@dataclass(frozen=True)
class WorkerChanged:
    """A worker was asked for (`asked`), waits for its place (`waiting`), works (`here`), or has ended (`gone`)."""

    worker: str
    state: str
    place: str = ""
    why: str = ""


@dataclass(frozen=True)
class Heartbeat:
    """The sweep is alive, in this phase, with its progress once known. `failures` by kind. `machine`: a digest shared
    by processes that see each other's process ids. `asked`: digest of what its study asks; "" by earlier versions.
    """

    host: str
    machine: str
    process: int
    phase: str
    planned: int = 0
    done: int = 0
    training: int = 0
    what: str = "runs"
    failures: Mapping[str, int] = field(default_factory=dict)
    seconds_left: float | None = None
    best: tuple[str, str, float | None] | None = None
    asked: str = ""


@dataclass(frozen=True)
class RequestAnswered:
    """A request was obeyed (`done`), `refused`, or is of an earlier or later sweep (`too_late`). `message` says what
    happens, or why not and what to do.
    """

    id: str
    ask: str
    outcome: str
    message: str


@dataclass(frozen=True)
class SweepEnded:
    """The sweep has ended: `finished`; `stopped` by somebody or a budget, which is named; `incomplete`: all was tried,
    and what is left is named; `refused` since no run can be trained with this model or data; or `interrupted`, by what.
    """

    how: str
    message: str = ""


Happening = (
    SweepBegan
    | PhaseBegan
    | RunStarted
    | RunReported
    | RunEnded
    | WorkerChanged
    | Heartbeat
    | RequestAnswered
    | SweepEnded
)
EVENTS: Final[Mapping[str, type[Any]]] = {
    "sweep_began": SweepBegan,
    "phase": PhaseBegan,
    "run_started": RunStarted,
    "run_reported": RunReported,
    "run_ended": RunEnded,
    "worker": WorkerChanged,
    "heartbeat": Heartbeat,
    "request_answered": RequestAnswered,
    "sweep_ended": SweepEnded,
}
_NAMES: Final = {kind: name for name, kind in EVENTS.items()}
_SWEEP: Final = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True)
class Line:
    """An event, its sweep and its time."""

    sweep: str
    number: int
    at: float
    event: Happening


def in_json(line: Line) -> dict[str, Any]:
    """A line as its JSON says it, without secrets."""
    head = {"v": VERSION, "sweep": line.sweep, "n": line.number, "at": round(line.at, 3)}
    return {**head, "event": _NAMES[type(line.event)], **_plain(redact(asdict(line.event), by_name=False))}


def encode(line: Line) -> bytes:
    """Serialize a line."""
    return json.dumps(in_json(line), allow_nan=False).encode() + b"\n"


def decode(text: bytes) -> Line | None:
    """Parse a line; None for one that is damaged, of another version, or of an unknown event."""
    if len(text) > LONGEST_LINE:
        return None
    with suppress(ValueError, RecursionError, ValidationError, OverflowError):
        found = json.loads(text)
        if not isinstance(found, dict) or found.get("v") != VERSION:
            return None
        sweep, number, at = str(found.get("sweep")), found.get("n"), found.get("at")
        kind = EVENTS.get(str(found.get("event")))
        if kind is None or not _SWEEP.fullmatch(sweep) or type(number) is not int or not isinstance(at, int | float):
            return None
        if not 0 <= at <= LATEST:  # nor NaN
            return None
        return Line(sweep, number, float(at), _reader(str(found["event"])).validate_python(found))
    return None


class EventReader:
    """Follows the events of a study's sweeps across files."""

    def __init__(self, runs: Path, *, only_new: bool = False) -> None:
        """`only_new`: skip what is there already."""
        self._path = runs / EVENTS_FILE
        self._file: IO[bytes] | None = None
        self._rest = b""
        if only_new and self._open() and self._file is not None:
            self._file.seek(0, os.SEEK_END)

    def read(self) -> list[Line]:
        """The events since the last call."""
        found = list(self._lines())
        if self._is_over():
            found += [*self._lines(), *(self._lines() if self._open() else ())]  # first what came before the new file
        return found

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def _is_over(self) -> bool:
        """Whether nothing more is written to the file, as another one has its name, or none is open yet."""
        return self._file is None or (os.path.lexists(self._path) and not has_name(self._file, self._path))

    def _open(self) -> bool:
        """Open the file that has the name now; whether it could."""
        with suppress(OSError):
            file = open_file(self._path, os.O_RDONLY)
            self.close()
            self._file, self._rest = file, b""
            return True
        return False

    def _lines(self) -> Iterator[Line]:
        while self._file is not None and (read := self._file.read(1 << 20)):
            *whole, self._rest = (self._rest + read).split(b"\n")
            self._rest = self._rest[: LONGEST_LINE + 1]
            yield from (line for line in map(decode, whole) if line is not None)


def last_events(runs: Path) -> list[Line]:
    """The last events of a study's sweeps, about a hundred or more; none where there are none."""
    try:
        with open_file(runs / EVENTS_FILE, os.O_RDONLY) as file:
            begin = max(os.fstat(file.fileno()).st_size - TAIL_BYTES, 0)
            file.seek(begin)
            lines = file.read(TAIL_BYTES).split(b"\n")[1 if begin else 0 :]
    except OSError:
        return []
    return [line for line in map(decode, lines) if line is not None]


def has_name(file: IO[bytes], path: Path) -> bool:
    """Whether an open file is the one of this name."""
    with suppress(OSError):
        return os.path.samestat(os.fstat(file.fileno()), path.lstat())
    return False


@lru_cache
def _reader(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(EVENTS[name])


def _plain(value: Any) -> Any:
    """The value as JSON, shortened to what a line may have."""
    match value:
        case str():
            return value if len(value) <= LONGEST_TEXT else value[: LONGEST_TEXT - 3] + "..."
        case dict():
            return {_plain(str(name)): _plain(inside) for name, inside in list(value.items())[:MOST_METRICS]}
        case list() | tuple():
            return [_plain(inside) for inside in value]
        case float():
            return value if math.isfinite(value) else None
    return value
