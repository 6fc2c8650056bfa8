"""The writer against a real MLflow store on SQLite, read back with `dashboards.store.records`."""

from __future__ import annotations

import base64
import json
import math
import sqlite3
import time
import zlib
from pathlib import Path
from typing import Any

import pytest

from dashboards.store.connection import StoreError
from dashboards.store.histories import load_asked, load_curves, load_samples
from dashboards.store.mlflow_tags import SUPERSEDED
from dashboards.store.records import load_records, study_pages
from studies.records import (
    Cause,
    DataConfig,
    EvaluationConfig,
    Measurement,
    RunConfig,
    RunRecord,
    RunResult,
    Scalar,
    Shown,
    State,
)
from studies.records.paths import joined, read_at
from studies.spec import FloatRange, Objective, Scenario, StudySpec, Variant
from sweeper.search.trials import verdict_on
from sweeper.tracking.experiment.saved_view import experiment_tags, note
from sweeper.tracking.tracker import Tracker

SPEC = StudySpec(
    study="pilot",
    question="Which loss?",
    base={},
    variants={"ipo": Variant(), "robust": Variant(space={"label_smoothing": FloatRange(low=0.0, high=0.4)})},
    space={"beta": FloatRange(low=0.1, high=1.0)},
    objective=Objective(metric="gold"),
)
KNOBS: dict[str, Scalar] = {
    "beta": 0.1,
    "learning_rate": 1e-05,
    "steps": 3,
    "flag": True,
    "text": "ipo",
    "digits": "12",
}


def a_config(trial: int = 0, **changes: Any) -> RunConfig:
    fields: dict[str, Any] = {
        "study": "pilot",
        "variant": "ipo",
        "scenario": "clean",
        "trial": trial,
        "block": 2,
        "seed": 7,
        "settings": {"loss_type": ["ipo"], **KNOBS, "trial": trial},
        "knobs": KNOBS,
        "data": DataConfig(),
        "evaluation": EvaluationConfig(),
    }
    return RunConfig(**(fields | changes))


