"""Calls the command line in this process and watches that it ends in time, in words, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import signal
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType

from typer.testing import CliRunner

from sweeper.cli.app import app

LONGEST_SECONDS = 2.0  # of this process's own time, so that a busy machine is no failure


class Hung(Exception):
    """Something took more than LONGEST_SECONDS."""


@contextlib.contextmanager
def in_time(seconds: float = LONGEST_SECONDS) -> Iterator[None]:
    """Raise Hung where the block takes this process more than `seconds` of processor time."""

    def give_up(_number: int, _frame: FrameType | None) -> None:
        raise Hung(f"more than {seconds} s")

    before = signal.signal(signal.SIGPROF, give_up)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def call(*arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command; what escapes from it is raised."""
    with in_time():
        result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    result.stdout.encode()  # what a terminal in UTF-8 can show
    result.stderr.encode()
    return result.exit_code, result.stdout, result.stderr


@contextlib.contextmanager
def folder_with(files: Mapping[str, bytes]) -> Iterator[Path]:
    """A folder with these files, as the working folder."""
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        folder = Path(name)
        for file, content in files.items():
            (folder / file).write_bytes(content)
        yield folder


def check_refusal(code: int, out: str, err: str) -> None:
    """A refusal is exit code 2, in sentences, of a length that can be read."""
    assert code == 2, (code, out, err)
    assert err.startswith("error: "), err
    assert "Traceback" not in out + err
    assert max(map(len, err.split("\n"))) < 2500, err


def contents(folder: Path) -> set[str]:
    """Everything that lies in a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
