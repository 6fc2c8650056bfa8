"""Points that do not depend on results: shared between variants, stable under a larger budget."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from studies.design.points import Axis, all_points, planned_points, quota, to_knobs, value_at
from studies.records import Scalar, digest
from studies.spec import (
    FloatRange,
    IntRange,
    ResolvedVariant,
    Simplex,
    StudySpec,
    Values,
    arms,
    arms_in,
    in_scenario,
    load_study,
)

BASE = "study: s\nbase: {model_name_or_path: embedded, use_peft: true, lora_r: 8, max_steps: 4}\n"


def study(tmp_path: Path, text: str) -> tuple[StudySpec, dict[str, ResolvedVariant]]:
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
    assert [p.phase for p in planned_points(spec, by_name["sigmoid"])] == ["fixed"] + ["unbiased"] * 3
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
    arm = ResolvedVariant(
        name="m",
        losses=("sigmoid", "ipo"),
        settings={},
        space={"loss_weights": Simplex()},
        points=(),
        left_out={},
        warnings=(),
    )
    assert to_knobs(arm, {"loss_weights.ipo": 0.3}) == {"loss_weights.ipo": pytest.approx(0.3)}


# ---- each config once ---------------------------------------------------------------------------------------------


def knobs_of(spec: StudySpec, arm: ResolvedVariant) -> list[tuple[Any, ...]]:
    return [tuple(to_knobs(arm, p.params).values()) for p in planned_points(spec, arm)]


@pytest.mark.parametrize("sampler", ["sobol", "random"])
@pytest.mark.parametrize(
    ("space", "size"),
    [
        ("{beta: {values: [0.1]}}", 1),
        ("{beta: {values: [0.1, 0.3]}, learning_rate: {values: [1.0e-5, 1.0e-4, 1.0e-3]}}", 6),
        ("{lora_r: {low: 4, high: 7}}", 4),
        ("{lora_r: {low: 1, high: 128, log: true}}", 128),
    ],
)
def test_a_finite_space_is_planned_once_and_the_quota_falls(
    tmp_path: Path, space: str, size: int, sampler: str
) -> None:
    text = f"variants: {{sigmoid: {{}}}}\nspace: {space}\nsampler: {sampler}\nbudget: {{trials: 160}}\n"
    spec, by_name = study(tmp_path, text)
    found = knobs_of(spec, by_name["sigmoid"])
    assert len(found) == len(set(found)) == quota(spec, by_name["sigmoid"]) == size


def test_the_points_of_a_finite_space_are_the_first_new_ones_of_the_same_sequence(tmp_path: Path) -> None:
    ranges = "variants: {sigmoid: {}}\nspace: {beta: {low: 1, high: 5}, learning_rate: {low: 1, high: 4}}\n"
    spec, by_name = study(tmp_path, ranges + "budget: {trials: 64}\n")
    units = [(int(beta), int(rate)) for beta, rate in knobs_of(spec, by_name["sigmoid"])]
    listed = "variants: {sigmoid: {}}\nspace: {beta: {values: [1, 2, 3, 4]}, learning_rate: {values: [1, 2, 3]}}\n"
    for trials in (5, 9, 12):
        spec, by_name = study(tmp_path, listed + f"budget: {{trials: {trials}}}\n")
        assert knobs_of(spec, by_name["sigmoid"]) == list(dict.fromkeys(units))[:trials]


def test_a_continuous_knob_beside_a_listed_one_makes_every_point_distinct(tmp_path: Path) -> None:
    text = (
        "variants: {sigmoid: {}, sft: {}}\n"
        "space: {learning_rate: {values: [1.0e-5]}, beta: {low: 0.1, high: 1.0}}\nbudget: {trials: 20}\n"
    )
    spec, by_name = study(tmp_path, text)
    assert {name: quota(spec, arm) for name, arm in by_name.items()} == {"sigmoid": 20, "sft": 1}  # beta does not act
    assert len(set(knobs_of(spec, by_name["sigmoid"]))) == 20


def test_a_value_that_the_sequence_hits_late_is_planned_all_the_same(tmp_path: Path) -> None:
    text = "variants: {sigmoid: {}}\nspace: {lora_r: {low: 1, high: 400, log: true}, max_steps: {low: 1, high: 2}}\n"
    spec, by_name = study(tmp_path, text + "budget: {trials: 800}\n")
    assert len(set(knobs_of(spec, by_name["sigmoid"]))) == 800
    less, _ = study(tmp_path, text + "budget: {trials: 790}\n")
    assert planned_points(less, by_name["sigmoid"]) == planned_points(spec, by_name["sigmoid"])[:790]


def test_a_fixed_point_that_is_sampled_too_is_one_point_of_the_shared_sample(tmp_path: Path) -> None:
    plain, arms_of = study(tmp_path, TWO)
    third = dict(planned_points(plain, arms_of["sigmoid"])[2].params)
    point = f"{{points: [{third}, {{beta: 0.5, learning_rate: 0.5}}], space: {{beta: {{log: true}}}}}}"
    spec, by_name = study(tmp_path, TWO.replace("sigmoid: {}", f"sigmoid: {point}"))
    found = planned_points(spec, by_name["sigmoid"])
    assert [p.phase for p in found] == ["unbiased", "fixed", *["unbiased"] * 4]
    assert quota(spec, by_name["sigmoid"]) == 6
    sampled = [p.params for p in found if p.phase == "unbiased"]
    assert sorted(p["beta"] for p in sampled) == sorted(
        p.params["beta"] for p in planned_points(spec, by_name["robust"])
    )


def test_a_fixed_point_that_leaves_a_knob_to_base_equals_one_that_says_the_same(tmp_path: Path) -> None:
    base = "variants: {sigmoid: {base: {learning_rate: 1.0e-5}, points: [{beta: 0.3}, POINT]}}\n"
    spec, by_name = study(tmp_path, base.replace("POINT", "{beta: 0.3, learning_rate: 1.0e-5}"))
    assert [p.params for p in planned_points(spec, by_name["sigmoid"])] == [{"beta": 0.3}]
    assert quota(spec, by_name["sigmoid"]) == 1
    spec, by_name = study(tmp_path, base.replace("POINT", "{beta: 0.3, learning_rate: 2.0e-5}"))
    assert quota(spec, by_name["sigmoid"]) == 2


def test_a_corner_of_a_mixture_that_is_a_fixed_point_too_is_planned_once(tmp_path: Path) -> None:
    text = (
        "variants: {mix: {loss_type: [sigmoid, ipo], points: [{loss_weights.ipo: 1.0}], "
        "space: {loss_weights: {type: simplex, corners: true}}}}\nbudget: {trials: 5}\n"
    )
    spec, by_name = study(tmp_path, text)
    found = knobs_of(spec, by_name["mix"])
    assert len(found) == len(set(found)) == quota(spec, by_name["mix"]) == 5
    assert {(0.0,), (1.0,)} <= set(found)


@pytest.mark.parametrize(("sampler", "known"), [("tpe", 1), ("sobol+tpe", 6)])
def test_what_tpe_chooses_is_counted_as_far_as_the_space_holds_it(tmp_path: Path, sampler: str, known: int) -> None:
    own = "variants: {sigmoid: {points: [{beta: 5.0}], space: {beta: {values: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]}}}}\n"
    spec, by_name = study(tmp_path, own + f"sampler: {sampler}\nbudget: {{trials: 10}}\n")
    assert len(planned_points(spec, by_name["sigmoid"])) == known
    assert quota(spec, by_name["sigmoid"]) == 8


# Of the points of all strata, as they were before configs were told apart; no shipped study had one twice.
SHIPPED = {
    "beta": "227afa7d94ab",
    "controls": "ac7ebbe1eada",  # without the scenario `pool`, which is gone
    "guide-small": "375e0b1ab128",
    "guide": "71b3efb4ddab",
    "mixtures": "2952e92aa0b0",
    "noise": "c658c4f4aea7",
    "pairs": "6313dc1c972f",
    "presets": "e32d45386bbb",
    "quickstart": "8e72b0260931",
}


def show(params: Mapping[str, Scalar]) -> list[str]:
    """With fewer digits than another C library may round otherwise."""
    return [f"{name}={value:.12g}" if isinstance(value, float) else f"{name}={value}" for name, value in params.items()]


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_no_point_of_a_shipped_study_has_changed(name: str) -> None:
    spec = load_study(name)
    found = []
    for scenario in spec.scenarios:
        own = in_scenario(spec, scenario)
        for variant, arm in arms_in(spec, arms(spec), scenario).items():
            points = [[p.phase, show(p.params)] for p in planned_points(own, arm)]
            found.append([scenario, variant, quota(own, arm), points])
    assert digest(found) == SHIPPED[name]


def test_a_space_is_gone_through_from_where_one_is_and_the_last_knob_changes_first() -> None:
    arm = ResolvedVariant(name="a", losses=("sigmoid",), settings={}, space={}, points=(), left_out={}, warnings=())
    over = [Axis("one", IntRange(low=1, high=3), 0), Axis("two", Values(values=(None, "b")), 1)]
    assert [tuple(p.values()) for p in all_points(arm, over)] == [(n, t) for n in (1, 2, 3) for t in (None, "b")]
    near = [tuple(p.values()) for p in all_points(arm, over, {"one": 2, "two": "b"})]
    assert near == [(2, "b"), (2, None), (3, "b"), (3, None), (1, "b"), (1, None)]
