"""The speed of steps through the command line: when it is measured, what is kept, and what it may not cost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from studies.records import Cause
from sweeper.executors import Cancel, Dropped, Event, Kill, Lost, Started, StopOrder
from sweeper.loop.progress import Screen
from sweeper.measuring import speed
from sweeper.measuring.speed import SpeedMeter
from trainers.speed.request import Refusal

Sweeper = Callable[..., Any]
RUN = ("run", "study.yaml", "--executor", "inline")
MEASURED = SpeedMeter.run
STUDY = """
study: paced
base: {model_name_or_path: embedded, use_peft: true, lora_r: 4, lora_target_modules: all-linear, max_steps: 1,
  per_device_train_batch_size: 8, learning_rate: 1.0e-3}
data: {path: embedded, rows: 32, eval_rows: 8}
variants: {sigmoid: {}, hinge: {}, ipo: {}}
baseline: sigmoid
space: {beta: {values: [0.1]}}
sampler: grid
evaluate: {prompts: 2, pairs: 2, max_new_tokens: 2}
objective: {metric: gold}
budget: {trials: 1}
"""
FORMULA = STUDY.replace("data:", "trainer: formula\ndata:").replace("metric: gold", "metric: ranking_gain")


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What the process that measures was asked; it is a stand-in, and sweeps of the formula are measured too."""
    monkeypatch.setattr(SpeedMeter, "run", MEASURED)
    monkeypatch.setattr(speed, "MODULE", "tests.sweeper.speed_processes")
    monkeypatch.setattr("studies.design.speed.TRAINER", "formula")
    monkeypatch.setenv("SPEED_ACT", "answer")
    monkeypatch.setenv("SPEED_NOTES", str(tmp_path / "notes"))
    return tmp_path / "notes"


@pytest.fixture
def run(sweeper: Sweeper, tmp_path: Path) -> Callable[..., Any]:
    def call(text: str = FORMULA, *more: str) -> Any:
        env = "resources: {env: [SPEED_ACT, SPEED_NOTES]}\n" if "formula" in text else ""
        (tmp_path / "study.yaml").write_text(text + env)
        return sweeper(tmp_path, *RUN, *more)

    return call


def asked(notes: Path) -> list[str]:
    return [line.partition(" ")[2] for line in notes.read_text().splitlines()] if notes.exists() else []


def kept(folder: Path) -> list[dict[str, Any]]:
    found = list((folder / "mlartifacts").rglob("speed.json"))
    return json.loads(found[0].read_text())["measured"] if found else []


def rows(sweeper: Sweeper, folder: Path) -> dict[str, Any]:
    found = json.loads(sweeper(folder, "table", "study.yaml", "--format", "json").stdout)
    return {row["variant"]: row["pace"] for row in found["rows"]}


def test_it_is_measured_once_after_all_training_and_the_table_has_it(
    sweeper: Sweeper, run: Callable[..., Any], notes: Path, tmp_path: Path
) -> None:
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Timing the loss of 2 variants against that of sigmoid: up to 15 s" in done.stdout
    assert "as fast" in done.stdout
    assert asked(notes) == ["sigmoid hinge ipo 0"]
    phases = [json.loads(line) for line in (tmp_path / "runs/paced/events.jsonl").read_text().splitlines()]
    assert [e["phase"] for e in phases if e["event"] == "phase"] == ["train", "speed", "report"]
    assert rows(sweeper, tmp_path)["hinge"]["loss"]["word"] == "as fast"
    again = run()
    assert "Timing" not in again.stdout
    assert "as fast" in again.stdout
    assert len(asked(notes)) == 1


def test_another_variant_or_loss_setting_is_measured_again_and_another_learning_rate_is_not(
    sweeper: Sweeper, run: Callable[..., Any], notes: Path, tmp_path: Path
) -> None:
    run()
    run(FORMULA.replace("learning_rate: 1.0e-3", "learning_rate: 1.0e-4"), "--yes")
    assert len(asked(notes)) == 1
    more = FORMULA.replace("ipo: {}", "ipo: {}, mix: {loss_type: [sigmoid, ipo], loss_weights: [0.5, 0.5]}")
    (tmp_path / "study.yaml").write_text(more)
    before = sweeper(tmp_path, "table", "study.yaml", "--format", "markdown").stdout
    assert "The speed was measured with other variants or settings" in before
    run(more, "--yes")
    run(more + "probe: {rounds: 20}\n", "--yes")
    assert asked(notes)[1:] == ["sigmoid hinge ipo mix 0", "sigmoid hinge ipo mix 20"]
    assert len(kept(tmp_path)) == 1
    assert rows(sweeper, tmp_path)["mix"]["check"]["word"] == "as fast"


