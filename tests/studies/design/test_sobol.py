"""The sequence is SciPy's."""

import itertools

import numpy as np
import pytest
from scipy.stats import qmc

from studies.design.sobol import MOST_COLUMNS, scrambled_sobol
from studies.spec import MOST_AXES


@pytest.mark.parametrize("seed", [0, 1, 17, 2**31])
@pytest.mark.parametrize("columns", [1, 7, MOST_COLUMNS])
def test_the_numbers_are_those_of_scipy_to_the_bit(columns: int, seed: int) -> None:
    rows = np.array(list(itertools.islice(scrambled_sobol(columns, seed), 1024)))
    assert np.array_equal(rows, qmc.Sobol(columns, scramble=True, rng=np.random.default_rng(seed)).random(1024))


def test_every_axis_that_a_study_may_have_has_a_column() -> None:
    assert MOST_COLUMNS >= MOST_AXES
