"""Stores of versions that asked for a config again: each of its trials has an MLflow run of the one training."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from dashboards.store.records import load_records
from studies.design.identity import questions
from studies.spec import Study, arms, load_study, resolve_run
from sweeper.search.search import Search
from sweeper.tracking.tracker import Tracker
from trainers.run_folder.results import read_result

Sweeper = Callable[..., Any]
STUDY = """
study: small
trainer: formula
base: {model_name_or_path: embedded, use_peft: true, lora_r: 8, max_steps: 12, learning_rate: 1.0e-5}
data: {path: embedded, rows: 64}
baseline: sigmoid
variants: {sigmoid: {}, ipo: {}}
space: {beta: {values: [0.1, 0.3]}}
budget: {trials: 6}
objective: {metric: ranking_gain}
"""
CONFIRM = "confirm: {top: 2, blocks: [1, 2, 3]}\n"
RUNGS = STUDY.replace("study: small", "study: small\nmode: search") + "rungs: {at: [0.5], eta: 2, bracket: 4}\n"


def run(sweeper: Sweeper, folder: Path, text: str, empty_mlflow: Path) -> Any:
    (folder / "study.yaml").write_text(text)
    if not (folder / "mlflow.db").exists():
        (folder / "mlflow.db").write_bytes(empty_mlflow.read_bytes())
    done = sweeper(folder, "run", "study.yaml", "--executor", "inline")
    assert done.returncode == 0, done.stderr
    return done


def repeat(folder: Path, times: int) -> None:
    """Leave `times` more closed trials of every trial in both stores, as the version before did."""
    spec = load_study(folder / "study.yaml")
    whole, url = Study.of(spec), f"sqlite:///{folder}/optuna.db"
    search, tracker = Search(spec, whole.variants, url), Tracker(None, folder)
    tracker.open_study(spec, "", questions(whole))
    for trial in search.trials():
        study = optuna.load_study(study_name=trial.stratum, storage=url)
        old = study.trials[trial.number]
        for _ in range(times):
            study.add_trial(
                optuna.trial.create_trial(
                    state=old.state, value=old.value, params=old.params, distributions=old.distributions,
                    user_attrs=old.user_attrs, intermediate_values=old.intermediate_values,
                )
            )  # fmt: skip
            number = len(study.trials) - 1
            config = resolve_run(
                spec, whole.variants[trial.variant], "clean", trial=number, knobs=trial.knobs, block=0, seed=0
            )
            result = read_result(folder / "runs" / "small" / config.key)
            assert result is not None
            tracker.finish_run(tracker.start_run(config, 1, trial.phase), config, result)
    tracker.close_study(finished=True)
    search.close()


def rows(sweeper: Sweeper, folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(sweeper(folder, "table", "study.yaml", "--format", "json").stdout)["rows"]
    return found


@pytest.fixture
def old(sweeper: Sweeper, tmp_path: Path, empty_mlflow: Path) -> Path:
    """A folder whose stores have each of two configs four times a variant."""
    run(sweeper, tmp_path, STUDY, empty_mlflow)
    repeat(tmp_path, times=3)
    assert Counter(r.variant for r in load_records(f"sqlite:///{tmp_path}/mlflow.db", "small")) == {
        "sigmoid": 8,
        "ipo": 8,
    }
    return tmp_path


def test_a_space_of_one_config_is_trained_and_counted_once(
    sweeper: Sweeper, tmp_path: Path, empty_mlflow: Path
) -> None:
    done = run(
        sweeper, tmp_path, STUDY.replace("[0.1, 0.3]", "[0.1]").replace("trials: 6", "trials: 160"), empty_mlflow
    )
    assert "2 runs trained, 0 were there already" in done.stdout
    for row in rows(sweeper, tmp_path):
        assert (row["trials_done"], row["trials_planned"], row["failures"]["n"]) == (1, 1, 1)
        assert row["stability"] is None


def test_tables_and_status_of_an_old_store_count_configs(sweeper: Sweeper, old: Path) -> None:
    for row in rows(sweeper, old):
        assert (row["trials_done"], row["trials_planned"], row["failures"]["n"], row["best"]["trials"]) == (2, 2, 2, 2)
    status = sweeper(old, "status", "study.yaml").stdout
    assert "4 runs ended" in status
    assert "0 missing" in status


def test_an_unchanged_study_trains_nothing_more_and_leaves_the_old_runs(
    sweeper: Sweeper, old: Path, empty_mlflow: Path
) -> None:
    before = rows(sweeper, old)
    done = run(sweeper, old, STUDY, empty_mlflow)
    assert "0 runs trained, 4 were there already" in done.stdout
    assert rows(sweeper, old) == before
    assert len(load_records(f"sqlite:///{old}/mlflow.db", "small")) == 16


@pytest.mark.slow
def test_any_trial_number_of_a_config_exports_it(sweeper: Sweeper, old: Path) -> None:
    numbers = sorted(r.trial for r in load_records(f"sqlite:///{old}/mlflow.db", "small") if r.variant == "ipo")
    assert len(numbers) == 8
    exported: Counter[float] = Counter()
    for number in (*numbers[:2], numbers[4], numbers[7]):  # of each of the two the first, and the last repetition
        told = sweeper(old, "export", "study.yaml", "--variant", "ipo", "--trial", str(number), "--output", "mine.yaml")
        assert told.returncode == 0, told.stderr
        exported[yaml.safe_load((old / "mine.yaml").read_text())["beta"]] += 1
    assert exported == {0.1: 2, 0.3: 2}


def test_the_confirm_phase_takes_no_config_twice(sweeper: Sweeper, old: Path, empty_mlflow: Path) -> None:
    done = run(sweeper, old, STUDY + CONFIRM, empty_mlflow)
    assert "12 runs trained, 4 were there already" in done.stdout
    confirmed = [r for r in load_records(f"sqlite:///{old}/mlflow.db", "small") if r.phase == "confirm"]
    assert Counter((r.variant, r.knobs["beta"]) for r in confirmed) == {
        (variant, beta): 3 for variant in ("sigmoid", "ipo") for beta in (0.1, 0.3)
    }


def test_a_repetition_has_no_place_in_a_bracket(sweeper: Sweeper, tmp_path: Path, empty_mlflow: Path) -> None:
    """Of four configs two go on; of eight trials of these four, which a killed sweep left open, it is still two."""
    (tmp_path / "study.yaml").write_text(RUNGS)
    spec, url = load_study(tmp_path / "study.yaml"), f"sqlite:///{tmp_path}/optuna.db"
    search = Search(spec, arms(spec), url)
    asked = [search.ask_in("small/search/clean", (0, 8)) for _ in range(4)]
    search.close()
    study = optuna.load_study(study_name="small/search/clean", storage=url)
    for trial in study.trials:
        study.enqueue_trial({}, user_attrs=trial.user_attrs)
    assert len({(t.variant, t.knobs["beta"]) for t in asked if t is not None}) == 4
    done = run(sweeper, tmp_path, RUNGS, empty_mlflow)
    assert "Bracket 1, step 6: 2 trials go on, 2 end here" in done.stdout
    assert "4 runs trained" in done.stdout
    assert sum(row["trials_done"] for row in rows(sweeper, tmp_path)) == 4
