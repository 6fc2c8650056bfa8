"""Rows from records whose right answer is known by construction, and what is printed of them."""

from __future__ import annotations

import csv
import io
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest

from dashboards.analysis.strata import Stratum
from dashboards.guide.verdicts import Verdict
from dashboards.tables.comparison import Comparison, Row, comparison
from dashboards.tables.formats import FORMATS, Format, render
from studies.losses.guide import BY_ID
from studies.records import Cause, RunRecord
from studies.spec import Objective
from tests.dashboards import generated
from tests.dashboards.generated import gold_of, pool

GOLD = Objective(metric="gold")
IPO = Stratum("ipo", "clean", ("ipo",), trials=3)


def a_record(trial: int = 0, gold: float | None = 1.0, **changes: Any) -> RunRecord:
    metrics: Mapping[str, float] = {} if gold is None else {"gold": gold, "kl": 2.0, "margin": 3.0}
    block = changes.get("block", 0)
    fields: dict[str, Any] = {
        "run_id": f"r{trial}.{block}" + (".c" if changes.get("phase") == "confirm" else ""),
        "variant": "ipo",
        "trial": trial,
        "knobs": {"beta": 0.1 * (trial + 1)},
        "metrics": metrics,
        "errors": {} if gold is None else {"gold": 0.07},
    }
    return generated.a_record(**(fields | changes))


def row_of(*records: RunRecord, objective: Objective = GOLD, stratum: Stratum = IPO) -> Row:
    (row,) = comparison(records, objective, [stratum]).rows
    return row


def shown(*records: RunRecord, format: Format = "text", width: int | None = None) -> str:
    return render(comparison(records, GOLD, [IPO]), format, width)


def test_the_best_trial_gives_quality_knobs_margin_and_kl() -> None:
    best = a_record(1, metrics={"gold": 2.0, "kl": 4.0, "margin": 5.0})
    row = row_of(a_record(0), best, a_record(2, gold=1.5))
    assert row.best is not None
    assert (row.best.trial, row.best.estimate.value, row.margin, row.kl) == (1, 2.0, 5.0, 4.0)
    assert row.knobs == {"beta": 0.2}
    assert row.mean == 1.5


def test_the_best_of_a_metric_to_minimize_is_the_lowest() -> None:
    row = row_of(a_record(0, gold=1.0), a_record(1, gold=2.0), objective=Objective(metric="gold", direction="minimize"))
    assert row.best is not None
    assert row.best.trial == 0


def test_a_stratum_without_runs_still_has_its_row() -> None:
    row = row_of()
    assert (row.trials_done, row.trials_planned, row.best, row.mean) == (0, 3, None, None)


def test_rows_stand_in_the_order_of_the_study_and_other_records_in_none() -> None:
    records = [a_record(variant="hinge"), a_record(), a_record(variant="removed")]
    rows = comparison(records, GOLD, [IPO, Stratum("hinge", "clean", ("hinge",), 3)]).rows
    assert [(row.variant, row.trials_done) for row in rows] == [("ipo", 1), ("hinge", 1)]


@pytest.mark.parametrize("cause", [Cause.NON_FINITE, Cause.INVERTED, Cause.COLLAPSED, Cause.OUT_OF_GPU_MEMORY])
def test_what_a_configuration_broke_is_a_failure_and_no_quality(cause: Cause) -> None:
    row = row_of(a_record(0), a_record(1, gold=9.0, cause=cause))
    assert (row.failures.k, row.failures.n, row.trials_done) == (1, 2, 2)
    assert row.best is not None
    assert row.best.trial == 0


@pytest.mark.parametrize("ratio", [0.4, 2.7])
def test_what_drifted_to_another_length_is_a_failure_and_never_the_best(ratio: float) -> None:
    drifted = a_record(1, metrics={"gold": 9.0, "kl": 2.0, "margin": 3.0, "length_ratio": ratio})
    row = row_of(a_record(0), drifted)
    assert (row.failures.k, row.failures.n, row.trials_done) == (1, 2, 2)
    assert row.best is not None
    assert row.best.trial == 0
    assert row_of(drifted).best is None


