"""Whoever waits for more than two seconds is told what for, and for how long already."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from sweeper.cli import inputs, shared
from sweeper.cli.display import Display
from sweeper.folder.events import Happening, Heartbeat, Line, PhaseBegan, SweepBegan
from sweeper.loop.progress import Progress

BEAT = Heartbeat("h", "m", 1, "report")


def lines_of(*events: Happening | Progress, seconds: float, monkeypatch: pytest.MonkeyPatch, screen: bool) -> str:
    """What is shown of events that are so many seconds apart."""
    now, out = [1000.0], io.StringIO()
    monkeypatch.setattr("sweeper.cli.display.time.monotonic", lambda: now[0])
    console = Console(file=out, width=100, force_terminal=screen, _environ={"TERM": "xterm"})
    with Display("s", console) as shown:
        for event in events:
            if isinstance(event, Progress):
                shown.progress(event)
            else:
                shown.event(Line("0" * 12, 1, 0.0, event))
            now[0] += seconds
        if screen and shown._live is not None:
            shown._live.refresh()
    return out.getvalue()


@pytest.mark.parametrize("screen", [False, True])
@pytest.mark.parametrize(
    ("event", "words"),
    [
        (SweepBegan("s", "h", 1), "opening the stores"),
        (PhaseBegan("measure"), "measuring finished runs again"),
        (PhaseBegan("train"), "starting workers"),
        (PhaseBegan("report"), "drawing the table and the report"),
    ],
)
def test_what_a_sweep_does_before_and_after_training_is_told(
    event: Happening, words: str, screen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert words in lines_of(event, BEAT, seconds=20.0, monkeypatch=monkeypatch, screen=screen)


def test_a_short_wait_is_not_told_in_a_file_and_progress_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines_of(PhaseBegan("report"), BEAT, seconds=1.0, monkeypatch=monkeypatch, screen=False) == ""
    trains = Progress(4, 1, 1, {}, None, 30.0)
    told = lines_of(PhaseBegan("train"), trains, BEAT, BEAT, seconds=20.0, monkeypatch=monkeypatch, screen=False)
    assert "1/4 runs, 1 in training, 0:00:30 left" in told
    assert "starting workers" not in told


def test_reading_a_store_for_long_is_told_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(inputs, "_SILENT_SECONDS", 0.05)
    for terminal in (True, False):
        monkeypatch.setattr("sys.stderr.isatty", lambda terminal=terminal: terminal)
        with shared.store_errors():
            time.sleep(0.3)
        assert ("Reading what is recorded ... (0 s)" in capsys.readouterr().err) is terminal
