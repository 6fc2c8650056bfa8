"""The answer: what to use, what is as good, what to avoid, what is open, and what would settle it."""

from __future__ import annotations

from dataclasses import replace

from dashboards.tables.short import verdict
from dashboards.tuned.answer import Answer, Cost, answer, reason_to_avoid
from dashboards.tuned.replicates import End
from studies.records import Cause, RunRecord
from tests.dashboards.tuned.replicated import a_run, replicated
from tests.dashboards.tuned.test_losses import compared

BASE = [0.50, 0.55, 0.45, 0.52, 0.48, 0.50]
SAME = [gain + 0.005 * (-1) ** i for i, gain in enumerate(BASE)]
WORSE = [gain - 0.2 + 0.01 * (-1) ** i for i, gain in enumerate(BASE)]
OPEN = [gain + 0.035 * (-1) ** i for i, gain in enumerate(BASE)]
WIDE = [gain + 0.1 * (-1) ** i for i, gain in enumerate(BASE)]


def said(gains: dict[str, list[float]], seconds: float | None = 2.0) -> Answer:
    return answer(compared(replicated(gains)), 0.03, Cost(len(gains) * 3, seconds))


def test_the_baseline_is_used_where_nothing_is_shown_better_or_more_forgiving() -> None:
    found = said({"sigmoid": BASE, "ipo": SAME, "hinge": WORSE})
    assert found.use == "sigmoid"
    assert found.as_good == ("ipo",)
    assert set(found.avoid) == {"hinge"}
    assert "gains less than" in found.avoid["hinge"]
    assert found.undecided == ()


def test_a_loss_that_is_shown_better_is_used_and_the_baseline_is_not_among_the_best() -> None:
    found = said({"sigmoid": WORSE, "ipo": BASE, "hinge": SAME})
    assert found.use in ("ipo", "hinge")
    assert "sigmoid" in found.avoid


def test_what_is_not_told_apart_is_named_with_the_command_that_would() -> None:
    found = said({"sigmoid": BASE, "ipo": OPEN})
    assert found.undecided == ("ipo",)
    assert found.settle is not None
    assert found.settle.overrides[0].startswith("replicates=")
    assert found.settle.runs % 6 == 0  # two losses, two settings and a judge
    assert found.settle.minutes is not None
    assert f"--set {found.settle.overrides[0]}" in found.text


def test_no_loss_is_named_where_the_gain_cannot_be_seen() -> None:
    found = said({"sigmoid": [0.05, -0.06, 0.04, -0.03, 0.01, 0.0], "ipo": [0.02, 0.01, -0.04, 0.0, 0.03, -0.02]})
    assert found.use is None
    assert found.text.startswith("Nothing was learnt that can be seen")


NOTHING = {"sigmoid": [0.05, -0.06, 0.04, -0.03, 0.01, 0.0], "ipo": [0.02, 0.01, -0.04, 0.0, 0.03, -0.02]}


def test_what_to_try_goes_by_what_the_runs_did() -> None:
    found = replace(compared(replicated(NOTHING)), drift=None)

    def advice(drift: float | None, gap: float | None) -> str:
        ends = tuple(replace(one, end=End(drift, None, gap)) for one in found.losses)
        return answer(replace(found, losses=ends), 0.03, Cost(6)).text

    assert "Train longer (base.max_steps)" in advice(0.3, 0.05)
    assert "they are at most 0.3 nats from" in advice(0.3, None)
    assert "before comparing." in advice(None, None), "what was not measured is not told"
    assert "learnt by heart: up to 40 points" in advice(0.3, 0.4)
    assert "fewer steps (base.max_steps)" in advice(50.0, 0.4)
    assert "Runs did move, up to 50 nats" in advice(50.0, 0.05)


def test_runs_that_got_to_the_drift_and_gained_nothing_are_not_to_be_trained_longer() -> None:
    text = answer(compared(replicated(NOTHING)), 0.03, Cost(6)).text
    assert "Runs did move, up to 4 nats" in text, "of the end, not of the step that would be exported"
    assert "Train longer" not in text


def test_losses_that_gain_and_break_are_not_said_to_have_learnt_nothing() -> None:
    records = [
        a_run(name, r, t, 0.5, cause=Cause.COLLAPSED if t else Cause.FINISHED, judging=judging)
        for name in ("sigmoid", "ipo")
        for r in range(1, 7)
        for t, judging in ((0, False), (1, False), (2, False), (0, True))
    ]
    text = answer(compared(records, points=3), 0.03, Cost(6)).text
    assert text.startswith("Every loss that gains something is to be avoided")
    assert "Narrow the ranges (space)" in text
    assert "Train longer" not in text


def test_no_loss_is_named_without_runs_that_judged() -> None:
    tuning = [record for record in replicated({"sigmoid": BASE, "ipo": SAME}) if record.phase != "confirm"]
    found = answer(compared(tuning), 0.03, Cost(6))
    assert found.use is None
    assert found.text.startswith("No loss is named yet: 0 of 6 replicates are whole")


def test_a_loss_that_breaks_at_most_settings_is_avoided_though_its_best_is_as_good() -> None:
    records = replicated({"sigmoid": BASE, "discopop": SAME})
    records += [a_run("discopop", r, n, 0.1, cause=Cause.INVERTED) for r in range(1, 7) for n in (2, 3, 4)]
    found = answer(compared(records), 0.03, Cost(6))
    assert "18 of its 30 settings broke" in found.avoid["discopop"]
    assert "discopop" not in found.as_good