@pytest.mark.parametrize("cause", [Cause.TIME_LIMIT, Cause.USER_STOP])
def test_a_stopped_run_is_counted_and_not_held_against_the_loss(cause: Cause) -> None:
    row = row_of(a_record(0), a_record(1, gold=9.0, cause=cause))
    assert (row.failures.k, row.failures.n, row.stopped) == (0, 1, 1)
    assert row.best is not None
    assert row.best.trial == 0


@pytest.mark.parametrize("cause", [Cause.WORKER_LOST, Cause.PREEMPTED, Cause.INFRASTRUCTURE])
def test_what_the_machine_lost_is_neither_done_nor_failed(cause: Cause) -> None:
    row = row_of(a_record(0), a_record(1, gold=None, cause=cause))
    assert (row.trials_done, row.failures.n, row.lost) == (1, 1, 1)


def test_a_trial_is_done_when_all_of_its_runs_are() -> None:
    two = Stratum("ipo", "clean", ("ipo",), trials=3, runs_per_trial=2)
    half = [a_record(0, block=0), a_record(1, block=0), a_record(1, block=1, cause=None)]
    assert row_of(*half, stratum=two).trials_done == 0
    assert row_of(a_record(0, block=0), a_record(0, block=1), stratum=two).trials_done == 1


def test_a_config_has_one_chance_to_fail_and_its_later_draws_are_told_apart() -> None:
    first = row_of(a_record(0, block=0, cause=Cause.NON_FINITE), a_record(0, block=1), a_record(0, block=2))
    assert (first.failures.k, first.failures.n, first.later) == (1, 1, (0, 2))
    runs = [a_record(0, block=0), a_record(0, block=1, cause=Cause.NON_FINITE), a_record(1, block=0)]
    again = [a_record(1, block=b, phase="confirm", cause=Cause.COLLAPSED if b == 5 else Cause.FINISHED) for b in (5, 6)]
    later = row_of(*runs, *again)
    assert (later.failures.k, later.failures.n, later.later) == (0, 2, (2, 3))
    assert later.best is None
    assert "Later draws of these configs failed, of which Failed does not tell: ipo 2 of 3" in shown(
        *runs, *again, format="markdown"
    )


def test_three_blocks_give_an_interval_and_one_does_not() -> None:
    one = row_of(a_record(0))
    three = row_of(*[a_record(0, gold=gold, block=block) for block, gold in enumerate([1.0, 2.0, 3.0])])
    assert one.best is not None
    assert three.best is not None
    assert (one.best.estimate.low, one.best.estimate.error) == (None, 0.07)
    assert three.best.estimate.low == pytest.approx(2 - 2.484138)


def test_confirm_runs_of_the_best_trial_replace_the_numbers_it_was_chosen_by() -> None:
    confirmed = [a_record(1, gold=1.2, block=block, phase="confirm") for block in (1, 2, 3)]
    other = a_record(0, gold=7.0, block=1, phase="confirm")
    row = row_of(a_record(0, gold=1.0), a_record(1, gold=2.0), *confirmed, other)
    assert row.best is not None
    assert (row.best.basis, row.best.trial) == ("confirmed", 1)
    assert row.best.estimate.value == pytest.approx(1.2)
    assert row.run_ids["best"] == ("r1.1.c", "r1.2.c", "r1.3.c")
    assert row.trials_done == 2


def test_a_trial_outside_the_bounds_cannot_be_best_and_is_counted() -> None:
    bounded = Objective(metric="gold", constraints={"kl": {"max": 2.5}})
    over = a_record(1, metrics={"gold": 9.0, "kl": 3.0})
    unmeasured = a_record(2, metrics={"gold": 8.0})
    row = row_of(a_record(0), over, unmeasured, objective=bounded)
    assert row.best is not None
    assert (row.best.trial, row.outside) == (0, 2)


def apart(trial: int = 0, **changes: Any) -> RunRecord:
    """A run far from the start: 12 nats a token from the start, with the best gold of all."""
    return a_record(trial, metrics={"gold": 9.0, "kl": 136.0, "margin": 3.0, "kl_per_token": 12.0}, **changes)


def test_a_policy_that_went_too_far_is_never_the_best_and_is_named() -> None:
    row = row_of(a_record(0), apart(1))
    assert row.best is not None
    assert row.best.trial == 0
    assert (row.too_far, row.outside, row.failures.k) == (1, 0, 0)
    assert "Too far from the start to be best, at more than 0.7 nats a token: ipo 1 of 2." in shown(
        a_record(0), apart(1), format="markdown"
    )
    assert row_of(apart(0), apart(1)).best is None