def a_result(config: RunConfig, **changes: Any) -> RunResult:
    fields: dict[str, Any] = {
        "key": config.key,
        "cause": Cause.FINISHED,
        "measurements": (
            Measurement("gold", 1.0, 0.3, 60, (0.75, 1.25)),
            Measurement("gold", 2.5, 0.1, 120, (2.25, 2.75)),
            Measurement("margin", 4.0, None, 120),
        ),
        "curve": ((10, {"loss": 0.7}), (20, {"loss": 0.6})),
        "facts": {"digest": "d" * 64, "train_rows": 100, "device": "cpu"},
    }
    return RunResult(**(fields | changes))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store whose tables are made: they take seconds, so that tests copy it."""
    folder = tmp_path_factory.mktemp("store")
    Tracker("sqlite:///mlflow.db", folder)
    return folder


@pytest.fixture
def tracker(store: Path, tmp_path: Path) -> Tracker:
    (tmp_path / "mlflow.db").write_bytes((store / "mlflow.db").read_bytes())
    return reopened(tmp_path)


def reopened(folder: Path, spec: StudySpec = SPEC) -> Tracker:
    tracker = Tracker("sqlite:///mlflow.db", folder)
    tracker.open_study(spec, "study: pilot\n")
    return tracker


def stored(tracker: Tracker, run_id: str) -> Any:
    return tracker._client.get_run(run_id)


def history(tracker: Tracker, run_id: str, name: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in tracker._client.get_metric_history(run_id, name)]


def test_what_the_tracker_writes_is_what_load_reads(tracker: Tracker) -> None:
    config, before = a_config(), time.time()
    run_id = tracker.start_run(config, 1, "unbiased")
    result = a_result(config, cause=Cause.COLLAPSED, message="entropy 0.01", adapter="runs/x/adapter")
    tracker.finish_run(run_id, config, result)
    after = time.time()
    (read,) = load_records(tracker.uri, "pilot")
    assert read.started is not None
    assert read.ended is not None
    assert before - 0.001 <= read.started <= read.ended <= after  # MLflow keeps whole milliseconds
    assert [read.model_copy(update={"started": None, "ended": None})] == [
        RunRecord(
            run_id=run_id,
            key=config.key,
            study="pilot",
            variant="ipo",
            scenario="clean",
            trial=0,
            block=2,
            seed=7,
            attempt=1,
            state=State.PRUNED,
            cause=Cause.COLLAPSED,
            phase="unbiased",
            knobs=KNOBS,
            metrics={"gold": 2.5, "margin": 4.0, "loss": 0.6},
            errors={"gold": 0.1},
            halves={"gold": (2.25, 2.75)},
            curves={"gold": ((60, 1.0), (120, 2.5))},
            curve_halves={"gold": ((60, 0.75, 1.25), (120, 2.25, 2.75))},
            facts={
                "digest": "d" * 64,
                "train_rows": "100",
                "device": "cpu",
                "message": "entropy 0.01",
                "adapter": "runs/x/adapter",
            },
        )
    ]


def test_gold_can_be_read_at_a_drift_from_what_mlflow_keeps(tracker: Tracker) -> None:
    config = a_config()
    run_id = tracker.start_run(config, 1, "unbiased")
    points = [(10, 1.0, 0.5, 1.0), (20, 4.0, 1.0, 1.2)]
    measured = [
        Measurement(name, value, None, step, (value, value))
        for step, *values in points
        for name, value in zip(("kl", "gold", "length_ratio"), values, strict=True)
    ]
    tracker.finish_run(run_id, config, a_result(config, measurements=tuple(measured), curve=()))
    (read,) = load_records(tracker.uri, "pilot")
    path = joined(read.curves["kl"], read.curves["gold"])
    found = read_at(path, 2.25, 0.0)
    assert found is not None
    assert (found.value, found.step) == (0.75, 10)
    assert read.curves["length_ratio"] == ((10, 1.0), (20, 1.2))
    assert read.curve_halves.keys() == {"gold"}


def test_knobs_come_back_with_their_types(tracker: Tracker) -> None:
    tracker.start_run(a_config(), 1, "unbiased")
    knobs = load_records(tracker.uri, "pilot")[0].knobs
    assert {name: type(value) for name, value in knobs.items()} == {n: type(v) for n, v in KNOBS.items()}


def test_a_run_in_training_is_read_as_running(tracker: Tracker) -> None:
    tracker.start_run(a_config(), 1, "unbiased")
    (record,) = load_records(tracker.uri, "pilot")
    assert (record.state, record.cause) == (State.RUNNING, None)


@pytest.mark.parametrize(
    ("cause", "length", "status", "failure"),
    [
        (Cause.FINISHED, 1.1, "FINISHED", None),
        (Cause.FINISHED, 0.4, "FAILED", "drifted"),
        (Cause.NON_FINITE, 1.1, "FAILED", "diverged"),
        (Cause.USER_STOP, 1.1, "KILLED", None),
        (Cause.WORKER_LOST, 0.4, "FAILED", "worker_lost"),
    ],
)
def test_the_status_in_mlflow_tells_what_failed_from_what_was_stopped(
    tracker: Tracker, cause: Cause, length: float, status: str, failure: str | None
) -> None:
    config = a_config()
    run_id = tracker.start_run(config, 1, "unbiased")
    measured = (Measurement("length_ratio", length, step=6),)
    tracker.finish_run(run_id, config, a_result(config, cause=cause, measurements=measured))
    run = stored(tracker, run_id)
    assert (run.info.status, run.data.tags.get("failure")) == (status, failure)


def test_a_superseded_attempt_is_not_loaded_and_not_left_running(tracker: Tracker) -> None:
    config = a_config()
    first = tracker.start_run(config, 1, "unbiased")
    tracker.supersede(first, "interrupted")
    second = tracker.start_run(config, 2, "unbiased")
    tracker.finish_run(second, config, a_result(config))
    assert stored(tracker, first).info.status == "KILLED"
    assert [record.run_id for record in load_records(tracker.uri, "pilot")] == [second]
    assert [known.run_id for known in tracker.known_runs()] == [second]


def test_an_attempt_whose_superseding_was_cut_short_is_closed_by_the_next_sweep(
    tracker: Tracker, tmp_path: Path
) -> None:
    run_id = tracker.start_run(a_config(), 1, "unbiased")
    tracker._client.set_tag(run_id, SUPERSEDED, "interrupted")  # where a kill came before the run was closed
    again = reopened(tmp_path)
    assert not again.known_runs()
    assert stored(again, run_id).info.status == "KILLED"


def test_superseding_a_failed_attempt_keeps_its_status(tracker: Tracker) -> None:
    config = a_config()
    run_id = tracker.start_run(config, 1, "unbiased")
    tracker.finish_run(run_id, config, a_result(config, cause=Cause.WORKER_LOST))
    tracker.supersede(run_id, "tried again")
    assert stored(tracker, run_id).info.status == "FAILED"


def test_a_second_sweep_writes_under_the_same_parent(tracker: Tracker, tmp_path: Path) -> None:
    first = tracker.start_run(a_config(), 1, "unbiased")
    tracker.close_study(finished=False)
    again = reopened(tmp_path)
    second = again.start_run(a_config(trial=1), 1, "unbiased")
    parents = {stored(again, run_id).data.tags["mlflow.parentRunId"] for run_id in (first, second)}
    assert len(parents) == 1
    assert stored(again, parents.pop()).info.status == "RUNNING"


def test_the_parent_is_finished_or_killed_when_the_sweep_ends(tracker: Tracker) -> None:
    parent = tracker.open_study(SPEC, "")
    tracker.close_study(finished=True)
    assert stored(tracker, parent).info.status == "FINISHED"
    tracker.close_study(finished=False)
    assert stored(tracker, parent).info.status == "KILLED"


def test_a_deleted_study_is_restored_with_its_runs(tracker: Tracker, tmp_path: Path) -> None:
    run_id = tracker.start_run(a_config(), 1, "unbiased")
    tracker._client.delete_experiment(stored(tracker, run_id).info.experiment_id)
    with pytest.raises(StoreError, match="no study 'pilot'"):
        load_records(tracker.uri, "pilot")
    assert [known.run_id for known in reopened(tmp_path).known_runs()] == [run_id]


def test_a_curve_that_was_sent_live_is_not_sent_twice(tracker: Tracker) -> None:
    config = a_config()
    run_id = tracker.start_run(config, 1, "unbiased")
    tracker.log_curve(run_id, [(10, {"loss": 0.7})])
    tracker.finish_run(run_id, config, a_result(config))
    assert history(tracker, run_id, "loss") == [(10, 0.7), (20, 0.6)]


def test_two_reports_of_one_step_are_both_kept(tracker: Tracker) -> None:
    run_id = tracker.start_run(a_config(), 1, "unbiased")
    tracker.log_curve(run_id, [(10, {"loss": 0.7})])
    tracker.log_curve(run_id, [(10, {"eval_loss": 0.8})])
    assert history(tracker, run_id, "eval_loss") == [(10, 0.8)]


def test_a_view_that_somebody_changed_is_not_changed_back(tracker: Tracker, tmp_path: Path) -> None:
    experiment_id = tracker._client.get_experiment_by_name("pilot").experiment_id
    tracker._client.set_experiment_tag(experiment_id, "mlflow.note.content", "mine")
    again = reopened(tmp_path)
    assert again._client.get_experiment(experiment_id).tags["mlflow.note.content"] == "mine"


def test_errors_do_not_add_to_the_metrics_that_mlflow_draws(tracker: Tracker) -> None:
    config = a_config()
    run_id = tracker.start_run(config, 1, "unbiased")
    tracker.finish_run(run_id, config, a_result(config))
    assert set(stored(tracker, run_id).data.metrics) == {"gold", "margin", "loss"}


def test_a_run_can_be_finished_by_another_process_than_the_one_that_started_it(
    tracker: Tracker, tmp_path: Path
) -> None:
    config = a_config()
    run_id = tracker.start_run(config, 1, "unbiased")
    tracker.log_curve(run_id, [(10, {"loss": 0.7})])
    again = reopened(tmp_path)
    again.finish_run(run_id, config, a_result(config))
    assert history(again, run_id, "loss") == [(10, 0.7), (20, 0.6)]
    assert again.known_runs()[0].state is State.COMPLETE


def test_a_run_that_was_written_but_not_closed_is_still_running(tracker: Tracker) -> None:
    config = a_config()
    run_id = tracker.start_run(config, 1, "unbiased")
    tracker.finish_run(run_id, config, a_result(config))
    tracker._client.update_run(run_id, status="RUNNING")
    assert tracker.known_runs()[0].state is State.RUNNING


def test_a_known_run_gives_its_result_again(tracker: Tracker) -> None:
    config = a_config()
    run_id = tracker.start_run(config, 1, "unbiased")
    with pytest.raises(ValueError, match="has not ended"):
        tracker.known_runs()[0].result()
    tracker.finish_run(run_id, config, a_result(config))
    result = tracker.known_runs()[0].result()
    assert result.cause is Cause.FINISHED
    assert result.final()["gold"] == Measurement("gold", 2.5, 0.1, 120, (2.25, 2.75))


def test_a_setting_is_chosen_by_what_the_store_tells_as_by_its_own_result(tracker: Tracker) -> None:
    """As where `optuna.db` and the run folders are lost: the objective is read at a drift, which is before the end."""
    config, objective = a_config(), Objective(metric="gold", at_drift=1.0)
    measured: list[Measurement] = []
    for step, kl, gold in ((20, 0.25, 0.5), (60, 1.2, 0.9), (120, 4.0, 0.7)):
        measured += [Measurement("kl", kl, None, step), Measurement("gold", gold, None, step)]
    own = a_result(config, measurements=tuple(measured), facts={"reference_gold": 0.125})
    run_id = tracker.start_run(config, 1, "unbiased")
    tracker.finish_run(run_id, config, own)
    found, expected = (verdict_on([r], objective) for r in (tracker.known_runs()[0].result(), own))
    assert expected.value == pytest.approx(0.85, abs=0.05), "read between the first two"
    assert found == expected


def test_a_run_that_was_evaluated_often_keeps_its_whole_curve(tracker: Tracker) -> None:
    """Longer than a tag of MLflow's may be: without it a table would say that the run never gets to the drift."""
    config = a_config()
    steps = range(1, 1001)
    measured = [Measurement(name, step / 7, None, step, (0.1, 0.2)) for step in steps for name in ("gold", "kl")]
    run_id = tracker.start_run(config, 1, "unbiased")
    tracker.finish_run(run_id, config, a_result(config, measurements=tuple(measured)))
    (record,) = load_records(tracker.uri, "pilot")
    assert [step for step, _ in record.curves["kl"]] == list(steps)
    assert record.curves["gold"][-1] == (1000, 142.86)
    assert record.curve_halves["gold"][41] == (42, 0.1, 0.2)


