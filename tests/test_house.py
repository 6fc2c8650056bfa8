"""The house keeps its measures: few files in a folder, short classes and functions, no import in a circle."""

from __future__ import annotations

from functools import cache

import pytest

from tests import house
from tests.house import LIMITS, SWEEP_LINES, above, in_circles

figures = cache(house.figures)


@pytest.mark.parametrize("kind", LIMITS)
def test_nothing_is_above_its_limit(kind: str) -> None:
    large = above(figures())[kind]
    assert not large, f"{kind}: at most {LIMITS[kind]}; divide {large}"


def test_the_sweep_reads_in_one_sitting() -> None:
    assert figures()["lines of a class"]["Sweep"] <= SWEEP_LINES


def test_no_modules_import_one_another() -> None:
    assert in_circles() == set()
