"""Every figure shows what it must of generated records, and says what it lacks where there is nothing to show."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from dashboards.figures import knobs, outcome, price
from dashboards.figures import over_time as course
from dashboards.figures.figure import Figure, Missing, looks
from dashboards.figures.gallery import figures
from dashboards.figures.material import Material
from dashboards.figures.parallel import parallel
from studies.records import JUDGE_FACT, Cause, RunRecord
from studies.spec import Objective
from tests.dashboards.generated import a_record, gold_of, pool
from tests.dashboards.materials import GOLD, drawn, marks, material_of, texts

ADVANTAGES = {"sigmoid": 0.0, "ipo": 0.2, "hinge": -0.1}
POOL = pool(ADVANTAGES, configs=12, blocks=range(3), confirm=range(20, 26))


@pytest.fixture(scope="module")
def material() -> Material:
    return material_of(POOL)


def broken(variant: str, trial: int, **changes: object) -> RunRecord:
    """A config that turned non-finite, another for every trial."""
    knobs = {"beta": 0.01, "learning_rate": 1e-2 + 1e-5 * trial}
    return a_record(
        Cause.NON_FINITE, variant=variant, trial=trial, run_id=f"{variant}-broken-{trial}", knobs=knobs, **changes
    )


def configs(variant: str = "sigmoid", scenario: str = "clean", **knobs: tuple[float, ...]) -> list[RunRecord]:
    """Three blocks of one config for each place of the knobs; gold rises with the place."""
    count = len(next(iter(knobs.values())))
    return [
        a_record(
            variant=variant,
            scenario=scenario,
            trial=i,
            block=block,
            run_id=f"{variant}-{scenario}-{i}-{block}",
            knobs={name: values[i] for name, values in knobs.items()},
            metrics={"gold": gold_of(block, 0.1 * i), "kl": 8.0 / (i + 1)},
        )
        for i in range(count)
        for block in range(3)
    ]


# ---- all of them --------------------------------------------------------------------------------------------------


def test_every_figure_names_all_its_losses_and_says_what_it_is(material: Material) -> None:
    found = [figure for _, figure in figures(material) if isinstance(figure, Figure)]
    assert {"comparison", "price", "failed", "profile", "tuning", "parallel"} <= {f.name for f in found}
    for figure in found:
        words = " ".join(texts(drawn(figure)))
        assert figure.name == "timeline" or all(variant in words for variant in ADVANTAGES), figure.name
        assert figure.title
        assert figure.caption.endswith(".")


def test_the_same_records_give_the_same_pictures(material: Material) -> None:
    first, again = ({f.name: f for _, f in figures(m)} for m in (material, material_of(POOL[::-1])))
    assert first.keys() == again.keys()
    for name, figure in first.items():
        assert figure == again[name], name


def test_a_loss_has_one_colour_in_all_figures_and_the_baseline_is_black(material: Material) -> None:
    assert looks(("a", "b", "c"), "b")["b"].colour == "#000000"
    many = looks([f"v{i}" for i in range(18)], None)
    assert len({(look.colour, look.dash) for look in many.values()}) == 18
    for draw in (outcome.comparison, price.price):
        found = draw(material, "clean", "x")
        assert isinstance(found, Figure)
        assert material.looks["ipo"].colour.lower() in found.svg


def test_names_are_shown_as_they_are_whatever_they_hold() -> None:
    name = "<b>$x_{1}$&\x1b\"'"
    records = [r.model_copy(update={"variant": name}) if r.variant == "ipo" else r for r in POOL]
    for _, figure in figures(material_of(records)):
        if isinstance(figure, Figure) and figure.name != "timeline":
            assert any("<b>$x_{1}$& \"'" in text for text in texts(drawn(figure))), figure.name


def test_figures_of_scenarios_with_like_names_keep_apart() -> None:
    records = [*configs(scenario="a b", beta=(0.1, 0.2, 0.3)), *configs(scenario="a-b", beta=(0.1, 0.2, 0.3))]
    records += configs(scenario="a/b", beta=(0.1, 0.2, 0.3))
    names = [figure.name for _, figure in figures(material_of(records))]
    assert len(names) == len(set(names))


def test_nothing_at_all_gives_reasons_and_no_picture() -> None:
    found = [figure for _, figure in figures(material_of([a_record(None)]))]
    assert [f.name for f in found if isinstance(f, Figure)] == []
    assert all(f.reason for f in found if isinstance(f, Missing))


# ---- what came out ------------------------------------------------------------------------------------------------


def test_the_comparison_has_a_word_for_each_loss(material: Material) -> None:
    words = texts(drawn(outcome.comparison(material, "clean", "x")))
    rows = {row.variant: row for row in material.comparison.rows}
    assert "baseline" in words
    for variant in ("ipo", "hinge"):
        difference = rows[variant].difference
        assert difference is not None
        assert any(word.startswith(difference.word) for word in words)


def test_without_a_confirm_phase_values_are_hollow_and_said_to_be_too_good() -> None:
    found = outcome.comparison(material_of(pool(ADVANTAGES, configs=6)), "clean", "x")
    assert isinstance(found, Figure)
    assert "too good on average" in found.caption
    assert marks(drawn(found), "#ffffff") == 3


def test_failed_configs_are_counted_by_loss() -> None:
    records = [*POOL, *(broken("hinge", 50 + i) for i in range(4))]
    words = texts(drawn(outcome.failed(material_of(records), "clean", "x")))
    assert "4/16" in words
    assert words.count("0/12") == 2


def test_a_profile_of_the_whole_arm_keeps_failed_configs_below_every_level() -> None:
    records = [
        *pool({"sigmoid": 0.0}, configs=6),
        *(broken("sigmoid", 50 + i, block=b) for i in range(6) for b in range(3)),
    ]
    scores = material_of(records)
    found = outcome.profile(scores, "clean", "x")
    assert isinstance(found, Figure)
    assert "36 runs" in texts(drawn(found))
    assert "failed ones below every level" in found.caption


# ---- quality and its price ----------------------------------------------------------------------------------------


def test_every_config_is_a_point_and_every_failed_one_a_cross() -> None:
    records = [*POOL, *(broken("ipo", 50 + i) for i in range(3))]
    material = material_of(records)
    picture = drawn(price.price(material, "clean", "x"))
    ipo, hinge = material.looks["ipo"].colour, material.looks["hinge"].colour
    assert (marks(picture, ipo), marks(picture, ipo, crosses=True)) == (12, 3)
    assert (marks(picture, hinge), marks(picture, hinge, crosses=True)) == (12, 0)
    assert "12 configs, 3 failed" in texts(picture)


def test_configs_far_below_the_untrained_model_do_not_press_the_others_flat() -> None:
    fallen = a_record(variant="ipo", trial=60, run_id="fallen", metrics={"gold": gold_of(0, -9.0), "kl": 50.0})
    material = material_of([*POOL, fallen])
    found = price.price(material, "clean", "x")
    assert isinstance(found, Figure)
    assert "Open triangles at the foot: 1 config further below." in found.caption
    assert marks(drawn(found), material.looks["ipo"].colour) == 12
    assert not any(text.startswith("-9") for text in texts(drawn(found)))


def test_the_frontier_never_falls_and_starts_at_the_untrained_model(material: Material) -> None:
    for standing in material.of("clean"):
        line = price.priced(material, standing).line
        assert line[0] == (0.0, 0.0)
        assert len(line) > 10
        assert np.diff([y for _, y in line]).min() > -0.15  # read on the other half, it falls by noise alone


def test_without_gold_the_objective_is_drawn_against_kl_without_a_frontier() -> None:
    records = [r.model_copy(update={"metrics": r.metrics | {"ranking_gain": r.metrics["margin"] / 10}}) for r in POOL]
    found = material_of(records, objective=Objective(metric="ranking_gain"), source="trl-lib/ultrafeedback_binarized")
    assert all(not price.priced(found, s).line and price.priced(found, s).points for s in found.of("clean"))
    assert isinstance(price.lead(found, "clean", "x"), Missing)


# ---- knobs --------------------------------------------------------------------------------------------------------


def test_sensitivity_has_each_config_at_its_value_and_a_line_through_the_best() -> None:
    records = configs("ipo", beta=(0.01, 0.01, 0.1, 1.0), learning_rate=(1e-4, 1e-3, 1e-3, 1e-3))
    material = material_of(records)
    assert knobs.knobs_of(material) == ("beta",)
    picture = drawn(knobs.sensitivity(material, "clean", "beta", "x"))
    assert marks(picture, material.looks["ipo"].colour) == 4
    assert knobs.best_along([(1.0, 0.0), (1.0, 2.0), (3.0, 1.0)], 1, log=False) == ((1.0, 2.0), (3.0, 1.0))
    assert knobs.best_along([(1.0, 0.0), (1.0, 2.0), (3.0, 1.0)], -1, log=False) == ((1.0, 0.0), (3.0, 1.0))


def test_many_values_of_a_knob_are_taken_together_in_fifths_of_its_range() -> None:
    points = [(float(x), float(-abs(x - 50))) for x in range(1, 101)]
    line = knobs.best_along(points, 1, log=False)
    assert len(line) == 5
    assert max(line, key=lambda p: p[1]) == (50.0, 0.0)


def test_strength_puts_two_nats_at_zero() -> None:
    # KL is 8, 4, 8/3, 2, 8/5: two nats at the fourth beta.
    records = configs(beta=(0.01, 0.1, 1.0, 10.0, 100.0))
    picture = drawn(knobs.strength(material_of(records), "clean", "x"))
    assert "5 betas" in texts(picture)
    assert "0" in texts(picture)
    few = material_of(configs(beta=(0.01, 0.1, 1.0)))  # never below two nats
    assert isinstance(knobs.strength(few, "clean", "x"), Missing)


def test_noise_takes_scenarios_with_different_flips() -> None:
    records = [r for name in ("clean", "noisy", "small") for r in configs(scenario=name, beta=(0.1, 0.2))]
    flipped = material_of(records, noise={"": {"clean": 0.0, "noisy": 0.4}})
    assert marks(drawn(knobs.noise(flipped, "", "x")), "#ffffff") == 2
    assert isinstance(knobs.noise(material_of(records), "", "x"), Missing)


def test_a_mixture_is_drawn_over_its_weight_beside_its_pure_losses() -> None:
    mix = configs("mix", **{"loss_weights.ipo": (0.0, 0.5, 1.0)})
    records = [*configs(beta=(0.1, 0.2)), *configs("ipo", beta=(0.1, 0.2)), *mix]
    material = material_of(records, losses={"mix": ("sigmoid", "ipo")})
    picture = drawn(knobs.mixtures(material, "clean", "x"))
    assert {"mix, ipo", "sigmoid alone", "ipo alone"} <= set(texts(picture))
    assert marks(picture, material.looks["mix"].colour) == 3


def test_importance_names_the_knob_that_decides() -> None:
    random = np.random.default_rng(1)
    beta = np.repeat([0.01, 0.1, 1.0], 4)
    records = [
        a_record(
            trial=i, run_id=f"r{i}", metrics={"gold": gold_of(0, float(b)), "kl": 1.0},
            knobs={"beta": float(b), "learning_rate": float(random.choice([1e-5, 1e-4])) * (1 + i / 1000)},
        )
        for i, b in enumerate(beta)
    ]  # fmt: skip
    words = texts(drawn(knobs.weights_of_knobs(material_of(records), "clean", "x")))
    shares = [float(word) for word in words if word.startswith(("0.", "1."))]
    assert shares[0] > 0.9 > 0.5 > shares[1]


def test_parallel_coordinates_have_a_line_for_each_config_failed_ones_dashed() -> None:
    records = [*configs(beta=(0.01, 0.1, 1.0), learning_rate=(1e-4, 1e-3, 1e-2)), broken("sigmoid", 9)]
    found = parallel(material_of(records), "clean", "x")
    picture = drawn(found)
    assert {"beta", "learning_rate", "gold", "KL (nats)"} <= set(texts(picture))
    assert isinstance(found, Figure)
    assert found.caption.startswith("4 configs")
    dashed = [
        p for p in picture.iter() if "stroke: #d55e00" in p.get("style", "") and "dasharray" in p.get("style", "")
    ]
    assert len(dashed) == 1


# ---- how it went --------------------------------------------------------------------------------------------------


def test_the_margin_is_in_nats_whatever_the_beta() -> None:
    small = configs("sigmoid", beta=(0.1,))
    large = [r.model_copy(update={"knobs": {}}) for r in configs("ipo", beta=(2.0,))]
    curves = {
        r.run_id: {"reward_margin": [(s, b * s) for s in (1, 2, 3)]}
        for rs, b in ((small, 0.1), (large, 2.0))
        for r in rs
    }
    material = material_of([*small, *large], curves=curves, betas={"ipo": 2.0})
    for series in course.margin_series(material, "clean"):
        assert [y for _, y in series.line] == pytest.approx([1.0, 2.0, 3.0])
        assert series.note == "3 runs"
    assert {"ipo", "sigmoid"} <= set(texts(drawn(course.margins(material, "clean", "x"))))


def test_checkpoints_are_drawn_from_three_on() -> None:
    records = configs(beta=(0.1,))
    curves = {r.run_id: {"gold": [(s, gold_of(r.block, s / 10)) for s in (1, 5, 10)]} for r in records}
    found = course.checkpoints(material_of(records, curves=curves), "clean", "gold", "x")
    assert "3 runs" in texts(drawn(found))
    once = {run: {"gold": of["gold"][:1]} for run, of in curves.items()}
    assert isinstance(course.checkpoints(material_of(records, curves=once), "clean", "gold", "x"), Missing)


def test_a_curve_that_ends_with_another_judge_is_left_out_and_said() -> None:
    """`sweeper evaluate` scores the end of a run: MLflow's history then mixes judges, the record has no such curve."""
    records = configs(beta=(0.1,))
    steps = (1, 5, 10)
    curves = {r.run_id: {name: [(s, float(s)) for s in steps] for name in ("gold", "kl")} for r in records}
    judged = [r.model_copy(update={"facts": r.facts | {JUDGE_FACT: "reward model b"}}) for r in records]
    in_training = [r.model_copy(update={"curves": {"gold": [(s, float(s)) for s in steps]}}) for r in judged]

    def found(records: list[RunRecord], metric: str = "gold") -> Figure | Missing:
        return course.checkpoints(material_of(records, curves=curves), "clean", metric, "x")

    mixed, some, pure, drift = (
        found(judged),
        found([judged[0], *in_training[1:]]),
        found(in_training),
        found(judged, "kl"),
    )
    assert isinstance(mixed, Missing)
    assert "3 runs were scored again" in mixed.reason
    assert isinstance(some, Figure)
    assert "2 runs" in texts(drawn(some))
    assert "Left out: 1 run was scored again" in some.caption
    for whole in (pure, drift):
        assert isinstance(whole, Figure)
        assert "3 runs" in texts(drawn(whole))
        assert "Left out" not in whole.caption