def test_values_that_are_not_finite_are_left_out_and_named(tracker: Tracker) -> None:
    config = a_config()
    run_id = tracker.start_run(config, 1, "unbiased")
    curve = ((10, {"loss": 0.7, "grad_norm": math.inf}), (20, {"loss": math.nan, "grad_norm": 1.0}))
    tracker.finish_run(run_id, config, a_result(config, cause=Cause.NON_FINITE, curve=curve))
    assert history(tracker, run_id, "loss") == [(10, 0.7)]
    assert stored(tracker, run_id).data.tags["non_finite"] == "loss"
    (record,) = load_records(tracker.uri, "pilot")
    assert "loss" not in record.metrics, "an earlier value is not how the run ended"
    assert record.metrics["grad_norm"] == 1.0


def test_what_is_measured_once_can_be_drawn_as_bars(tracker: Tracker) -> None:
    config = a_config()
    run_id = tracker.start_run(config, 1, "unbiased")
    tracker.finish_run(run_id, config, a_result(config))
    assert history(tracker, run_id, "margin") == [(0, 4.0)]
    assert history(tracker, run_id, "gold") == [(60, 1.0), (120, 2.5)]


def test_only_the_knobs_of_the_study_are_parameters(tracker: Tracker) -> None:
    run_id = tracker.start_run(a_config(), 1, "unbiased")
    assert set(stored(tracker, run_id).data.params) == set(KNOBS)


