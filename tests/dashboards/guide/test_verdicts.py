"""The guide's claims, judged from records of the shipped studies' designs whose right answer is known: each supported,
refuted and left open.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest

from dashboards.analysis.speed import Pace, Timed
from dashboards.guide.of_study import verdicts_of
from dashboards.guide.verdicts import Verdict, untested
from dashboards.statistics.estimates import Estimate
from dashboards.tuned.of_study import tuned_of
from studies.losses.guide import CLAIMS
from studies.records import EMBEDDED, EMBEDDED_GPT2, Cause, RunRecord
from studies.schema.replicates import cell_of
from studies.spec import Study, StudyError, load_study, shipped_studies
from tests.dashboards.tuned.replicated import KLS, a_run

GUIDE = (
    "guide-clean",
    "guide-overfitting",
    "guide-noise",
    "guide-binary",
    "guide-margins",
    "guide-quality",
    "guide-architectures",
)
ONE_NAT = np.sqrt(KLS)
Gain = Callable[[str, str, int, int], float]
"""Of a variant in a condition, of a replicate and a trial."""


@cache
def study_of(name: str, replicates: int = 12) -> Study:
    return Study.of(load_study(shipped_studies()[name], [f"replicates={replicates}"]))


def noise(replicate: int, trial: int, size: float = 0.01, seed: int = 0) -> float:
    return float(np.random.default_rng([replicate, trial, seed]).normal(0.0, size))


def recorded(study: Study, run: Callable[[str, str, int, int, bool], RunRecord | None], points: int) -> list[RunRecord]:
    """Of every variant in every cell `points` settings, of which the last is judged."""
    found = []
    for scenario, own in study.by_scenario():
        cell = cell_of(scenario)
        for variant in own.variants:
            for trial in range(points):
                found.append(run(variant, cell.condition, cell.number or 0, trial, False))
            found.append(run(variant, cell.condition, cell.number or 0, points - 1, True))
    return [record for record in found if record is not None]


def by_gain(study: Study, gain: Gain, points: int = 2, **changes: Any) -> list[RunRecord]:
    def run(variant: str, condition: str, replicate: int, trial: int, judging: bool) -> RunRecord:
        worth = gain(variant, condition, replicate, trial) + 0.1 * (trial == points - 1)
        scenario = f"{condition}#{replicate}"
        run_id = f"{variant}-{scenario}-{trial}-{judging}"
        return a_run(
            variant, replicate, trial, worth, judging=judging, scenario=scenario, run_id=run_id, key=run_id, **changes
        )

    return recorded(study, run, points)


def said(study: Study, records: Sequence[RunRecord], claim: str, timed: dict[str, Pace] | None = None) -> Verdict:
    tuned = tuple(one for one, _ in tuned_of(study, records, (), {}))
    found = {verdict.claim.id: verdict for verdict in verdicts_of(study, records, tuned, timed or {})}
    return found[claim]


def test_every_claim_that_can_be_tested_is_named_by_one_shipped_study() -> None:
    named = [claim for name in GUIDE for claim in study_of(name).spec.claims]
    assert sorted(named) == sorted(claim.id for claim in CLAIMS if claim.test is not None)
    assert {verdict.claim.id for verdict in untested()} == {claim.id for claim in CLAIMS} - set(named)


GOLD = ["objective={metric: gold, at_drift: 1.0}"]


@pytest.mark.parametrize(
    ("overrides", "lacks"),
    [
        (["claims=[ipo-bestfor]"], "is no claim of the guide"),
        (["claims=[aot-text]"], "has no test in a study"),
        (
            ["claims=[discopop-best-for]", "variants.discopop={}", *GOLD],
            "one with another, as in base: .*embedded-gpt2",
        ),
        (["claims=[robust-best-for]"], "needs a variant named robust"),
        (["claims=[apo_zero-best-for]", "variants.apo_zero={}"], "compares gold at equal drift"),
    ],
)
def test_a_claim_that_the_study_cannot_test_is_refused(overrides: list[str], lacks: str) -> None:
    with pytest.raises(StudyError, match=lacks):
        load_study(shipped_studies()["guide-binary"], overrides)


# ---- noise --------------------------------------------------------------------------------------------------------

FLIPS = {"clean": 0.0, "flips-20": 0.2, "flips-40": 0.4}


def noisy(robust: float, size: float = 0.01, sigmoid: float = 0.5) -> Verdict:
    """Of losses that lose so much a flip."""
    study = study_of("guide-noise")

    def gain(variant: str, condition: str, replicate: int, trial: int) -> float:
        slope = robust if variant == "robust" else sigmoid
        return 0.6 - slope * FLIPS[condition] + noise(replicate, trial, size, len(variant) + len(condition))

    return said(study, by_gain(study, gain), "robust-best-for")


def test_robust_is_for_noise_where_it_loses_less_at_equal_drift() -> None:
    found = noisy(robust=0.2)
    assert found.ruling == "supported"
    assert found.effect is not None
    assert found.effect.value == pytest.approx(0.3 * 0.4, abs=0.02)
    assert found.effect.blocks == 12


def test_robust_that_loses_more_is_refuted_one_that_loses_the_same_is_a_tie_and_noise_leaves_it_open() -> None:
    assert noisy(robust=0.9).ruling == "refuted"
    assert noisy(robust=0.5).ruling == "tie"
    open_ = noisy(robust=0.45, size=0.2)
    assert open_.ruling == "inconclusive"
    assert "replicates" in open_.because.split("; ")[1]


def test_losses_that_lose_nothing_to_flips_are_no_tie_as_nothing_was_tested() -> None:
    assert noisy(robust=0.0, sigmoid=0.0).ruling == "inconclusive"


# ---- overfitting and few pairs --------------------------------------------------------------------------------------


def trained_on(falls: dict[str, float], size: float = 0.01, gains: dict[str, float] | None = None) -> list[RunRecord]:
    """Runs on eight steps whose gold rises by 1 and then falls by so much."""
    study = study_of("guide-overfitting")
    steps = tuple(range(10, 90, 10))

    def run(variant: str, condition: str, replicate: int, trial: int, judging: bool) -> RunRecord:
        fall = falls.get(variant, 0.3) + noise(replicate, trial, size, len(variant))
        made = a_run(
            variant, replicate, trial, (gains or {}).get(variant, 0.5) + noise(replicate, trial, 0.01), judging=judging
        )
        golds = [0.25, 0.5, 0.8, 1.0, 1.0, 1.0, 1.0 - fall / 2, 1.0 - fall]
        halves = {"gold": tuple((s, 3 * g, 3 * g) for s, g in zip(steps, golds, strict=True))}
        return made.model_copy(update={"curve_halves": halves})

    return recorded(study, run, 3)


@pytest.mark.parametrize(
    ("ipo", "size", "ruling"),
    [(0.05, 0.02, "supported"), (0.6, 0.02, "refuted"), (0.3, 0.005, "tie"), (0.22, 0.6, "inconclusive")],
)
def test_ipo_is_for_overfitting_where_it_falls_less_than_sigmoid(ipo: float, size: float, ruling: str) -> None:
    found = said(study_of("guide-overfitting"), trained_on({"ipo": ipo}, size), "ipo-best-for")
    assert found.ruling == ruling
    assert "hinge by" in found.because


@pytest.mark.parametrize(("sppo", "ruling"), [(0.7, "supported"), (0.3, "refuted"), (0.5, "tie")])
def test_sppo_hard_is_for_sparse_data_where_it_gains_more_on_few_pairs(sppo: float, ruling: str) -> None:
    records = trained_on({}, gains={"sppo_hard": sppo})
    assert said(study_of("guide-overfitting"), records, "sppo_hard-text").ruling == ruling


def test_a_setting_that_broke_is_left_out_and_counted() -> None:
    records = [
        r for r in trained_on({"ipo": 0.05}) if not (r.variant == "ipo" and r.trial == 0 and r.phase != "confirm")
    ]
    found = said(study_of("guide-overfitting"), records, "ipo-best-for")
    assert found.ruling == "supported"
    assert "12 of 36 settings broke, never got there or jumped over it" in found.because


# ---- single answers, margins --------------------------------------------------------------------------------------


def along(study: Study, metric: str, values: dict[str, Callable[[int, int], Sequence[float]]]) -> list[RunRecord]:
    """Runs whose metric goes through these values at the four evaluations. The last setting is the better by a bit."""

    def run(variant: str, condition: str, replicate: int, trial: int, judging: bool) -> RunRecord:
        made = a_run(variant, replicate, trial, 0.5, judging=judging)
        path = [value + 0.001 * trial for value in values[variant](replicate, trial)]
        curve = tuple(zip((10, 20, 40, 80), path, strict=True))
        return made.model_copy(
            update={"curves": {**made.curves, metric: curve}, "metrics": {**made.metrics, metric: path[-1]}}
        )

    return recorded(study, run, 2)


@pytest.mark.parametrize(
    ("bco", "size", "ruling"),
    [(0.1, 0.01, "supported"), (-0.1, 0.01, "refuted"), (1e-9, 0.005, "tie"), (0.02, 0.1, "inconclusive")],
)
def test_bco_pair_is_for_classification_where_it_tells_more_answers_right(bco: float, size: float, ruling: str) -> None:
    study = study_of("guide-binary")

    def right(more: float) -> Callable[[int, int], Sequence[float]]:
        return lambda r, _t: [0.5 + (0.2 + more + noise(r, 0, size, more != 0.0)) * k for k in ONE_NAT]

    records = along(study, "sign_accuracy", {"sigmoid": right(0.0), "bco_pair": right(bco)})
    found = said(study, records, "bco_pair-best-for")
    assert found.ruling == ruling
    assert "of 100 single answers told right" in found.because


@pytest.mark.parametrize(
    ("hinge", "size", "ruling"),
    [(1.5, 0.02, "supported"), (0.7, 0.02, "refuted"), (1.001, 0.01, "tie"), (1.05, 0.15, "inconclusive")],
)
def test_hinge_is_for_margins_where_pairs_have_one_at_less_drift(hinge: float, size: float, ruling: str) -> None:
    study = study_of("guide-margins")

    def share(times: float) -> Callable[[int, int], Sequence[float]]:
        return lambda r, _t: [0.4 * times * (1 + noise(r, 0, size, times != 1.0)) * k for k in ONE_NAT]

    found = said(study, along(study, "margin_share", {"sigmoid": share(1.0), "hinge": share(hinge)}), "hinge-best-for")
    assert found.ruling == ruling
    assert "until 50 in 100 held-out pairs have a margin of 2 nats" in found.because


def test_a_margin_that_is_never_reached_by_all_is_read_at_a_smaller_share() -> None:
    study = study_of("guide-margins")
    records = along(
        study, "margin_share", {"sigmoid": lambda r, t: [0.21 * k for k in ONE_NAT], "hinge": lambda r, t: [0.33] * 4}
    )
    assert (
        "until 40 in 100" in said(study, records, "hinge-best-for").because
        or "until 30" in said(study, records, "hinge-best-for").because
    )


# ---- the writer of the pairs ----------------------------------------------------------------------------------------


def matched(better: float, worse: float, size: float = 0.01) -> Verdict:
    """Of an apo_zero that gains so much more than sigmoid on pairs of a better writer, and of a worse one."""
    study = study_of("guide-quality")

    def gain(variant: str, condition: str, replicate: int, trial: int) -> float:
        more = {"better": better, "worse": worse}.get(condition, 0.0) if variant == "apo_zero" else 0.0
        return 0.5 + more + noise(replicate, trial, size, len(variant) + len(condition))

    return said(study, by_gain(study, gain), "apo_zero-best-for")


def test_apo_zero_matches_where_it_gains_with_its_writer_and_is_no_worse_than_sigmoid() -> None:
    assert matched(better=0.1, worse=-0.1).ruling == "supported"
    assert matched(better=-0.1, worse=0.1).ruling == "refuted"
    assert matched(better=0.05, worse=0.0, size=0.3).ruling == "inconclusive"
    assert matched(better=0.0, worse=0.0, size=0.005).ruling == "tie"


def test_beating_oneself_with_the_other_writer_is_no_support_where_sigmoid_is_better() -> None:
    found = matched(better=-0.2, worse=-0.5)
    assert found.ruling == "refuted"
    assert "worse by more than matters" in found.because


def test_a_loss_whose_settings_all_break_with_its_own_writer_is_refuted_and_given_no_number() -> None:
    study = study_of("guide-quality")
    kept = [
        r for r in by_gain(study, lambda *_: 0.5, points=5) if not (r.variant == "apo_down" and "worse" in r.scenario)
    ]
    broken = [
        a_run("apo_down", n, t, 0.1, cause=Cause.COLLAPSED, scenario=f"worse#{n}", run_id=f"b{n}{t}", key=f"b{n}{t}")
        for n in range(1, 13)
        for t in range(5)
    ]
    found = said(study, [*kept, *broken], "apo_down-best-for")
    assert found.ruling == "refuted"
    assert found.effect is None
    assert "every setting broke in 12 of 12 replicates" in found.because


# ---- another architecture -------------------------------------------------------------------------------------------


def on_architectures(llama: float, gpt2: float, size: float = 0.01, kls: Sequence[float] = KLS) -> Verdict:
    """Of a discopop that gains so much more than sigmoid on a Llama and on a GPT-2, each of what is possible there."""
    study = study_of("guide-architectures")
    models = {"llama": EMBEDDED, "gpt2": EMBEDDED_GPT2}

    def run(variant: str, condition: str, replicate: int, trial: int, judging: bool) -> RunRecord:
        more = {"llama": llama, "gpt2": gpt2}[condition] if variant == "discopop" else 0.0
        worth = 0.5 + more + noise(replicate, trial, size, len(variant) + len(condition)) + 0.1 * (trial == 1)
        run_id = f"{variant}-{condition}-{replicate}-{trial}-{judging}"
        scenario, model = f"{condition}#{replicate}", models[condition]
        return a_run(
            variant, replicate, trial, worth,
            kls=kls if judging and replicate == 1 else KLS,
            judging=judging, model=model, scenario=scenario, run_id=run_id, key=run_id,
        )  # fmt: skip

    return said(study, recorded(study, run, 2), "discopop-best-for")


def test_discopop_is_for_new_architectures_where_it_gains_more_on_another_and_is_no_worse_there() -> None:
    found = on_architectures(llama=-0.05, gpt2=0.1, size=0.002)
    assert found.ruling == "supported"
    assert found.effect is not None
    assert found.effect.value == pytest.approx(0.15, abs=0.01)
    assert found.effect.blocks == 12
    assert "on gpt2 it gains 10" in found.because
    assert on_architectures(llama=0.1, gpt2=0.0).ruling == "refuted"
    assert on_architectures(llama=0.0, gpt2=0.05, size=0.3).ruling == "inconclusive"


def test_being_better_on_both_architectures_alike_is_a_tie_and_no_support() -> None:
    """What is claimed is new architectures, not all of them."""
    assert on_architectures(llama=0.2, gpt2=0.2).ruling == "tie"
    stays_near = on_architectures(llama=0.2, gpt2=0.2, kls=(0.1, 0.25, 0.4, 0.5))
    assert (stays_near.ruling, "at 0.5 nats" in stays_near.because) == ("tie", True)


def test_losing_less_on_another_architecture_is_no_support_where_sigmoid_is_better_there() -> None:
    found = on_architectures(llama=-0.4, gpt2=-0.2)
    assert found.ruling == "refuted"
    assert "worse by more than matters" in found.because


# ---- clean pairs --------------------------------------------------------------------------------------------------


def clean(worth: dict[str, float], size: float = 0.02) -> list[RunRecord]:
    study = study_of("guide-clean")

    def gain(variant: str, condition: str, replicate: int, trial: int) -> float:
        return 0.5 * worth.get(variant, 1.0) + noise(replicate, trial, size, len(variant))

    return by_gain(study, gain, points=6, metrics={"gold": 0.0, "kl": 4.0, "margin": 2.0, "length_ratio": 1.0})


def of_clean(claim: str, worth: dict[str, float], size: float = 0.02, **ends: float) -> Verdict:
    study = study_of("guide-clean")
    records = []
    for record in clean(worth, size):
        metrics = {**record.metrics, "gold": dict(record.curves["gold"])[80]}
        if record.variant in ends:
            metrics["margin"] = ends[record.variant] + noise(cell_of(record.scenario).number or 0, record.trial, 1.0)
        records.append(record.model_copy(update={"metrics": metrics}))
    return said(study, records, claim)


@pytest.mark.parametrize(
    ("claim", "worth", "size", "ruling"),
    [
        ("hinge-stability", {}, 0.02, "supported"),
        ("hinge-stability", {"hinge": 0.2}, 0.02, "refuted"),
        ("hinge-stability", {"hinge": 0.8}, 0.9, "inconclusive"),
        ("ipo-stability", {"ipo": 1.5}, 0.02, "supported"),
        ("ipo-stability", {"ipo": 0.2}, 0.02, "refuted"),
        ("ipo-stability", {}, 0.02, "tie"),
        ("robust-stability", {"robust": 1.5}, 0.02, "supported"),
        ("robust-stability", {"bco_pair": 1.5}, 0.02, "refuted"),
        ("robust-stability", {}, 0.02, "inconclusive"),
        ("sigmoid-stability", {}, 0.02, "supported"),
        ("sigmoid-stability", {"sigmoid": 0.0}, 0.02, "refuted"),
        ("sigmoid-best-for", {}, 0.02, "supported"),
        ("sigmoid-best-for", {"ipo": 1.5}, 0.02, "refuted"),
        ("sigmoid-best-for", {"sigmoid": 0.02, "ipo": 0.02}, 0.5, "inconclusive"),
    ],
)
def test_what_forgives_and_what_is_among_the_best(
    claim: str, worth: dict[str, float], size: float, ruling: str
) -> None:
    assert of_clean(claim, worth, size).ruling == ruling


@pytest.mark.parametrize(("margin", "ruling"), [(-3.0, "refuted"), (3.0, "supported"), (0.0, "inconclusive")])
def test_discopop_learns_the_preferences_or_the_opposite(margin: float, ruling: str) -> None:
    found = of_clean("discopop-text", {}, discopop=margin)
    assert found.ruling == ruling
    assert "72 settings ended with a margin below 0" in found.because


@pytest.mark.parametrize(
    ("claim", "ratio", "ruling"),
    [
        ("ipo-speed", (1.001, 0.998, 1.004), "supported"),
        ("ipo-speed", (1.1, 1.08, 1.12), "refuted"),
        ("ipo-speed", (1.02, 0.95, 1.09), "inconclusive"),
        ("bco_pair-speed", (1.001, 0.998, 1.004), "refuted"),
        ("bco_pair-speed", (1.1, 1.08, 1.12), "supported"),
    ],
)
def test_speed_is_judged_from_timed_steps(claim: str, ratio: tuple[float, float, float], ruling: str) -> None:
    value, low, high = ratio
    word = "as fast" if high < 1.03 else "slower" if low > 1 else "inconclusive"
    pace = Pace(0.02, Timed(Estimate(value, 200, low, high, None), word), None)
    timed = {"ipo": pace, "bco_pair": pace}
    assert said(study_of("guide-clean"), [], claim, timed).ruling == ruling
    assert said(study_of("guide-clean"), [], claim).ruling == "inconclusive"


@pytest.mark.parametrize("name", GUIDE)
@pytest.mark.parametrize("replicates", [0, 1, 2])
def test_a_study_that_has_just_begun_says_nothing_of_any_claim_but_what_is_missing(name: str, replicates: int) -> None:
    study = study_of(name)
    records = [
        record.model_copy(update={"curves": {**record.curves, "sign_accuracy": ((10, 0.6), (80, 0.8))}})
        for record in by_gain(study, lambda v, c, r, t: 0.5 + noise(r, t, 0.01, len(v)))
        if (cell_of(record.scenario).number or 0) <= replicates
    ]
    for claim in study.spec.claims:
        found = said(study, records, claim)
        assert found.ruling == "inconclusive", claim
        assert found.because
