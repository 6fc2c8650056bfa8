"""Losses head to head: what the table and the answer say of samples that met under the same prompts."""

from __future__ import annotations

import pytest

from dashboards.tables.short import short_cells, short_notes
from dashboards.tuned.answer import Answer, Cost, answer
from dashboards.tuned.losses import Tuned
from studies.samples.kept import Preferred, with_preferred
from tests.dashboards.tuned.judged import JUDGE, PROMPTS, WITHIN, compared, judged, scores_of

GOOD, BAD = [0.6, 0.7, 0.65, 0.62, 0.7, 0.66], [0.1, 0.15, 0.05, 0.1, 0.12, 0.08]


def said(found: Tuned) -> Answer:
    return answer(found, WITHIN, Cost(4))


def test_a_difference_is_how_often_its_samples_beat_the_baseline_s() -> None:
    """Both gain as much over the untrained model on paper; each is compared with the other's own samples."""
    records, kept = judged({"sigmoid": GOOD, "hinge": BAD})
    (hinge,) = (loss for loss in compared(records, kept).losses if loss.variant == "hinge")
    assert hinge.met is not None
    assert hinge.difference is not None
    end = {run.run_id: kept[run.run_id].scores_by(JUDGE)[10] for run in records if run.phase == "confirm"}
    by_hand = [
        sum(a > b for a, b in zip(end[f"hinge-{r}-True"], end[f"sigmoid-{r}-True"], strict=True)) / PROMPTS
        for r in range(1, 7)
    ]
    assert hinge.met.rate.value == pytest.approx(sum(by_hand) / 6)
    assert hinge.difference.estimate.value == pytest.approx(sum(by_hand) / 6 - 0.5)
    assert hinge.difference.word == "worse"
    assert hinge.met.prompts == PROMPTS


def test_the_table_shows_rates_and_the_answer_names_the_one_that_wins() -> None:
    found = compared(*judged({"sigmoid": BAD, "hinge": GOOD}))
    cells, told = short_cells(found, said(found)), said(found)
    assert cells.header[2:4] == ["vs sigmoid", "vs untrained"]
    assert cells.rows[0][0] == "hinge"
    assert cells.rows[0][2].startswith("6")  # 6x% [a, b]
    assert "%" in cells.rows[0][2]
    assert told.use == "hinge"
    assert "beats the untrained model at 6" in told.text
    assert told.avoid["sigmoid"].startswith("loses to hinge at 6")
    assert any("50% is no difference" in line and "200 prompts" in line for line in short_notes([found]))


def test_one_replicate_without_samples_makes_no_mixture_of_two_kinds() -> None:
    records, kept = judged({"sigmoid": BAD, "hinge": GOOD})
    del kept["hinge-3-True"]
    found = compared(records, kept)
    (hinge,) = (loss for loss in found.losses if loss.variant == "hinge")
    assert hinge.met is None
    assert hinge.difference is not None
    rates = {(r.variant, r.scenario): r.metrics["win_rate"] for r in records if r.phase == "confirm"}
    expected = sum(rates["hinge", f"clean#{n}"] - rates["sigmoid", f"clean#{n}"] for n in range(1, 7)) / 6
    assert hinge.difference.estimate.value == pytest.approx(expected)
    assert any("were not set head to head" in line for line in short_notes([found]))


def test_losses_whose_samples_win_as_often_are_as_good_within_the_points_that_do_not_matter() -> None:
    """Forty replicates of the same taste: the interval of their meeting is narrower than the tie."""
    found = compared(*judged({"sigmoid": [0.6] * 40, "hinge": [0.6] * 40}), planned=40)
    told = said(found)
    assert told.use == "sigmoid"
    assert told.as_good == ("hinge",)
    apart = "at most 1.87 points apart, within the 3 points of a tie, by its 90% interval (the table's: 95%)."
    assert f"as good: {apart}" in told.text


def test_a_pairwise_judge_that_contradicts_itself_is_told() -> None:
    records, kept = judged({"sigmoid": BAD, "hinge": GOOD})
    for r in range(1, 7):
        bare = scores_of("hinge", r)
        wins, doubted = (1.0, 0.5) * (PROMPTS // 2), (False, True) * (PROMPTS // 2)
        new = Preferred(by=JUDGE, against=f"sigmoid{r}", steps=((10, 10),), wins=(wins,), contradicted=(doubted,))
        kept[f"hinge-{r}-True"] = with_preferred(bare, new)
        kept[f"sigmoid-{r}-True"] = scores_of("sigmoid", r)
    found = compared(records, kept)
    (hinge,) = (loss for loss in found.losses if loss.variant == "hinge")
    assert hinge.met is not None
    assert hinge.met.rate.value == 0.75
    assert any("contradicted itself at up to 50 of 100 prompts" in line for line in short_notes([found]))
