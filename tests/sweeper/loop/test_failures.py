"""Sweeps in which the machine fails: what is told to Optuna, MLflow and the user, and what is tried again."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient

from dashboards.store.records import load_records
from studies.records import Cause, RunRecord, State
from sweeper.loop import limits

Sweeper = Callable[..., Any]
STUDY = """
study: small
trainer: failing_trainers:Failing
base: {model_name_or_path: embedded, use_peft: true, lora_r: 8, max_steps: 6, learning_rate: 1.0e-5}
variants: {sigmoid: {}, ipo: {}}
space: {beta: {low: 0.01, high: 1.0, log: true}}
budget: {trials: 2}
resources: {attempts: 2, retry_after: 0.3s, env: [FAILURES, NOTES]}
objective: {metric: ranking_gain}
"""


@pytest.fixture
def run(sweeper: Sweeper, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """`run({"ipo": "die"})` runs STUDY with these failures, in one worker process."""
    shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db")
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    notes = tmp_path / "notes"
    notes.mkdir()
    monkeypatch.setenv("NOTES", str(notes))

    def call(failures: dict[str, str], study: str = STUDY, command: str = "run", *arguments: str) -> Any:
        monkeypatch.setenv("FAILURES", json.dumps(failures))
        (tmp_path / "study.yaml").write_text(study)
        return sweeper(tmp_path, command, "study.yaml", *(arguments or ("--workers", "1")))

    return call


def records(folder: Path) -> list[RunRecord]:
    return load_records(f"sqlite:///{folder}/mlflow.db", "small")


def causes(folder: Path) -> set[tuple[str, State, Cause | None]]:
    return {(r.variant, r.state, r.cause) for r in records(folder)}


def superseded(folder: Path) -> list[str]:
    """The reasons for which attempts were replaced."""
    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("small")
    runs = client.search_runs([experiment.experiment_id])
    return [run.data.tags["superseded"] for run in runs if "superseded" in run.data.tags]


def optuna_states(folder: Path, variant: str) -> Counter[str]:
    study = optuna.load_study(study_name=f"small/{variant}/clean", storage=f"sqlite:///{folder}/optuna.db")
    return Counter(trial.state.name for trial in study.trials)


@pytest.mark.parametrize(
    ("act", "cause"),
    [
        ("die", Cause.WORKER_LOST),
        ("raise", Cause.INFRASTRUCTURE),
        pytest.param("SIGTERM", Cause.PREEMPTED, marks=pytest.mark.slow),
    ],
)
def test_what_the_machine_fails_for_good_is_told_everywhere_with_its_log(
    run: Callable[..., Any], tmp_path: Path, act: str, cause: Cause
) -> None:
    ended = run({"ipo": act})
    assert ended.returncode == 1
    assert f"trial 0: {cause}, " in ended.stdout
    assert causes(tmp_path) == {("sigmoid", State.COMPLETE, Cause.FINISHED), ("ipo", State.FAIL, cause)}
    assert optuna_states(tmp_path, "ipo") == {"FAIL": 2}
    assert superseded(tmp_path) == [f"{cause}: tried again"] * 2
    listed = run({"ipo": act}, STUDY, "status", "--failed").stdout
    assert f"2 {cause}" in listed
    assert "about to train ipo" in listed, "the last lines of the log"
    assert str(tmp_path / "runs" / "small" / "logs" / "worker-0.log") in listed
    tags = {r.facts["log_tail"].splitlines()[0] for r in records(tmp_path) if r.variant == "ipo"}
    assert any("about to train ipo" in tag for tag in tags)


@pytest.mark.parametrize(
    "act",
    [
        "die once",
        pytest.param("raise once", marks=pytest.mark.slow),
        pytest.param("SIGTERM once", marks=pytest.mark.slow),
    ],
)
def test_what_the_machine_fails_once_is_tried_again_after_a_while_and_counts_as_nothing(
    run: Callable[..., Any], tmp_path: Path, act: str
) -> None:
    assert run({"ipo": act}).returncode == 0
    assert causes(tmp_path) == {(v, State.COMPLETE, Cause.FINISHED) for v in ("sigmoid", "ipo")}
    assert optuna_states(tmp_path, "ipo") == {"COMPLETE": 2}
    tries = [[float(at) for at in note.read_text().split()] for note in (tmp_path / "notes").iterdir()]
    assert sorted(len(at) for at in tries) == [1, 1, 2, 2]
    assert all(later - earlier >= 0.3 for earlier, later in (at for at in tries if len(at) == 2)), "the back-off"


def test_a_worker_on_which_three_different_runs_fail_in_a_row_is_set_aside_and_named(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    many = STUDY.replace("trials: 2", "trials: 4").replace("attempts: 2", "attempts: 1")
    ended = run({"sigmoid": "die", "ipo": "die"}, many)
    assert ended.returncode == 1
    assert "worker-0 is set aside" in ended.stdout
    assert "No worker is left" in ended.stdout
    assert len(list((tmp_path / "notes").iterdir())) in (3, 4), "the other runs were not burned"
    assert run({}, many).returncode == 0
    assert causes(tmp_path) == {(v, State.COMPLETE, Cause.FINISHED) for v in ("sigmoid", "ipo")}
    assert len(records(tmp_path)) == 8


@pytest.mark.slow
def test_what_could_not_be_trained_is_told_although_the_sweep_had_tries_left_for_it(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    """Three runs in a row set the only worker aside, before any of them has had its last try."""
    many = STUDY.replace("trials: 2", "trials: 4").replace("attempts: 2", "attempts: 3").replace("0.3s", "0s")
    ended = run({"sigmoid": "die", "ipo": "die"}, many)
    assert ended.returncode == 1
    tried = {note.name for note in (tmp_path / "notes").iterdir()}
    assert {r.key for r in records(tmp_path)} == tried, "one run each, whatever the number of its tries"
    assert {(r.state, r.cause) for r in records(tmp_path)} == {(State.FAIL, Cause.WORKER_LOST)}
    told = f"{len(tried)} runs could not be trained ({len(tried)} worker_lost)"
    assert f"\n0 runs trained, 0 were there already; {told}: sweeper status study.yaml --failed" in ended.stdout
    listed = run({}, many, "status", "--failed").stdout
    assert listed.count("the worker exited with code 3") == 1
    assert f"{told}." in listed
    again = run({}, many)
    assert again.returncode == 0
    assert "8 runs trained, 0 were there already" in again.stdout
    assert run({}, many, "status", "--failed").stdout.count("could not be trained") == 0
    assert Counter(r.state for r in records(tmp_path)) == {State.COMPLETE: 8}


@pytest.mark.slow
def test_the_other_workers_go_on_without_the_one_that_is_set_aside(run: Callable[..., Any], tmp_path: Path) -> None:
    many = STUDY.replace("trials: 2", "trials: 6").replace("attempts: 2", "attempts: 1")
    ended = run({"ipo": "die"}, many, "run", "--workers", "3")
    assert ended.returncode == 1
    assert Counter(r.state for r in records(tmp_path) if r.variant == "sigmoid") == {State.COMPLETE: 6}


def test_a_run_that_hangs_is_killed_when_its_time_is_over_and_the_sweep_goes_on(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "GRACE_SECONDS", 0.2)
    ended = run({"ipo": "hang"}, STUDY.replace("trials: 2", "trials: 2, per_run: 1s"))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert causes(tmp_path) == {
        ("sigmoid", State.COMPLETE, Cause.FINISHED),
        ("ipo", State.PRUNED, Cause.TIME_LIMIT),
    }
    assert optuna_states(tmp_path, "ipo") == {"PRUNED": 2}
    assert not superseded(tmp_path)


def test_retry_trains_those_runs_again_that_failed_and_no_others(run: Callable[..., Any], tmp_path: Path) -> None:
    run({"ipo": "die"}, STUDY.replace("variants: {sigmoid: {}, ipo: {}}", "variants: {hinge: {}, ipo: {}, robust: {}}"))
    study = STUDY.replace("variants: {sigmoid: {}, ipo: {}}", "variants: {hinge: {}, ipo: {}, robust: {}, sigmoid: {}}")
    before = {note.name for note in (tmp_path / "notes").iterdir()}
    again = run({}, study, "retry", "--cause", "worker_lost", "--workers", "1")
    assert "Training 2 runs again" in again.stdout
    assert causes(tmp_path) == {(v, State.COMPLETE, Cause.FINISHED) for v in ("hinge", "ipo", "robust")}
    assert {note.name for note in (tmp_path / "notes").iterdir()} == before, "sigmoid is new and was not asked for"
    assert "nothing to train again" in run({}, study, "retry", "--workers", "1").stdout
    assert run({}, study).returncode == 0
    assert Counter(r.variant for r in records(tmp_path)) == dict.fromkeys(("hinge", "ipo", "robust", "sigmoid"), 2)


@pytest.mark.slow
def test_retry_also_repeats_what_a_run_did_to_itself_with_the_same_knobs(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    diverging = STUDY.replace("1.0e-5", "2.0e-3")
    assert run({}, diverging).returncode == 0
    knobs = {r.knobs["beta"] for r in records(tmp_path) if r.variant == "ipo"}
    assert optuna_states(tmp_path, "ipo") == {"PRUNED": 2}
    run({}, diverging, "retry", "--cause", "non_finite", "--workers", "1")
    found = [r for r in records(tmp_path) if r.variant == "ipo"]
    assert {r.knobs["beta"] for r in found} == knobs
    assert {r.trial for r in found} == {2, 3}, "Optuna reopens no trial"
    tries = [len(note.read_text().split()) for note in (tmp_path / "notes").iterdir()]
    assert sorted(tries) == [1, 1, 2, 2]
    assert "0 runs trained, 4 were there already" in run({}, diverging).stdout


def test_retry_of_an_unknown_cause_is_refused(run: Callable[..., Any]) -> None:
    refused = run({}, STUDY, "retry", "--cause", "bad_luck")
    assert refused.returncode == 2
    assert "worker_lost" in refused.stderr


def test_a_model_that_no_run_can_use_ends_the_sweep_at_the_first_run_with_the_remedy(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    many = STUDY.replace("trials: 2", "trials: 8")
    ended = run({"sigmoid": "unusable", "ipo": "unusable"}, many)
    assert ended.returncode == 2
    assert ended.stderr.endswith(
        "error: No run of small can be trained, and the sweep has ended: model m: the folder holds no weights: put "
        "them there\n"
    )
    assert "Go on with" not in ended.stdout
    assert len(list((tmp_path / "notes").iterdir())) < 8, "of 16, those that the worker took before it heard"
    assert run({}, many).returncode == 0
    assert len(records(tmp_path)) == 16


@pytest.mark.parametrize(("of", "most"), [("schedule", 8), ("settings", 10)])
def test_a_setting_that_no_run_can_be_made_ready_with_ends_the_sweep_with_the_remedy(
    run: Callable[..., Any], tmp_path: Path, of: str, most: int
) -> None:
    many = STUDY.replace("trials: 2", "trials: 8")
    ended = run(dict.fromkeys(("sigmoid", "ipo"), f"unusable {of}"), many)
    assert ended.returncode == 2
    assert "error: No run of small can be trained, and the sweep has ended: base.lr_scheduler_kwargs" in ended.stderr
    assert "Go on with" not in ended.stdout
    assert len(list((tmp_path / "notes").iterdir())) < most


def test_a_variant_whose_settings_no_run_can_be_made_ready_with_leaves_the_others(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    two = STUDY.replace("ipo: {}", "ipo: {base: {lr_scheduler_type: cosine}}")
    ended = run({"sigmoid": "unusable schedule"}, two)
    assert ended.returncode == 1, ended.stderr
    assert causes(tmp_path) == {
        ("sigmoid", State.FAIL, Cause.REFUSED),
        ("ipo", State.COMPLETE, Cause.FINISHED),
    }


@pytest.mark.slow
def test_a_bracket_begun_with_a_model_that_no_run_can_use_is_decided_among_as_many_as_any(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    search = "mode: search\nrungs: {at: [0.5], eta: 3}\n" + STUDY.replace("trials: 2", "trials: 9")
    assert run(dict.fromkeys(("sigmoid", "ipo"), "unusable"), search).returncode == 2
    assert run({}, search).returncode == 0
    assert Counter(r.state for r in records(tmp_path)) == {State.COMPLETE: 3, State.PRUNED: 6}


def test_data_that_runs_of_one_scenario_cannot_use_leave_the_other_to_be_trained(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    two = STUDY + "scenarios: {odd: {label_flip: 0.2}, clean: {}}\n"
    ended = run({"odd": "unusable"}, two)
    assert ended.returncode == 1, ended.stderr
    found = Counter((r.scenario, r.state) for r in records(tmp_path))
    assert found == {("clean", State.COMPLETE): 4, ("odd", State.FAIL): 4}


@pytest.mark.slow
def test_data_that_runs_of_one_block_cannot_use_leave_the_others_to_be_trained(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    two = STUDY + "runs: {blocks: [0, 1]}\n"
    ended = run({"block 0": "unusable"}, two)
    assert ended.returncode == 1, ended.stderr
    assert Counter((r.block, r.state) for r in records(tmp_path)) == {(0, State.FAIL): 4, (1, State.COMPLETE): 4}


def test_a_study_of_which_runs_were_trained_before_is_told_with_its_table(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    assert run({}, STUDY).returncode == 0
    ended = run(dict.fromkeys(("sigmoid", "ipo"), "unusable"), STUDY.replace("trials: 2", "trials: 3"))
    assert ended.returncode == 1, ended.stderr
    assert "2 runs trained" not in ended.stdout
    assert Counter(r.state for r in records(tmp_path)) == {State.COMPLETE: 4, State.FAIL: 2}


def test_a_run_whose_adapter_was_not_written_counts_and_is_told(run: Callable[..., Any]) -> None:
    ended = run({"ipo": "unsaved"})
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("is measured but not all of it is kept: OSError: full") == 2
