"""A second judge, a check, and a measure that is too weak: what is told of each, and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from dashboards.statistics.estimates import Estimate
from dashboards.tables.short import short_cells, short_notes, verdict
from dashboards.tuned.amounts import said_of_yours
from dashboards.tuned.answer import Avoid, Cost, answer, reason_to_avoid
from dashboards.tuned.losses import Tuned
from dashboards.tuned.replicates import Replicate, replicates_of
from dashboards.tuned.samples.contests import Tax, contests_of
from dashboards.tuned.samples.opinions import parted, said_by_others, second_opinion, tax_of, would_take
from dashboards.tuned.yours import Yours
from studies.records import Measurer, RunRecord
from studies.samples.kept import KeptScores, with_scores
from studies.schema.replicates import Cell
from studies.spec import Objective
from tests.dashboards.tuned.judged import END, PROMPTS, WITHIN, compared, judged
from tests.dashboards.tuned.test_losses import SCALE

SECOND = Measurer(judge="function other:score", content="sha256:2")
CHECK = Measurer(judge="function my:right", content="sha256:3")
GOOD, BAD = [0.6, 0.7, 0.65, 0.62, 0.7, 0.66], [0.1, 0.15, 0.05, 0.1, 0.12, 0.08]
SAME = [0.4] * 6


def seen_by(
    judge: Measurer, records: Sequence[RunRecord], kept: Mapping[str, KeptScores], level: Mapping[str, float]
) -> dict[str, KeptScores]:
    """The same with what another judge gives: `level` of each loss above the untrained model's 0."""
    found = dict(kept)
    for run in records:
        if run.run_id in kept:
            random = np.random.default_rng([7, run.block, *run.variant.encode()])
            new = {0: [0.0] * PROMPTS, END: random.normal(level[run.variant], 1.0, PROMPTS).tolist()}
            found[run.run_id] = with_scores(found[run.run_id], judge, new)
    return found


def told(first: Mapping[str, Sequence[float]], second: Mapping[str, float]) -> Tuned:
    """Compared by a first judge, and by a second one."""
    records, kept = judged(first)
    kept = seen_by(SECOND, records, kept, second)
    found = compared(records, kept)
    contests = contests_of(records, kept, SECOND, "win_rate")
    assert contests is not None
    return replace(found, second=second_opinion(found, replicates(records), contests, WITHIN))


def replicates(records: Sequence[RunRecord]) -> dict[str, Sequence[Replicate]]:
    objective = Objective(metric="win_rate", tie_within=WITHIN)
    points = {(r.variant, Cell("clean", n).name): 1 for r in records for n in range(1, 7)}
    scale = replace(SCALE, metric="win_rate", unit="share", tie_within=WITHIN, by_task=False)
    found = replicates_of(records, objective, scale, points)
    return {name: of for (name, _), of in found.items()}


def test_two_judges_that_agree_are_said_to_in_a_sentence() -> None:
    found = told({"sigmoid": BAD, "hinge": GOOD}, {"sigmoid": 0.0, "hinge": 1.0})
    assert parted(found) == ()
    assert "The second judge (other:score) puts the losses in the same order." in answer(found, WITHIN, Cost(4)).text
    cells = short_cells(found, answer(found, WITHIN, Cost(4)))
    assert cells.rows[0][cells.header.index("2nd judge")].startswith(("7", "8"))
    assert any("2nd judge: vs sigmoid, by other:score" in note for note in short_notes([found]))


def test_where_they_part_the_loss_the_rates_and_what_is_shown_are_said() -> None:
    found = told({"sigmoid": BAD, "hinge": GOOD}, {"sigmoid": 1.0, "hinge": 0.0})
    said = answer(found, WITHIN, Cost(4)).text
    assert parted(found) == ("hinge",)
    assert "The judges part: by the second (other:score) the order is sigmoid, hinge." in said
    assert "hinge against sigmoid: 6" in said
    assert "by the second; each is shown." in said
    assert "So the lead of hinge rests on the first judge alone." in said


def test_another_order_that_nobody_shows_is_no_quarrel() -> None:
    found = told({"sigmoid": SAME, "hinge": SAME}, {"sigmoid": 0.3, "hinge": 0.3})
    lead = found.losses[1].difference
    assert lead is not None
    assert found.second is not None
    if lead.estimate.value * found.second.differences["hinge"].estimate.value < 0:
        assert "neither judge shows a difference" in answer(found, WITHIN, Cost(4)).text