def test_the_default_bound_on_drift_gives_way_to_the_studys_own_and_to_its_name() -> None:
    for objective in (GOLD.within_kl(200.0), GOLD.model_copy(update={"unbounded": ("drift",)})):
        row = row_of(a_record(0), apart(1), objective=objective)
        assert row.best is not None
        assert row.best.trial == 1
        assert row.too_far == 0
    length = Objective(metric="gold", constraints={"length_ratio": {"max": 1.5}, "kl": {"min": 0.1}})
    assert length.drift is not None


def test_a_config_that_broke_when_it_was_trained_again_is_not_the_best() -> None:
    broken = a_record(1, gold=None, block=7, phase="confirm", cause=Cause.COLLAPSED)
    row = row_of(a_record(0), a_record(1, gold=9.0), broken, a_record(1, block=8, gold=9.0, phase="confirm"))
    assert row.best is not None
    assert row.best.trial == 0
    assert row.unfit == "broke when retested (1 of 2 runs: collapsed)"
    fell = row_of(a_record(0), a_record(1, gold=8.0), apart(1, block=7, phase="confirm"))
    assert fell.best is not None
    assert fell.best.trial == 0
    assert fell.unfit == "went too far when retested (12.00 nats a token from the start)"


def test_a_best_setting_at_an_edge_of_its_range_is_said_with_a_wider_one() -> None:
    rates = [a_record(i, gold=float(i), knobs={"learning_rate": r}) for i, r in enumerate([3e-4, 1e-3, 1e-2])]
    text = shown(*rates, format="markdown")
    assert "the highest learning_rate of 3 tried (0.01; high: 0.032 is further) is that of ipo" in text
    inside = [a_record(i, gold=g, knobs={"learning_rate": 10.0**-i}) for i, g in enumerate([1.0, 2.0, 1.0])]
    assert "Best at an edge" not in shown(*inside, format="markdown")


def test_the_mean_is_taken_over_the_unbiased_arm_where_there_is_one() -> None:
    adaptive = [a_record(trial, gold=5.0, phase="tpe") for trial in (1, 2)]
    assert row_of(a_record(0, gold=1.0), *adaptive).mean == 1.0
    assert row_of(*adaptive).mean == 5.0


def test_every_cell_names_the_runs_it_came_from() -> None:
    row = row_of(a_record(0), a_record(1, gold=2.0), a_record(2, cause=Cause.NON_FINITE))
    assert row.run_ids["best"] == ("r1.0",)
    assert row.run_ids["mean"] == ("r0.0", "r1.0")
    assert row.run_ids["failures"] == ("r2.0",)
    (said,) = json.loads(render(Comparison((row,), None, ()), "json"))["rows"]
    assert said["run_ids"]["best"] == ["r1.0"]


def test_words_that_were_not_measured_are_not_said() -> None:
    row = row_of(a_record())
    assert (row.stability, row.difference) == (None, None)


def test_one_block_is_printed_with_its_error_as_too_small_and_optimistic() -> None:
    text = shown(a_record(0, gold=1.4873), a_record(1))
    assert "1.49* ±0.07 (n too small)" in text
    assert "too good on average" in text
    assert "fewer than 3 data draws" in text


def test_a_single_trial_was_not_chosen_and_is_not_marked() -> None:
    text = shown(a_record(0, gold=1.4873))
    assert "1.49 ±0.07" in text
    assert "too good on average" not in text


def test_a_confirmed_quality_is_printed_with_its_interval_and_no_mark() -> None:
    confirmed = [a_record(0, gold=gold, block=b, phase="confirm") for b, gold in enumerate([1.0, 1.2, 1.4], start=1)]
    text = shown(a_record(0), a_record(1, gold=0.5), *confirmed)
    assert "1.2 [0.7, 1.7]" in text
    assert "too small" not in text


def test_notes_speak_only_of_what_is_in_the_table() -> None:
    quiet = shown(a_record(0))
    assert "stopped" not in quiet
    loud = shown(a_record(0), a_record(1, cause=Cause.USER_STOP), a_record(2, cause=Cause.WORKER_LOST))
    assert "1 run was stopped" in loud
    assert "1 run was lost" in loud


