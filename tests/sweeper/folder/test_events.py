"""The file in which a sweep tells what happens: what is written can be read, whatever else somebody puts there."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from studies.text.redact import note_settings
from sweeper.folder import events
from sweeper.folder.events import (
    EVENTS,
    EventReader,
    Happening,
    Heartbeat,
    Line,
    PhaseBegan,
    RequestAnswered,
    RunEnded,
    RunReported,
    RunStarted,
    SweepBegan,
    SweepEnded,
    WorkerChanged,
    decode,
    encode,
    last_events,
)
from sweeper.folder.standing import standing
from sweeper.folder.steering import event_log
from sweeper.folder.steering.event_log import EventLog

SWEEP = "0123456789ab"
ALL: tuple[Happening, ...] = (
    SweepBegan("small", "here", 7),
    PhaseBegan("train"),
    RunStarted("a" * 12, "worker-0", "ipo", "clean", 3, 0, 1),
    RunReported("a" * 12, 5, {"loss": 0.5}),
    RunEnded("a" * 12, "finished"),
    WorkerChanged("worker-0", "here", "process 8"),
    Heartbeat("here", "b" * 12, 7, "train", 4, 1, 2, "runs", {"diverged": 1}, 3.5, ("ipo", "beta=0.1", 0.2)),
    RequestAnswered("x", "stop", "done", "said"),
    SweepEnded("interrupted", "a store"),
)


def log(folder: Path, sweep: str = SWEEP) -> EventLog:
    return EventLog(folder, sweep, lambda line: pytest.fail(line))


def test_every_event_is_read_as_it_was_written() -> None:
    assert {type(event) for event in ALL} == set(EVENTS.values())
    for number, event in enumerate(ALL):
        line = Line(SWEEP, number, 1.5, event)
        assert decode(encode(line).rstrip()) == line
        assert encode(line).count(b"\n") == 1


def test_a_line_is_strict_json_and_bounded_whatever_a_run_reports() -> None:
    wild = {f"metric {n}": value for n, value in enumerate([math.nan, math.inf, *range(200)])}
    text = encode(Line(SWEEP, 1, 1.5, RunReported("a" * 12, 5, wild)))
    read = json.loads(text, parse_constant=lambda word: pytest.fail(word))
    assert read["metrics"]["metric 0"] is None
    assert len(read["metrics"]) == events.MOST_METRICS
    long = RunEnded("a" * 12, "refused", "\n".join(["x" * 10_000_000, "y"]))
    assert len(encode(Line(SWEEP, 1, 1.5, long))) < events.LONGEST_LINE


def test_no_secret_is_written() -> None:
    secret = "Zq7" + "vK3pW9xT2mN5"
    note_settings({"hub_token": secret})
    written = encode(Line(SWEEP, 1, 1.5, RunEnded("a" * 12, "infrastructure", f"401 for {secret}")))
    assert secret.encode() not in written


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"no json",
        b"[" * 5000,
        b"null",
        b'{"v": 2, "sweep": "0123456789ab", "n": 1, "at": 1, "event": "phase", "phase": "train"}',
        b'{"v": 1, "sweep": "0123456789ab", "n": 1, "at": 1, "event": "of later", "phase": "train"}',
        b'{"v": 1, "sweep": "../../elsewhere", "n": 1, "at": 1, "event": "phase", "phase": "train"}',
        b'{"v": 1, "sweep": "0123456789ab", "n": 1, "at": 1, "event": "phase", "phase": {}}',
        b'{"v": 1, "sweep": "0123456789ab", "n": 1, "at": 1' + b"0" * 400 + b', "event": "phase", "phase": "train"}',
        b'{"v": 1, "sweep": "0123456789ab", "n": 1, "at": 1e999, "event": "phase", "phase": "train"}',
        b'{"v": 1, "sweep": "0123456789ab", "n": 1, "at": NaN, "event": "phase", "phase": "train"}',
        b'{"v": 1, "sweep": "0123456789ab", "n": 1, "at": -1, "event": "phase", "phase": "train"}',
        b'{"v": 1, "sweep": "0123456789ab", "n": true, "at": 1, "event": "phase", "phase": "train"}',
        b'{"v": 1, "sweep": "0123456789ab", "n": 1, "at": 1, "event": "phase", "phase": "' + b"x" * 20_000 + b'"}',
    ],
)
def test_what_is_no_line_of_this_version_is_left_out(text: bytes) -> None:
    assert decode(text) is None


def test_fields_of_later_versions_are_left_out() -> None:
    text = b'{"v": 1, "sweep": "0123456789ab", "n": 1, "at": 1, "event": "phase", "phase": "train", "of later": [1]}'
    assert decode(text) == Line(SWEEP, 1, 1.0, PhaseBegan("train"))


def test_a_reader_follows_from_one_file_to_the_next_and_to_the_next_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "MOST_BYTES", 2000)
    reader, told = EventReader(tmp_path), []
    assert reader.read() == []
    for sweep in (SWEEP, "b" * 12):
        written = log(tmp_path, sweep)
        written.append(SweepBegan("small", "here", 7))
        written.append(WorkerChanged("worker-0", "here"))
        written.append(RunStarted("a" * 12, "worker-0", "ipo", "clean", 3, 0, 1))
        for number in range(60):
            written.append(RunEnded(f"{number:012}", "finished"))
            told += reader.read()
        written.close()
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 2
    assert max(sizes) < 3000
    ended = [line.event.key for line in told if isinstance(line.event, RunEnded)]
    assert ended == 2 * [f"{number:012}" for number in range(60)]
    assert [line.number for line in told if line.sweep == SWEEP] == list(
        range(1, 1 + sum(line.sweep == SWEEP for line in told))
    )
    first = [type(line.event) for line in last_events(tmp_path)[:3]]
    assert first == [SweepBegan, WorkerChanged, RunStarted], "a file stands for itself"


def test_who_sees_that_a_sweep_has_begun_sees_where_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "MOST_BYTES", 2000)
    seen: list[tuple[str, str]] = []

    def look() -> None:
        """Between any two things that are done with files."""
        began = [line.sweep for line in EventReader(tmp_path).read() if isinstance(line.event, SweepBegan)]
        found = standing(tmp_path)
        if began or seen:
            seen.append((began[-1] if began else "no file", found.sweep if found is not None else "nothing"))

    def watched(act: Callable[..., Any]) -> Callable[..., Any]:
        def acts(*given: Any, **named: Any) -> Any:
            look()
            try:
                return act(*given, **named)
            finally:
                look()

        return acts

    for name in ("write", "link", "replace", "unlink"):
        monkeypatch.setattr(os, name, watched(getattr(os, name)))
    for sweep in (SWEEP, "b" * 12):
        beginning = (SweepBegan("small", "here", 7), Heartbeat("here", "b" * 12, 7, "begin"))
        written = EventLog(tmp_path, sweep, lambda line: pytest.fail(line), begins_with=beginning)
        for number in range(30):
            written.append(RunEnded(f"{number:012}", "finished"))
        written.close()
    assert set(seen) == {(SWEEP, SWEEP), ("b" * 12, "b" * 12)}
    assert len(list(tmp_path.iterdir())) == 2


def test_where_a_file_system_has_no_hard_links_the_earlier_file_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    for sweep in (SWEEP, "b" * 12):
        EventLog(tmp_path, sweep, lambda line: pytest.fail(line), begins_with=ALL[:1]).close()
    assert [line.sweep for line in last_events(tmp_path)] == ["b" * 12]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["events.1.jsonl", "events.jsonl"]


def test_a_reader_misses_nothing_that_was_written_right_before_a_new_file_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, reader, told = log(tmp_path), EventReader(tmp_path), []
    written.append(PhaseBegan("measure"))
    told += reader.read()
    real = EventReader._lines

    def late(self: EventReader) -> list[Line]:
        """The rest is read, and then more is written and a new file begins."""
        found = list(real(self))
        monkeypatch.setattr(EventReader, "_lines", real)
        written.append(PhaseBegan("train"))
        written.close()
        log(tmp_path, "b" * 12).append(PhaseBegan("report"))
        return found

    monkeypatch.setattr(EventReader, "_lines", late)
    told += reader.read()
    assert [line.event for line in told] == [PhaseBegan("measure"), PhaseBegan("train"), PhaseBegan("report")]


def test_a_line_that_was_cut_short_harms_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, real = log(tmp_path), os.write
    written.append(PhaseBegan("measure"))
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda file, text: real(file, text[:20]))
        written.append(PhaseBegan("train"))
    written.append(PhaseBegan("verify"))
    written.close()
    assert [line.event for line in last_events(tmp_path)] == [PhaseBegan("measure"), PhaseBegan("verify")]


def test_a_run_reports_every_few_seconds_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    written = log(tmp_path)
    for step in range(100):
        written.append(RunReported("a" * 12, step, {"loss": 1.0}))
        now += 0.1
    written.close()
    assert len(last_events(tmp_path)) == 2
