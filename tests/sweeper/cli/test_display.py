"""What a sweep prints where its output is a file."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from sweeper.cli.display import Display
from sweeper.loop.progress import Progress


@pytest.mark.parametrize(
    ("seconds", "lines"), [(180, 10), (400, 14), pytest.param(8 * 3600, 70, marks=pytest.mark.slow)]
)
def test_progress_in_a_file_grows_sparser_with_time(monkeypatch: pytest.MonkeyPatch, seconds: int, lines: int) -> None:
    clock, file = [1000.0], io.StringIO()
    monkeypatch.setattr("sweeper.cli.display.time.monotonic", lambda: clock[0])
    with Display("small", Console(file=file)) as display:
        for done in range(seconds):
            clock[0] += 1.0
            display.progress(Progress(seconds + 1, done, 1, {}, None, None))
    assert lines * 0.8 <= file.getvalue().count("small: ") <= lines * 1.2


def test_what_does_not_change_is_said_again_as_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, file = [1000.0], io.StringIO()
    monkeypatch.setattr("sweeper.cli.display.time.monotonic", lambda: clock[0])
    with Display("small", Console(file=file)) as display:
        for _ in range(200):
            clock[0] += 1.0
            display.progress(Progress(27, 0, 8, {}, None, None))
    assert file.getvalue().count("0/27 runs, 8 in training") == 4