def test_the_scenario_is_a_column_only_where_there_are_several() -> None:
    noisy = Stratum("ipo", "noisy", ("ipo",), 3)
    assert "Scenario" not in render(comparison([a_record()], GOLD, [IPO]))
    assert "noisy" in render(comparison([a_record()], GOLD, [IPO, noisy]))


def test_a_mixture_tells_its_losses() -> None:
    text = render(comparison([], GOLD, [Stratum("mix", "clean", ("sigmoid", "ipo"), 3)]))
    assert "mix (sigmoid+ipo)" in text


def test_a_stratum_without_a_share_of_its_own_prints_only_what_is_done() -> None:
    stratum = Stratum("ipo", "clean", ("ipo",), trials=0)
    assert "1/0" not in render(comparison([a_record()], GOLD, [stratum]))


def test_csv_holds_unrounded_numbers_one_a_column() -> None:
    (line,) = csv.DictReader(io.StringIO(shown(a_record(0, gold=1.23456789), format="csv")))
    assert (line["best"], line["best_low"], line["failed"], line["failed_of"]) == ("1.23456789", "", "0", "1")


def test_beside_an_accuracy_stands_what_the_length_of_the_answers_gives_away() -> None:
    record = a_record(metrics={"gold": 1.0, "accuracy": 0.7, "ranking_gain": 0.1, "length_baseline": 0.625})
    for metric, beside in (("accuracy", True), ("train_accuracy", True), ("ranking_gain", False), ("gold", False)):
        table = comparison([record], Objective(metric=metric), [IPO])
        text = render(table, "markdown")
        assert ("Longer answer" in text, "picking the longer" in text) == (beside, beside and metric == "accuracy")
        assert ("0.625" in text) == (beside and metric == "accuracy")
        (line,) = csv.DictReader(io.StringIO(render(table, "csv")))
        assert line["length_baseline"] == ("" if metric == "train_accuracy" else "0.625")


def test_who_judged_is_said_and_that_scores_of_two_judges_do_not_compare() -> None:
    one, other = (a_record(trial, facts={"judge": f"function my:{name}"}) for trial, name in enumerate("ab"))
    assert "Gold by function my:a." in shown(one)
    assert "Gold by function my:a and by function my:b; not comparable" in shown(one, other).replace("\n", " ")
    assert "Gold by" not in shown(a_record())


def test_weights_that_are_shares_of_the_gradient_are_said_to_be() -> None:
    balanced = a_record(facts={"loss_weight.sigmoid": "0.7", "loss_weight.ipo": "0.016"})
    assert "ipo: loss_weights are shares of the gradient before training" in shown(balanced).replace("\n", " ")
    assert "shares of the gradient" not in shown(a_record())


def test_markdown_is_a_table_with_as_many_cells_in_every_row() -> None:
    lines = [line for line in shown(a_record(), format="markdown").splitlines() if line.startswith("|")]
    assert len(lines) == 3
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.parametrize("width", [80, 100, 149, 150, 200])
def test_text_fits_the_screen_and_breaks_no_word(width: int) -> None:
    knobs = {"beta": 0.25, "learning_rate": 0.00328, "label_smoothing": 0.1}
    text = shown(a_record(0, knobs=knobs), a_record(1, gold=0.5), width=width)
    assert max(map(len, text.splitlines())) <= width
    for word in ("1.00*", "learning_rate=0.00328", "label_smoothing=0.1", "Stability", "[0-84%]"):
        assert word in text
    assert "\x1b" not in text


def test_no_rows_print_without_an_error() -> None:
    nothing = Comparison((), None, ())
    assert "Loss" in render(nothing)
    assert json.loads(render(nothing, "json"))["rows"] == []


CONFIRMED = pool({"sigmoid": 0.0, "ipo": 0.0, "hinge": -0.2}, confirm=range(3, 33), task_sd=0.0)


def compared(records: Sequence[RunRecord] = CONFIRMED, baseline: str | None = "sigmoid") -> Comparison:
    strata = [Stratum(name, "clean", (name,), 12) for name in ("sigmoid", "ipo", "hinge")]
    return comparison(records, GOLD, strata, baseline=baseline, source="embedded")


