"""Controls from records whose answer is known by construction: each holds, fails to hold, and waits for its runs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest

from dashboards.analysis.strata import Stratum, standings
from dashboards.controls.expectations import CURVE, Curves, Finding, compared_runs, findings
from dashboards.statistics.scale import raw_scale, scale_of
from dashboards.tables.comparison import comparison
from dashboards.tables.formats import FORMATS, render
from studies.records import Cause, RunRecord
from studies.spec import Expectation, Objective
from tests.dashboards.generated import a_record, gold_of

GOLD = Objective(metric="gold")
U = scale_of(GOLD, "embedded")
FIVE, TWELVE = range(5), range(12)


def strata(records: Iterable[RunRecord]) -> list[Stratum]:
    places = dict.fromkeys((r.variant, r.scenario) for r in records)
    return [Stratum(variant, scenario, (variant,), 1) for variant, scenario in places]


def judged(records: Sequence[RunRecord], curves: Curves | None = None, **expected: Any) -> Finding:
    """The one finding on variant `trap`."""
    found = standings(records, GOLD, strata(records))
    (finding,) = findings(found, {"trap": Expectation(**expected)}, U, curves or {})
    return finding


def trap(causes: Sequence[Cause], **changes: Any) -> list[RunRecord]:
    return [a_record(cause, variant="trap", block=block, **changes) for block, cause in enumerate(causes)]


GOOD, INVERTED, COLLAPSED, NAN = Cause.FINISHED, Cause.INVERTED, Cause.COLLAPSED, Cause.NON_FINITE


@pytest.mark.parametrize(
    ("outcome", "causes", "held"),
    [
        ("inverted", [INVERTED] * 5, True),
        ("inverted", [INVERTED] * 4 + [GOOD], True),
        ("inverted", [INVERTED] * 3 + [GOOD] * 2, False),
        ("inverted", [COLLAPSED] * 5, False),
        ("inverted", [INVERTED] * 4, None),
        ("collapsed", [COLLAPSED] * 5, True),
        ("collapsed", [INVERTED] * 5, False),
        ("non_finite", [NAN] * 5, True),
        ("non_finite", [COLLAPSED] * 5, False),
        ("fails", [INVERTED, COLLAPSED, NAN, NAN, GOOD], True),
        ("fails", [GOOD] * 5, False),
        ("fails", [Cause.USER_STOP, Cause.WORKER_LOST, NAN, NAN, NAN, NAN], None),
    ],
)
def test_a_failure_is_flagged_in_four_of_five_blocks(outcome: str, causes: Sequence[Cause], held: bool | None) -> None:
    assert judged(trap(causes), outcome=outcome).held is held


def test_a_block_shows_a_failure_where_all_of_its_seeds_do() -> None:
    second = [r.model_copy(update={"seed": 1, "run_id": r.run_id + "b"}) for r in trap([GOOD] * 5)]
    assert judged([*trap([COLLAPSED] * 5), *second], outcome="collapsed").held is False


def test_an_inversion_that_its_trainer_did_not_name_is_seen_in_its_numbers() -> None:
    wrong = {"accuracy": 0.2, "margin": -3.0}
    runs = [
        a_record(variant="trap", block=b, metrics=wrong | {"gold": gold_of(b, -1.0)}, errors={"gold": 0.05})
        for b in FIVE
    ]
    assert judged(runs, outcome="inverted").held is True


def shuffled(gains: Iterable[float], cause: Cause = GOOD) -> list[RunRecord]:
    return [
        a_record(cause, variant="trap", block=block, metrics={"gold": gold_of(block, u)})
        for block, u in enumerate(gains)
    ]


def test_no_gain_is_the_upper_limit_of_the_mean_and_not_one_run() -> None:
    assert judged(shuffled([0.5] + [-0.3] * 11), outcome="no_gain").held is True
    assert judged(shuffled([0.1] * 12), outcome="no_gain").held is False
    assert judged(shuffled([0.6, -0.6] * 6), outcome="no_gain").held is False  # its mean is 0, and it says nothing
    assert judged(shuffled([-0.3] * 9), outcome="no_gain").held is None


def test_shuffles_that_failed_count_with_what_they_measured() -> None:
    runs = [*shuffled([0.1] * 6), *shuffled([-0.9] * 12, INVERTED)[6:]]
    found = judged(runs, outcome="no_gain")
    assert (found.n, found.held) == (12, True)


def twins(other: Mapping[str, float], cause: Cause = GOOD) -> list[RunRecord]:
    same = {"gold": 1.0, "margin": 3.0, "train_seconds": 1.0}
    return [
        a_record(cause, variant="trap", run_id="trap", metrics=same | other),
        a_record(variant="sigmoid", run_id="sigmoid", metrics=same),
    ]


def curve(**changed: float) -> dict[str, dict[int, float]]:
    """Three steps of every metric; `changed` is added to the last."""
    return {name: {1: 0.7, 2: 0.6, 3: 0.5 + changed.get(name, 0.0)} for name in CURVE}


@pytest.mark.parametrize(
    ("metrics", "changes", "cause", "exactly", "to_a_millionth"),
    [
        ({}, {}, GOOD, True, True),
        ({"train_seconds": 9.0}, {}, GOOD, True, True),
        ({"margin": 3.0 + 1e-9}, {}, GOOD, False, True),
        ({}, {"loss": 2e-6}, GOOD, False, True),
        ({}, {"grad_norm": 1e-3}, GOOD, False, True),
        ({}, {"reward_margin": 4e-6}, GOOD, False, False),
        ({}, {}, COLLAPSED, False, False),
    ],
)
def test_equal_is_judged_on_the_curve_and_on_the_end(
    metrics: Mapping[str, float], changes: Mapping[str, float], cause: Cause, exactly: bool, to_a_millionth: bool
) -> None:
    curves = {"trap": curve(**changes), "sigmoid": curve()}
    assert judged(twins(metrics, cause), curves, equals="sigmoid").held is exactly
    assert judged(twins(metrics, cause), curves, equals="sigmoid", within=1e-6).held is to_a_millionth


def test_without_a_curve_or_a_twin_nothing_is_said_to_be_equal() -> None:
    assert judged(twins({}), equals="sigmoid").held is None
    assert judged(twins({})[:1], equals="sigmoid").held is None
    apart = [twins({})[0], twins({})[1].model_copy(update={"block": 1})]
    assert judged(apart, {"trap": curve(), "sigmoid": curve()}, equals="sigmoid").held is None


def test_a_point_that_one_curve_lacks_is_a_difference() -> None:
    short = {name: {1: 0.7, 2: 0.6} for name in CURVE}
    for within in (0.0, 1e-6):
        assert judged(twins({}), {"trap": curve(), "sigmoid": short}, equals="sigmoid", within=within).held is False


def test_curves_are_read_only_where_both_variants_ran() -> None:
    elsewhere = a_record(variant="sigmoid", run_id="pool", scenario="pool")
    expected = {"trap": Expectation(equals="sigmoid"), "ipo": Expectation(outcome="fails")}
    assert compared_runs([*twins({}), elsewhere, a_record(variant="ipo")], expected) == ("trap", "sigmoid")


def test_an_objective_without_a_zero_has_no_inversion_of_its_own() -> None:
    wrong = {"accuracy": 0.2, "margin": -3.0, "gold": -9.0}
    runs = [a_record(variant="trap", block=b, metrics=wrong, errors={"gold": 0.05}) for b in FIVE]
    found = standings(runs, GOLD, strata(runs))
    (finding,) = findings(found, {"trap": Expectation(outcome="inverted")}, raw_scale("gold", by_task=False), {})
    assert finding.held is False


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_shows_what_was_expected_and_found(format: Any) -> None:
    records = [*trap([INVERTED] * 5), *(r.model_copy(update={"variant": "other"}) for r in trap([GOOD] * 5))]
    expected = {"trap": Expectation(outcome="inverted"), "other": Expectation(outcome="fails")}
    table = comparison(records, GOLD, strata(records), source="embedded", expectations=expected)
    text = render(table, format, 200)
    assert "is inverted in 80% of 5 data draws or more" in text
    assert "5 of 5 blocks (5 inversion)" in text
    assert "0 of 5 blocks (no failure)" in text
    match format:
        case "json":
            assert [(c["control"], c["held"]) for c in json.loads(text)["controls"]] == [
                ("trap", True), ("other", False),
            ]  # fmt: skip
        case "csv":
            rows = list(csv.DictReader(io.StringIO(text.partition("\n\n")[2])))
            assert [(row["control"], row["held"]) for row in rows] == [("trap", "True"), ("other", "False")]
            assert rows[0]["run_ids"].split() == [f"trap-0-{block}" for block in FIVE]
        case "html":
            assert "<h2>Controls</h2>" in text
            assert "trap-0-4" in text
        case _:
            assert "Controls" in text
            assert text.count("NO") == 1


@pytest.mark.parametrize("format", FORMATS)
def test_a_study_without_controls_has_no_section_of_them(format: Any) -> None:
    records = trap([GOOD])
    text = render(comparison(records, GOLD, strata(records)), format)
    assert "held" not in text.lower()
    assert ("Controls" in text) is False
