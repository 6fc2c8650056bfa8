"""What sweeps tell of themselves, as the live page asks for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from dashboards.live.ports import Event, Sweep, Told
from studies.loading.load import read_yaml
from studies.spec import StudyError, shipped_studies
from studies.text.redact import redact
from sweeper.commands.kept.listing import run_folders
from sweeper.folder.control import machine_digest, paused
from sweeper.folder.events import EventReader, in_json
from sweeper.folder.names import ASKED_FILE
from sweeper.folder.standing import standing
from sweeper.recorded.reading import answers_among

MOST_BYTES: Final = 1 << 18  # of a file that may be a study


def told(here: Path, asked: str | None) -> Told:
    """What sweeps in the folder `here` tell. `asked`: the study that the page was opened for, its file or its name."""
    return Told(
        folders=lambda: dict(run_folders(here)),
        follow=follow,
        sweep=last_sweep,
        paused=paused,
        among=answers_among,
        file=partial(file_of, here, asked),
    )


def follow(runs: Path) -> Callable[[], Sequence[Event]]:
    """The events of a study, those that are there first."""
    reader = EventReader(runs)
    return lambda: [in_json(line) for line in reader.read()]


def last_sweep(runs: Path) -> Sweep | None:
    """Where the last sweep stands."""
    found = standing(runs)
    if found is None:
        return None
    beat = found.beat
    return Sweep(
        id=found.sweep,
        state=found.state,
        how="" if found.end is None else found.end.how,
        said=str(redact(str(found))),
        host=beat.host,
        process=beat.process,
        here=beat.machine == machine_digest(),
        phase=beat.phase,
        planned=beat.planned,
        done=beat.done,
        training=beat.training,
        what=beat.what,
        failures=dict(beat.failures),
        seconds_left=beat.seconds_left,
        best=beat.best,
        silent=found.silent,
    )


def file_of(here: Path, asked: str | None, study: str) -> str | None:
    """What a terminal in `here` calls a study: the file that the page was opened for, a file here or one folder down
    that names it, the copy of one that was asked for from Python, or the name of a shipped one.
    """
    own = [Path(asked)] if asked is not None else []
    runs = dict(run_folders(here)).get(study)
    kept = [runs / ASKED_FILE] if runs is not None else []
    for file in (*own, *sorted(here.glob("*.yaml")), *sorted(here.glob("*/*.yaml")), *kept):
        if _name_in(here / file) == study:
            return str(file.relative_to(here) if file.is_relative_to(here) else file)
    return study if study in shipped_studies() else None


def _name_in(file: Path) -> Any:
    """The name of the study that a file is; None where it is none."""
    with suppress(OSError, StudyError, ValueError, AttributeError):
        if file.is_file() and file.stat().st_size <= MOST_BYTES:
            return read_yaml(file).get("study")
    return None
