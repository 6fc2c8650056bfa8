"""Follows a sweep that runs in another process, to its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final

from studies.records import Failure
from sweeper.folder.control import machine_digest
from sweeper.folder.events import EventReader, Happening, Heartbeat, SweepEnded
from sweeper.folder.standing import Standing, lives, standing
from sweeper.loop.progress import Progress

LOOK_SECONDS: Final = 0.2
ALIVE_SECONDS: Final = 2.0  # how often it is asked whether a silent sweep is still there
LETS_GO_SECONDS: Final = 60.0  # for a sweep that has ended to end its process


def follow(runs: Path, see: Callable[[Happening], None], deadline: float | None = None) -> Standing | None:
    """Wait for the sweep that runs to end, or until the deadline by the monotonic clock, and give where it stands then:
    at once where none runs, None where none ever did. `see` gets its last heartbeat, then its events as they
    are written.
    """
    found = _followed(runs, see, deadline)
    if found is not None and found.end is not None and found.beat.machine == machine_digest():
        let_go = time.monotonic() + LETS_GO_SECONDS  # of the study, with its answer printed
        while lives(found.beat.process) and time.monotonic() < min(let_go, deadline or let_go):
            time.sleep(LOOK_SECONDS)
    return found


def _followed(runs: Path, see: Callable[[Happening], None], deadline: float | None) -> Standing | None:
    with closing(EventReader(runs, only_new=True)) as reader:
        found = standing(runs)
        if found is None or found.state != "running":
            return found
        see(found.beat)
        looked = time.monotonic()
        while deadline is None or time.monotonic() < deadline:
            for event in [line.event for line in reader.read() if line.sweep == found.sweep]:
                see(event)
                if isinstance(event, Heartbeat):
                    found = replace(found, beat=event, silent=0.0)
                if isinstance(event, SweepEnded):
                    return replace(found, state="ended", silent=0.0, end=event)
            if time.monotonic() - looked > ALIVE_SECONDS:
                now, looked = standing(runs), time.monotonic()
                if now is None or now.sweep != found.sweep:  # another one has taken the study over
                    return replace(found, state="dead")
                if now.state == "dead":
                    return now
            time.sleep(LOOK_SECONDS)
        return found


def progress_of(beat: Heartbeat) -> Progress:
    """The progress that a heartbeat tells."""
    known = {str(failure): failure for failure in Failure}
    best = (beat.best[0], beat.best[1], beat.best[2]) if beat.best is not None and beat.best[2] is not None else None
    return Progress(
        planned=beat.planned,
        done=beat.done,
        training=beat.training,
        failures={known[name]: number for name, number in beat.failures.items() if name in known},
        best=best,
        seconds_left=beat.seconds_left,
        what=beat.what,
        doing="" if beat.phase == "train" else DOING.get(beat.phase, beat.phase),
    )


DOING: Final = {
    "begin": "opening the stores",
    "measure": "measuring finished runs again",
    "verify": "training runs again, alone",
    "speed": "timing the variants",
    "report": "writing the report",
}


def exit_code(found: Standing) -> int:
    """With which code `sweeper run` ended: 0 done, 1 something is left to do, 2 model or data are refused."""
    if found.state != "ended" or found.end is None:
        return 1
    return {"finished": 0, "refused": 2}.get(found.end.how, 1)
