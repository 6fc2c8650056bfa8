"""Checks whether a sweep may write into the folder of a study's runs: it is new, empty, or its content is a sweep's.

A study file alone decides where that folder is, and what something else has made must not be touched. Loads no store.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from studies.text.files import is_folder, is_here_alone, read_bytes, read_json, what_is_wrong
from sweeper.folder.names import (
    LOCK_FILE,
    LOGS,
    MARK_FILE,
    OWN_FILES,
    PAUSED_FILE,
    PILOT_FILE,
    REFERENCE,
    REQUESTS,
)
from trainers.run_folder.results import holds_run

_MOST_BYTES: Final = 1 << 20  # of a mark
_OF_PILOT: Final = re.compile(rf"{LOGS}|{REFERENCE}|pilot-[0-9a-f]{{12}}")
_LOG: Final = re.compile(r"worker-\d+\.log")


class ForeignFolder(Exception):
    """The study's folder holds files that no sweep has made: says which, and what to do."""


def refuse_foreign_folder(runs: Path) -> None:
    """Raise ForeignFolder where a sweep must not write into the folder. Only reads."""
    problem = _problem(runs)
    if problem is not None:
        raise ForeignFolder(f"{problem} Nothing was written.")


def _problem(runs: Path) -> str | None:
    elsewhere = "or keep the study's runs in another place: --set output.folder=FOLDER."
    if not os.path.lexists(runs):
        return None
    if not is_folder(runs):
        return (
            f"{runs} is no real folder, and the runs of a study are kept in one (the folder above it may be a link): "
            f"move it away, {elsewhere}"
        )
    try:
        names = sorted(entry.name for entry in runs.iterdir())
    except OSError as error:
        return f"{runs} cannot be read ({error.strerror}): make it readable, {elsewhere}"
    if names and not any(is_mark(runs) for is_mark in _MARKS):
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        return (
            f"The folder {runs} holds files that no sweep has made ({shown}), and sweeps remove and replace files in "
            f"the folder of their runs: give the study another name, {elsewhere}"
        )
    for path in _fixed(runs):
        wrong = what_is_wrong(path)
        if wrong is None and path.parent.name == LOGS and not is_here_alone(path):
            wrong = "has another name elsewhere (a hard link)"
        if wrong is not None:
            return f"{path} {wrong}, and a sweep writes there: move it away, {elsewhere}"
    for name in (LOGS, REFERENCE, REQUESTS):
        if os.path.lexists(runs / name) and not is_folder(runs / name):
            return f"{runs / name} is no real folder, and a sweep writes into it: move it away, {elsewhere}"
    return None


def _fixed(runs: Path) -> Iterator[Path]:
    """The files of a study that have fixed names."""
    yield from (runs / name for name in OWN_FILES)
    if is_folder(runs / LOGS):
        yield from sorted((runs / LOGS).glob("worker-*.log"))


def read_mark(runs: Path) -> Mapping[str, str] | None:
    """The mark in which a sweep wrote the study's owner; None where there is none."""
    with suppress(OSError, ValueError):
        found = read_json(runs / MARK_FILE, _MOST_BYTES)
        if isinstance(found, dict) and all(isinstance(found.get(name), str) for name in ("id", "owner", "folder")):
            return {str(name): str(value) for name, value in found.items()}
    return None


def _is_marked(runs: Path) -> bool:
    return read_mark(runs) is not None


def _has_lock(runs: Path) -> bool:
    """Whether a lock names a process and a host, as one also does of a version that wrote no mark."""
    with suppress(OSError, ValueError):
        words = read_bytes(runs / LOCK_FILE, _MOST_BYTES).decode().split()
        return len(words) <= 2 and all(word.isdigit() for word in words[:1])
    return False


def _is_paused(runs: Path) -> bool:
    found = _json(runs / PAUSED_FILE)
    return isinstance(found, list) and all(isinstance(name, str) for name in found)


def _is_piloted(runs: Path) -> bool:
    found = _json(runs / PILOT_FILE)
    return isinstance(found, dict) and {"of", "pilot"} <= found.keys()


def _has_logs(runs: Path) -> bool:
    """Whether there are only logs of a worker: an interrupted pilot of an earlier version left these."""
    if not is_folder(runs / LOGS) or not all(_OF_PILOT.fullmatch(entry.name) for entry in runs.iterdir()):
        return False
    names = [entry.name for entry in (runs / LOGS).iterdir()]
    return bool(names) and all(_LOG.fullmatch(name) for name in names)


def _has_runs(runs: Path) -> bool:
    return any(holds_run(run) for run in runs.iterdir())


def _json(path: Path) -> Any:
    with suppress(OSError, ValueError):
        return read_json(path, _MOST_BYTES)
    return None


_MARKS: Final[tuple[Callable[[Path], bool], ...]] = (
    _is_marked,
    _has_lock,
    _is_paused,
    _is_piloted,
    _has_logs,
    _has_runs,
)
"""By which a sweep, a pause or a pilot of an earlier version leaves word that the folder is a study's."""