@pytest.mark.slow
def test_another_machine_is_measured_for_itself_and_the_first_is_kept(
    run: Callable[..., Any], notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(speed, "machine_kind", lambda gpu, cores: {"processor": "another"})
        run()
    run()
    assert len(asked(notes)) == 2
    assert [one["machine"]["processor"] == "another" for one in kept(tmp_path)] == [False, True]


@pytest.mark.parametrize(
    ("act", "said"),
    [
        ("die", "its process ended with 3; "),
        pytest.param("babble", "no line of", marks=pytest.mark.slow),
        pytest.param("refuse", "ValueError: no such thing. All runs are kept.", marks=pytest.mark.slow),
        ("hang", "told nothing for 8 s"),
    ],
)
def test_a_failure_of_it_is_told_and_costs_the_sweep_nothing(
    run: Callable[..., Any],
    notes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    act: str,
    said: str,
) -> None:
    monkeypatch.setenv("SPEED_ACT", act)
    monkeypatch.setattr(speed, "SILENT_SECONDS", 8.0 if act == "hang" else 600.0)
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("The speed of steps was not measured")]
    assert said in line
    assert "3 runs trained" in done.stdout
    assert kept(tmp_path) == []
    (process, *_) = notes.read_text().split()
    with pytest.raises(ProcessLookupError):
        os.kill(int(process), 0)
    monkeypatch.setenv("SPEED_ACT", "answer")
    run()
    assert len(kept(tmp_path)) == 1


