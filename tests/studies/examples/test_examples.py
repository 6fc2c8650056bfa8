"""Each example study is designed to conclude something, within hours that follow from a formula and are marked so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from studies.spec import Study, load_study
from sweeper.commands.starter.cost import Machine, RunSize, seconds_of
from sweeper.planning.plan import make_plan

FOLDER = Path(__file__).resolve().parents[3] / "studies" / "examples"
GPU, CORES = Machine(1, gpu=True), Machine(2, gpu=False)
# Of each: parameters and tokens of a pair, which its file does not say, and what it is estimated on.
OF_MODELS = {
    "lora-7b": (7_615_616_512, 400, GPU),
    "beta-lr-grid": (494_032_768, 400, GPU),
    "smollm2": (134_515_008, 200, CORES),
    "guide-smollm2": (134_515_008, 200, CORES),
    "mixture": (94_000, 16, CORES),
}
ESTIMATE = re.compile(
    r"# Estimate, not measured: (\d+) runs x ([\d.]+) s(?: / 2)? = ([\d.]+) hours on (1 GPU|2 cores)\. By "
)


def study(name: str) -> Study:
    return Study.of(load_study(name))


def test_all_of_them_are_held_here() -> None:
    assert {file.stem for file in FOLDER.glob("*.yaml")} == {*OF_MODELS, "qwen_lora"}


@pytest.mark.parametrize("name", OF_MODELS)
def test_it_judges_against_a_baseline_on_fresh_draws_at_a_drift_that_stops_the_run(name: str) -> None:
    spec = study(name).spec
    assert spec.baseline in spec.variants
    assert spec.replicates is not None
    assert spec.objective.at_drift is not None
    schedules = {str({**spec.base, **own.base}.get("lr_scheduler_type")) for own in spec.scenarios.values()}
    assert schedules == {"constant_with_warmup"}, "each step of a run is read as the end of a shorter one"


@pytest.mark.parametrize("name", OF_MODELS)
def test_its_plan_can_show_a_difference_that_matters_and_says_which(name: str) -> None:
    said = make_plan(study(name)).power
    assert re.match(r"\d+ replicates find a difference to \w+ of [\d.]+ points of ", said), said
    assert "can show no difference" not in said


@pytest.mark.parametrize("name", OF_MODELS)
def test_its_hours_are_those_of_the_formula_and_are_said_to_be_an_estimate(name: str) -> None:
    own, (parameters, tokens, machine) = study(name), OF_MODELS[name]
    spec = own.spec
    (told,) = ESTIMATE.findall(" ".join((FOLDER / f"{name}.yaml").read_text().splitlines()))
    pairs = int(spec.base["per_device_train_batch_size"]) * int(spec.base.get("gradient_accumulation_steps", 1))
    held = spec.evaluation.pairs or spec.data.eval_rows
    assert held is not None
    run = RunSize(
        parameters,
        int(spec.base.get("max_steps") or (spec.data.rows or 0) // pairs),
        *(pairs, tokens, held, spec.evaluation.prompts, spec.evaluation.max_new_tokens, len(spec.evaluation.at)),
    )
    runs, seconds = make_plan(own).runs, seconds_of(run, machine)
    assert int(told[0]) == runs
    assert float(told[1]) == pytest.approx(seconds, rel=0.02)
    assert float(told[2]) == pytest.approx(runs * seconds / machine.workers / 3600, rel=0.05)
    assert told[3] == ("1 GPU" if machine.gpu else "2 cores")
    if spec.budget.gpu_hours is not None:
        assert float(told[2]) <= spec.budget.gpu_hours
