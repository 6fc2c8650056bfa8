"""Numbers as they stand in cells."""

from __future__ import annotations

import math

from dashboards.statistics.estimates import Estimate, Proportion
from dashboards.tables.comparison import Quality
from studies.records import Scalar


def plain(e: Estimate) -> str:
    """A value without a sign, with its interval where it has one."""
    return interval(e).lstrip("+") if e.low is not None else number(e.value)


def share(of: Proportion) -> str:
    """`k/n` with its limits in per cent."""
    return f"{of.k}/{of.n} [{100 * of.low:.0f}-{100 * of.high:.0f}%]" if of.n else "-"


def interval(e: Estimate) -> str:
    """The value with its sign, and its interval where it has one, to the digits that the interval supports."""
    if e.low is None or e.high is None:
        return f"{e.value:+.3g} (n too small)"
    half = (e.high - e.low) / 2
    value, low, high = (to_error(v, half) for v in (e.value, e.low, e.high))
    return with_sign(f"{value} [{low}, {high}]")


def with_sign(text: str) -> str:
    """A number, or one with its interval, as a difference: with a sign where it is not zero as it is shown. Limits keep
    theirs: one of -0 says on which side of nothing it lies.
    """
    first = text.split(" ", 1)[0].rstrip("%")
    if float(first) == 0.0:
        return text.removeprefix("-")
    return text if first.startswith("-") else f"+{text}"


def best_cell(best: Quality | None) -> str:
    """The best trial's objective: with interval, or with the evaluator's own error and 'n too small'."""
    if best is None:
        return "-"
    e = best.estimate
    mark = "*" if best.is_optimistic else ""
    if e.low is not None and e.high is not None:
        value, low, high = (to_error(v, (e.high - e.low) / 2) for v in (e.value, e.low, e.high))
        return f"{value}{mark} [{low}, {high}]"
    if e.error is None:
        return f"{number(e.value)}{mark} (n too small)"
    return f"{to_error(e.value, e.error)}{mark} ±{to_error(e.error, e.error)} (n too small)"


def number(value: float | None) -> str:
    """Three significant digits, which is what errors of a few per cent leave; whole numbers from 100 on."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def to_error(value: float, error: float) -> str:
    """The value to the first digit of its error, to the second where the first is 1 or 2."""
    if error <= 1e-9 * abs(value):
        return number(value)
    exponent = math.floor(math.log10(error))
    decimals = -exponent + (error < 3 * 10**exponent)
    return f"{value:.{max(decimals, 0)}f}"


def knob(value: Scalar) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
