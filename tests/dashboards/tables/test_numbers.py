"""Numbers as people read them."""

import pytest

from dashboards.statistics.estimates import Estimate
from dashboards.tables.numbers import interval, with_sign


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("3 [1, 5]", "+3 [1, 5]"),
        ("-3 [-5, -1]", "-3 [-5, -1]"),
        ("0 [-2, 2]", "0 [-2, 2]"),
        ("0.00", "0.00"),
        ("2%", "+2%"),
    ],
)
def test_a_difference_has_a_sign_where_it_is_not_nothing_as_it_is_shown(text: str, shown: str) -> None:
    assert with_sign(text) == shown


def test_what_rounds_to_nothing_is_not_below_it() -> None:
    assert interval(Estimate(-0.0004, 10, -0.02, 0.0192, None)) == "0.000 [-0.020, 0.019]"


def test_a_limit_says_on_which_side_of_nothing_it_lies() -> None:
    assert interval(Estimate(0.05, 10, -0.0004, 0.1004, None)) == "+0.05 [-0.00, 0.10]"
