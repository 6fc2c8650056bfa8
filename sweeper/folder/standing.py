"""Reads from a study's folder whether a sweep runs, where and how far; and sends it requests."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, Literal

from studies.requests import Request
from sweeper.folder.control import AlreadyRunning, NotHere, is_held, lock, machine_digest
from sweeper.folder.events import EventReader, Heartbeat, Line, RequestAnswered, SweepEnded, last_events
from sweeper.folder.names import EVENTS_FILE
from sweeper.folder.requests import put, remove

DEAD_SECONDS: Final = 30.0  # not heard of for so long, a sweep is dead
ANSWER_SECONDS: Final = 15.0  # for a sweep to answer a request
_LOOK_SECONDS: Final = 0.1


@dataclass(frozen=True)
class Standing:
    """The last sweep that wrote events. `state`: running, ended (`end` says how), or dead: it ended without an event,
    or has written none for `DEAD_SECONDS` and does not hold its study on this machine. `silent`: seconds since its last
    event.
    """

    sweep: str
    state: Literal["running", "ended", "dead"]
    beat: Heartbeat
    silent: float
    end: SweepEnded | None = None

    @property
    def process(self) -> str:
        """The sweep's process and host."""
        where = "" if self.beat.machine == machine_digest() else f" on {self.beat.host}"
        return f"process {self.beat.process}{where}"

    def __str__(self) -> str:
        beat = self.beat
        far = f", {beat.done}/{beat.planned} {beat.what}" if beat.planned else ""
        if self.state == "running":
            training = f", {beat.training} in training" if beat.planned else ""
            return f"running: {self.process}, phase {beat.phase}{far}{training}; heard of {_ago(self.silent)} ago"
        if self.end is not None:
            why = f" ({self.end.message})" if self.end.message else ""
            ended = "ended incomplete" if self.end.how == "incomplete" else f"was {self.end.how}"
            return f"not running: the last sweep, {self.process}, {ended} {_ago(self.silent)} ago{why}"
        return (
            f"not running: the last sweep, {self.process}, died in phase {beat.phase}{far}; it was last heard of "
            f"{_ago(self.silent)} ago"
        )


def standing(runs: Path) -> Standing | None:
    """The state of a study's last sweep; None where none has written events. Only reads."""
    lines = last_events(runs)
    beats = [(line, line.event) for line in lines if isinstance(line.event, Heartbeat)]
    if not beats:
        return None
    line, beat = beats[-1]
    after = [other.event for other in lines if other.sweep == line.sweep]
    end = next((event for event in reversed(after) if isinstance(event, SweepEnded)), None)
    silent = _silent(runs, line)
    gone = silent > DEAD_SECONDS
    if beat.machine == machine_digest():  # a machine that slept was silent too, and its sweep goes on
        gone = not lives(beat.process) or (gone and not is_held(runs))
    state: Literal["running", "ended", "dead"] = "ended" if end is not None else "dead" if gone else "running"
    return Standing(line.sweep, state, beat, silent, end)


def ask(runs: Path, request: Request, sweep: str) -> RequestAnswered:
    """Send a running sweep a request and wait for its answer. Raises OSError, and NotHere where none comes: then the
    request is withdrawn.
    """
    reader = EventReader(runs, only_new=True)
    identity = put(runs, request, sweep)
    deadline, withdrawn = time.monotonic() + ANSWER_SECONDS, False
    try:
        while True:
            for line in reader.read():
                if isinstance(line.event, RequestAnswered) and line.event.id == identity:
                    return line.event
            if withdrawn or time.monotonic() > deadline + ANSWER_SECONDS:
                break
            if time.monotonic() > deadline:
                withdrawn = remove(runs, identity)  # where the sweep has just taken it, its answer is written already
            time.sleep(_LOOK_SECONDS)
    finally:
        reader.close()
    raise NotHere(
        f"The sweep has not answered for {ANSWER_SECONDS:.0f} s, and the request was withdrawn. Look where it is with "
        "`sweeper status`."
    )


def _silent(runs: Path, line: Line) -> float:
    """Seconds since the file was written, by the clock of the machine where it lies, which all readers share."""
    heard = line.at
    with suppress(OSError):
        heard = (runs / EVENTS_FILE).lstat().st_mtime
    return max(time.time() - heard, 0.0)


def _ago(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else str(timedelta(seconds=round(seconds)))


def lives(process: int) -> bool:
    """Whether a process of this machine is there; one that has ended and that its parent has not asked for is not."""
    if process <= 0:
        return False
    with suppress(OSError):
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return state[0] not in "ZX"
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


@contextmanager
def alone(runs: Path) -> Iterator[None]:
    """Hold the study for what measures its runs, which takes no lease. Raises AlreadyRunning; OSError as `lock`."""
    with lock(runs) as held:
        found = None if held else standing(runs)
        if found is not None and found.state == "running":
            raise AlreadyRunning(f"This study is being run already, by {found.process}. Wait for it, or stop it.")
        yield
