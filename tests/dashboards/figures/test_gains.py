"""What each loss gains, and how that grows with the drift: the figures that the answer rests on."""

from __future__ import annotations

import numpy as np
import pytest

from dashboards.figures import gains
from dashboards.figures.figure import Figure, Missing, label
from dashboards.figures.gallery import figures, first_figures
from dashboards.figures.material import Material
from dashboards.tables.short import by_verdict
from studies.records import Cause, RunRecord
from tests.dashboards.generated import pool
from tests.dashboards.materials import drawn, marks, material_of, material_of_replicates, texts
from tests.dashboards.tuned.replicated import DRIFT, a_run, replicated

BASE = [0.5, 0.52, 0.48, 0.51, 0.5, 0.49]
GAINS = {"sigmoid": BASE, "ipo": [g - 0.3 for g in BASE], "hinge": [g + 0.01 * (-1) ** i for i, g in enumerate(BASE)]}


@pytest.fixture(scope="module")
def material() -> Material:
    return material_of_replicates(replicated(GAINS))


def rows(found: Figure | Missing, names: set[str]) -> list[str]:
    """The names of losses in a picture, from its top down."""
    return [text for text in texts(drawn(found)) if text in names]


def test_losses_stand_in_the_order_of_the_short_table_with_how_many_settings_worked(material: Material) -> None:
    found = gains.gains(material, "clean", "gains")
    told = material.told("clean")
    assert told is not None
    assert rows(found, set(GAINS)) == [loss.variant for loss in by_verdict(*told)]
    worked = [text for text in texts(drawn(found)) if text.endswith(" of 12")]
    assert worked == [f"{loss.worked} of {loss.tried}" for loss in by_verdict(*told)]
    assert worked[-1] == "8 of 12"


def test_the_loss_to_use_and_those_to_avoid_have_marks_of_their_own_beside_their_colours(material: Material) -> None:
    words = texts(drawn(gains.gains(material, "clean", "gains")))
    assert {"use", "other", "avoid"} <= set(words)
    assert "not judged" not in words


def test_every_replicate_is_a_dot_beside_the_mean_of_its_loss(material: Material) -> None:
    picture = drawn(gains.gains(material, "clean", "gains"))
    for variant in ("ipo", "hinge"):
        assert marks(picture, material.looks[variant].colour) == len(BASE)


def test_a_loss_of_which_every_setting_broke_has_these_words_and_no_dot() -> None:
    records = replicated({"sigmoid": BASE})
    records += [a_run("ipo", r, n, 0.1, cause=Cause.NON_FINITE) for r in range(1, 7) for n in (0, 1)]
    material = material_of_replicates(records)
    told = material.told("clean")
    assert told is not None
    (ipo,) = [loss for loss in told[0].losses if loss.variant == "ipo"]
    assert ipo.gained is None
    picture = drawn(gains.gains(material, "clean", "gains"))
    assert label(ipo.missing, 44) in texts(picture)
    assert marks(picture, material.looks["ipo"].colour) == 0


def test_without_judging_runs_points_are_open_and_said_to_be_not_judged() -> None:
    found = gains.gains(material_of(pool({"sigmoid": 0.0, "ipo": 0.2}, configs=6)), "clean", "gains")
    assert isinstance(found, Figure)
    assert "not judged" in texts(drawn(found))
    assert "too good on average" in found.caption
    assert marks(drawn(found), "#ffffff") >= 2


def test_blocks_of_the_confirm_phase_are_dots_where_there_are_no_replicates() -> None:
    confirmed = material_of(pool({"sigmoid": 0.0, "ipo": 0.2}, configs=6, confirm=range(20, 26)))
    picture = drawn(gains.gains(confirmed, "clean", "gains"))
    assert marks(picture, confirmed.looks["ipo"].colour) == 6


def test_the_first_figure_shows_the_differences_that_rank_with_their_verdicts(material: Material) -> None:
    told = material.told("clean")
    assert told is not None
    found = first_figures(material)["clean"]
    assert isinstance(found, Figure)
    assert found.name == "ranking"
    assert rows(found, set(GAINS)) == [loss.variant for loss in by_verdict(*told)]
    words = texts(drawn(found))
    assert [word for word in words if word == "use" or word.startswith("avoid: ")] == ["use", "avoid: worse"]
    assert "gains" in {figure.name for _, figure in figures(material)}


