"""Gains in words, and what is said of a model from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from dashboards.statistics.estimates import Estimate
from dashboards.tuned.losses import Tuned, TunedLoss
from dashboards.tuned.samples.contests import as_rate
from dashboards.tuned.yours import Yours
from studies.text.plural import so_many


def share(found: Tuned, value: Estimate) -> str:
    """A gain with its interval: in the embedded world as a share of what is possible, of a win rate that rate."""
    if found.is_rate:
        rate = as_rate(value)
        limits = "" if rate.low is None or rate.high is None else f" [{100 * rate.low:.0f} to {100 * rate.high:.0f}]"
        return f"{100 * rate.value:.0f}%{limits} of prompts"
    if found.unit != "U":
        limits = "" if value.low is None or value.high is None else f" [{value.low:.3g}, {value.high:.3g}]"
        return f"{value.value:.3g} {found.metric}{limits}"
    limits = "" if value.low is None or value.high is None else f" [{100 * value.low:.0f} to {100 * value.high:.0f}]"
    return f"{100 * value.value:.0f}%{limits} of what is possible"


def amount(found: Tuned, width: float) -> str:
    """A width without an interval."""
    points = 100 * width
    return f"{points:g} point{'' if points == 1 else 's'}" if found.unit == "U" or found.is_rate else f"{width:g}"


def at_most(found: Tuned, reach: float, tie_within: float) -> str:
    """How far apart losses may be that are shown to be as good, rounded up; `reach` is less than the tie width."""
    step = 10.0 ** (math.floor(math.log10(tie_within)) - 2)  # in points: hundredths of those of a tie of some points
    width = math.ceil(reach / step) * step
    if width >= tie_within * (1 - 1e-9):
        return f"less than {amount(found, tie_within)} apart"
    return f"at most {amount(found, float(f'{width:.6g}'))} apart, within the {amount(found, tie_within)} of a tie,"


def said_of_yours(found: Tuned, use: str | None) -> tuple[str, ...]:
    """What is to be said of the models from elsewhere. `use`: the loss that the answer names."""
    return tuple(" ".join(_said(found, one, use or found.baseline)) for one in found.yours)


def _said(found: Tuned, one: Yours, other: str | None) -> list[str]:
    if one.gain is None:
        return [f"Yours, {one.name}, has no gain to compare ({one.missing})."]
    where = "" if one.drift is None else f", {one.drift:.1f} nats on average from the start"
    gain = share(found, one.gain)
    gains = f"beats the untrained model at {gain}" if found.is_rate else f"gains {gain} over the untrained model"
    said = [f"Yours, {one.name}, as exported, {gains} on {so_many(one.judged, 'draw')}{where}."]
    if one.difference is not None and found.baseline is not None:
        place = "At that drift" if one.at_own_drift else "At the end of its training"
        said.append(f"{place} {found.baseline} {_more(found, one.difference)}.")
    if other is not None and other in one.beside and (one.at_own_drift or other != found.baseline):
        said.append(f"As it would be exported, {other} {_more(found, one.beside[other])}.")
    return said


def _more(found: Tuned, difference: Estimate) -> str:
    """What another gains more or less than yours. `difference`: yours less the other."""
    if difference.low is None or difference.high is None:
        return f"gains {_of(found, [-difference.value])} more, on too few draws for an interval"
    if difference.low <= 0.0 <= difference.high:
        limits = _of(found, [-difference.value, -difference.high, -difference.low])
        return f"is not shown to gain more or less ({limits})"
    less = difference.low > 0.0
    ends = [difference.value, difference.low, difference.high]
    told = _of(found, ends if less else [-ends[0], -ends[2], -ends[1]])
    return f"gains {told} {'less' if less else 'more'}"


def _of(found: Tuned, values: Sequence[float]) -> str:
    """A difference, with its limits where they are given."""
    in_points = found.unit == "U" or found.is_rate
    times, unit, form = (100.0, " points", ".0f") if in_points else (1.0, f" {found.metric}", ".3g")
    first, *limits = (f"{times * value + 0.0:{form}}" for value in values)
    return f"{first}{unit}" + (f" [{limits[0]} to {limits[1]}]" if limits else "")


_BY_HEART: Final = 0.2  # four standard errors of one replicate of a hundred held-out pairs
_MOVED: Final = 2.0  # nats: as far as losses usually are compared


def what_to_try(found: Tuned, losses: Sequence[TunedLoss]) -> str:
    """What to change before losses are compared that gained nothing, by how far they went and what they rank right."""
    gap = max((loss.end.gap for loss in losses if loss.end.gap is not None), default=0.0)
    went = max((loss.end.drift for loss in losses if loss.end.drift is not None), default=None)
    if gap > _BY_HEART:
        return (
            f"But training pairs were learnt by heart: up to {100 * gap:.0f} points more of them are ranked right than "
            "of held-out ones. Take more pairs, fewer steps (base.max_steps) or lower rates (space.learning_rate)."
        )
    if went is not None and went >= (found.drift or _MOVED):
        return (
            f"Runs did move, up to {went:.2g} nats from the untrained model, and to no gain that counts. Take more "
            "pairs, or lower rates (space.learning_rate)."
        )
    lie = "" if went is None else f": at their end they are at most {went:.2g} nats from the untrained model"
    longer = "Train longer (base.max_steps), or at higher learning rates (space.learning_rate), before comparing"
    return f"{longer}{lie}."
