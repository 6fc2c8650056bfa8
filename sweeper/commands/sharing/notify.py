"""Runs the command that a study names once its sweep has ended, and tells it what happened.

It has all rights of the user, as `sweeper plan` and `sweeper run` warn, the variables that workers get, and half a
minute. Whatever it does, the sweep has ended as it has.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from threading import Thread
from types import TracebackType
from typing import IO, ClassVar, Final, Literal, Self

from studies.spec import StudySpec
from studies.text.as_json import as_json
from studies.text.files import open_file
from sweeper.executors.process.devices import handed_on
from sweeper.folder.events import Heartbeat, Line, SweepEnded
from sweeper.folder.names import LOGS

SECONDS: Final = 30.0
LOG: Final = "notify.log"
MOST_BYTES: Final = 1 << 18  # of the log, of what one command prints


@dataclass(frozen=True)
class Notice:
    """How a sweep ended: `finished` with all that was asked, `stopped` by somebody, out of its `budget`, or `failed`:
    it could not go on, or something is left that nobody stopped, such as runs that could not be trained. `message`:
    why. `failures`: runs by kind. `table`: the answer and its table, as text, once there is one. `folder`: where the
    runs lie.
    """

    schema: ClassVar[str] = "notice/1"
    event: Literal["finished", "stopped", "budget", "failed"]
    study: str
    message: str
    sweep: str
    planned: int
    done: int
    failures: Mapping[str, int] = field(default_factory=dict)
    table: str = ""
    folder: str = ""


class Notifier:
    """Sees a sweep's events, and runs the study's command when the last one has come: `with Notifier(...)`."""

    def __init__(self, spec: StudySpec, runs: Path, tell_user: Callable[[str], None]) -> None:
        self._spec, self._runs, self._tell_user = spec, runs, tell_user
        self._beat: Heartbeat | None = None
        self._end: tuple[str, SweepEnded] | None = None
        self._table = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._spec.notify is None or self._end is None:
            return
        problem = run_command(self._spec.notify.command, self._notice(*self._end), self._runs, self._spec.resources.env)
        if problem:
            self._tell_user(f"notify: {problem}")

    def after(self, watch: Callable[[Line], None]) -> Callable[[Line], None]:
        """`watch`, and see what it sees."""

        def see(line: Line) -> None:
            watch(line)
            match line.event:
                case Heartbeat() as beat:
                    self._beat = beat
                case SweepEnded() as end:
                    self._end = (line.sweep, end)

        return see

    def with_answer(self, files: Mapping[str, str]) -> Mapping[str, str]:
        """The files of a sweep's end as they are, one of which the command is told."""
        self._table = files.get("table.txt", "")
        return files

    def _notice(self, sweep: str, end: SweepEnded) -> Notice:
        beat = self._beat or Heartbeat("", "", 0, "")
        event: Literal["finished", "stopped", "budget", "failed"] = "failed"
        if end.how == "finished":
            event = "finished"
        elif end.how == "stopped":
            event = "budget" if end.message else "stopped"
        own = (self._spec.study, end.message, sweep, beat.planned, beat.done)
        return Notice(event, *own, beat.failures, self._table, str(self._runs.absolute()))


def run_command(command: tuple[str, ...], notice: Notice, runs: Path, env: tuple[str, ...] = ()) -> str:
    """Run a command of a study and wait for it; gives what went wrong with it, "" where nothing did. What it prints is
    kept in the logs of the study's folder.
    """
    words = shlex.join(command)
    own = {"SWEEPER_EVENT": notice.event, "SWEEPER_STUDY": notice.study, "SWEEPER_FOLDER": notice.folder}
    log = runs / LOGS / LOG
    try:
        log.parent.mkdir(exist_ok=True)
        with TemporaryFile() as said, open_file(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT) as kept:
            said.write(as_json(notice.schema, notice).encode() + b"\n")  # a file: a pipe would wait to be read
            said.seek(0)
            code = _wait(command, said, kept, {**handed_on(os.environ, env), **own})
    except (OSError, ValueError) as error:
        return f"{words} could not be run: {getattr(error, 'strerror', None) or error}."
    if code is None:
        return f"{words} had not ended after {SECONDS:.0f} s and was killed; {log} keeps what it printed."
    return f"{words} ended with code {code}; {log} keeps what it printed." if code else ""


def _wait(command: tuple[str, ...], said: IO[bytes], kept: IO[bytes], env: Mapping[str, str]) -> int | None:
    """The code that the command ends with, None for one that has to be killed. Raises OSError."""
    process = subprocess.Popen(
        list(command),
        stdin=said,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=env,
        start_new_session=True,  # one group with all that it starts, which Ctrl-C does not reach
    )
    assert process.stdout is not None
    reader = Thread(target=_keep, args=(process.stdout, os.dup(kept.fileno())), name="notify", daemon=True)
    reader.start()
    code = None
    try:
        with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            code = process.wait(SECONDS)
        return code
    finally:
        if code is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        reader.join(timeout=1.0)  # what it left running may print for longer


def _keep(printed: IO[bytes], descriptor: int) -> None:
    """Keep the first of what is printed, and read on, so that nobody waits for it to be read."""
    left = MOST_BYTES
    with os.fdopen(descriptor, "ab") as kept:
        while piece := os.read(printed.fileno(), 1 << 16):
            with suppress(OSError):  # a full disk
                kept.write(piece[:left])
                kept.flush()
            left -= min(left, len(piece))
