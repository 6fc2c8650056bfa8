"""Points that do not depend on results: shared between variants, stable under a larger budget."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from studies.spec import Arm, FloatRange, IntRange, Simplex, StudySpec, Values, arms, load_study
from sweeper.points import planned_points, quota, to_knobs, value_at

BASE = "study: s\nbase: {model_name_or_path: embedded, use_peft: true, lora_r: 8, max_steps: 4}\n"


def study(tmp_path: Path, text: str) -> tuple[StudySpec, dict[str, Arm]]:
    file = tmp_path / "study.yaml"
    file.write_text(BASE + text)
    spec = load_study(file)
    return spec, dict(arms(spec))


TWO = """
variants:
  sigmoid: {}
  ipo: {space: {beta: {low: 0.1, high: 10}}}
  robust: {space: {label_smoothing: {low: 0.0, high: 0.4}}}
  sft: {}
space: {beta: {low: 0.01, high: 1.0, log: true}, learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}}
budget: {trials: 5}
"""


def test_all_variants_share_the_points_on_common_axes(tmp_path: Path) -> None:
    spec, by_name = study(tmp_path, TWO)
    rates = {n: [p.params["learning_rate"] for p in planned_points(spec, a)] for n, a in by_name.items()}
    assert rates["sigmoid"] == rates["ipo"] == rates["robust"] == rates["sft"]  # on which beta does not act
    betas = {n: [p.params["beta"] for p in planned_points(spec, by_name[n])] for n in ("sigmoid", "robust")}
    assert betas["sigmoid"] == betas["robust"]


def test_the_same_unit_number_stands_behind_different_ranges_of_a_knob(tmp_path: Path) -> None:
    spec, by_name = study(tmp_path, TWO)
    for mine, other in zip(planned_points(spec, by_name["sigmoid"]), planned_points(spec, by_name["ipo"]), strict=True):
        unit = math.log(mine.params["beta"] / 0.01) / math.log(100)
        assert other.params["beta"] == pytest.approx(0.1 * 100**unit)


def test_a_larger_budget_keeps_the_points(tmp_path: Path) -> None:
    spec, by_name = study(tmp_path, TWO)
    more = spec.model_copy(update={"budget": spec.budget.model_copy(update={"trials": 12})})
    for arm in by_name.values():
        assert planned_points(more, arm)[:5] == planned_points(spec, arm)


def test_sobol_does_not_start_at_a_corner(tmp_path: Path) -> None:
    spec, by_name = study(tmp_path, TWO)
    first = planned_points(spec, by_name["sigmoid"])[0].params
    assert 0.01 < first["beta"] < 1.0
    assert 1e-4 < first["learning_rate"] < 1e-2


def test_corners_of_a_mixture_are_its_pure_losses(tmp_path: Path) -> None:
    spec, by_name = study(
        tmp_path,
        "variants: {mix: {loss_type: [sigmoid, ipo, hinge], space: {loss_weights: {type: simplex, corners: true}}}}\n"
        "budget: {trials: 6}\n",
    )
    arm = by_name["mix"]
    knobs = [to_knobs(arm, p.params) for p in planned_points(spec, arm)]
    later = [(k["loss_weights.ipo"], k["loss_weights.hinge"]) for k in knobs]
    assert later[:3] == [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)]
    assert all(0 < a + b < 1 for a, b in later[3:])


def test_a_grid_is_every_combination_once(tmp_path: Path) -> None:
    spec, by_name = study(
        tmp_path,
        "variants: {sigmoid: {}}\nsampler: grid\n"
        "space: {beta: {values: [0.1, 0.5]}, learning_rate: {values: [1.0e-4, 1.0e-3, 1.0e-2]}}\n",
    )
    points = [tuple(p.params.values()) for p in planned_points(spec, by_name["sigmoid"])]
    assert sorted(points) == [(b, lr) for b in (0.1, 0.5) for lr in (1e-4, 1e-3, 1e-2)]
    assert quota(spec, by_name["sigmoid"]) == 6


def test_fixed_points_come_on_top_of_the_sampled_ones(tmp_path: Path) -> None:
    spec, by_name = study(
        tmp_path,
        "variants: {sigmoid: {points: [{beta: 5.0}], space: {beta: {low: 0.01, high: 1.0}}}}\nbudget: {trials: 3}\n",
    )
    assert [p.origin for p in planned_points(spec, by_name["sigmoid"])] == ["fixed"] + ["unbiased"] * 3
    assert quota(spec, by_name["sigmoid"]) == 4


def test_a_variant_of_fixed_points_alone_leaves_the_shared_space_out(tmp_path: Path) -> None:
    spec, by_name = study(
        tmp_path,
        "variants: {sigmoid: {}, today: {loss_type: sigmoid, points: [{beta: 0.05}]}}\n"
        "space: {beta: {low: 0.01, high: 1.0}}\nbudget: {trials: 3}\n",
    )
    assert [p.params for p in planned_points(spec, by_name["today"])] == [{"beta": 0.05}]
    assert quota(spec, by_name["today"]) == 1


def test_a_variant_with_nothing_to_vary_is_one_trial(tmp_path: Path) -> None:
    spec, by_name = study(tmp_path, "variants: {sigmoid: {}}\n")
    assert [p.params for p in planned_points(spec, by_name["sigmoid"])] == [{}]


@pytest.mark.parametrize(
    ("distribution", "low", "high"),
    [
        (FloatRange(low=0.1, high=10, log=True), 0.1, 10),
        (FloatRange(low=-1, high=1), -1, 1),
        (IntRange(low=2, high=5), 2, 5),
        (IntRange(low=1, high=64, log=True), 1, 64),
    ],
)
def test_values_fill_their_range_and_stay_inside(distribution: FloatRange | IntRange, low: float, high: float) -> None:
    values = [value_at(distribution, i / 1000) for i in range(1000)]
    assert values[0] == pytest.approx(low)
    assert max(values) <= high
    assert max(values) > 0.99 * high
    assert values == sorted(values)


def test_listed_values_are_equally_likely() -> None:
    values = [value_at(Values(values=("a", "b", "c")), i / 300) for i in range(300)]
    assert [values.count(v) for v in "abc"] == [100, 100, 100]


def test_a_simplex_needs_one_number_less_than_it_has_losses() -> None:
    arm = Arm(
        name="m",
        losses=("sigmoid", "ipo"),
        settings={},
        space={"loss_weights": Simplex()},
        points=(),
        left_out={},
        warnings=(),
    )
    assert to_knobs(arm, {"loss_weights.ipo": 0.3}) == {"loss_weights.ipo": pytest.approx(0.3)}
