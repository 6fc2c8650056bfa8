"""Watching and steering a sweep by the files in its folder alone, as a page or a notebook does."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dashboards.store.records import load_records
from studies.records import State
from studies.requests import Extend, Pause, Request, Resume, Retry, Stop, Take
from studies.spec import Study, load_study
from sweeper.folder.events import (
    EventReader,
    Happening,
    PhaseBegan,
    RequestAnswered,
    RunEnded,
    RunReported,
    RunStarted,
    SweepBegan,
    SweepEnded,
    last_events,
)
from sweeper.folder.requests import MOST_BYTES, put
from sweeper.folder.standing import ask, standing
from sweeper.folder.steering.border import Border
from tests.sweeper.forked import Forked
from tests.sweeper.slow_study import STUDY, TRAINERS
from tests.waiting import PATIENCE, wait_until

Sweeper = Callable[..., Any]


@pytest.fixture
def runs(empty_mlflow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(TRAINERS)
    shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db")
    (tmp_path / "study.yaml").write_text(STUDY)
    return tmp_path / "runs" / "small"


Start = Callable[..., Forked]


@pytest.fixture
def start(runs: Path) -> Iterator[Start]:
    """Starts a sweep in another process, which has begun to train when it is given."""
    begun: list[Forked] = []

    def start(*options: str, seconds: str = "0.1", until: type[Any] = RunStarted, **env: str) -> Forked:
        reader = EventReader(runs, only_new=True)
        sweep = Forked(
            runs.parents[1], "run", "study.yaml", *(options or ("--workers", "2")), env={"STEP_SECONDS": seconds, **env}
        )
        begun.append(sweep)
        wait_until(lambda: any(isinstance(line.event, until) for line in reader.read()), "nothing begins")
        return sweep

    yield start
    for sweep in begun:
        sweep.kill()


def told(runs: Path) -> list[Happening]:
    return [line.event for line in last_events(runs)]


def asked(runs: Path, request: Request) -> RequestAnswered:
    found = standing(runs)
    assert found is not None
    return ask(runs, request, found.sweep)


def answer_to(runs: Path, name: str) -> RequestAnswered:
    def found() -> list[RequestAnswered]:
        return [event for event in told(runs) if isinstance(event, RequestAnswered) and event.id == name]

    wait_until(found, f"{name} is not answered")
    (answer,) = found()
    return answer


def test_a_request_stops_a_sweep_at_the_next_step_of_its_runs(start: Start, runs: Path) -> None:
    sweep = start(seconds="0.5")
    answer = asked(runs, Stop(now=True))
    assert (answer.ask, answer.outcome) == ("stop", "done")
    assert asked(runs, Stop(now=True)).outcome in ("done", "too_late"), "the same again kills no run"
    assert sweep.wait(timeout=PATIENCE) == 1
    assert isinstance(told(runs)[-1], SweepEnded)
    assert not list((runs / "requests").iterdir())
    ends = [event for event in told(runs) if isinstance(event, RunEnded)]
    assert "user_stop" in {event.cause for event in ends}
    assert {event.key for event in told(runs) if isinstance(event, RunStarted)} == {event.key for event in ends}


def test_a_request_is_answered_while_the_sweep_trains_in_its_own_process(start: Start, runs: Path) -> None:
    sweep = start("--executor", "inline", seconds="3", until=PhaseBegan)
    time.sleep(2)  # until it trains, for 30 seconds
    assert asked(runs, Pause("ipo")).outcome == "done"
    assert asked(runs, Stop(now=True)).outcome == "done"
    assert sweep.wait(timeout=PATIENCE) == 1
    assert "finished" not in {event.cause for event in told(runs) if isinstance(event, RunEnded)}
    assert told(runs)[-1] == SweepEnded("stopped")


def test_a_request_has_a_sweep_finish_its_runs(start: Start, runs: Path) -> None:
    sweep = start()
    assert asked(runs, Stop()).outcome == "done"
    assert sweep.wait(timeout=PATIENCE) == 1
    assert {event.cause for event in told(runs) if isinstance(event, RunEnded)} == {"finished"}
    assert told(runs)[-1] == SweepEnded("stopped")
    assert len(list(runs.glob("*/result.json"))) < 20


def test_requests_pause_and_resume_a_variant_and_events_tell_every_run(start: Start, runs: Path) -> None:
    sweep = start("--workers", "1", seconds="0.05")
    assert asked(runs, Pause("ipo")).outcome == "done"
    assert json.loads((runs / "paused.json").read_text()) == ["ipo"]
    refused = asked(runs, Pause("sigmoid"))
    assert (refused.outcome, "no other variant" in refused.message) == ("refused", True)
    refused = asked(runs, Pause("ippo"))
    assert (refused.outcome, "sigmoid, ipo" in refused.message) == ("refused", True)
    assert asked(runs, Resume("ipo")).outcome == "done"
    assert sweep.wait(timeout=PATIENCE) == 0
    events = told(runs)
    assert isinstance(events[0], SweepBegan)
    assert [event.phase for event in events if isinstance(event, PhaseBegan)] == ["train", "report"]
    started = {event.key: event for event in events if isinstance(event, RunStarted)}
    ended = {event.key: event.cause for event in events if isinstance(event, RunEnded)}
    assert Counter(event.variant for event in started.values()) == {"sigmoid": 10, "ipo": 10}
    assert ended == dict.fromkeys(started, "finished")
    assert {event.key for event in events if isinstance(event, RunReported)} == started.keys()
    assert events[-1] == SweepEnded("finished")
    assert Counter(r.state for r in load_records(f"sqlite:///{runs.parents[1]}/mlflow.db", "small")) == {
        State.COMPLETE: 20
    }


def recorded(runs: Path) -> Counter[State]:
    return Counter(record.state for record in load_records(f"sqlite:///{runs.parents[1]}/mlflow.db", "small"))


def test_a_running_sweep_takes_up_more_trials_and_confirms_the_best_of_all(start: Start, runs: Path) -> None:
    study = runs.parents[1] / "study.yaml"
    study.write_text(STUDY.replace("trials: 10", "trials: 2") + "confirm: {top: 1, blocks: [7]}\n")
    sweep = start("--workers", "1")
    assert asked(runs, Extend(4)).outcome == "done"
    refused = asked(runs, Extend(4))
    assert (refused.outcome, "no run beyond those of 4" in refused.message) == ("refused", True)
    assert asked(runs, Extend(5)).outcome == "done"
    assert sweep.wait(timeout=PATIENCE) == 0
    started = [event for event in told(runs) if isinstance(event, RunStarted)]
    assert Counter(event.variant for event in started if event.block != 7) == {"sigmoid": 5, "ipo": 5}
    assert [event.block == 7 for event in started] == [False] * 10 + [True], "ipo drifts; the confirm phase comes last"
    assert recorded(runs) == {State.COMPLETE: 11}
    assert told(runs)[-1] == SweepEnded("finished")


@pytest.mark.slow
def test_a_running_sweep_goes_on_as_its_file_says_now_and_trains_nothing_twice(
    start: Start, runs: Path, sweeper: Sweeper
) -> None:
    study = runs.parents[1] / "study.yaml"
    study.write_text(STUDY.replace("trials: 10", "trials: 6, wall_clock: 1h"))
    sweep = start("--workers", "1")
    text = study.read_text()
    study.write_text(text.replace("ipo: {}", "ipo: {}, hinge: {}"))
    began = time.monotonic()
    answer = asked(runs, Take(str(study)))
    assert (answer.outcome, time.monotonic() - began < 5) == ("done", True)
    assert answer.message.startswith("once the runs in training have ended, the sweep goes on as study.yaml says now")
    assert "with 6 further runs" in answer.message
    assert asked(runs, Pause("hinge")).outcome == "done", "it is a variant of the study from now on"
    assert asked(runs, Resume("hinge")).outcome == "done"
    assert sweep.wait(timeout=PATIENCE) == 0
    started = [event for event in told(runs) if isinstance(event, RunStarted)]
    assert Counter(event.variant for event in started) == {"sigmoid": 6, "ipo": 6, "hinge": 6}
    first = [event.variant for event in started].index("hinge")
    assert first < 12, "before all runs of the version before have ended"
    assert len({event.key for event in started}) == 18
    assert recorded(runs) == {State.COMPLETE: 18}
    assert told(runs)[-1] == SweepEnded("finished")
    table = json.loads(sweeper(runs.parents[1], "table", "study.yaml", "--format", "json").stdout)
    assert "hinge" in str(table)
    assert sweeper(runs.parents[1], "plan", "study.yaml").stdout.count("0 missing") == 1


@pytest.mark.slow
def test_a_stop_is_a_stop_also_for_a_sweep_that_was_to_take_its_file(start: Start, runs: Path) -> None:
    study = runs.parents[1] / "study.yaml"
    sweep = start("--workers", "1", seconds="0.5")
    study.write_text(STUDY.replace("trials: 10", "trials: 11"))
    assert asked(runs, Take(str(study))).outcome == "done"
    assert asked(runs, Stop(now=True)).outcome == "done"
    refused = asked(runs, Take(str(study)))
    assert (refused.outcome, "is being stopped" in refused.message) in (("refused", True), ("too_late", False))
    assert sweep.wait(timeout=PATIENCE) == 1
    assert told(runs)[-1] == SweepEnded("stopped")


@pytest.mark.slow
def test_a_raised_budget_lets_a_sweep_go_on_that_came_to_its_end(start: Start, runs: Path) -> None:
    study = runs.parents[1] / "study.yaml"
    study.write_text(STUDY.replace("trials: 10", "trials: 3, wall_clock: 4s"))
    sweep = start("--workers", "1", seconds="0.2")
    study.write_text(STUDY.replace("trials: 10", "trials: 3, wall_clock: 10m"))
    assert asked(runs, Take(str(study))).outcome == "done"
    assert sweep.wait(timeout=PATIENCE) == 0
    assert recorded(runs) == {State.COMPLETE: 6}


@pytest.mark.slow
def test_a_running_sweep_takes_up_more_replicates_and_has_them_whole(start: Start, runs: Path) -> None:
    study = runs.parents[1] / "study.yaml"
    study.write_text(STUDY.replace("trials: 10", "trials: 2") + "baseline: sigmoid\nreplicates: 2\n")
    sweep = start("--workers", "1")
    accepted = asked(runs, Extend(replicates=3))
    assert accepted.outcome == "done"
    assert "up to 3 replicates are trained" in accepted.message
    assert sweep.wait(timeout=PATIENCE) == 0
    started = [event for event in told(runs) if isinstance(event, RunStarted)]
    judged = Counter(event.scenario for event in started if event.block % 2)
    assert judged == {"clean#1": 1, "clean#2": 1, "clean#3": 1}, "ipo drifts"
    assert recorded(runs) == {State.COMPLETE: 15}
    again = Forked(runs.parents[1], "run", "study.yaml", "--workers", "1", "--set", "replicates=3")
    assert again.wait(timeout=PATIENCE) == 0
    assert recorded(runs) == {State.COMPLETE: 15}, "they answer the study with as many"


def test_a_running_sweep_trains_again_what_has_failed_and_takes_up_more_trials_then(start: Start, runs: Path) -> None:
    broken = runs.parents[1] / "broken"
    broken.touch()
    study = STUDY.replace("Slow", "Broken").replace("[STEP_SECONDS]", "[STEP_SECONDS, BROKEN], attempts: 1")
    (runs.parents[1] / "study.yaml").write_text(study.replace("trials: 10", "trials: 2"))
    sweep = start("--workers", "1", BROKEN=str(broken))
    refused = asked(runs, Retry(("bad_luck",)))
    assert (refused.outcome, "valid are" in refused.message) == ("refused", True)
    wait_until(lambda: "infrastructure" in {e.cause for e in told(runs) if isinstance(e, RunEnded)}, "nothing fails")
    broken.unlink()
    assert Forked(runs.parents[1], "retry", "study.yaml").wait(timeout=PATIENCE) == 0, "it asks the sweep that runs"
    assert [(event.ask, event.outcome) for event in told(runs) if isinstance(event, RequestAnswered)][-1:] == [
        ("retry", "done")
    ]
    assert asked(runs, Extend(3)).outcome == "done"
    assert sweep.wait(timeout=PATIENCE) == 0
    assert recorded(runs) == {State.COMPLETE: 6}
    assert {event.cause for event in told(runs) if isinstance(event, RunEnded)} == {"infrastructure", "finished"}


def test_a_sweep_that_is_stopped_says_that_what_was_asked_of_it_is_not_trained(start: Start, runs: Path) -> None:
    sweep = start()
    assert asked(runs, Extend(20)).outcome == "done"
    assert asked(runs, Stop()).outcome == "done"
    refused = asked(runs, Extend(30))
    assert refused.outcome in ("done", "refused", "too_late")
    assert sweep.wait(timeout=PATIENCE) == 1
    assert recorded(runs).total() < 20
    assert told(runs)[-1] == SweepEnded("stopped")


def test_what_is_no_request_harms_nothing(start: Start, runs: Path) -> None:
    precious = runs.parents[1] / "precious.json"
    precious.write_text('{"v": 1, "ask": "stop", "now": true}')
    sweep = start()
    place = runs / "requests"
    place.mkdir(exist_ok=True)
    (place / "garbage.json").write_bytes(b"\xff\x00 stop")
    (place / "nested.json").write_text("[" * 10_000)
    (place / "other.json").write_text('{"v": 1, "ask": "delete"}')
    (place / "typed.json").write_text('{"v": 1, "ask": "pause", "variant": {"a": 1}}')
    (place / "many.json").write_text('{"v": 1, "ask": "extend", "trials": "many"}')
    (place / "none.json").write_text('{"v": 1, "ask": "extend", "trials": 0}')
    (place / "causes.json").write_text('{"v": 1, "ask": "retry", "causes": "failed"}')
    (place / "later.json").write_text('{"v": 2, "ask": "stop"}')
    (place / "elsewhere.json").write_text('{"v": 1, "ask": "stop", "sweep": "0123456789ab"}')
    (place / "huge.json").write_text('{"v": 1, "ask": "stop"}' + " " * MOST_BYTES)
    (place / "link.json").symlink_to(precious)
    os.mkfifo(place / "pipe.json")
    (place / "full").mkdir()
    (place / "full" / "file").touch()
    (place / "full").rename(place / "folder.json")
    (place / "a b.json").write_text('{"v": 1, "ask": "stop", "now": true}')
    (place / ".half.json.0123456789abcdef").write_text('{"v": 1, "ask": "stop", "now": true}')
    names = (
        "garbage",
        "nested",
        "other",
        "typed",
        "many",
        "none",
        "causes",
        "later",
        "elsewhere",
        "huge",
        "link",
        "pipe",
        "folder",
    )
    answers = {name: answer_to(runs, name) for name in names}
    assert {name for name, answer in answers.items() if answer.outcome != "refused"} == {"elsewhere"}
    assert answers["elsewhere"].outcome == "too_late"
    assert precious.exists()
    assert (place / "folder.json" / "file").exists()
    assert sorted(path.name for path in place.iterdir()) == [".half.json.0123456789abcdef", "a b.json", "folder.json"]
    assert sweep.poll() is None
    assert asked(runs, Stop(now=True)).outcome == "done"
    assert sweep.wait(timeout=PATIENCE) == 1
    assert sum(isinstance(event, RequestAnswered) and event.id == "folder" for event in told(runs)) == 1


@pytest.mark.slow
def test_a_request_from_before_the_sweep_is_not_obeyed(start: Start, runs: Path) -> None:
    sweep = start()
    assert asked(runs, Stop()).outcome == "done"
    sweep.wait(timeout=PATIENCE)
    put(runs, Stop(now=True), "")
    (runs / "requests" / "old.json").write_text('{"v": 1, "ask": "stop", "now": true}')
    sweep = start()
    assert answer_to(runs, "old").outcome == "too_late"
    assert not list((runs / "requests").iterdir())
    assert sweep.wait(timeout=PATIENCE) == 0


def test_a_killed_sweep_is_told_from_one_that_runs_and_from_one_that_has_ended(
    start: Start, runs: Path, sweeper: Sweeper
) -> None:
    folder = runs.parents[1]
    assert standing(runs) is None
    sweep = start()
    found = standing(runs)
    assert found is not None
    assert (found.state, found.beat.process) == ("running", sweep.pid)
    assert f"running: process {sweep.pid}" in sweeper(folder, "status", "study.yaml").stdout
    sweep.kill()
    sweep.wait(timeout=PATIENCE)
    found = standing(runs)
    assert found is not None
    assert found.state == "dead"
    refused = sweeper(folder, "stop", "study.yaml")
    assert refused.returncode == 2
    assert f"process {sweep.pid}, died" in refused.stderr
    assert "died in phase train" in sweeper(folder, "status", "study.yaml").stdout
    assert sweeper(folder, "pause", "study.yaml", "ipo").returncode == 0, "heeded by the next sweep"
    assert sweeper(folder, "resume", "study.yaml", "ipo").returncode == 0
    assert start("--executor", "inline", seconds="0").wait(timeout=PATIENCE) == 0
    found = standing(runs)
    assert found is not None
    assert (found.state, found.end) == ("ended", SweepEnded("finished"))


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (KeyboardInterrupt(), SweepEnded("stopped")),
        (OSError("the disk is full"), SweepEnded("interrupted", "the disk is full")),
    ],
)
def test_a_second_ctrl_c_stops_a_sweep_and_is_no_failure_of_it(
    tmp_path: Path, error: BaseException, end: SweepEnded
) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    study = Study.of(load_study(tmp_path / "study.yaml"))
    with pytest.raises(type(error)), Border(tmp_path, study, print):
        raise error
    assert told(tmp_path)[-1] == end


def test_a_sweep_of_a_machine_that_slept_is_not_dead(start: Start, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has written nothing meanwhile, and holds its study."""
    sweep = start(seconds="1")
    monkeypatch.setattr("sweeper.folder.standing._silent", lambda _runs, _line: 3600.0)
    found = standing(runs)
    assert found is not None
    assert found.state == "running"
    sweep.kill()
    sweep.wait(timeout=PATIENCE)
    found = standing(runs)
    assert found is not None
    assert found.state == "dead"


def test_a_sweep_on_another_machine_is_dead_once_it_is_not_heard_of(start: Start, runs: Path) -> None:
    sweep = start()
    asked(runs, Stop(now=True))
    sweep.wait(timeout=PATIENCE)
    lines = (runs / "events.jsonl").read_text().splitlines()
    beats = [json.loads(line) for line in lines if '"heartbeat"' in line]
    (runs / "events.jsonl").write_text(json.dumps({**beats[0], "machine": "elsewhere", "host": "far"}) + "\n")
    found = standing(runs)
    assert found is not None
    assert (found.state, "on far" in str(found)) == ("running", True)
    os.utime(runs / "events.jsonl", (time.time() - 60, time.time() - 60))
    found = standing(runs)
    assert found is not None
    assert found.state == "dead"