def test_run_names_are_short_and_tell_scenario_and_attempt_only_where_needed(tracker: Tracker, tmp_path: Path) -> None:
    run_id = tracker.start_run(a_config(), 1, "unbiased")
    assert stored(tracker, run_id).info.run_name == "ipo t0 b2 s7"
    two = SPEC.model_copy(update={"scenarios": {"clean": Scenario(), "noisy": Scenario(label_flip=0.2)}})
    other = reopened(tmp_path, two)
    run_id = other.start_run(a_config(scenario="noisy"), 2, "unbiased")
    assert stored(other, run_id).info.run_name == "ipo noisy t0 b2 s7 #2"


def test_the_run_is_linked_to_its_data(tracker: Tracker) -> None:
    config = a_config()
    run_id = tracker.start_run(config, 1, "unbiased")
    tracker.finish_run(run_id, config, a_result(config))
    (data,) = stored(tracker, run_id).inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("embedded", "d" * 12)


def test_config_study_and_table_are_files_under_the_folder_that_mlflow_ui_serves(
    tracker: Tracker, tmp_path: Path
) -> None:
    config = a_config()
    tracker.start_run(config, 1, "unbiased")
    tracker.log_table({"table.md": "| a |"})
    kept = {path.name: path for path in (tmp_path / "mlartifacts").rglob("*") if path.is_file()}
    assert set(kept) == {"config.json", "study.yaml", "table.md"}
    assert RunConfig.model_validate_json(kept["config.json"].read_text()) == config