def test_an_interrupt_ends_the_measurement_and_leaves_the_sweep_whole(
    run: Callable[..., Any], notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPEED_ACT", "hang")

    def interrupt() -> None:
        until = time.monotonic() + 60
        while not notes.exists() and time.monotonic() < until:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The speed of steps was not measured: it was stopped. The next `sweeper run` measures it" in done.stdout


@pytest.mark.parametrize(
    "change",
    [
        ("baseline: sigmoid\n", ""),
        ("variants: {sigmoid: {}, hinge: {}, ipo: {}}", "variants: {sigmoid: {}}"),
        ("hinge: {}, ipo: {}", "hinge: {base: {lora_r: 8}}"),
    ],
)
def test_a_study_without_two_comparable_steps_is_not_measured(
    run: Callable[..., Any], notes: Path, change: tuple[str, str]
) -> None:
    assert change[0] in FORMULA
    done = run(FORMULA.replace(*change))
    assert done.returncode == 0, done.stdout + done.stderr
    assert asked(notes) == []


def test_an_edited_file_is_told_of_by_readers_and_replaced_by_the_next_sweep(
    sweeper: Sweeper, run: Callable[..., Any], notes: Path, tmp_path: Path
) -> None:
    run()
    (file,) = (tmp_path / "mlartifacts").rglob("speed.json")
    file.write_text('{"v": 1, "measured": [{"asked": 3}]}')
    refused = sweeper(tmp_path, "table", "study.yaml")
    assert refused.returncode == 2
    assert "speed.json" in refused.stderr
    assert "Traceback" not in refused.stderr
    file.write_text('{"v": 99, "measured": "of a later version"}')
    assert sweeper(tmp_path, "table", "study.yaml").returncode == 0


def test_a_moved_folder_keeps_its_measurement(
    sweeper: Sweeper, run: Callable[..., Any], notes: Path, tmp_path: Path
) -> None:
    run()
    moved = tmp_path.parent / f"{tmp_path.name}-moved"
    shutil.copytree(tmp_path, moved)
    shutil.rmtree(tmp_path / "mlartifacts")
    assert rows(sweeper, moved)["ipo"]["loss"]["word"] == "as fast"


@pytest.mark.slow
def test_trls_own_losses_are_measured_at_the_end_of_a_sweep(
    sweeper: Sweeper, run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SpeedMeter, "run", MEASURED)
    done = run(STUDY + "probe: {rounds: 5}\n")
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = kept(tmp_path)
    assert set(found["losses"]["ratios"]) == set(found["steps"]["ratios"]) == {"hinge", "ipo"}
    assert (found["device"], found["threads"], found["steps"]["rounds"]) == ("cpu", 1, 5)
    assert found["machine"]["trl"]
    pace = rows(sweeper, tmp_path)["hinge"]
    assert pace["loss"]["word"] == "as fast"
    assert 0.9 < pace["loss"]["ratio"]["value"] < 1.03


def test_plan_tells_what_is_timed_and_what_is_not(sweeper: Sweeper, tmp_path: Path) -> None:
    def told(text: str) -> str:
        (tmp_path / "study.yaml").write_text(text)
        shown = sweeper(tmp_path, "plan", "study.yaml")
        assert shown.returncode == 0, shown.stderr
        return " ".join(shown.stdout.split())

    assert "the loss of 2 variants is timed against that of sigmoid, as a share of a whole step" in told(STUDY)
    unlike = STUDY.replace("hinge: {}", "hinge: {base: {lora_r: 16, per_device_train_batch_size: 4}}")
    assert "the loss of 1 variant is" in told(unlike)
    differ = "per_device_train_batch_size (4, not 8), lora_r (16, not 4)"
    assert f"Not of hinge: its steps differ in {differ}." in told(unlike)
    assert "then 40 rounds of whole steps" in told(STUDY + "probe: {rounds: 40}\n")
    shared = STUDY.replace("lora_r: 4, ", "").replace("space: {", "space: {lora_r: {values: [4, 8]}, ")
    assert "the loss of 2 variants is" in told(shared)
    assert "is timed" not in told(FORMULA)


def test_a_probe_of_an_earlier_version_is_read_and_what_it_meant_is_told(sweeper: Sweeper, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY + "probe: {rounds: 24, steps: 40}\n")
    shown = sweeper(tmp_path, "plan", "study.yaml")
    assert shown.returncode == 0, shown.stderr
    assert "probe.steps: is not used any more" in " ".join((shown.stdout + shown.stderr).split())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("rounds: 6", "rounds: 4"), "probe.rounds: 4 must be at least 5"),
        (("rounds: 6", "rounds: 5000"), "at most 1000"),
        (("rounds: 6", "runds: 6"), "probe.runds: unknown key (did you mean rounds?)"),
        (("baseline: sigmoid", "mode: search"), "probe: compares the pace of variants"),
        (("baseline: sigmoid\n", ""), "probe: times variants against a baseline: name it"),
        ((", hinge: {}, ipo: {}", ""), "probe: has one variant to time"),
    ],
)
def test_a_probe_that_makes_no_sense_is_refused(
    sweeper: Sweeper, tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    text = STUDY + "probe: {rounds: 6}\n"
    assert change[0] in text
    (tmp_path / "study.yaml").write_text(text.replace(*change))
    refused = sweeper(tmp_path, "plan", "study.yaml")
    assert refused.returncode == 2
    assert said in refused.stderr


class Silent:
    """An executor whose only job is taken, or not, and told nothing of until somebody stops it."""

    def __init__(self, *, taken: bool) -> None:
        self._events: list[Event] = [Started("key", "w1")] if taken else []
        self.stopped: list[StopOrder] = []

    def events(self, _timeout: float) -> list[Event]:
        found, self._events = self._events, []
        return found

    def stop(self, order: StopOrder) -> None:
        self.stopped.append(order)
        lost = Lost("key", "w1", Cause.TIME_LIMIT, "it told nothing", "", "")
        self._events = [lost if isinstance(order, Kill) else Dropped("key")]


@pytest.mark.parametrize(
    ("taken", "order", "said"),
    [
        (False, Cancel("key"), "no worker came for it within"),
        (True, Kill("key", Cause.TIME_LIMIT), "it told nothing"),
    ],
)
def test_a_worker_that_does_not_come_or_tells_nothing_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, taken: bool, order: StopOrder, said: str
) -> None:
    monkeypatch.setattr(speed, "SILENT_SECONDS", 0.1)
    pool: Any = Silent(taken=taken)
    nothing: Any = SimpleNamespace()
    meter = SpeedMeter(nothing, nothing, Screen(lambda _: None, lambda _: None))
    answered = meter._hear(pool, "key")
    assert isinstance(answered, Refusal)
    assert said in answered.message
    assert pool.stopped == [order]
