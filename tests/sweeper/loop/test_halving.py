"""Successive halving: who goes on is decided by what was measured, whoever reports first and whatever is killed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboards.store.records import load_records
from studies.design.halving import FAILED, Score, rung_scores, standing, survivors
from studies.records import Cause, Measurement, RunConfig, RunRecord, RunResult, State
from studies.spec import Objective
from sweeper.executors.base import Capacity
from sweeper.executors.inline import Inline
from tests.sweeper.conftest import SweptOnce
from tests.sweeper.forked import Forked
from tests.waiting import PATIENCE, wait_until
from trainers import formula
from trainers.formula import FormulaTrainer
from trainers.interface import Job, WorkQueue
from trainers.run_folder.results import read_result

Sweeper = Callable[..., Any]
Run = Callable[..., Any]
# The learning rate goes to where ipo diverges.
STUDY = """
study: small
mode: search
trainer: formula
base: {model_name_or_path: embedded, use_peft: true, lora_r: 8, max_steps: 12}
variants: {sigmoid: {}, ipo: {}}
space: {beta: {low: 0.01, high: 1.0, log: true}, learning_rate: {low: 1.0e-6, high: 3.0e-3, log: true}}
budget: {trials: 9}
rungs: {at: [0.25, 0.5], eta: 3, bracket: 9}
objective: {metric: ranking_gain}
"""


@pytest.fixture
def run(sweeper: Sweeper, empty_mlflow: Path) -> Run:
    """`run(folder, study text, *options)`: the command `run`, inline unless the options say otherwise."""

    def call(folder: Path, text: str = STUDY, *arguments: str) -> Any:
        folder.mkdir(exist_ok=True)
        (folder / "study.yaml").write_text(text)
        if not (folder / "mlflow.db").exists():
            shutil.copyfile(empty_mlflow, folder / "mlflow.db")
        return sweeper(folder, "run", "study.yaml", *(arguments or ("--executor", "inline")))

    return call


@pytest.fixture(scope="module")
def in_order(tmp_path_factory: pytest.TempPathFactory, swept_once: SweptOnce) -> Path:
    """A folder in which the study was run in one process, from one run to the next."""
    return swept_once(tmp_path_factory.mktemp("in-order"), STUDY)


def records(folder: Path) -> list[RunRecord]:
    return load_records(f"sqlite:///{folder}/mlflow.db", "small")


def trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="small/search/clean", storage=f"sqlite:///{folder}/optuna.db").trials


def decided(folder: Path) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """What became of each point, whatever its number."""
    return {tuple(sorted(t.params.items())): (t.state.name, t.value, t.intermediate_values) for t in trials(folder)}


scores = st.builds(Score, st.sampled_from([0.0, 0.5, 2.0]), st.sampled_from([-1.0, 0.0, 0.25, 3.0])) | st.just(FAILED)


@given(
    st.lists(st.tuples(scores, scores), min_size=1, max_size=30), st.integers(2, 4), st.randoms(use_true_random=False)
)
def test_the_order_of_reports_decides_nothing(table: list[tuple[Score, Score]], eta: int, order: random.Random) -> None:
    """Each trial reports as it may, in any order; what stands in the end is what all scores at once say."""
    known: dict[int, list[Score]] = {number: [] for number in range(len(table))}
    while True:
        now = standing(known, 2, eta)
        ready = [n for n in now.alive if len(known[n]) <= now.rung < 2]
        if not ready:
            break
        number = order.choice(ready)
        known[number].append(table[number][now.rung])
    assert now == standing(dict(enumerate(table)), 2, eta)
    assert now.rung == 2
    assert now.alive | now.out.keys() == known.keys()


def test_bounds_come_first_then_the_objective_then_the_trial_number() -> None:
    far, near, good, best = Score(2.0, -9.0), Score(0.1, -5.0), Score(0.0, -1.0), Score(0.0, -3.0)
    ranked = dict(enumerate([FAILED, far, near, good, good, best]))
    assert survivors(ranked, 6) == {5}
    assert survivors(ranked, 3) == {5, 3}
    assert survivors({k: v for k, v in ranked.items() if k < 3}, 3) == {2}
    assert survivors({0: FAILED, 1: FAILED}, 2) == frozenset()


def at(step: int, gold: float, kl: float, cause: Cause = Cause.PAUSED) -> RunResult:
    return RunResult(
        key="k", cause=cause, measurements=(Measurement("gold", gold, 0.1, step), Measurement("kl", kl, 0.1, step))
    )


def test_a_trial_is_scored_by_the_mean_of_its_runs_and_a_run_that_ended_before_the_rung_fails_it() -> None:
    objective = Objective(metric="gold", constraints={"kl": {"max": 4.0}})
    both = [at(5, 1.0, 3.0), at(5, 3.0, 6.0)]
    assert rung_scores(both, (5, 8), objective, over=False) == [Score(0.5, -2.0)]
    assert rung_scores([both[0], at(4, 1.0, 1.0, Cause.NON_FINITE)], (5, 8), objective, over=False) == [FAILED, FAILED]
    assert rung_scores(both, (5, 8), objective, over=True) == [Score(0.5, -2.0), FAILED]
    assert rung_scores([at(4, 1.0, 1.0)], (5, 8), objective, over=False) == []


def test_the_best_third_goes_on_from_each_rung_and_the_rest_is_told_with_its_value_there(
    run: Run, tmp_path: Path
) -> None:
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "9 runs trained" in done.stdout
    assert "step 3: 3 trials go on, 6 end here" in done.stdout
    found = {r.trial: r for r in records(tmp_path)}
    assert len(found) == 9
    assert Counter((r.cause, r.facts.get("rung")) for r in found.values() if r.cause is not Cause.NON_FINITE) == {
        (Cause.FINISHED, None): 1,
        (Cause.PAUSED, "3"): 6,
        (Cause.PAUSED, "6"): 2,
    }
    at_first = {n: read_result(tmp_path / "runs" / "small" / r.key).measurements for n, r in found.items()}
    gain = {n: next(m.value for m in ms if (m.name, m.step) == ("ranking_gain", 3)) for n, ms in at_first.items()}
    best = sorted(gain, key=gain.__getitem__)[-3:]
    assert {n for n, r in found.items() if r.facts.get("rung") != "3"} == set(best)
    for t in trials(tmp_path):
        if found[t.number].cause is Cause.PAUSED:
            step = int(found[t.number].facts["rung"])
            assert (t.state.name, list(t.intermediate_values)) == ("PRUNED", [step])
            assert t.intermediate_values[step] == found[t.number].metrics["ranking_gain"]
            assert found[t.number].metrics.keys() & {"steps_per_second"} == set()


def test_a_run_that_diverged_counts_as_last_and_its_place_is_not_filled_by_waiting(run: Run, tmp_path: Path) -> None:
    """Above its learning rate ipo diverges at step 7: past both rungs, so it takes a place and then fails."""
    one = STUDY.replace("{sigmoid: {}, ipo: {}}", "{ipo: {}}").replace("low: 1.0e-6", "low: 1.1e-3")
    done = run(tmp_path, one.replace("at: [0.25, 0.5]", "at: [0.25, 0.75]"))
    assert done.returncode == 0, done.stderr
    assert Counter(r.cause for r in records(tmp_path)) == {Cause.NON_FINITE: 3, Cause.PAUSED: 6}
    assert Counter(t.state.name for t in trials(tmp_path)) == {"PRUNED": 9}


@pytest.mark.parametrize("seed", [pytest.param(0, marks=pytest.mark.slow), 1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_same_trials_go_on_whoever_reports_first(
    run: Run, in_order: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    order = random.Random(seed)

    def anywhere(self: Inline, job: Job) -> None:
        self._waiting.insert(order.randint(0, len(self._waiting)), job)

    monkeypatch.setattr(Inline, "submit", anywhere)
    monkeypatch.setattr(Capacity, "slots", lambda self, together: 7)
    run(tmp_path / "shuffled")
    assert decided(tmp_path / "shuffled") == decided(in_order)


def test_worker_processes_decide_what_one_process_decides(run: Run, in_order: Path, tmp_path: Path) -> None:
    run(tmp_path, STUDY, "--executor", "process", "--workers", "2")
    assert decided(tmp_path) == decided(in_order)


class Slow:
    """The formula trainer with a pause before each run, so that a kill comes in the middle."""

    def __init__(self) -> None:
        self._formula = FormulaTrainer()

    def train(self, job: Job, desk: WorkQueue) -> None:
        """See `Trainer.train`."""
        time.sleep(0.1)
        self._formula.train(job, desk)


@pytest.mark.parametrize(
    ("number", "after"),
    [
        (signal.SIGKILL, 4),
        pytest.param(signal.SIGKILL, 11, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 7, marks=pytest.mark.slow),
    ],
)
def test_a_search_stopped_in_the_middle_of_a_bracket_goes_on_and_decides_the_same(
    run: Run,
    in_order: Path,
    tmp_path: Path,
    empty_mlflow: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    after: int,
) -> None:
    """`after`: so many pauses and ends; there are 9 at the first rung and 3 at the second."""
    slow = STUDY.replace("trainer: formula", "trainer: tests.sweeper.loop.test_halving:Slow")
    monkeypatch.syspath_prepend(Path(__file__).parents[3])
    folder = tmp_path
    (folder / "study.yaml").write_text(slow)
    shutil.copyfile(empty_mlflow, folder / "mlflow.db")
    process = Forked(folder, "run", "study.yaml", "--executor", "process", "--workers", "1")
    seen: set[tuple[str, int]] = set()

    def enough() -> bool:
        assert process.poll() is None, "the sweep ended before it could be stopped"
        seen.update((f.parent.name, f.stat().st_mtime_ns) for f in (folder / "runs" / "small").glob("*/result.json"))
        return len(seen) >= after

    wait_until(enough, "the runs do not pause")
    os.kill(process.pid, number)
    process.wait(timeout=PATIENCE)
    if number == signal.SIGINT:
        assert not [r for r in records(folder) if r.state is State.RUNNING]
        assert "RUNNING" not in {t.state.name for t in trials(folder)}
    done = run(folder, slow)
    assert done.returncode == 0, done.stderr
    assert decided(folder) == decided(in_order)
    assert len(records(folder)) == 9
    assert {r.trial: r.cause for r in records(folder)} == {r.trial: r.cause for r in records(in_order)}
    assert "0 runs trained, 9 were there already" in run(folder, slow).stdout


def with_results(monkeypatch: pytest.MonkeyPatch, change: Callable[[RunConfig, RunResult], RunResult]) -> None:
    """Let the formula trainer answer what `change` makes of its results; it may raise."""
    plain = formula._hand_in
    monkeypatch.setattr(formula, "_hand_in", lambda job, result, desk: plain(job, change(job.config, result), desk))


def test_what_the_machine_fails_is_tried_again_before_the_rung_is_decided(
    run: Run, in_order: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = max((t.value, t.number) for t in trials(in_order) if t.state.name == "COMPLETE")[1]
    failures: list[Cause] = []

    def fail_twice(config: RunConfig, result: RunResult) -> RunResult:
        if config.trial == best and len(failures) < 2:
            failures.append(result.cause)
            raise OSError("the network is away")
        return result

    with_results(monkeypatch, fail_twice)
    assert run(tmp_path / "failing", STUDY + "resources: {retry_after: 0}\n").returncode == 0
    assert len(failures) == 2
    assert decided(tmp_path / "failing") == decided(in_order)


@pytest.mark.slow
def test_a_run_that_the_machine_fails_for_good_is_last_and_what_was_decided_stands(
    run: Run, in_order: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best trial pauses at the first rung and is lost before the second: the other two are decided without it."""
    best = max((t.value, t.number) for t in trials(in_order) if t.state.name == "COMPLETE")[1]

    def fail(config: RunConfig, result: RunResult) -> RunResult:
        if config.trial == best and result.curve[-1][0] > 3:
            raise OSError("the disk is full")
        return result

    with monkeypatch.context() as broken:
        with_results(broken, fail)
        assert run(tmp_path / "failing").returncode == 1
    told = Counter((t.state.name, max(t.intermediate_values, default=None)) for t in trials(tmp_path / "failing"))
    assert told == {("PRUNED", 3): 6, ("PRUNED", 6): 1, ("COMPLETE", None): 1, ("FAIL", None): 1}
    before = decided(tmp_path / "failing")
    assert "1 run trained, 8 were there already" in run(tmp_path / "failing").stdout  # another trial in its place
    assert before.items() <= decided(tmp_path / "failing").items()


