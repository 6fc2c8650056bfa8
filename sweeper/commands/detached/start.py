"""Starts a sweep in a session of its own, and sends what it prints to a file once it holds the study."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from studies.text.files import open_file
from sweeper.commands.detached.order import Order, written
from sweeper.folder.events import EventReader, SweepBegan
from sweeper.folder.names import SWEEP_LOG
from sweeper.folder.paths import StudyPaths

MODULE: Final = "sweeper.cli.detached.process"  # what the process runs; it reads the order
LOOK_SECONDS: Final = 0.1
REFUSED: Final = "error: "


@dataclass(frozen=True)
class Began:
    """A sweep that holds its study and runs: its id in the events, its process, and what that prints."""

    schema: ClassVar[str] = "detached/1"
    study: str
    sweep: str
    process: int
    log: str


@dataclass(frozen=True)
class NotBegun:
    """A sweep that ended before it held its study: its exit code, and what it said on standard error."""

    code: int
    said: str

    @property
    def problems(self) -> list[str]:
        """Why it was refused, as `sweeper run` says it; empty where it broke."""
        lines = self.said.splitlines() if self.code == 2 else []
        return [line.removeprefix(REFUSED) for line in lines if line.startswith(REFUSED)]

    @property
    def warnings(self) -> list[str]:
        """What else it said."""
        return [line for line in self.said.splitlines() if not (self.problems and line.startswith(REFUSED))]


def start(order: Order, study: str, where: StudyPaths) -> Began | NotBegun:
    """Start a study's sweep, and wait until it has written its first event or has ended. Interrupted meanwhile,
    it ends the process, which has begun nothing.
    """
    reader = EventReader(where.runs, only_new=True)
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", MODULE, order.study],
            cwd=where.folder,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=errors,
            # A notebook draws figures its own way, which a process without one may not know.
            env={name: value for name, value in os.environ.items() if name != "MPLBACKEND"},
            start_new_session=True,
        )
        try:
            assert process.stdin is not None
            with suppress(BrokenPipeError), process.stdin as pipe:
                pipe.write(written(order))
            sweep = _first_event(reader, process)
        except BaseException:
            process.terminate()
            process.wait()
            raise
        finally:
            reader.close()
        if sweep is None:
            errors.seek(0)
            return NotBegun(process.returncode if process.returncode > 0 else 1, errors.read().decode(errors="replace"))
    threading.Thread(target=process.wait, daemon=True).start()  # so that it leaves no zombie, which looks alive
    return Began(study, sweep, process.pid, str(where.runs / SWEEP_LOG))


def _first_event(reader: EventReader, process: subprocess.Popen[bytes]) -> str | None:
    """The id of the process's sweep once it has begun; None where the process has ended without one."""
    while True:
        ended = process.poll() is not None  # before its events are read, so that none is missed
        for line in reader.read():
            if isinstance(line.event, SweepBegan) and line.event.process == process.pid:
                return line.sweep
        if ended:
            return None
        time.sleep(LOOK_SECONDS)


def keep_output(log: Path) -> None:
    """Append to the log all that this process has printed, and from here on what it prints. Raises OSError."""
    with open_file(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT) as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for descriptor in (1, 2):
            file.write(_printed(descriptor))
        file.flush()
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)


def _printed(descriptor: int) -> bytes:
    with suppress(OSError):
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    return b""
