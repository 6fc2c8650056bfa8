"""What a plan says that its blocks can show, and that its space holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from studies.losses import table
from studies.losses.batch_splitting import can_be_cut
from studies.losses.trl_settings import Bound
from studies.spec import Study, StudyError, StudySpec, load_study
from sweeper.planning.plan import Plan, make_plan

STUDY = """
study: powered
base: {model_name_or_path: embedded, use_peft: true, max_steps: 12}
variants: {sigmoid: {}, ipo: {}, hinge: {}}
space: {beta: {low: 0.01, high: 1.0, log: true}}
budget: {trials: 2}
"""


def power(tmp_path: Path, more: str) -> str:
    file = tmp_path / "study.yaml"
    file.write_text(STUDY + more)
    spec: StudySpec = load_study(file)
    return make_plan(Study.of(spec)).power


def test_one_variant_is_compared_with_nothing(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(STUDY.replace(", ipo: {}, hinge: {}", ""))
    spec = load_study(file)
    assert make_plan(Study.of(spec)).power == ""


FEW = """
study: few
base: {model_name_or_path: embedded, use_peft: true, max_steps: 12}
baseline: sigmoid
variants:
  sigmoid: {}
  ipo: {points: [{beta: 0.5, learning_rate: 1.0e-5}], space: {beta: {values: [0.5, 1.0, 2.0]}}}
  sft: {space: {beta: null}}
space: {beta: {values: [0.1, 0.2, 0.3, 0.4]}, learning_rate: {values: [1.0e-5]}}
budget: {trials: 160}
runs: {blocks: [0, 1]}
confirm: {top: 3, blocks: [2, 3, 4]}
"""


@pytest.mark.parametrize("couples_rows", [False, True])
def test_one_entry_in_the_table_brings_a_loss_of_trl_into_checks_plan_and_batch_splitting(
    couples_rows: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = replace(
        table.LOSSES["discopop"],
        name="brand_new",
        couples_rows=couples_rows,
        knobs={"discopop_tau": Bound(0.5)},
        shown=("discopop_tau",),
    )
    monkeypatch.setitem(cast(dict[str, table.Loss], table.LOSSES), "brand_new", new)
    text = STUDY.replace("sigmoid: {}, ipo: {}, hinge: {}", "sigmoid: {}, brand_new: {base: {discopop_tau: TAU}}")
    text = text.replace("space: {", "space: {learning_rate: {values: [1.0e-5, 1.0e-4]}, ")
    _, planned = plan_of(tmp_path, text.replace("TAU", "0.7")).arms
    assert (planned.losses, planned.fixed["discopop_tau"]) == (("brand_new",), 0.7)
    assert "beta" in planned.left_out  # no knob of this loss
    with pytest.raises(StudyError, match="discopop_tau"):
        plan_of(tmp_path, text.replace("TAU", "0.1"))
    assert can_be_cut({"loss_type": ["brand_new"]}, 2) is not couples_rows


def plan_of(tmp_path: Path, text: str) -> Plan:
    file = tmp_path / "study.yaml"
    file.write_text(text)
    spec = load_study(file)
    return make_plan(Study.of(spec))


def test_a_plan_says_where_the_space_holds_less_than_the_budget_and_counts_by_it(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, FEW)
    assert {arm.name: arm.fewer for arm in plan.arms} == {
        "sigmoid": "4 distinct configs: the space holds no more; the quota of 160 falls to 4",
        "ipo": "3 distinct configs: the space holds no more; the quota of 161 falls to 3",
        "sft": "1 distinct config: the space holds no more; the quota of 160 falls to 1",
    }
    assert [len(arm.points) for arm in plan.arms] == [4, 3, 1]
    assert [(s.trials, s.confirm_runs, s.runs) for s in plan.scenarios] == [(8, 21, 16 + 21)]
    assert plan.runs == 37


def test_a_plan_of_enough_configs_says_nothing(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, FEW.replace("trials: 160", "trials: 1"))
    assert [arm.fewer for arm in plan.arms] == ["", "", ""]


def test_fixed_points_that_repeat_others_are_told_apart_from_a_space_at_its_end(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, STUDY.replace("ipo: {}", "ipo: {base: {beta: 0.1}, points: [{}, {beta: 0.1}]}"))
    assert plan.arms[1].fewer == "1 distinct config: the space holds no more; the quota of 2 falls to 1"
    first = dict(plan.arms[0].points[0][1])
    own = f"sigmoid: {{points: [{first}], space: {{beta: {{low: 0.01}}}}}}"
    plan = plan_of(tmp_path, STUDY.replace("sigmoid: {}", own))
    assert plan.arms[0].fewer == "2 distinct configs: fixed points repeat others; the quota of 3 falls to 2"


def test_the_scenario_that_asks_for_the_most_is_the_one_that_is_told_of(tmp_path: Path) -> None:
    more = "scenarios: {clean: {}, long: {trials: 9}, other: {variants: [sft]}}\n"
    plan = plan_of(tmp_path, FEW.replace("trials: 160", "trials: 2") + more)
    assert plan.arms[0].fewer == "4 distinct configs: the space holds no more; the quota of 9 falls to 4"
    assert [s.trials for s in plan.scenarios] == [2 + 3 + 1, 4 + 3 + 1, 1]


@pytest.mark.parametrize("sampler", ["", "sampler: random\n"])
def test_a_joint_search_ends_with_its_spaces(tmp_path: Path, sampler: str) -> None:
    text = FEW.replace("runs: {blocks: [0, 1]}\n", "").replace("study: few", "study: few\nmode: search")
    plan = plan_of(tmp_path, text + sampler + "rungs: {at: [0.5], eta: 2, bracket: 4}\n")
    assert plan.fewer == "8 distinct configs: the space holds no more; the quota of 161 falls to 8"
    assert [arm.fewer for arm in plan.arms] == ["", "", ""]
    assert [s.trials for s in plan.scenarios] == [8]
    assert [b.trials for b in plan.brackets] == [(4, 2), (4, 2)]


def test_plan_prints_it(sweeper: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(FEW)
    told = sweeper(tmp_path, "plan", "study.yaml").stdout
    assert "    4 distinct configs: the space holds no more; the quota of 160 falls to 4\n" in told
    assert "clean: 8 trials x 2 runs of 3 variants: 37 runs" in told