class NoPause:
    """A trainer whose runs cannot pause, as those that TRL trains by its own loop."""

    def __init__(self) -> None:
        self._formula = FormulaTrainer()

    def train(self, job: Job, desk: WorkQueue) -> None:
        """See `Trainer.train`."""
        self._formula.train(replace(job, pause_at=None), desk)


def test_runs_that_cannot_pause_are_decided_by_what_they_measured_at_the_rung_and_are_kept_whole(
    run: Run, tmp_path: Path
) -> None:
    done = run(tmp_path, STUDY.replace("trainer: formula", "trainer: tests.sweeper.loop.test_halving:NoPause"))
    assert done.returncode == 0, done.stderr
    assert {r.cause for r in records(tmp_path)} <= {Cause.FINISHED, Cause.NON_FINITE}
    assert len(records(tmp_path)) == 9


@pytest.mark.slow
def test_more_trials_make_a_bracket_of_their_own_and_train_only_that(run: Run, tmp_path: Path) -> None:
    run(tmp_path)
    before = decided(tmp_path)
    done = run(tmp_path, STUDY.replace("trials: 9", "trials: 15"))
    assert "6 runs trained, 9 were there already" in done.stdout
    after = decided(tmp_path)
    assert before.items() <= after.items()
    assert Counter(tuple(t.user_attrs["bracket"]) for t in trials(tmp_path)) == {(0, 9): 9, (1, 6): 6}