@pytest.mark.parametrize(
    ("shares", "sentence"),
    [
        ({"sigmoid": 0.9, "hinge": 0.8}, "hinge (+10"),
        ({"sigmoid": 0.9, "hinge": 0.9}, "No loss costs more than 2 points of my:right."),
        ({"sigmoid": 0.9, "hinge": 0.88}, "is not shown, nor that none does."),
    ],
)
def test_the_cost_of_a_check_is_said_where_it_is_shown(shares: Mapping[str, float], sentence: str) -> None:
    """Of 200 prompts the untrained model has 180 right, a loss its share of them, one more or less by replicate."""
    records, kept = judged({"sigmoid": BAD, "hinge": GOOD})
    for run in records:
        if run.run_id in kept:
            right = round(shares[run.variant] * PROMPTS) + run.block % 4 - 2
            new = {0: [1.0] * 180 + [0.0] * 20, END: [1.0] * right + [0.0] * (PROMPTS - right)}
            kept[run.run_id] = with_scores(kept[run.run_id], CHECK, new)
    contests = contests_of(records, kept, CHECK, "win_rate")
    assert contests is not None
    found = compared(records, kept)
    found = replace(found, tax=tax_of(found, replicates(records), contests))
    assert sentence in answer(found, WITHIN, Cost(4)).text
    assert found.tax is not None
    assert found.tax.words["sigmoid"] == "costs no more"
    cells = short_cells(found, answer(found, WITHIN, Cost(4)))
    assert "Check" in cells.header


def checked(drift: float | None, at: Mapping[str, float | None], shares: Mapping[str, float]) -> Tax | None:
    """What a check costs of losses that are set beside sigmoid at these places, on curves that stop at half a nat."""
    records, kept = judged(dict.fromkeys(shares, GOOD))
    curve = ((1, 0.25), (END, 0.5))
    runs = [run.model_copy(update={"curves": {"kl": curve}}) for run in records]
    for run in runs:
        if run.run_id in kept:
            right = round(shares[run.variant] * PROMPTS) + run.block % 4 - 2
            own = {step: [1.0] * right + [0.0] * (PROMPTS - right) for step in (1, END)}
            kept[run.run_id] = with_scores(kept[run.run_id], CHECK, {0: [1.0] * 180 + [0.0] * 20, **own})
    found = compared(runs, kept)
    losses = tuple(replace(loss, compared_at=at.get(loss.variant)) for loss in found.losses)
    found = replace(found, losses=losses, drift=drift)
    contests = contests_of(runs, kept, CHECK, "win_rate")
    assert contests is not None
    return tax_of(found, replicates(runs), contests)


def test_at_a_drift_a_check_is_read_where_losses_are_compared_and_of_others_nowhere() -> None:
    """Compared at half of the drift, which the baseline gets to; ipo is compared nowhere."""
    tax = checked(1.0, {"hinge": 0.5, "ipo": None}, {"sigmoid": 0.9, "hinge": 0.9, "ipo": 0.5})
    assert tax is not None
    assert tax.costs.keys() == {"sigmoid", "hinge"}
    at_end = checked(None, {}, {"sigmoid": 0.9, "hinge": 0.9, "ipo": 0.5})
    assert at_end is not None
    assert at_end.costs.keys() == {"sigmoid", "hinge", "ipo"}


def test_of_a_loss_that_was_not_looked_at_nothing_is_said() -> None:
    tax = checked(1.0, {"hinge": 0.5, "ipo": None}, {"sigmoid": 0.95, "hinge": 0.95, "ipo": 0.5})
    assert tax is not None
    assert set(tax.words.values()) == {"costs no more"}
    found = replace(compared(*judged(dict.fromkeys(("sigmoid", "hinge", "ipo"), GOOD))), tax=tax)
    assert said_by_others(found, None)[-1].endswith("is not shown, nor that none does.")


def test_a_second_judge_says_nothing_at_the_end_of_training_where_losses_are_read_at_a_drift() -> None:
    records, kept = judged({"sigmoid": BAD, "hinge": GOOD})
    kept = seen_by(SECOND, records, kept, {"sigmoid": 0.0, "hinge": 1.0})
    contests = contests_of(records, kept, SECOND, "win_rate")
    assert contests is not None
    found = compared(records, kept)
    never = replace(found, drift=1.0, losses=tuple(replace(one, compared_at=None) for one in found.losses))
    assert second_opinion(never, replicates(records), contests, WITHIN) is None