def test_where_no_loss_was_judged_beside_another_the_first_figure_is_what_each_gains() -> None:
    unjudged = material_of(pool({"sigmoid": 0.0, "ipo": 0.2}, configs=6))
    assert {found.name for found in first_figures(unjudged).values()} == {"gains"}
    assert "gains" not in {figure.name for _, figure in figures(unjudged)}


def test_the_mean_path_passes_through_the_gain_of_the_table_at_the_drift(material: Material) -> None:
    told = material.told("clean")
    assert told is not None
    for loss in told[0].losses:
        line = gains.mean_path(loss.variant, gains.lines_of(material, loss)).line
        at = np.interp(DRIFT**0.5, [kl**0.5 for kl, _ in line], [gain for _, gain in line])
        assert loss.gain is not None
        assert at == pytest.approx(loss.gain.value, abs=1e-6)


def test_the_mean_path_ends_where_the_first_run_ends() -> None:
    records = replicated({"sigmoid": BASE})
    short = a_run("sigmoid", 1, 1, BASE[0], judging=True, kls=[0.25, 1.0, 1.5, 2.0])
    material = material_of_replicates([short if r.run_id == short.run_id else r for r in records])
    told = material.told("clean")
    assert told is not None
    line = gains.mean_path("sigmoid", gains.lines_of(material, told[0].losses[0])).line
    assert line[-1][0] == pytest.approx(2.0)
    found = gains.paths(material, "clean", "paths")
    assert isinstance(found, Figure)
    assert "Dashed line: 1 nat," in found.caption


@pytest.mark.parametrize("far", [0.0, 1e-12, 0.348, 2.22, 1 / 3, 265.0])
def test_a_mean_path_goes_as_far_as_its_runs_however_far_that_is(far: float) -> None:
    line = gains.mean_path("sigmoid", [[(0.0, 0.0), (far / 2, 0.1), (far, 0.3)]]).line
    assert line[-1] == pytest.approx((far, 0.3 if far else 0.0))
    assert isinstance(gains.paths(material_of_replicates(still(far)), "clean", "paths"), Figure)


def still(far: float) -> list[RunRecord]:
    """Replicates whose runs end `far` from the start."""
    records = replicated({"sigmoid": BASE})
    kls = {10: far / 4, 20: far / 2, 40: far, 80: far}
    return [r.model_copy(update={"curves": {**r.curves, "kl": tuple(kls.items())}}) for r in records]


def test_runs_without_evaluations_on_the_way_have_no_path_and_the_figure_says_what_it_takes() -> None:
    found = gains.paths(material_of(pool({"sigmoid": 0.0})), "clean", "paths")
    assert isinstance(found, Missing)
    assert "evaluate.at" in found.reason


def test_figures_of_replicates_are_of_conditions_and_show_the_settings_of_all() -> None:
    scrambled = [
        r.model_copy(update={"knobs": {"beta": 0.01 * (r.block // 2) + r.trial, "learning_rate": 1e-4}})
        for r in replicated(GAINS)
    ]
    material = material_of_replicates(scrambled)
    found = {figure.name: figure for _, figure in figures(material)}
    assert list(first_figures(material)) == ["clean"]
    assert not any("#" in " ".join(texts(drawn(f))) + f.caption for f in found.values() if isinstance(f, Figure))
    assert not {"comparison", "price", "lead", "profile", "tuning"} & found.keys()
    parallel = found["parallel"]
    assert isinstance(parallel, Figure)
    assert parallel.caption.startswith(f"{3 * 2 * len(BASE)} configs")


def test_a_grid_has_the_same_settings_in_all_replicates_each_drawn_once_at_its_mean(material: Material) -> None:
    (parallel,) = [figure for _, figure in figures(material) if figure.name == "parallel"]
    assert isinstance(parallel, Figure)
    assert parallel.caption.startswith(f"{3 * 2} configs")


def test_a_setting_that_broke_is_marked_and_one_that_ends_far_away_counts_where_it_was_read() -> None:
    records = replicated(GAINS)
    records.append(a_run("ipo", 1, 2, 0.0, cause=Cause.NON_FINITE))
    material = material_of_replicates(records, 3)
    (standing,) = [s for s in material.standings if s.stratum.variant == "ipo"]
    found = {config.trial: config for config in material.configs(standing)}
    assert found[12].failed
    assert found[11].value == pytest.approx(BASE[0] - 0.3 - 0.1)
