"""The published fact about pairs dealt at random, from records whose truth is known by construction."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from studies.records import RunRecord
from studies.spec import load_study
from tests.benchmarks.published_facts import PAIRWISE, POINTWISE, facts_of_pairs
from tests.dashboards.generated import pool

SPEC = load_study("pairs")
ALL = (*PAIRWISE, *POINTWISE)


def a_sweep(after: Mapping[str, float]) -> list[RunRecord]:
    """Runs of all losses at the same level in `paired` and shifted by `after` in `shuffled`."""
    confirm = SPEC.confirm.blocks if SPEC.confirm else ()
    levels = {"paired": dict.fromkeys(ALL, 0.0), "shuffled": after, "single": dict.fromkeys(ALL, 0.0)}
    return [
        record
        for scenario, advantages in levels.items()
        for record in pool(advantages, configs=8, blocks=(0, 1), confirm=confirm, scenario=scenario, highest_kl=1.5)
    ]


@pytest.mark.parametrize(("pairwise", "pointwise", "sign"), [(-0.4, -0.1, 1), (-0.1, -0.4, -1)])
def test_the_losses_that_suffer_more_are_told_by_the_sign(pairwise: float, pointwise: float, sign: int) -> None:
    after = {**dict.fromkeys(PAIRWISE, pairwise), **dict.fromkeys(POINTWISE, pointwise)}
    found = {what: said for what, _, said in facts_of_pairs(a_sweep(after), SPEC)}
    contrast = found["5 drop of the pairwise losses less that of the pointwise, U"]
    low, high = (float(text.strip("[],")) for text in contrast.split()[1:3])
    assert min(sign * low, sign * high) > 0
    assert contrast.endswith(f"n {len(SPEC.confirm.blocks if SPEC.confirm else ())}")
    # The pool is in the unit of gold that ignores the prompt, the study in its own: the sign is the same.
    assert {what.split(",")[0] for what in found if "paired less shuffled" in what} == {f"5 {name}" for name in ALL}


def test_a_loss_that_was_not_confirmed_in_both_is_named_and_nothing_is_concluded() -> None:
    records = [
        r
        for r in a_sweep(dict.fromkeys(ALL, -0.1))
        if not (r.variant == "ipo" and r.scenario == "shuffled" and r.phase == "confirm")
    ]
    found = {what: said for what, _, said in facts_of_pairs(records, SPEC)}
    assert found["5 drop of the pairwise losses less that of the pointwise, U"] == (
        "nothing: ipo not confirmed in both scenarios"
    )
    assert found["5 ipo, paired less shuffled, U"] == "nothing"


def test_what_is_expected_is_written_down_before_anything_is_read() -> None:
    expected = {what: word for what, word, _ in facts_of_pairs([], SPEC)}
    assert expected.pop("5 drop of the pairwise losses less that of the pointwise, U") == "above 0"
    assert {what.split()[1].strip(","): word for what, word in expected.items()} == {
        **dict.fromkeys(PAIRWISE, "more"),
        **dict.fromkeys(POINTWISE, "less"),
    }
