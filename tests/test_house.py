"""The house keeps its measures: few files in a folder, short classes and functions, no import in a circle."""

from __future__ import annotations

import pytest

from tests.house import CIRCLES, EXCEPTIONS, LIMITS, SWEEP_EXCEPTION, SWEEP_LINES, above, figures, in_circles


@pytest.mark.parametrize("kind", LIMITS)
def test_nothing_is_above_its_limit_but_what_was_known_to_be(kind: str) -> None:
    known, large = EXCEPTIONS[kind], above(figures())[kind]
    grown = {name: size for name, size in large.items() if size > known.get(name, 0)}
    assert not grown, f"{kind}: at most {LIMITS[kind]}; divide {grown}"
    over = known.keys() - large.keys()
    assert not over, f"{kind}: take {sorted(over)} out of tests/house.py, which are within the limit now"


def test_the_sweep_reads_in_one_sitting() -> None:
    lines = figures()["lines of a class"]["Sweep"]
    assert lines <= (SWEEP_EXCEPTION or SWEEP_LINES)
    assert SWEEP_EXCEPTION is None or lines > SWEEP_LINES, "set SWEEP_EXCEPTION in tests/house.py to None"


def test_no_modules_import_one_another_but_those_that_were_known_to() -> None:
    assert in_circles() == CIRCLES, "only what is in CIRCLES of tests/house.py may, and it goes from there in time"
