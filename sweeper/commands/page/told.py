"""What sweeps tell of themselves, as the live page asks for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from dashboards.live.ports import Event, Sweep, Told
from studies.text.redact import redact
from sweeper.commands.kept.listing import run_folders
from sweeper.commands.page.files import StudyFiles
from sweeper.folder.control import machine_digest, paused
from sweeper.folder.events import EventReader, in_json
from sweeper.folder.standing import standing
from sweeper.recorded.reading import answers_among


def told(here: Path, files: StudyFiles) -> Told:
    """What sweeps in the folder `here` tell. `files`: of that folder."""
    return Told(
        folders=lambda: dict(run_folders(here)),
        follow=follow,
        sweep=last_sweep,
        paused=paused,
        among=answers_among,
        file=files.file,
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