def test_differences_come_from_confirm_runs_and_name_who_chose_and_who_judged() -> None:
    sigmoid, ipo, hinge = compared().rows
    assert sigmoid.difference is None
    assert ipo.difference is not None
    assert hinge.difference is not None
    assert (ipo.difference.word, hinge.difference.word) == ("tie", "worse")
    assert ipo.unit == "U"
    assert all(run_id.endswith("confirm") for run_id in ipo.run_ids["difference"])
    assert len(ipo.run_ids["difference"]) == 60
    assert {run_id.rsplit("-", 1)[1] for run_id in ipo.run_ids["chosen_by"]} == {"unbiased"}


def test_runs_that_chose_never_judge() -> None:
    """Raising the numbers of the arm that chooses moves no difference."""
    lifted = [
        r.model_copy(update={"metrics": {**r.metrics, "gold": r.metrics["gold"] + 5.0}})
        if r.phase == "unbiased" and r.variant == "ipo"
        else r
        for r in CONFIRMED
    ]
    assert compared(lifted).rows[1].difference == compared().rows[1].difference
    unconfirmed = [r for r in CONFIRMED if r.phase == "unbiased"]
    assert all(row.difference is None for row in compared(unconfirmed).rows)


def test_a_confirm_phase_that_broke_gives_no_difference() -> None:
    best, knobs = compared().rows[1].best, compared().rows[1].knobs
    broken = a_record(best.trial, phase="confirm", key="broken", cause=Cause.COLLAPSED, knobs=knobs)
    row = compared([*CONFIRMED, broken]).rows[1]
    assert row.difference is None
    assert (row.failures.k, row.later[0]) == (0, 1)


def out_of_bounds(record: RunRecord) -> RunRecord:
    return record.model_copy(update={"metrics": {**record.metrics, "kl": 1e3}})


def of_hinge_nothing_is_within(bounded: Objective) -> Comparison:
    of_hinge = [r for r in CONFIRMED if r.variant == "hinge" and r.phase == "unbiased"]
    records = [r for r in CONFIRMED if r.variant != "hinge"] + [out_of_bounds(r) for r in of_hinge]
    strata = [Stratum(name, "clean", (name,), 12) for name in ("sigmoid", "ipo", "hinge")]
    budgets = {"clean": [100.0]}
    return comparison(records, bounded, strata, baseline="sigmoid", source="embedded", kl_budgets=budgets)


def test_a_loss_without_a_config_within_the_bounds_gets_these_words_and_no_number() -> None:
    table = of_hinge_nothing_is_within(GOLD.within_kl(100.0))
    _, ipo, hinge = table.rows
    assert hinge.best is None
    assert hinge.difference is None
    assert hinge.improvement is None
    assert hinge.said == "no config within 100 nats (0 of 12)"
    assert ipo.difference.word == "tie"
    for format in ("markdown", "html", "csv", "json"):
        assert "no config within 100 nats (0 of 12)" in render(table, format), format
        assert "untrained model" not in render(table, format), format
    (at_kl,) = [row for row in table.at_kl if row.variant == "hinge"]
    assert (at_kl.value, at_kl.said) == (None, "no config within 100 nats (0 of 12)")
    assert render(table, "markdown").count("no config within 100 nats (0 of 12)") >= 2


def test_a_baseline_without_a_config_within_the_bounds_is_no_number_to_beat() -> None:
    records = [out_of_bounds(r) if r.variant == "sigmoid" else r for r in CONFIRMED]
    strata = [Stratum(name, "clean", (name,), 12) for name in ("sigmoid", "ipo", "hinge")]
    table = comparison(records, GOLD.within_kl(100.0), strata, baseline="sigmoid", source="embedded")
    assert all(row.difference is None for row in table.rows)
    assert table.rows[1].said == "sigmoid has no config within 100 nats (0 of 12)"


def judged_at(kl: Mapping[str, float], records: Sequence[RunRecord] = CONFIRMED) -> Sequence[RunRecord]:
    """The records with another mean KL of the confirm runs, by variant, that varies by a tenth of a nat a block."""
    return [
        r.model_copy(update={"metrics": {**r.metrics, "kl": kl[r.variant] + 0.1 * (-1) ** r.block}})
        if r.phase == "confirm" and r.variant in kl
        else r
        for r in records
    ]


