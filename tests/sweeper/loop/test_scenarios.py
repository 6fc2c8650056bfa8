"""Scenarios with variants, trials, runs and settings of their own, and the confirm phase at KL budgets."""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dashboards.store.records import load_records
from studies.design.counts import planned_runs
from studies.records import EMBEDDED_MODELS, RunRecord
from studies.spec import Study, StudyError, load_study
from sweeper.loop.sweep import _job
from sweeper.planning.plan import make_plan
from tests.sweeper.conftest import SweptOnce

Run = Callable[..., Any]
STUDY = """
study: scened
trainer: formula
base: {model_name_or_path: embedded, use_peft: true, lora_r: 8, max_steps: 6, learning_rate: 1.0e-5}
variants: {sigmoid: {}, ipo: {}, hinge: {}}
space: {beta: {low: 0.01, high: 1.0, log: true}}
scenarios:
  clean: {}
  long: {base: {max_steps: 9}, rows: 64, variants: [ipo, sigmoid], trials: 2, runs: {blocks: [0, 1]}}
budget: {trials: 3}
baseline: sigmoid
objective: {metric: ranking_gain}
"""
AT_KL = """
study: scened
trainer: formula
base: {model_name_or_path: embedded, use_peft: true, lora_r: 8, max_steps: 6, learning_rate: 1.0e-5}
variants: {sigmoid: {}, ipo: {}}
space: {beta: {low: 0.01, high: 1.0, log: true}}
budget: {trials: 8}
baseline: sigmoid
objective: {metric: ranking_gain, constraints: {kl: {max: MIDDLE}}}
confirm: {kl: [LOW, MIDDLE, HIGH], blocks: [1, 2, 3], seeds: [0]}
"""


@pytest.fixture
def run(sweeper: Callable[..., Any], empty_mlflow: Path) -> Run:
    def call(folder: Path, text: str) -> Any:
        (folder / "study.yaml").write_text(text)
        if not (folder / "mlflow.db").exists():
            shutil.copyfile(empty_mlflow, folder / "mlflow.db")
        done = sweeper(folder, "run", "study.yaml", "--executor", "inline")
        assert done.returncode == 0, done.stderr
        return done

    return call


def records(folder: Path) -> list[RunRecord]:
    return load_records(f"sqlite:///{folder}/mlflow.db", "scened")


def loaded(folder: Path, text: str) -> Any:
    (folder / "study.yaml").write_text(text)
    return load_study(folder / "study.yaml")


@pytest.fixture(scope="module")
def scened(tmp_path_factory: pytest.TempPathFactory, swept_once: SweptOnce) -> Path:
    """A folder in which the study was run, to be read."""
    return swept_once(tmp_path_factory.mktemp("scened"), STUDY)


def test_a_scenario_has_the_variants_trials_runs_and_settings_that_it_says(scened: Path) -> None:
    found = records(scened)
    assert Counter((r.scenario, r.variant) for r in found) == {
        **{("clean", name): 3 for name in ("sigmoid", "ipo", "hinge")},
        **{("long", name): 4 for name in ("sigmoid", "ipo")},
    }
    steps = defaultdict(set)
    for record in found:
        config = json.loads((scened / "mlartifacts" / "scened" / record.run_id / "artifacts/config.json").read_text())
        steps[record.scenario].add((config["settings"]["max_steps"], config["data"]["rows"]))
    assert steps == {"clean": {(6, None)}, "long": {(9, 64)}}


def test_a_shorter_scenario_has_the_first_points_of_a_longer_one(scened: Path) -> None:
    betas = defaultdict(list)
    for record in records(scened):
        if record.variant == "ipo" and record.block == 0:
            betas[record.scenario].append(record.knobs["beta"])
    assert betas["long"] == betas["clean"][:2]


def test_the_plan_counts_each_scenario(tmp_path: Path) -> None:
    spec = loaded(tmp_path, STUDY)
    plan = make_plan(Study.of(spec))
    counted = [(s.name, s.variants, s.trials, s.runs_per_trial, s.runs) for s in plan.scenarios]
    assert counted == [("clean", 3, 9, 1, 9), ("long", 2, 4, 2, 8)]
    assert plan.runs == 17


def test_more_trials_in_a_scenario_keep_what_is_there(run: Run, tmp_path: Path) -> None:
    run(tmp_path, STUDY)
    again = run(tmp_path, STUDY.replace("trials: 2", "trials: 3"))
    assert "4 runs trained, 17 were there already" in again.stdout


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (("variants: [ipo, sigmoid]", "variants: [ipo, sigmoyd]"), "variants.1: 'sigmoyd' is no variant"),
        (("variants: [ipo, sigmoid]", "variants: []"), "scenarios.long.variants: is empty"),
        (("trials: 2", "trials: 0"), "scenarios.long.trials: 0 must be at least 1"),
        (("max_steps: 9", "max_stepz: 9"), "scenarios.long.base.max_stepz: no setting"),
        (("max_steps: 9", "beta: 0.1"), "scenarios.long.base.beta: a scenario changes the data or the training"),
        (
            ("max_steps: 9", "model_name_or_path: org/model"),
            "base.model_name_or_path: a scenario can change an embedded",
        ),
        (("max_steps: 9", "max_steps: many"), "scenarios.long.base.max_steps: 'many'"),
        (("blocks: [0, 1]}", "blocks: []}"), "scenarios.long.runs.blocks: is empty"),
        (("blocks: [0, 1]}", "blocks: [0], confirm: {}}"), "unknown key"),
        (("study: scened", "study: scened\nmode: search"), "mode: search has one joint space"),
    ],
)
def test_a_wrong_scenario_is_refused_with_its_place(tmp_path: Path, changed: tuple[str, str], words: str) -> None:
    with pytest.raises(StudyError) as refused:
        loaded(tmp_path, STUDY.replace(*changed))
    assert words in str(refused.value)


