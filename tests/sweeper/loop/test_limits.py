"""Budgets: a sweep ends inside of them, and says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dashboards.store.records import load_records
from studies.records import Cause, State
from studies.spec import Budget
from sweeper.executors.base import Kill, Started
from sweeper.loop.limits import FinishUp, Limits, Meter, Stop, read_spent

Sweeper = Callable[..., Any]
TRAINERS = Path(__file__).parents[2] / "soak"
STUDY = """
study: small
trainer: soak_trainers:Slow
base: {model_name_or_path: embedded, use_peft: true, lora_r: 8, max_steps: 6, learning_rate: 1.0e-5}
variants: {sigmoid: {}, ipo: {}}
space: {beta: {low: 0.01, high: 1.0, log: true}}
budget: {trials: 12, BUDGET}
resources: {env: [STEP_SECONDS]}
objective: {metric: ranking_gain}
"""


@pytest.fixture(autouse=True)
def _slow_trainer(empty_mlflow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db")
    monkeypatch.syspath_prepend(TRAINERS)
    monkeypatch.setenv("STEP_SECONDS", "0.02")


def a_meter(folder: Path, **budget: Any) -> Meter:
    return Meter(Budget(**budget), folder, now=0.0)


def test_another_run_is_begun_only_where_the_longest_lately_would_end_in_time(tmp_path: Path) -> None:
    meter = a_meter(tmp_path, wall_clock=100)
    assert meter.too_short(99.0, 0.0, {}, 1, free=True) is None, "nothing is known yet"
    for seconds in (10.0, 30.0, 20.0):
        meter.add(seconds)
    assert meter.too_short(69.0, 0.0, {}, 1, free=True) is None
    assert "30" in str(meter.too_short(71.0, 0.0, {}, 1, free=True))
    assert "up to 90.0 s" in str(meter.too_short(11.0, 0.0, {}, 3, free=True)), "three together take thrice as long"
    assert meter.too_short(9.0, 0.0, {}, 3, free=True) is None


def test_where_no_worker_is_free_another_run_begins_when_the_first_ends(tmp_path: Path) -> None:
    meter = a_meter(tmp_path, wall_clock=100)
    meter.add(30.0)
    underway = {"a": ("w1", 15.0), "b": ("w2", 1.0)}
    assert meter.too_short(50.0, 0.0, underway, 1, free=False) is None
    assert meter.too_short(60.0, 0.0, underway, 1, free=False) is not None
    beside = {**underway, "c": ("w1", 15.0)}
    assert meter.too_short(38.0, 0.0, beside, 1, free=False) is None
    assert meter.too_short(42.0, 0.0, beside, 1, free=False) is not None, "two share what is left of w1"


def test_runs_begun_while_packs_look_for_their_size_do_not_make_another_one_long(tmp_path: Path) -> None:
    limits = Limits(Budget(wall_clock=400), tmp_path, started=0.0)
    for key in "abcd":
        limits.begun(Started(key, "w", at=0.0))
    limits.ended("a", Cause.FINISHED, at=200.0)  # beside three others, 50 s of the worker
    assert not list(limits.check(200.0, workers=1, together=1)), "one more takes 50 s, and the three no more than those"


def test_device_hours_count_what_runs_in_training_will_still_take(tmp_path: Path) -> None:
    meter = a_meter(tmp_path, gpu_hours=100 / 3600)
    meter.add(10.0)  # four together took 40 s
    underway = {"a": ("w", 5.0), "b": ("w", 5.0)}
    assert meter.too_short(0.0, 79.0, underway, 4, free=True) is None
    assert meter.too_short(0.0, 81.0, underway, 4, free=True) is not None
    assert meter.over(0.0, 99.0) is None
    assert "device hours" in str(meter.over(0.0, 100.0))


def test_device_hours_go_on_from_what_earlier_sweeps_spent(tmp_path: Path) -> None:
    first = a_meter(tmp_path, gpu_hours=1)
    first.keep(6.0, 1800.0)
    assert read_spent(tmp_path) == 1800.0
    second = a_meter(tmp_path, gpu_hours=1)
    assert second.over(0.0, 1799.0) is None
    assert second.over(0.0, 1800.0) is not None
    second.add(60.0)
    assert second.too_short(0.0, 1700.0, {}, 1, free=True) is None
    assert second.too_short(0.0, 1750.0, {}, 1, free=True) is not None
    second.keep(0.0, 100.0, at_once=True)
    assert read_spent(tmp_path) == 1900.0


def test_a_damaged_account_of_what_was_spent_counts_as_nothing(tmp_path: Path) -> None:
    (tmp_path / "spent.json").write_text("{")
    assert read_spent(tmp_path) == 0.0


@pytest.mark.parametrize("executor", [("inline",), pytest.param(("process", "--workers", "2"), marks=pytest.mark.slow)])
def test_a_sweep_ends_within_its_device_hours_with_equal_shares_and_goes_on_with_more(
    sweeper: Sweeper, tmp_path: Path, executor: tuple[str, ...]
) -> None:
    hours = 1.2 / 3600
    (tmp_path / "study.yaml").write_text(STUDY.replace("BUDGET", f"gpu_hours: {hours}"))
    ended = sweeper(tmp_path, "run", "study.yaml", "--executor", *executor)
    assert ended.returncode == 1, ended.stderr
    assert "device hours" in ended.stdout
    found = load_records(f"sqlite:///{tmp_path}/mlflow.db", "small")
    assert {run.state for run in found} == {State.COMPLETE}
    trained = [sum(run.variant == name for run in found) for name in ("sigmoid", "ipo")]
    assert 0 < sum(trained) < 24
    assert abs(trained[0] - trained[1]) <= 2
    spent = json.loads((tmp_path / "runs" / "small" / "spent.json").read_text())["device_seconds"]
    assert 0 < spent < 2 * hours * 3600
    again = sweeper(tmp_path, "run", "study.yaml", "--executor", *executor, "--set", "budget.gpu_hours=1")
    assert again.returncode == 0, again.stdout + again.stderr
    assert len(load_records(f"sqlite:///{tmp_path}/mlflow.db", "small")) == 24


@pytest.mark.parametrize("executor", [("inline",), ("process", "--workers", "2")])
def test_a_run_that_takes_too_long_is_stopped_kept_as_censored_and_not_tried_again(
    sweeper: Sweeper, tmp_path: Path, executor: tuple[str, ...]
) -> None:
    slow = STUDY.replace("trials: 12, BUDGET", "trials: 2, per_run: 1s").replace(
        "ipo: {}", "ipo: {base: {max_steps: 90}}"
    )
    (tmp_path / "study.yaml").write_text(slow)
    assert sweeper(tmp_path, "run", "study.yaml", "--executor", *executor).returncode == 0
    found = load_records(f"sqlite:///{tmp_path}/mlflow.db", "small")
    assert {(run.variant, run.state, run.cause) for run in found} == {
        ("sigmoid", State.COMPLETE, Cause.FINISHED),
        ("ipo", State.PRUNED, Cause.TIME_LIMIT),
    }
    again = sweeper(tmp_path, "run", "study.yaml", "--executor", *executor)
    assert "0 runs trained, 4 were there already" in again.stdout


def the_limits(folder: Path, **budget: Any) -> Limits:
    limits = Limits(Budget(**budget), folder, started=0.0)
    limits.begun(Started("long", "w", at=0.0))
    return limits


def test_limits_ask_for_nothing_where_there_are_none(tmp_path: Path) -> None:
    assert list(the_limits(tmp_path).check(1e6, workers=1, together=1)) == []


def test_limits_ask_to_stop_at_the_budget_and_to_kill_what_does_not_stop(tmp_path: Path) -> None:
    orders = list(the_limits(tmp_path, wall_clock=100, per_run=50).check(100.0, workers=1, together=1))
    assert isinstance(orders[0], Stop)
    assert orders[1:] == [Kill("long", Cause.TIME_LIMIT)]
    assert list(the_limits(tmp_path, per_run=50).check(79.0, workers=1, together=1)) == []


def test_limits_ask_to_finish_up_once_a_run_has_shown_that_no_other_fits(tmp_path: Path) -> None:
    limits = the_limits(tmp_path, wall_clock=100)
    limits.ended("long", Cause.FINISHED, at=60.0)
    assert [type(order) for order in limits.check(60.0, workers=1, together=1)] == [FinishUp]


def test_a_worker_is_failing_once_after_three_runs_and_not_where_one_went_well(tmp_path: Path) -> None:
    limits = the_limits(tmp_path)
    lost = [limits.failing("w", key, Cause.WORKER_LOST, float(at)) for at, key in enumerate("abcd")]
    assert lost == [None, None, ("a", "b", "c"), None]
    assert limits.failing("v", "a", Cause.WORKER_LOST, 0.0) is None
    assert limits.failing("v", "b", Cause.FINISHED, 1.0) is None
    assert [limits.failing("v", key, Cause.WORKER_LOST, float(at)) for at, key in enumerate("cd")] == [None, None]


def test_the_time_left_is_told_by_a_run_s_share_of_its_worker(tmp_path: Path) -> None:
    limits = Limits(Budget(), tmp_path, started=0.0)
    for worker in ("w0", "w1"):
        for number in range(4):
            limits.begun(Started(f"{worker}-{number}", worker, at=0.0))
    assert limits.seconds_left(40.0, 100) is None
    limits.ended("w0-0", Cause.FINISHED, at=40.0)
    # A run takes 10 s of its worker; 99 are left, of which 7 are over but for their end: 92 on two workers.
    assert limits.seconds_left(40.0, 99) == pytest.approx(92 * 10 / 2)
    limits.ended("w0-1", Cause.FINISHED, at=40.0)
    assert limits.seconds_left(40.0, 6) == pytest.approx(0.0)


def test_the_time_left_stays_while_a_worker_is_between_two_runs(tmp_path: Path) -> None:
    limits = Limits(Budget(), tmp_path, started=0.0)
    for worker in ("w0", "w1"):
        limits.begun(Started(worker, worker, at=0.0))
    limits.ended("w0", Cause.FINISHED, at=10.0)
    assert limits.seconds_left(10.0, 21) == pytest.approx(20 * 10 / 2), "w1 is nearly there"
    limits.ended("w1", Cause.FINISHED, at=10.0)
    assert limits.seconds_left(11.0, 20) == pytest.approx(20 * 10 / 2), "none has a run at this moment"
    limits.begun(Started("next", "w0", at=12.0))
    assert limits.seconds_left(12.0, 20) == pytest.approx(20 * 10 / 2)
    assert limits.seconds_left(80.0, 20) == pytest.approx(19 * 10), "w1 has had none for more than a minute"


def test_what_one_worker_trains_at_the_end_is_not_shared_with_those_that_have_nothing(tmp_path: Path) -> None:
    limits = Limits(Budget(), tmp_path, started=0.0)
    for worker in ("w0", "w1"):
        limits.begun(Started(worker, worker, at=0.0))
    for worker in ("w0", "w1"):
        limits.ended(worker, Cause.FINISHED, at=10.0)
    limits.begun(Started("last", "w0", at=10.0))
    assert limits.seconds_left(12.0, 1) == pytest.approx(8.0)
