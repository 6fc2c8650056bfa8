"""Each prediction is held, failed or undecided by made records that are so; and the page shows what the records say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from studies.records import Cause, RunRecord
from studies.records.speed import Ratio, Speed, Timings
from tests.benchmarks.carry_over.__main__ import RESULTS, kind, outcomes, table, whole_draws
from tests.benchmarks.carry_over.predictions import (
    TIMED,
    Outcome,
    chosen_at,
    falls,
    forgives,
    inverts,
    kept,
    lowers,
    ranks,
    speed,
    tau_limits,
    ties,
)
from tests.dashboards.generated import a_record

STEPS = (8, 12, 18, 28)


def a_run(
    variant: str, draw: int, trial: int = 0, gain: float = 0.0, phase: str = "fixed", **changes: Any
) -> RunRecord:
    """A run on real text that gains `gain` at 1 nat, and twice as much at its end at 4 nats, from a gold of .2."""
    kls = (0.25, 1.0, 2.25, 4.0)
    golds = tuple((step, 0.2 + gain * kl**0.5) for step, kl in zip(STEPS, kls, strict=True))
    fields: dict[str, Any] = {
        "run_id": f"{variant}-{draw}-{trial}-{phase}",
        "block": draw,
        "phase": phase,
        "metrics": {"gold": golds[-1][1], "kl": 4.0, "length_ratio": 1.0},
        "curves": {"kl": tuple(zip(STEPS, kls, strict=True)), "gold": golds},
        "facts": {"source": "stories_sentiment", "reference_gold": "0.2"},
    }
    return a_record(changes.pop("cause", Cause.FINISHED), variant=variant, trial=trial, **(fields | changes))


def timed(**ratios: tuple[float, float, float]) -> Speed:
    of = {name: Ratio(value=value, low=low, high=high) for name, (value, low, high) in ratios.items()}
    null = Ratio(value=1.0, low=1.0, high=1.0)
    losses = Timings(ratios=of, null=null, rounds=50, seconds=1.0)
    return Speed(
        asked="", baseline="sigmoid", machine={}, device="cpu", threads=1, date="", step_seconds=0.1, losses=losses
    )


@pytest.mark.parametrize(
    ("ipo", "word"),
    [
        ((1.002, 1.001, 1.003), "held"),
        ((1.009, 1.001, 1.017), "undecided"),
        ((1.03, 1.02, 1.04), "failed"),
    ],
)
def test_speed_is_held_where_every_interval_lies_within_one_percent(ipo: Any, word: str) -> None:
    others = timed(**dict.fromkeys(TIMED - {"ipo"}, (1.0, 0.999, 1.001)))
    assert speed([others, timed(ipo=ipo)]).word == word
    assert speed([timed(ipo=ipo)]).word == ("failed" if word == "failed" else "undecided"), "five were not timed"
    assert speed([]).word == "undecided"


@pytest.mark.parametrize(
    ("margins", "word"),
    [([-1.0] * 6, "held"), ([-1.0] * 5 + [1.0], "undecided"), ([1.0] * 6, "failed"), ([-1.0] * 4, "undecided")],
)
def test_discopop_is_inverted_where_a_sign_test_over_draws_says_so(margins: Sequence[float], word: str) -> None:
    runs = [
        a_run("discopop", draw, trial, metrics={"margin": margin})
        for draw, margin in enumerate(margins)
        for trial in (0, 1)
    ]
    assert inverts(runs).word == word
    mixed = [run if run.trial else run.model_copy(update={"metrics": {"margin": 5.0}}) for run in runs]
    assert word != "held" or inverts(mixed).word == "undecided"


def shifted(variant: str, draw: int, *path: tuple[float, float]) -> RunRecord:
    curves = {
        "margin": tuple((step, margin) for step, (margin, _) in zip(STEPS, path, strict=False)),
        "chosen_shift": tuple((step, chosen) for step, (_, chosen) in zip(STEPS, path, strict=False)),
    }
    return a_run(variant, draw, curves=curves)


def test_the_chosen_side_is_read_where_the_margin_first_is_large_enough() -> None:
    assert chosen_at(shifted("sigmoid", 0, (1.0, -1.0), (3.0, -4.0), (1.0, 0.0)), 2.0) == -2.5
    assert chosen_at(shifted("sigmoid", 0, (4.0, -8.0)), 2.0) == -4.0
    assert chosen_at(shifted("sigmoid", 0, (-1.0, -8.0), (1.9, 0.0)), 2.0) is None


@pytest.mark.parametrize(
    ("down", "draws", "word"), [(-8.0, 6, "held"), (-4.0, 6, "failed"), (-8.0, 4, "undecided"), (-6.0, 0, "undecided")]
)
def test_apo_down_lowers_the_chosen_side_by_more_than_five_nats_or_does_not(down: float, draws: int, word: str) -> None:
    runs = [shifted("sigmoid", d, (2.0, -0.5)) for d in range(draws)]
    runs += [shifted("apo_down", d, (2.0, down - 0.1 * d)) for d in range(draws)]
    assert lowers(runs).word == word


def judged(**gains: Sequence[float]) -> list[RunRecord]:
    return [a_run(name, draw, 0, gain, "confirm") for name, of in gains.items() for draw, gain in enumerate(of)]


@pytest.mark.parametrize(
    ("sigmoid", "hinge", "word"),
    [
        ((0.3, 0.31, 0.29, 0.3), (0.31, 0.3, 0.3, 0.31), "held"),
        ((0.3, 0.31, 0.29, 0.3), (0.1, 0.11, 0.12, 0.1), "failed"),
        ((0.3, 0.31, 0.29, 0.3), (0.1, 0.5, 0.2, 0.4), "undecided"),
        ((0.01, -0.02, 0.01, 0.01), (0.1, 0.11, 0.12, 0.1), "undecided"),
        ((0.3, 0.31), (0.3, 0.3), "undecided"),
    ],
)
def test_tuned_losses_tie_within_a_third_of_what_sigmoid_gains(
    sigmoid: Sequence[float], hinge: Sequence[float], word: str
) -> None:
    assert ties(judged(sigmoid=sigmoid, hinge=hinge, bco_pair=[g + 0.01 for g in sigmoid])).word == word


def test_a_tie_is_read_at_the_drift_that_all_get_to() -> None:
    short = [
        run.model_copy(update={"curves": {name: points[:1] for name, points in run.curves.items()}})
        for run in judged(hinge=(0.3, 0.31, 0.3))
    ]
    found = ties([*short, *judged(sigmoid=(0.3, 0.31, 0.29), bco_pair=(0.3, 0.3, 0.3))])
    assert "at 0.25 nats" in found.found
    assert found.n == "3 replicates"


def tried(variant: str, gains: Sequence[float], draws: int = 4, **changes: Any) -> list[RunRecord]:
    """Settings that gain so much, a little more in every later draw."""
    return [
        a_run(variant, draw, trial, gain + 0.01 * draw, **changes)
        for draw in range(draws)
        for trial, gain in enumerate(gains)
    ]


def test_what_a_random_setting_keeps_counts_broken_ones_as_nothing() -> None:
    runs = tried("sigmoid", (0.3, 0.3)) + [a_run("sigmoid", draw, 2, 0.3, cause=Cause.COLLAPSED) for draw in range(4)]
    shares = kept(runs)
    assert sum(shares.values()) / 4 == pytest.approx(2 / 3)
    assert kept(run for run in runs if (run.block, run.trial) != (3, 0)).keys() == {0, 1, 2}


@pytest.mark.parametrize(
    ("sigmoid", "word"), [((0.5, 0.0, 0.0, 0.0), "held"), ((0.5, 0.5, 0.4, 0.4), "failed"), ((), "undecided")]
)
def test_losses_forgive_twice_as_much_or_do_not(sigmoid: Sequence[float], word: str) -> None:
    others = tried("bco_pair", (0.5, 0.5, 0.4, 0.4)) + tried("sppo_hard", (0.5, 0.5, 0.4, 0.4))
    assert forgives([*tried("sigmoid", sigmoid), *others]).word == word


def falling(variant: str, draw: int, fall: float) -> RunRecord:
    gold = (0.3, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6 - fall, 0.6 - fall)
    return a_run(variant, draw, curve_halves={"gold": tuple((10 * i, g, g) for i, g in enumerate(gold))})


@pytest.mark.parametrize(
    ("ipo", "hinge", "word"),
    [(0.1, 0.1, "held"), (0.1, 0.2, "undecided"), (0.3, 0.1, "failed")],
)
def test_sigmoid_falls_more_than_both_others_or_does_not(ipo: float, hinge: float, word: str) -> None:
    of = {"sigmoid": 0.2, "ipo": ipo, "hinge": hinge}
    runs = [falling(name, draw, fall) for name, fall in of.items() for draw in range(8)]
    assert falls(runs).word == word


def ranked(order: Sequence[int]) -> list[RunRecord]:
    return [
        a_run(name, draw, trial, 0.1 + 0.01 * order[8 * i + trial])
        for i, name in enumerate(("sigmoid", "bco_pair", "sppo_hard"))
        for trial in range(8)
        for draw in range(2)
    ]


def test_ranks_are_alike_unlike_or_cannot_be_told() -> None:
    up = ranked(range(24))
    assert ranks(up, ranked(range(24))).word == "held"
    assert ranks(up, ranked(range(24, 0, -1))).word == "failed"
    few = [run for run in up if run.variant == "sigmoid"]
    assert ranks(up, few) == Outcome("P7", "undecided", "too few settings get to 1 nat at both scales", "8 settings")


def test_the_limits_of_tau_are_fishers() -> None:
    low, high = tau_limits(0.4, 24)
    assert (round(low, 3), round(high, 3)) == (0.133, 0.613)


def test_only_whole_draws_are_kept() -> None:
    runs = [a_run("sigmoid", 0), a_run("ipo", 0), a_run("sigmoid", 1), a_run("ipo", 1, cause=None)]
    assert {run.block for run in whole_draws(runs, 2)} == {0}


def test_a_finding_is_seen_at_two_scales_only_where_its_prediction_held() -> None:
    assert kind(Outcome("P2", "held", "", "")) == "follows from the formula, seen at 2 scales"
    assert kind(Outcome("P2", "undecided", "", "")) == "follows from the formula"
    assert kind(Outcome("P4", "held", "", "")) == "seen at 2 scales"
    assert {kind(Outcome("P4", word, "", "")) for word in ("failed", "undecided")} == {"toy only"}


def test_without_records_all_is_undecided(tmp_path: Path) -> None:
    assert {one.word for one in outcomes(tmp_path)} == {"undecided"}


def test_the_page_shows_what_its_records_say() -> None:
    page = (RESULTS / "README.md").read_text(encoding="utf-8")
    assert table(outcomes(RESULTS)) in page, "paste what `python -m tests.benchmarks.carry_over` prints into the page"
