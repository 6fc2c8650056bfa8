"""What became of a run: whether it diverged, inverted or collapsed, and what it cost. Knows no training loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final

from studies.records import Cause, Measurement
from trainers.evaluation.evaluate import ReferenceNumbers

WARM_UP_STEPS: Final = 10
"""First steps left out of the speed, at most half of them."""
CURVE: Final[Mapping[str, str]] = {
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "rewards/margins": "reward_margin",
    "rewards/accuracies": "reward_accuracy",
}
"""What TRL logs -> what a curve calls it."""


def outcome_of(measurements: Sequence[Measurement], reference: ReferenceNumbers) -> tuple[Cause, str]:
    """Whether a finished run inverted the preferences or collapsed, by its last evaluation.

    Collapsed: samples under a quarter as long as the reference's, half as many distinct bigrams, or a quarter of its
    entropy. Inverted: held-out accuracy below one half and the margin below zero by two standard errors each, and
    quality (gold where there is one, else ranking_gain) worse than the reference's by as much; accuracy alone
    misfires on labels that carry no signal.
    """
    last = {m.name: m for m in sorted(measurements, key=lambda m: m.step)}
    floors = {
        "length_ratio": 0.25,
        "distinct": 0.5 * reference.distinct,
        "entropy": 0.25 * reference.entropy,
    }
    low = [
        f"{n} {last[n].value:.3g} < {floor:.3g}" for n, floor in floors.items() if n in last and last[n].value < floor
    ]
    if low:
        return Cause.COLLAPSED, "; ".join(low)
    quality = "gold" if "gold" in last else "ranking_gain"
    start = {"accuracy": 0.5, "margin": 0.0, quality: reference.gold or 0.0 if quality == "gold" else 0.0}
    worse = [n for n, v in start.items() if n in last and last[n].value < v - 2 * (last[n].error or 0.0)]
    if len(worse) == len(start):
        return Cause.INVERTED, "; ".join(f"{n} {last[n].value:.3g} < {start[n]:.3g}" for n in start)
    return Cause.FINISHED, ""


def speed(
    step_seconds: Sequence[float], train_seconds: float, evaluation_seconds: float, tokens: float
) -> tuple[Measurement, ...]:
    """Steps and non-padding tokens a second from the median step after warm-up, and the wall time.

    `step_seconds` [steps]; `tokens` trained in all of them, 0 where unknown.
    """
    step = len(step_seconds)
    timed = step_seconds[min(WARM_UP_STEPS, step // 2) :]
    found = [
        Measurement("train_seconds", train_seconds, step=step),
        Measurement("evaluation_seconds", evaluation_seconds, step=step),
    ]
    if timed:
        typical = median(timed)
        found.append(Measurement("steps_per_second", 1.0 / typical, step=step))
        if tokens:
            found.append(Measurement("tokens_per_second", tokens / step / typical, step=step))
    return tuple(found)


def memory(peak: float) -> Measurement:
    """Peak memory in MiB: allocated on the GPU, or resident in this process."""
    return Measurement("peak_memory", peak)


START_METRICS: Final[Mapping[str, str]] = {"rewards/chosen": "chosen_reward", "rewards/rejected": "rejected_reward"}
