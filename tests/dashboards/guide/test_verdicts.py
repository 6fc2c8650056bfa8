"""Verdicts from records whose truth is known by construction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from scipy import stats

from dashboards.analysis.speed import Pace
from dashboards.analysis.strata import Stratum, standings
from dashboards.guide.claims import CLAIMS
from dashboards.guide.verdicts import Ruling, Verdict, fisher, verdicts
from dashboards.statistics.estimates import clopper_pearson
from dashboards.statistics.scale import scale_of
from studies.records import Cause, RunRecord
from studies.records.world_units import BY_PROMPT
from studies.schema.types import Scenario
from studies.spec import Objective
from tests.dashboards.generated import a_record, gold_of, pool
from tests.dashboards.timings import timed

GOLD = Objective(metric="gold")
CONFIRM = range(3, 19)
SCENARIOS = {
    "clean": Scenario(),
    "flips": Scenario(label_flip=0.2),
    "few": Scenario(rows=128),
    "better": Scenario(pairs_from="better"),
    "worse": Scenario(pairs_from="worse"),
    "shuffled": Scenario(rejected_from="another"),
}


def judged(
    records: Sequence[RunRecord],
    baseline: str | None = "sigmoid",
    objective: Objective = GOLD,
    source: str = "",
    speed: Mapping[str, Pace] = {},
) -> dict[str, Verdict]:
    variants = list(dict.fromkeys(r.variant for r in records))
    strata = [Stratum(v, s, (v,), 12) for s in SCENARIOS for v in variants]
    present = {name: SCENARIOS[name] for name in SCENARIOS if any(r.scenario == name for r in records)}
    where = standings(records, objective, strata)
    found = verdicts(where, scale_of(objective, "embedded"), baseline, present, speed, source)
    return {verdict.claim.id: verdict for verdict in found}


def in_scenario(name: str, advantages: dict[str, float], confirm: Sequence[int] = CONFIRM) -> list[RunRecord]:
    return pool(advantages, confirm=confirm, scenario=name, task_sd=0.0)


def test_every_claim_gets_one_verdict_in_the_guides_order() -> None:
    found = judged([a_record()])
    assert list(found) == [claim.id for claim in CLAIMS]
    assert {v.ruling for v in found.values()} <= {"not testable here", "inconclusive"}


@pytest.mark.parametrize(("advantage", "ruling"), [(0.2, "supported"), (-0.2, "refuted"), (0.0, "tie")])
def test_better_worse_and_tie_become_supported_refuted_and_tie(advantage: float, ruling: Ruling) -> None:
    found = judged(in_scenario("few", {"sigmoid": 0.0, "ipo": advantage}, range(3, 33)))["ipo-best-for"]
    assert found.ruling == ruling
    assert found.effect is not None
    assert found.effect.value == pytest.approx(advantage, abs=0.03)
    assert found.unit == "U"
    assert {i.split("-")[0] for i in found.run_ids} == {"sigmoid", "ipo"}
    assert all(i.endswith("confirm") for i in found.run_ids)


def test_few_blocks_are_inconclusive_and_say_so() -> None:
    found = judged(in_scenario("few", {"sigmoid": 0.0, "ipo": 0.0}, range(3, 7)))["ipo-best-for"]
    assert found.ruling == "inconclusive"
    assert "too few blocks" in found.because


def test_without_a_region_a_claim_cannot_tie() -> None:
    metric = Objective(metric="margin")
    found = judged(in_scenario("few", {"sigmoid": 0.0, "ipo": 0.0}), objective=metric)["ipo-best-for"]
    assert found.ruling == "inconclusive"
    assert "tie_within" in found.because


def test_robust_is_judged_by_what_it_loses_to_flips_and_not_by_its_level() -> None:
    level = in_scenario("clean", {"sigmoid": 0.0, "robust": -0.3}) + in_scenario(
        "flips", {"sigmoid": 0.0, "robust": -0.1}
    )
    assert judged(level)["robust-best-for"].ruling == "supported"
    higher = in_scenario("clean", {"sigmoid": 0.0, "robust": 0.3}) + in_scenario(
        "flips", {"sigmoid": 0.0, "robust": 0.1}
    )
    assert judged(higher)["robust-best-for"].ruling == "refuted"


@pytest.mark.parametrize(("level", "loss", "ruling"), [(-0.3, 0.1, "supported"), (0.3, -0.1, "refuted")])
def test_bco_is_judged_by_what_it_loses_to_answers_of_other_prompts(level: float, loss: float, ruling: Ruling) -> None:
    """Not by its level: where it is supported it is below the baseline in both."""
    paired = in_scenario("clean", {"sigmoid": 0.0, "bco_pair": level})
    shuffled = in_scenario("shuffled", {"sigmoid": -0.2, "bco_pair": level - 0.2 + loss})
    found = judged(paired + shuffled, source=BY_PROMPT)["bco_pair-best-for"]
    assert found.ruling == ruling
    assert "bco_pair loses less than sigmoid" in found.because
    assert {i.split("-")[1] for i in found.run_ids} == {"clean", "shuffled"}


def test_bco_is_not_judged_where_an_answer_of_another_prompt_is_as_bad_as_a_pairs_own() -> None:
    both = {"sigmoid": 0.0, "bco_pair": 0.1}
    paired, shuffled = in_scenario("clean", both), in_scenario("shuffled", both)
    for records, source in ((paired + shuffled, "embedded"), (paired, BY_PROMPT)):
        found = judged(records, source=source)["bco_pair-best-for"]
        assert found.ruling == "not testable here"
        assert "no scenario of the kind: shuffled (rejected_from: another, where the prompt decides" in found.because


def test_apo_is_judged_against_its_sister_in_opposite_situations() -> None:
    three = {"sigmoid": 0.0, "apo_zero": 0.2, "apo_down": 0.0}
    found = judged(in_scenario("better", three) + in_scenario("worse", three))
    assert found["apo_zero-best-for"].ruling == "supported"
    assert found["apo_down-best-for"].ruling == "refuted"


@pytest.mark.parametrize(
    ("others", "ruling"),
    [({"ipo": 0.0, "hinge": -0.2}, "supported"), ({"ipo": 0.2, "hinge": -0.2}, "refuted")],
)
def test_general_use_is_refuted_by_one_that_is_better(others: dict[str, float], ruling: Ruling) -> None:
    found = judged(in_scenario("clean", {"sigmoid": 0.0} | others, range(3, 33)))["sigmoid-best-for"]
    assert found.ruling == ruling
    if ruling == "refuted":
        assert "ipo did better" in found.because


def test_a_word_that_one_task_turns_round_is_inconclusive() -> None:
    def run(variant: str, block: int, u: float, phase: str) -> RunRecord:
        return a_record(
            variant=variant, scenario="few", block=block, phase=phase, metrics={"gold": gold_of(block, u), "kl": 1.0}
        )

    records = [run(v, b, 0.5, "unbiased") for v in ("sigmoid", "ipo") for b in range(3)]
    for block in range(3, 51):
        records.append(run("sigmoid", block, 0.5, "confirm"))
        gain = -0.2 if block % 6 == 5 else 0.04
        records.append(run("ipo", block, 0.5 + gain + 0.001 * (block // 6), "confirm"))
    found = judged(records)["ipo-best-for"]
    assert found.ruling == "inconclusive"
    assert "task 5" in found.because


def test_a_difference_that_rests_on_one_task_is_inconclusive() -> None:
    def run(variant: str, block: int, u: float, phase: str) -> RunRecord:
        return a_record(
            variant=variant, scenario="few", block=block, phase=phase, metrics={"gold": gold_of(block, u), "kl": 1.0}
        )

    records = [run(v, b, 0.5, "unbiased") for v in ("sigmoid", "ipo") for b in range(3)]
    for block in range(3, 21):
        gain = 0.25 if block % 6 == 5 else 0.03 + 0.08 * (-1) ** (block // 6)
        records += [run("sigmoid", block, 0.5, "confirm"), run("ipo", block, 0.5 + gain, "confirm")]
    found = judged(records)["ipo-best-for"]
    assert found.ruling == "inconclusive"
    assert "inconclusive without task" in found.because
    assert "5" in found.because.rpartition("task")[2]


@pytest.mark.parametrize(
    ("failed", "of", "ruling"),
    [(0, 149, "supported"), (0, 20, "inconclusive"), (8, 20, "refuted"), (10, 200, "refuted")],
)
def test_good_stability_needs_limits_that_support_it(failed: int, of: int, ruling: Ruling) -> None:
    records = [
        a_record(variant="hinge", trial=t, cause=Cause.NON_FINITE if t < failed else Cause.FINISHED) for t in range(of)
    ]
    found = judged(records)["hinge-stability"]
    assert found.ruling == ruling
    assert found.failures is not None
    assert (found.failures.k, found.failures.n) == (failed, of)
    assert len(found.run_ids) == failed


def failing(variant: str, failed: int) -> list[RunRecord]:
    return [
        a_record(variant=variant, trial=t, cause=Cause.COLLAPSED if t < failed else Cause.FINISHED) for t in range(30)
    ]


@pytest.mark.parametrize(("own", "ruling"), [(0, "supported"), (28, "refuted"), (14, "inconclusive")])
def test_better_stability_is_fewer_failures_than_the_baseline(own: int, ruling: Ruling) -> None:
    assert judged(failing("sigmoid", 15) + failing("ipo", own))["ipo-stability"].ruling == ruling


def test_best_stability_must_beat_every_other_loss() -> None:
    others = failing("sigmoid", 15) + failing("ipo", 20)
    assert judged(others + failing("robust", 1))["robust-stability"].ruling == "supported"
    assert judged(others + failing("robust", 1) + failing("hinge", 1))["robust-stability"].ruling == "inconclusive"
    assert judged(others + failing("robust", 29) + failing("hinge", 1))["robust-stability"].ruling == "refuted"


def beyond(records: Sequence[RunRecord], variant: str) -> list[RunRecord]:
    """The records with every config of a variant far from the start, and so never confirmed."""
    kept = [r for r in records if r.variant != variant or r.phase == "unbiased"]
    return [out_of(r) if r.variant == variant else r for r in kept]


def out_of(record: RunRecord) -> RunRecord:
    return record.model_copy(update={"metrics": {**record.metrics, "kl": 1e3}})


BOUNDED = GOLD.within_kl(100.0)


def test_no_claim_is_supported_against_a_baseline_of_which_nothing_keeps_the_bounds() -> None:
    records = beyond(in_scenario("few", {"sigmoid": 0.0, "ipo": 0.0}), "sigmoid")
    found = judged(records, objective=BOUNDED)["ipo-best-for"]
    assert found.ruling == "not testable here"
    assert found.effect is None
    assert found.because == "sigmoid has no config within 100 nats (0 of 12) in few"


def test_who_had_nothing_to_lose_is_not_said_to_have_lost_less() -> None:
    both = {"sigmoid": 0.0, "robust": 0.0}
    records = beyond(in_scenario("clean", both), "robust") + in_scenario("flips", both)
    found = judged(records, objective=BOUNDED)["robust-best-for"]
    assert found.ruling == "not testable here"
    assert found.because == "robust has no config within 100 nats (0 of 12) in clean"


def test_a_loss_of_which_nothing_keeps_the_bounds_does_not_stand_among_the_beaten() -> None:
    records = beyond(in_scenario("clean", {"sigmoid": 0.0, "ipo": -0.4, "hinge": 0.0}), "hinge")
    found = judged(records, objective=BOUNDED)["sigmoid-best-for"]
    assert found.ruling == "supported"
    assert found.because == "none of 1 others did better; hinge has no config within 100 nats (0 of 12) in clean"


def test_beating_a_broken_sibling_supports_nothing_where_the_baseline_does_better() -> None:
    records = in_scenario("better", {"sigmoid": 0.3, "apo_zero": 0.0, "apo_down": -0.3})
    found = judged(records)["apo_zero-best-for"]
    assert found.ruling == "refuted"
    assert "worse than sigmoid" in found.because


def test_beating_a_sibling_supports_a_claim_where_it_is_shown_to_be_no_worse_than_the_baseline() -> None:
    same = in_scenario("better", {"sigmoid": 0.0, "apo_zero": 0.0, "apo_down": -0.3})
    assert judged(same)["apo_zero-best-for"].ruling == "supported"
    alone = in_scenario("better", {"apo_zero": 0.0, "apo_down": -0.3})
    found = judged(alone)["apo_zero-best-for"]
    assert found.ruling == "inconclusive"
    assert "sigmoid" in found.because


def test_a_claim_of_margins_is_not_judged_by_configs_that_were_chosen_for_gold() -> None:
    records = in_scenario("clean", {"sigmoid": 0.0, "hinge": 0.0})
    found = judged(records)["hinge-best-for"]
    assert found.ruling == "not testable here"
    assert found.because.startswith("its configs were chosen by gold, not by margin_share")


def test_no_claim_rests_on_runs_that_broke_the_bound_when_they_judged() -> None:
    records = in_scenario("few", {"sigmoid": 0.0, "ipo": 0.3})
    drifted = [out_of(r) if r.phase == "confirm" and r.variant == "ipo" else r for r in records]
    found = judged(drifted, objective=BOUNDED)["ipo-best-for"]
    assert found.ruling == "inconclusive"
    assert found.because == "ipo broke the bound when retested (KL 1000, at most 100) in few"


def test_a_loss_is_not_unbeaten_where_one_that_may_be_better_broke_the_bound() -> None:
    records = in_scenario("clean", {"sigmoid": 0.0, "ipo": 0.4, "hinge": -0.4})
    drifted = [out_of(r) if r.phase == "confirm" and r.variant == "ipo" else r for r in records]
    found = judged(drifted, objective=BOUNDED)["sigmoid-best-for"]
    assert found.ruling == "inconclusive"
    assert "ipo broke the bound when retested" in found.because


def test_a_tie_with_a_baseline_that_gained_nothing_is_no_ruling() -> None:
    found = judged(in_scenario("few", {"sigmoid": -1.1, "ipo": -1.1}, range(3, 33)))["ipo-best-for"]
    assert found.ruling == "inconclusive"
    assert "the baseline itself gained nothing that can be seen" in found.because


@pytest.mark.parametrize(
    ("ratio", "half", "fast", "medium"),
    [
        (1.001, 0.001, "supported", "refuted"),
        (1.2, 0.001, "refuted", "supported"),
        (0.9, 0.001, "supported", "refuted"),
        (1.02, 0.03, "inconclusive", "inconclusive"),
    ],
)
def test_speed_is_judged_from_the_timed_steps(ratio: float, half: float, fast: Ruling, medium: Ruling) -> None:
    records = [a_record(variant=variant) for variant in ("sigmoid", "hinge", "bco_pair")]
    found = judged(records, speed=timed({"hinge": ratio, "bco_pair": ratio}, half=half, null=1.0).of)
    assert (found["hinge-speed"].ruling, found["bco_pair-speed"].ruling) == (fast, medium)
    assert found["hinge-speed"].effect is not None
    assert found["hinge-speed"].effect.value == pytest.approx(ratio - 1)


def test_what_is_missing_is_said() -> None:
    found = judged(
        in_scenario("clean", {"sigmoid": 0.0, "ipo": 0.0, "robust": 0.0, "apo_zero": 0.0, "bco_pair": 0.0}, confirm=())
    )
    expected = {
        "ipo-speed": "the speed of its steps was not measured",
        "ipo-best-for": "no scenario of the kind: small",
        "robust-best-for": "no scenario of the kind: flipped",
        "sigmoid-best-for": "no confirm runs",
        "hinge-stability": "no variant that trains with hinge alone",
        "apo_zero-best-for": "no variant that trains with apo_down alone",
        "discopop-best-for": "no variant",
        "bco_pair-best-for": "no scenario of the kind: shuffled (rejected_from: another",
        "sigmoid-speed": "compared with",
    }
    for claim, words in expected.items():
        if CLAIMS[[c.id for c in CLAIMS].index(claim)].test is not None:
            assert words in found[claim].because, claim
        assert found[claim].ruling == "not testable here", claim
    assert "no baseline" in judged(failing("ipo", 0), baseline=None)["ipo-stability"].because
    assert "compared with" in judged(in_scenario("few", {"ipo": 0.0}), baseline="ipo")["ipo-best-for"].because


def test_a_mixture_stands_for_none_of_its_losses() -> None:
    strata = [Stratum("ipo", "clean", ("sigmoid", "ipo"), 12)]
    found = verdicts(
        standings([a_record(variant="ipo")], GOLD, strata), scale_of(GOLD, "embedded"), None, {"clean": Scenario()}, {}
    )
    assert "no variant" in {v.claim.id: v for v in found}["ipo-stability"].because


def test_another_config_of_the_same_loss_is_no_rival() -> None:
    records = in_scenario("clean", {"sigmoid": 0.0, "today": 0.2, "hinge": -0.2}, range(3, 33))
    strata = [
        Stratum(v, "clean", (loss,), 12)
        for v, loss in (("sigmoid", "sigmoid"), ("today", "sigmoid"), ("hinge", "hinge"))
    ]
    found = verdicts(standings(records, GOLD, strata), scale_of(GOLD, "embedded"), "sigmoid", {"clean": Scenario()}, {})
    assert {v.claim.id: v.ruling for v in found}["sigmoid-best-for"] == "supported"


@pytest.mark.parametrize(("n", "m"), [(1, 1), (4, 7), (27, 27), (150, 30)])
def test_shares_are_compared_by_the_exact_test_of_scipy(n: int, m: int) -> None:
    for k in range(0, n + 1, max(1, n // 9)):
        for j in range(0, m + 1, max(1, m // 9)):
            expected = stats.fisher_exact([[k, n - k], [j, m - j]]).pvalue
            assert fisher(clopper_pearson(k, n), clopper_pearson(j, m)) == pytest.approx(expected, rel=1e-9)