def test_two_kinds_of_number_in_a_column_and_what_a_star_means_are_said() -> None:
    found = compared(*judged({"sigmoid": BAD, "hinge": GOOD, "ipo": GOOD}))
    ipo = replace(found.losses[2], met=None, compared_at=1.0)
    mixed = replace(found, drift=2.0, losses=(*found.losses[:2], ipo))
    notes = short_notes([mixed])
    assert any(one.startswith("But of ipo: the win rate against the untrained model less sigmoid's") for one in notes)
    assert any("both at a drift of 2 nats (* at 1, which all runs of both reach), ties a half" in one for one in notes)
    assert not any("But of" in one for one in short_notes([found]))


def test_a_weak_measure_avoids_a_loss_for_what_breaks_and_never_for_gaining_less() -> None:
    records, kept = judged({"sigmoid": GOOD, "hinge": BAD}, metric="ranking_gain")
    found = compared(records, kept, metric="ranking_gain")
    of = found.losses[1].stability
    assert of is not None
    less = replace(found.losses[1], stability=replace(of, word="Poor", reason="gains less", p_worse=0.001, p_many=0.9))
    assert reason_to_avoid(found, less) is None
    assert reason_to_avoid(found, replace(less, worked=0)) is None
    more = replace(less, stability=replace(of, word="Poor", reason="gains less", p_worse=0.001, p_many=0.001))
    assert reason_to_avoid(found, more) == Avoid("fragile", "breaks on more of the settings, by more than 25 in 100")
    assert reason_to_avoid(replace(found, metric="gold", best=None), less) == Avoid("fragile", "gains less")
    seen = replace(found, second=told({"sigmoid": BAD, "hinge": GOOD}, {"sigmoid": 1.0, "hinge": 0.0}).second)
    assert "judge" not in " ".join(said_by_others(seen, None))  # ranking_gain is none


def test_a_model_from_elsewhere_beats_the_untrained_one_at_a_rate() -> None:
    gain, over = Estimate(0.07, 6, 0.05, 0.09, None), Estimate(0.03, 6, 0.01, 0.05, None)
    yours = Yours("mine", "sha256:1", 6, gain, "", 1.0, 1.0, over, False, "", {}, ())
    found = replace(compared(*judged({"sigmoid": BAD, "hinge": GOOD})), yours=(yours,))
    (said,) = said_of_yours(found, "hinge")
    assert said.startswith(
        "Yours, mine, as exported, beats the untrained model at 57% [55 to 59] of prompts on 6 draws"
    )
    note = short_notes([found])[-1]
    assert "vs sigmoid (†): its win rate against the untrained model less sigmoid's, in points, as both end." in note


def test_a_measure_without_samples_names_no_loss_and_says_where_to_start() -> None:
    records, kept = judged({"sigmoid": BAD, "hinge": GOOD}, metric="ranking_gain")
    found = compared(records, kept, metric="ranking_gain")
    said = answer(found, WITHIN, Cost(4))
    assert (said.use, said.start, said.as_good) == (None, "sigmoid", ())
    assert said.text.startswith("Weak: no samples were judged, so no loss is named")
    assert "Start with sigmoid (beta 0.1)" in said.text
    assert "sweeper evaluate STUDY --judge-function" in said.text
    assert said.avoid == {}  # to gain less by it is no reason
    assert {verdict(loss, found, said) for loss in found.losses} == {"weak: not ranked"}
    assert any(line.endswith("Weak: no samples were judged.") for line in short_notes([found]))
    judge = answer(replace(found, judge="function mine:score"), WITHIN, Cost(4)).text
    assert "Let function mine:score decide" in judge


def test_what_it_would_take_follows_from_the_luck_of_the_prompts() -> None:
    """Three draws of 200 prompts: the spread is that of the prompts, so that more of them narrow it."""
    found = compared(*judged({"sigmoid": SAME[:3], "hinge": SAME[:3]}), planned=3)
    said = would_take(found, 0.01)
    assert said.startswith("To tell losses within 1 point apart would take")
    assert "replicates of" in said
    assert would_take(found, None) == ""