def test_no_trial_is_asked_for_before_the_bracket_is_decided(run: Run, tmp_path: Path) -> None:
    """So that TPE has learnt from the whole bracket, whoever reported first."""
    run(tmp_path, STUDY.replace("bracket: 9", "bracket: 3"))
    found = trials(tmp_path)
    ends = {b: max(t.datetime_complete for t in found if t.user_attrs["bracket"][0] == b) for b in range(3)}
    starts = {b: min(t.datetime_start for t in found if t.user_attrs["bracket"][0] == b) for b in range(3)}
    assert ends[0] <= starts[1]
    assert ends[1] <= starts[2]


def test_the_best_of_a_search_with_rungs_is_confirmed_without_pauses(run: Run, tmp_path: Path) -> None:
    run(tmp_path, STUDY + "confirm: {top: 1, blocks: [1, 2], seeds: [0]}\n")
    confirmed = [r for r in records(tmp_path) if r.phase == "confirm"]
    assert confirmed
    assert {r.cause for r in confirmed} == {Cause.FINISHED}


def test_trials_of_several_runs_go_on_by_the_mean_of_their_runs(run: Run, tmp_path: Path) -> None:
    done = run(tmp_path, STUDY + "runs: {blocks: [0, 1]}\n")
    assert done.returncode == 0, done.stderr
    by_trial = Counter(r.trial for r in records(tmp_path))
    assert set(by_trial.values()) == {2}
    causes = {n: {r.cause for r in records(tmp_path) if r.trial == n} for n in by_trial}
    assert sum(found == {Cause.PAUSED} for found in causes.values()) == 8