def test_samples_and_curves_come_back_of_the_runs_that_have_some(tracker: Tracker, tmp_path: Path) -> None:
    sample = Shown(prompt="a", before="b \u2026", after="c", gold_before=1.0, gold_after=-2.5, cut_after=True)
    shown, plain = a_config(0), a_config(1)
    ids = [tracker.start_run(config, 1, "unbiased") for config in (shown, plain)]
    curve = ((2, {"loss": 0.5}), (1, {"loss": 0.7}))
    tracker.finish_run(ids[0], shown, a_result(shown, samples=(sample,), curve=curve))
    tracker.finish_run(ids[1], plain, a_result(plain, curve=()))
    assert load_samples(tracker.uri, ids, tmp_path) == {ids[0]: (sample,)}
    assert load_curves(tracker.uri, ids, ["loss", "grad_norm"]) == {ids[0]: {"loss": [(1, 0.7), (2, 0.5)]}}
    asked = load_asked(tracker.uri, "pilot", tmp_path)
    assert (asked.text, asked.page) == ("study: pilot\n", None)


def test_samples_that_somebody_edited_are_refused_by_name(tracker: Tracker, tmp_path: Path) -> None:
    run_id = tracker.start_run(a_config(), 1, "unbiased")
    tracker._client.log_text(run_id, "[1]", "samples.json")
    with pytest.raises(StoreError, match=f"{run_id} cannot be read"):
        load_samples(tracker.uri, [run_id], tmp_path)


def test_samples_that_cannot_be_read_are_told_and_no_traceback(
    tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = tracker.start_run(a_config(), 1, "unbiased")
    tracker._client.log_text(run_id, "[]", "samples.json")

    def unreadable(_file: Path) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("dashboards.store.histories._text", unreadable)
    with pytest.raises(StoreError, match=r"samples.json cannot be read: Permission denied"):
        load_samples(tracker.uri, [run_id], tmp_path)


def test_no_secret_is_written_anywhere(store: Path, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes((store / "mlflow.db").read_bytes())
    tracker = Tracker("sqlite:///mlflow.db", tmp_path)
    tracker.open_study(SPEC, "base: {hub_token: hf_SECRET, env: {WANDB_API_KEY: SECRET}}\npassword: 'SECRET'\n")
    settings = {"hub_token": "hf_SECRET", "model_init_kwargs": {"token": "hf_SECRET"}, "pad_token": "<pad>"}
    config = a_config(settings=settings, knobs={"api_key": "SECRET"})
    spoken = Shown(prompt="what is it?", before="password: hunter2, token: a", after="hf_SECRET12345")
    run_id = tracker.start_run(config, 1, "unbiased")
    tracker.finish_run(run_id, config, a_result(config, facts={"hub_token": "SECRET"}, samples=(spoken,)))
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 4
    assert [path for path in written if b"SECRET" in path.read_bytes()] == []
    assert any(b"<pad>" in path.read_bytes() for path in written)
    assert any(b'"before": "password: hunter2, token: a"' in path.read_bytes() for path in written)  # data, not ours


def test_the_saved_view_shows_objective_and_knobs_by_variant(tracker: Tracker) -> None:
    experiment = tracker._client.get_experiment_by_name("pilot")
    page = study_pages(tracker.uri)["pilot"]
    key = page.partition("viewStateShareKey=")[2]
    assert f"/experiments/{experiment.experiment_id}/" in page
    packed = json.loads(experiment.tags[f"mlflow.sharedViewState.{key}"])["state"]
    state = json.loads(zlib.decompress(base64.b64decode(packed.removeprefix("deflate;"))))
    assert {"metrics.`gold`", "params.`beta`", "params.`label_smoothing`"} <= set(state["selectedColumns"])
    assert state["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "variant"}]
    assert experiment_tags(SPEC)["mlflow.note.content"] == "Which loss?"


def test_a_question_acts_on_no_page() -> None:
    shown = note("<script>x</script> ![a](http://h/x.png) [b](javascript:1) http://h?token=hush")["mlflow.note.content"]
    assert not [part for part in ("<script", "![a]", "[b]", "hush") if part in shown]
    assert note("Which token: ipo or hinge?")["mlflow.note.content"] == "Which token: ipo or hinge?"
    assert note("") == {}


def test_a_store_of_another_mlflow_version_is_refused_with_the_way_out(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    file.write_bytes((store / "mlflow.db").read_bytes())
    with sqlite3.connect(file) as database:
        database.execute("update alembic_version set version_num = 'ancient'")
    database.close()
    with pytest.raises(StoreError, match=r"made by a newer MLflow.*Upgrade mlflow"):
        Tracker(f"sqlite:///{file}", tmp_path)


def test_a_place_that_mlflow_cannot_use_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot use the store nonsense://x"):
        Tracker("nonsense://x", tmp_path)
