"""Fences off older attempts at a run: the last one that has begun it writes its mark, and a process whose mark is gone
ends at once.

A worker that the sweep has given up may live on, on a machine that has lost its network or was stopped for an hour, and
would write into the folder that another worker trains in by then. Its messages reach nobody, as their connection is
closed; this keeps its files away. What it wrote before it looks is whole, and of the same run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Lock, Thread
from typing import Final

from studies.text.files import read_bytes, write_whole
from trainers.interface import Job
from trainers.run_folder.results import ATTEMPT_FILE

LOOK_SECONDS: Final = 2.0
_MOST_BYTES: Final = 1 << 10


class Fence:
    """Looks after the runs that a worker has in training. `fenced_off` is called in another thread with the run that
    another attempt has begun.
    """

    def __init__(self, ticket: str, fenced_off: Callable[[str], object]) -> None:
        self._ticket, self._fenced_off = ticket, fenced_off
        self._marks: dict[str, tuple[Path, bytes]] = {}
        self._lock = Lock()
        Thread(target=self._look, name="fence", daemon=True).start()

    def begin(self, job: Job) -> None:
        """Fence off all earlier attempts at the run. Raises OSError."""
        job.folder.mkdir(parents=True, exist_ok=True)
        mark = f"{job.attempt} {self._ticket}\n".encode()
        write_whole(job.folder / ATTEMPT_FILE, mark)
        with self._lock:
            self._marks[job.config.key] = job.folder / ATTEMPT_FILE, mark

    def end(self, key: str) -> None:
        """The run has ended here."""
        with self._lock:
            mark = self._marks.pop(key, None)
        if mark is not None and _is_another(*mark):
            self._fenced_off(key)

    def _look(self) -> None:
        while True:
            time.sleep(LOOK_SECONDS)
            with self._lock:
                marks = dict(self._marks)
            for key, mark in marks.items():
                if _is_another(*mark):
                    self._fenced_off(key)


def _is_another(file: Path, mark: bytes) -> bool:
    """Whether the file holds another mark; one that cannot be read says nothing."""
    with suppress(OSError):
        return read_bytes(file, _MOST_BYTES) != mark
    return False