def test_plan_shows_the_brackets_and_what_they_save(sweeper: Sweeper, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY.replace("trials: 9", "trials: 30").replace("bracket: 9", "bracket: 18"))
    shown = sweeper(tmp_path, "plan", "study.yaml").stdout
    assert "2 brackets of 15 trials: 15 to step 3, 5 to step 6, 1 to the end" in shown
    assert "132 training steps in place of 360" in shown  # twice 15 x 3 + 5 x 3 + 1 x 6


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("mode: search", "mode: compare"), "rungs: would end runs by how they start"),
        (("max_steps: 12", "num_train_epochs: 1"), "base.max_steps: is needed with rungs"),
        (("at: [0.25, 0.5]", "at: [0.5, 0.25]"), "rungs.at: [0.5, 0.25] must rise"),
        (("at: [0.25, 0.5]", "at: [0.5, 1.0]"), "rungs.at: 1 must be a share"),
        (("at: [0.25, 0.5]", "at: []"), "rungs.at: is empty"),
        (("at: [0.25, 0.5]", "at: [0.5, 0.51]"), "are the steps [6, 6]"),
        (("eta: 3", "eta: 1"), "rungs.eta: 1 must be at least 2"),
        (("bracket: 9", "bracket: 2"), "rungs.bracket: 2 must be at least eta"),
        (("metric: ranking_gain", "metric: steps_per_second"), "'steps_per_second' is not measured at a rung"),
        (("ipo: {}", "ipo: {base: {max_steps: 20}}"), "variants.ipo: changes max_steps"),
        (("eta: 3", "etta: 3"), "rungs.etta: unknown key (did you mean eta?)"),
        (("trainer: formula", "resources: {together: 0}"), "saves nothing with resources.together: 0"),
        (
            (
                "trainer: formula\nbase: {model_name_or_path: embedded, use_peft: true, lora_r: 8,",
                "base: {model_name_or_path: embedded,",
            ),
            "needs base.use_peft: true",
        ),
    ],
)
def test_rungs_that_make_no_sense_are_refused(
    sweeper: Sweeper, tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    (tmp_path / "study.yaml").write_text(STUDY.replace(*change))
    refused = sweeper(tmp_path, "plan", "study.yaml")
    assert refused.returncode == 2
    assert said in refused.stderr


def lose_runs(folder: Path) -> None:
    for run in (folder / "runs" / "small").iterdir():
        if run.is_dir():
            shutil.rmtree(run)


def jobs_of(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """What is handed to the executor from here on."""
    handed: list[Job] = []
    plain = Inline.submit

    def submit(self: Inline, job: Job) -> None:
        handed.append(job)
        plain(self, job)

    monkeypatch.setattr(Inline, "submit", submit)
    return handed


def ends(folder: Path) -> dict[int, tuple[Any, ...]]:
    return {r.trial: (r.cause, r.facts.get("rung"), r.metrics.get("ranking_gain")) for r in records(folder)}


def test_runs_of_which_optuna_alone_tells_are_trained_again_each_to_where_it_ended(
    run: Run, tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = STUDY.replace("low: 1.0e-6", "low: 1.1e-3").replace("at: [0.25, 0.5]", "at: [0.25, 0.75]")
    text = text.replace("{sigmoid: {}, ipo: {}}", "{ipo: {}}")  # which diverges there between the rungs
    assert run(tmp_path, text).returncode == 0
    before, told = ends(tmp_path), decided(tmp_path)
    assert {(cause, rung) for cause, rung, _ in before.values()} == {(Cause.NON_FINITE, None), (Cause.PAUSED, "3")}
    shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db")
    lose_runs(tmp_path)
    jobs = jobs_of(monkeypatch)
    done = run(tmp_path, text)
    assert done.returncode == 0, done.stderr
    assert "9 runs trained, 0 were there already" in done.stdout
    assert len(jobs) == 9
    assert ends(tmp_path) == before
    assert decided(tmp_path) == told
    assert "0 runs trained, 9 were there already" in run(tmp_path, text).stdout


@pytest.mark.slow
def test_runs_of_which_their_folders_alone_tell_are_recorded_at_the_rungs_where_they_ended(
    run: Run, tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(tmp_path).returncode == 0
    before, told = ends(tmp_path), decided(tmp_path)
    jobs = jobs_of(monkeypatch)
    for is_optuna_lost in (False, True):
        shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db")
        if is_optuna_lost:
            (tmp_path / "optuna.db").unlink()
        done = run(tmp_path)
        assert "0 runs trained, 9 were there already" in done.stdout
        assert not jobs
        assert ends(tmp_path) == before
        assert decided(tmp_path) == told
