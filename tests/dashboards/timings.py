"""Measurements of the speed of steps as a sweep would leave them, of a truth that is known."""

from __future__ import annotations

from collections.abc import Mapping

from dashboards.analysis.speed import Paces, paces
from studies.design.speed import Asked
from studies.records.speed import Ratio, Speed, Timings

ASKED = Asked("study", "sigmoid", {}, {}, 0, "now")


def timings(ratios: Mapping[str, float], half: float, null: float = 1.0) -> Timings:
    """Of variants against the baseline, with intervals of this half width."""
    of = {name: Ratio(value=value, low=value - half, high=value + half) for name, value in ratios.items()}
    return Timings(ratios=of, null=Ratio(value=null, low=null - half, high=null + half), rounds=75, seconds=4.2)


def measured(
    ratios: Mapping[str, float],
    *,
    half: float = 0.001,
    null: float = 1.0,
    step: float = 0.02,
    checked: Mapping[str, float] | None = None,
    asked: str = ASKED.digest,
) -> Speed:
    """One measurement; `checked`: the ratios of whole steps, whose intervals are ten times as wide."""
    return Speed(
        asked=asked,
        baseline="sigmoid",
        machine={"processor": "An abacus"},
        device="cpu",
        threads=1,
        date="2026-11-29T10:00:00+00:00",
        step_seconds=step,
        losses=timings(ratios, half, null),
        steps=None if checked is None else timings(checked, 10 * half),
        failed={"big": "its steps differ in lora_r (16, not 4)"},
    )


def timed(ratios: Mapping[str, float], *, step: float = 0.02, half: float = 0.001, null: float = 1.0) -> Paces:
    """What one measurement says."""
    found = paces([measured(ratios, step=step, half=half, null=null)], ASKED)
    assert found is not None
    return found