def at_kl(kl: list[float]) -> str:
    low, middle, high = (repr(k) for k in kl)
    return AT_KL.replace("LOW", low).replace("MIDDLE", middle).replace("HIGH", high)


@pytest.fixture(scope="module")
def budgeted(tmp_path_factory: pytest.TempPathFactory, swept_once: SweptOnce) -> tuple[Path, list[float]]:
    """A folder in which the study was run with its confirm phase, and its budgets: they part the trials of sigmoid."""
    folder = swept_once(tmp_path_factory.mktemp("budgeted"), at_kl([1e6, 2e6, 3e6]).split("confirm")[0])
    kls = sorted(r.metrics["kl"] for r in records(folder) if r.variant == "sigmoid")
    budgets = [kls[2], kls[4], kls[7]]
    return swept_once(folder, at_kl(budgets)), budgets


def test_the_best_trial_within_each_kl_budget_is_confirmed_and_shared_ones_once(
    budgeted: tuple[Path, list[float]],
) -> None:
    folder, budgets = budgeted
    found = records(folder)
    for variant in ("sigmoid", "ipo"):
        own = [r for r in found if r.variant == variant]
        chosen = set()
        for budget in budgets:
            kept = [r for r in own if r.phase == "unbiased" and r.metrics["kl"] <= budget]
            if kept:
                chosen.add(max(kept, key=lambda r: r.metrics["ranking_gain"]).trial)
        confirmed = Counter(r.trial for r in own if r.phase == "confirm")
        assert confirmed == dict.fromkeys(chosen, 3)
    assert len({r.trial for r in found if r.variant == "sigmoid" and r.phase == "confirm"}) > 1


def test_the_table_compares_the_losses_at_each_budget(
    sweeper: Callable[..., Any], budgeted: tuple[Path, list[float]]
) -> None:
    folder, budgets = budgeted
    table = json.loads(sweeper(folder, "table", "study.yaml", "--format", "json").stdout)
    of_sigmoid = {row["budget"]: row for row in table["at_kl"] if row["variant"] == "sigmoid"}
    assert sorted(of_sigmoid) == sorted(budgets)
    runs = {r.run_id: r for r in records(folder)}
    for budget, row in of_sigmoid.items():
        behind = [runs[run_id] for run_id in row["run_ids"]]
        assert {(r.phase, r.trial) for r in behind} == {("confirm", row["trial"])}
        mean = sum(r.metrics["ranking_gain"] for r in behind) / len(behind)
        assert row["value"]["value"] == pytest.approx(mean)
        chosen_by = [r for r in runs.values() if (r.variant, r.phase, r.trial) == ("sigmoid", "unbiased", row["trial"])]
        assert all(r.metrics["kl"] <= budget for r in chosen_by)
    text = sweeper(folder, "table", "study.yaml", "--all").stdout
    assert "At equal KL" in text


def test_the_plan_counts_as_many_confirm_runs_as_there_can_be(tmp_path: Path) -> None:
    spec = loaded(tmp_path, at_kl([1.0, 2.0, 4.0]))
    assert planned_runs(Study.of(spec)) == 2 * 8 + 2 * 3 * 3


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (("kl: [1.0, 2.0, 4.0]", "kl: [1.0, 4.0]"), "must hold the bound of objective.constraints.kl.max (2)"),
        ((", constraints: {kl: {max: 2.0}}", ""), "(no bound)"),
        (("kl: [1.0, 2.0, 4.0]", "kl: [2.0, 2.0]"), "each once"),
        (("kl: [1.0, 2.0, 4.0]", "kl: [2.0, -1.0]"), "positive numbers"),
        (("kl: [1.0, 2.0, 4.0]", "kl: [1.0, 2.0, 4.0], top: 2"), "confirm.top: 2 does nothing beside kl"),
    ],
)
def test_wrong_kl_budgets_are_refused(tmp_path: Path, changed: tuple[str, str], words: str) -> None:
    with pytest.raises(StudyError) as refused:
        loaded(tmp_path, at_kl([1.0, 2.0, 4.0]).replace(*changed))
    assert words in str(refused.value)


@pytest.mark.parametrize("data", [*EMBEDDED_MODELS, "org/pairs"])
def test_samples_are_kept_for_judges_of_runs_whose_data_have_no_reward_of_their_own(tmp_path: Path, data: str) -> None:
    config = SimpleNamespace(key="k", data=SimpleNamespace(path=data))
    runs, attempt = SimpleNamespace(phase="confirm", heading={}), SimpleNamespace(number=1)
    waiting: Any = SimpleNamespace(config=config, runs=runs, attempt=attempt)
    spec: Any = SimpleNamespace(output=SimpleNamespace(keep="all"), budget=SimpleNamespace(per_run=None))
    placement: Any = None
    assert _job(spec, tmp_path, waiting, placement).keep_samples is (data == "org/pairs")