def within_six(records: Sequence[RunRecord]) -> Sequence[Row]:
    strata = [Stratum(name, "clean", (name,), 12) for name in ("sigmoid", "ipo", "hinge")]
    return comparison(records, GOLD.within_kl(6.5), strata, baseline="sigmoid", source="embedded").rows


def test_runs_that_judge_keep_the_bound_or_nothing_is_said_but_that_they_broke_it() -> None:
    _, ipo, hinge = within_six(judged_at({"sigmoid": 5.0, "ipo": 9.3, "hinge": 5.0}))
    assert ipo.difference is None
    assert ipo.improvement is None
    assert ipo.said == "broke the bound when retested (KL 9.30, at most 6.5)"
    assert hinge.difference.word == "worse"


def test_a_mean_within_the_bound_whose_upper_limit_is_beyond_it_is_not_shown_to_keep_it() -> None:
    _, ipo, hinge = within_six(judged_at({"sigmoid": 5.0, "ipo": 6.48, "hinge": 6.4}))
    assert ipo.difference is None
    assert ipo.said == "not shown to keep the bound when retested (KL 6.48, up to 6.51, at most 6.5)"
    assert hinge.difference.word == "worse"


def test_nothing_is_compared_with_a_baseline_that_broke_the_bound_when_retested() -> None:
    rows = within_six(judged_at({"sigmoid": 9.3, "ipo": 5.0, "hinge": 5.0}))
    assert [row.difference for row in rows] == [None] * 3
    assert rows[0].said == "broke the bound when retested (KL 9.30, at most 6.5)"
    assert rows[1].said == "sigmoid broke the bound when retested (KL 9.30, at most 6.5)"


NOTHING = "nothing to compare: the baseline itself gained nothing that can be seen"


def test_no_tie_is_said_with_a_baseline_that_gained_nothing() -> None:
    """Two losses that both do nothing are equivalent, and that says nothing of either."""
    flat = [
        r.model_copy(
            update={"metrics": {**r.metrics, "gold": r.metrics["gold"] - gold_of(r.block, 1.1) + gold_of(r.block, 0)}}
        )
        for r in CONFIRMED
    ]
    assert compared().rows[1].difference.word == "tie"
    table = compared(flat)
    ipo, hinge = table.rows[1:]
    assert (ipo.difference.word, ipo.difference.instead) == ("inconclusive", NOTHING)
    assert hinge.difference.word == "worse"
    for format in ("markdown", "csv", "json", "html"):
        assert NOTHING in render(table, format), format


def test_a_tie_in_a_judges_gold_needs_the_untrained_models_own() -> None:
    def table(facts: Mapping[str, str]) -> Comparison:
        strata = [Stratum(name, "clean", (name,), 12) for name in ("sigmoid", "ipo")]
        own = [r.model_copy(update={"facts": facts}) for r in CONFIRMED]
        objective = GOLD.model_copy(update={"tie_within": 0.3})
        return comparison(own, objective, strata, baseline="sigmoid", source="a file")

    assert table({"reference_gold": "-1.0"}).rows[1].difference.word == "tie"
    assert table({"reference_gold": "9.0"}).rows[1].difference.instead == NOTHING
    unknown = table({}).rows[1].difference
    assert unknown.instead == "nothing to compare: what the untrained model is worth was not measured"


def test_a_loss_that_has_trials_left_is_not_said_to_have_nothing() -> None:
    of_hinge = [r for r in CONFIRMED if r.variant == "hinge" and r.phase == "unbiased" and r.trial < 11]
    records = [r for r in CONFIRMED if r.variant != "hinge"] + [out_of_bounds(r) for r in of_hinge]
    strata = [Stratum(name, "clean", (name,), 12) for name in ("sigmoid", "ipo", "hinge")]
    table = comparison(records, GOLD.within_kl(100.0), strata, baseline="sigmoid", source="embedded")
    assert table.rows[2].difference is None


def test_the_difference_and_its_word_stand_in_every_format() -> None:
    table = compared()
    for format in FORMATS:
        text = render(table, format)
        assert "worse" in text, format
        assert "tie" in text, format
    (line,) = [r for r in csv.DictReader(io.StringIO(render(table, "csv"))) if r["variant"] == "hinge"]
    assert float(line["difference"]) == table.rows[2].difference.estimate.value
    assert (line["difference_blocks"], line["difference_unit"]) == ("30", "U")


