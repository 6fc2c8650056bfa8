"""Cleans up a study's folder: half-written files of killed processes, states that no run resumes from, links and pipes
that somebody else has put there.

The caller holds the study's lock, so nobody else writes there. Only what is known to be a sweep's is touched: a real
folder named by a run's key, or marked when it was made, and through no link.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from studies.records import Cause
from studies.samples.kept import SAMPLES_FOLDER
from studies.text.files import is_file, is_folder
from sweeper.folder.names import LOGS, MARK_FILE, OWN_FILES, REFERENCE, REQUESTS
from trainers.run_folder.results import (
    ADAPTER,
    ATTEMPT_FILE,
    CHECKPOINTS,
    EARLIER_FILE,
    RESULT_FILE,
    STATE_FILE,
    drop_state,
    holds_run,
    holds_state,
    is_run_folder,
    read_result,
)

_HALF_WRITTEN: Final = re.compile(
    rf"\.({re.escape(RESULT_FILE)}|{re.escape(STATE_FILE)}|{re.escape(ATTEMPT_FILE)})\.[0-9a-z_]+"
)
# As `studies.text.files.write_beside` calls what it writes, of which a kill may leave one.
_BESIDE: Final = re.compile(rf"\.({'|'.join(map(re.escape, OWN_FILES))})\.[0-9a-f]{{16}}")
_ASIDE: Final = re.compile(r"\.aside-[0-9a-f]{8}$")
_KINDS: Final = {  # of what a run's folder holds
    **dict.fromkeys((RESULT_FILE, STATE_FILE, EARLIER_FILE, ATTEMPT_FILE), stat.S_ISREG),
    **dict.fromkeys((ADAPTER, CHECKPOINTS, SAMPLES_FOLDER, "trainer"), stat.S_ISDIR),
}
_SCRATCH: Final = ".scratch-of-sweeper"  # file in a folder all of which may be removed
_HELD: Final = {  # files that a sweep, its workers and who asks it make in folders of fixed names
    LOGS: re.compile(
        r"(worker-\d+|notify|speed)\.log|door\.(key|mark|port)|\.door\.(key|mark|port)\.[0-9a-f]{16}"
        r"|\.seen-[0-9a-f]{16}"
    ),
    REQUESTS: re.compile(r"[0-9A-Za-z_-]{1,64}\.json|\.[0-9A-Za-z_-]{1,64}\.json\.[0-9a-f]{16}"),
    REFERENCE: re.compile(r"[0-9a-f]{32}/([0-9a-f]{32}\.safetensors|lock|\.[0-9a-f]{16}\.tmp)"),
}


def remove_half_written(runs: Path) -> None:
    """Remove temporary files of results and states whose writers were killed before the rename."""
    for run in filter(is_run_folder, runs.iterdir()):
        for path in run.iterdir():
            if _HALF_WRITTEN.fullmatch(path.name) and is_file(path):
                path.unlink(missing_ok=True)


def remove_states(runs: Path) -> None:
    """Remove the states and checkpoints of all runs: the study is complete, and those left are of runs that it no
    longer asks for.
    """
    for run in runs.iterdir():
        if is_run_folder(run) and holds_state(run) and holds_run(run):
            drop_state(run)


def stopped_on_their_way(runs: Path) -> int:
    """How many runs were stopped before their end and have kept what they go on from."""
    found = (run for run in runs.iterdir() if is_run_folder(run) and holds_state(run) and holds_run(run))
    return sum((result := read_result(run)) is not None and result.cause is Cause.USER_STOP for run in found)


def set_aside(run: Path) -> list[str]:
    """Rename what lies in the place of a run's folder or of its files and would redirect writes: a link, a pipe, a file
    with a second name. Gives messages that say what it was. Raises OSError.
    """
    if not os.path.lexists(run):
        return []
    said = []
    for path in list(_not_ours(run)):
        aside = path.with_name(f"{path.name}.aside-{secrets.token_hex(4)}")
        os.rename(path, aside)
        said.append(f"{path} is neither a real folder nor a file of a run: it is called {aside.name} from now on.")
    return said


def scratch(runs: Path, name: str) -> Path:
    """Make an empty folder in the study's folder that `drop_scratch` removes. What a killed process left in it is
    removed; where something else has the name, another is taken. Raises OSError.
    """
    folder = runs / name
    drop_scratch(folder)
    if os.path.lexists(folder):
        folder = runs / f"{name}-{secrets.token_hex(4)}"
    folder.mkdir(parents=True)
    (folder / _SCRATCH).touch()
    return folder


def drop_scratch(folder: Path) -> None:
    """Remove a folder that `scratch` made, and no other."""
    if is_folder(folder) and is_file(folder / _SCRATCH):
        shutil.rmtree(folder, ignore_errors=True)


def divided(runs: Path) -> tuple[list[Path], list[Path]]:
    """What lies in a study's folder: what a sweep has made, the mark of its owner last, and what nothing says so of.

    Links are never a sweep's. Of a sweep's folder in which something else lies, too, the parts.
    """
    if not is_folder(runs):
        return [], []
    entries = sorted(runs.iterdir(), key=lambda path: (path.name == MARK_FILE, path.name))
    parts = [part for path in entries for part in _parts(path)]
    return [part for part, is_ours in parts if is_ours], [part for part, is_ours in parts if not is_ours]


def _parts(path: Path) -> list[tuple[Path, bool]]:
    """What lies in a study's folder, and whether a sweep has made it; in parts where it has made some of it."""
    if is_file(path):
        return [(path, path.name in OWN_FILES or _BESIDE.fullmatch(path.name) is not None)]
    if not is_folder(path):
        return [(path, False)]
    if is_file(path / _SCRATCH):
        return [(path, True)]
    held, parts = _HELD.get(path.name), list[tuple[Path, bool]]()
    if held is not None:
        named = [(leaf, leaf.relative_to(path).as_posix()) for leaf in _leaves(path)]
        parts = [(leaf, is_file(leaf) and held.fullmatch(name) is not None) for leaf, name in named]
    elif is_run_folder(path):
        parts = [(part, _is_of_run(part)) for part in sorted(path.iterdir())]
        if not all(is_ours for _, is_ours in parts) and not holds_run(path):
            return [(path, False)]
    else:
        return [(path, False)]
    return [(path, True)] if all(is_ours for _, is_ours in parts) else parts


def _leaves(folder: Path) -> Iterator[Path]:
    """All that lies below a folder and is no folder with something in it, through no link."""
    for path in sorted(folder.iterdir()):
        if is_folder(path) and any(path.iterdir()):
            yield from _leaves(path)
        else:
            yield path


def _is_of_run(path: Path) -> bool:
    """Whether it is a part of a run that was killed before its first state."""
    kind = _KINDS.get(path.name)
    return kind(path.lstat().st_mode) if kind is not None else bool(_HALF_WRITTEN.fullmatch(path.name))


def remove_ours(paths: list[Path]) -> None:
    """Remove what `divided` gave, through no link, and their folder where nothing is left in it. Raises OSError."""
    for path in paths:
        if is_folder(path):
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    with suppress(OSError):  # others' files lie in it
        for folder in {path.parent for path in paths}:
            folder.rmdir()


def _not_ours(run: Path) -> Iterator[Path]:
    waiting = [run]
    while waiting:
        path = waiting.pop()
        found = path.lstat()
        must = _KINDS.get(path.name) if path.parent == run else None
        if must is not None and not must(found.st_mode):
            yield path
        elif stat.S_ISDIR(found.st_mode):
            waiting += [inside for inside in path.iterdir() if not _ASIDE.search(inside.name)]
        elif path == run or not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            yield path