def timed(*spans: tuple[float, float | None], cause: Cause | None = Cause.FINISHED) -> list[RunRecord]:
    return [
        a_record(
            cause, run_id=f"{i}-{start}", trial=i, metrics={"gold": gold_of(0, i / 10)}, started=1.7e9 + start,
            ended=None if end is None else 1.7e9 + end,
        )
        for i, (start, end) in enumerate(spans)
    ]  # fmt: skip


def test_the_time_line_counts_what_ran_at_once_and_cuts_pauses_out() -> None:
    found = course.timeline(material_of(timed((0, 60), (10, 50), (55, 80), (90_000, 90_060))), "x")
    assert isinstance(found, Figure)
    words = texts(drawn(found))
    assert "2 at once" in words
    assert any(word.startswith("minutes of training since 2023-11-14 22:13") for word in words)
    assert "1 times" in found.caption
    assert isinstance(course.timeline(material_of(configs(beta=(0.1,))), "x"), Missing)


def test_the_time_line_shows_how_runs_ended() -> None:
    ended = [*timed((0, 60)), *timed((0, 30), cause=Cause.NON_FINITE), *timed((0, 20), cause=Cause.WORKER_LOST)]
    records = [*ended, *timed((40, None), cause=None)]
    records = [
        r.model_copy(update={"run_id": str(i), "key": str(i), "trial": i, "knobs": {"beta": float(i)}})
        for i, r in enumerate(records)
    ]
    words = set(texts(drawn(course.timeline(material_of(records), "x"))))
    assert {"complete", "stopped or failed by its config", "lost or refused", "in training"} <= words


DRAW: tuple[Callable[[Material, str, str], Figure | Missing], ...] = (
    outcome.comparison,
    price.price,
    outcome.profile,
    parallel,
)


@pytest.mark.parametrize("draw", DRAW)
def test_less_is_better_is_drawn_too(draw: Callable[[Material, str, str], Figure | Missing]) -> None:
    falling = Objective(metric="kl", direction="minimize")
    assert isinstance(draw(material_of(POOL, objective=falling), "clean", "x"), Figure)
    assert GOLD.direction == "maximize"