def test_the_row_of_a_loss_to_avoid_has_the_word_of_the_reason_that_the_answer_gives() -> None:
    """Also of a loss whose settings worked and whose judging runs broke, and of one that never gained."""
    records = replicated({"sigmoid": BASE, "discopop": SAME, "ipo": SAME, "hinge": [-0.2] * 6})
    records += [a_run("discopop", r, n, 0.1, cause=Cause.INVERTED) for r in range(1, 7) for n in (2, 3, 4)]
    found = compared(records)
    ipo = replace(next(one for one in found.losses if one.variant == "ipo"), broke_again=4)
    hinge = replace(next(one for one in found.losses if one.variant == "hinge"), worked=0, stability=None)
    losses = tuple({"ipo": ipo, "hinge": hinge}.get(one.variant, one) for one in found.losses)
    found = replace(found, losses=losses, best=None)
    words = {one.variant: reason.word for one in losses if (reason := reason_to_avoid(found, one))}
    assert words == {"discopop": "breaks", "ipo": "breaks", "hinge": "no gain"}
    said = answer(replace(compared(records), losses=losses), 0.03, Cost(6))
    rows = {one.variant: verdict(one, found, said) for one in losses if one.variant in said.avoid}
    assert {name: row for name, row in rows.items() if name in words} == {n: f"avoid: {w}" for n, w in words.items()}


def test_nothing_is_said_before_a_run_has_ended() -> None:
    assert said({"sigmoid": []}).text == "Nothing is known yet: no run has ended."


def test_a_best_setting_at_the_edge_of_what_was_tried_is_said_with_the_range_that_would_tell() -> None:
    found = answer(compared(replicated({"sigmoid": BASE, "ipo": SAME}, points=4), points=4), 0.03, Cost(6))
    assert "Its best learning_rate was the highest tried" in found.text  # the last point is always the best here
    assert "--set space.learning_rate.high=" in found.text
    assert "was the highest tried" not in said({"sigmoid": BASE, "ipo": SAME}).text  # two points have no middle


def test_the_baseline_is_as_good_as_another_that_is_used_only_where_that_is_shown() -> None:
    sigmoid = [gain + 0.08 * (-1) ** i for i, gain in enumerate(BASE)]
    found = compared(replicated({"sigmoid": sigmoid, "bco_pair": BASE}))
    forgiving = next(loss for loss in found.losses if loss.variant == "bco_pair")
    stable = forgiving.stability
    assert stable is not None
    better = replace(forgiving, stability=replace(stable, word="Better"))
    used = answer(replace(found, losses=(found.losses[0], better)), 0.03, Cost(6))
    assert used.use == "bco_pair"
    assert used.undecided == ("sigmoid",)


def test_what_too_many_replicates_would_settle_is_said_to_take_too_many() -> None:
    found = said({"sigmoid": BASE, "ipo": WIDE})
    assert found.settle is None
    assert "would take more than 24 replicates" in found.text


def test_a_loss_is_never_both_to_use_and_to_avoid() -> None:
    records = replicated({"sigmoid": BASE, "ipo": SAME})
    records += [a_run("sigmoid", r, n, 0.1, cause=Cause.INVERTED) for r in range(1, 7) for n in (2, 3, 4)]
    found = answer(compared(records), 0.03, Cost(6))
    assert found.use == "ipo"
    assert "sigmoid" in found.avoid
    assert "shown better" not in found.text


def test_a_study_of_one_loss_names_none_and_asks_for_nothing() -> None:
    found = said({"sigmoid": BASE})
    assert found.use is None
    assert found.text.startswith("No loss is named: there is one alone")


def test_what_settles_costs_the_runs_of_all_conditions() -> None:
    found = answer(compared(replicated({"sigmoid": BASE, "ipo": OPEN})), 0.03, Cost(20, 3.0, ("confirm=null",)))
    assert found.settle is not None
    more = int(found.settle.overrides[-1].removeprefix("replicates=")) - 6
    assert found.settle.overrides[0] == "confirm=null"
    assert (found.settle.runs, found.settle.minutes) == (more * 20, more * 20 * 3.0 / 60.0)


def test_a_judging_run_that_broke_before_its_step_is_said_and_not_averaged_away() -> None:
    curves = {"gold": ((10, 1.0),), "kl": ((10, 1.1),)}  # past the drift, and gone before step 20
    found = answer(compared(_with_broken_judge(curves)), 0.03, Cost(6))
    assert found.use == "sigmoid"
    assert "on 5 of 6 fresh draws of the data (it broke on the others)" in found.text


def test_where_a_judging_run_broke_before_the_drift_its_loss_says_so_and_has_no_gain() -> None:
    found = answer(compared(_with_broken_judge({"gold": ((10, 1.0),), "kl": ((10, 0.1),)})), 0.03, Cost(6))
    assert found.use is None
    assert "sigmoid broke when judged in 1 of 6 draws" in found.text


def _with_broken_judge(curves: dict[str, tuple[tuple[int, float], ...]]) -> list[RunRecord]:
    sound = [r for r in replicated({"sigmoid": BASE, "ipo": SAME}) if r.run_id != "sigmoid-2-1-judge"]
    return [*sound, a_run("sigmoid", 2, 1, 0.5, judging=True, cause=Cause.NON_FINITE, curves=curves, metrics={})]


def test_an_answer_says_that_it_may_change_while_replicates_are_missing() -> None:
    gains = {"sigmoid": BASE, "ipo": SAME}
    half = answer(compared(replicated(gains), replicates=12), 0.03, Cost(6))
    assert half.text.startswith("So far, by 6 of 12 replicates (it may still change): use sigmoid (")
    assert said(gains).text.startswith("Use sigmoid (")