def test_without_a_baseline_nothing_is_compared() -> None:
    text = render(compared(baseline=None))
    assert "vs " not in text


def test_without_confirm_runs_the_table_says_that_nothing_is_decided() -> None:
    text = render(compared([r for r in CONFIRMED if r.phase == "unbiased"]), width=1000)
    assert "No retests" in text


@pytest.mark.parametrize("width", [80, 100, 150, 200])
def test_the_whole_comparison_fits_the_screen(width: int) -> None:
    text = render(claimed(), "text", width)
    assert max(map(len, text.splitlines())) <= width
    for word in ("supported", "Margin"):
        assert word in text, word


def claimed() -> Comparison:
    verdicts = tuple(
        Verdict(BY_ID[name], "supported", f"as {name} was seen") for name in ("ipo-speed", "hinge-best-for")
    )
    return replace(compared(), verdicts=verdicts)


@pytest.mark.parametrize("format", ["text", "markdown", "html"])
def test_claims_are_printed_with_why_where_the_study_names_them_and_else_the_guide_is_not(format: Format) -> None:
    text, without = render(claimed(), format, 200), render(compared(), format, 200)
    assert "as ipo-speed was seen" in text
    assert "Margin objectives" in text
    assert "guide" not in without.lower()
    assert "Margin objectives" not in without


def test_the_page_is_well_formed_needs_no_network_and_holds_the_runs_behind_each_row() -> None:
    text = render(claimed(), "html")
    root = ElementTree.fromstring(text.removeprefix("<!doctype html>").replace('<meta charset="utf-8">', ""))
    rows, spaces, guide, claims = root.findall(".//table")
    assert len(guide.findall("./tbody/tr")) == 2
    assert len(rows.findall("./tbody/tr")) == len(spaces.findall("./tbody/tr")) == 3
    assert len(claims.findall("./tbody/tr")) == 2
    assert not re.search(r"(src|href)=|https?://", text)
    assert compared().rows[1].run_ids["difference"][0] in text


def test_cells_with_markup_in_them_are_escaped() -> None:
    text = render(comparison([], GOLD, [Stratum("<b>", "clean", ("ipo",), 1)]), "html")
    assert "<b>" not in text
    assert "&lt;b&gt;" in text


def test_spaces_stand_below_the_rows_with_their_box_and_their_frontier() -> None:
    text = render(compared(), width=200)
    assert "KL 0.5 (U)" in text
    assert "Tried by sigmoid, ipo, hinge: beta 0.143 to 0.833" in text
    assert "KL 0.5" not in render(compared([r.model_copy(update={"halves": {}}) for r in CONFIRMED]), width=200)


def test_the_probability_of_improvement_and_the_middle_come_from_confirm_runs() -> None:
    sigmoid, ipo, hinge = compared().rows
    assert sigmoid.improvement is None
    assert ipo.improvement.value == pytest.approx(0.5, abs=0.2)
    assert hinge.improvement.value < 0.1
    assert ipo.middle - hinge.middle == pytest.approx(0.2, abs=0.05)
    assert compared([r for r in CONFIRMED if r.phase == "unbiased"]).rows[1].middle is None


def test_the_guides_own_table_comes_back_with_a_verdict_on_each_word() -> None:
    text = render(claimed(), "markdown")
    assert "| Loss | Speed | Stability | Best for |" in text
    assert "| ipo | Fast: supported | - | - |" in text
    assert "| hinge | - | - | Margin objectives: supported |" in text


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_records_changes_nothing(seed: int) -> None:
    shuffled = random.Random(seed).sample(CONFIRMED, len(CONFIRMED))
    assert render(compared(shuffled), "json") == render(compared(), "json")


def test_another_loss_changes_no_row_but_by_the_correction() -> None:
    two = [Stratum(name, "clean", (name,), 12) for name in ("sigmoid", "ipo")]
    alone = comparison(CONFIRMED, GOLD, two, baseline="sigmoid", source="embedded").rows
    for row, with_hinge in zip(alone, compared().rows, strict=False):
        assert replace(row, difference=None) == replace(with_hinge, difference=None)
        if row.difference is not None:
            assert replace(row.difference, p_holm=None) == replace(with_hinge.difference, p_holm=None)
