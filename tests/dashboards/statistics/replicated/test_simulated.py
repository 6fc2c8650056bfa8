"""The whole procedure, simulated: what the new design keeps and the old one did not. The full table is a benchmark."""

from __future__ import annotations

import numpy as np
import pytest

from tests.benchmarks.simulated_comparisons import OLD, Measured, measured, words
from tests.benchmarks.simulated_losses import AS_RECORDED, Design, scrambles, simulated

REPEATS = 600
POOL = scrambles(512, seed=3)


def limit(share: float) -> float:
    """What a true share may come out as, by three standard errors."""
    return share + 3 * float(np.sqrt(share * (1 - share) / REPEATS))


@pytest.fixture(scope="module")
def new() -> Measured:
    return measured(Design(8, 12), AS_RECORDED, POOL, REPEATS)


def test_equally_good_losses_are_called_different_in_one_study_of_twenty_at_most(new: Measured) -> None:
    assert new.any_different <= limit(0.05)
    assert new.covered >= 0.93


def test_losses_at_the_edge_of_the_tie_are_called_the_same_in_one_of_twenty_cases_at_most(new: Measured) -> None:
    assert new.tied <= limit(0.05)


def test_the_best_loss_stays_in_the_set_and_one_far_behind_does_not(new: Measured) -> None:
    assert new.best_out <= limit(0.05)
    assert new.as_good_out <= limit(0.05)
    assert new.behind_out >= 0.9


def test_differences_of_a_tenth_are_found(new: Measured) -> None:
    assert new.found[1] >= 0.95


def test_the_old_design_called_a_loss_different_from_itself_in_a_fifth_of_cases() -> None:
    pair = [AS_RECORDED[0], AS_RECORDED[0]]
    false = {
        design.name: (words(simulated(design, pair, REPEATS, POOL, seed=4, own=True)).claim != 0).mean()
        for design in (OLD, Design(8, 12))
    }
    assert false[OLD.name] > 0.2
    assert false[Design(8, 12).name] <= limit(0.05)
