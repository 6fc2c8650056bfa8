"""How far a run is, beside its weights: what is kept of it on disk, however it trains. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from studies.records import Measurement, Scalar


@dataclass(frozen=True)
class Progress:
    """Optimizer steps made, curve and measurements so far, seconds spent, and what the speed is worked out from: the
    seconds of each step that is timed, and the tokens trained. `gradient_norms`: of the losses before training, where
    their weights rest on them (`trainers.components.gradient_balance`). `start`: facts of before the first step
    (`trainers.components.start_check`).
    """

    step: int
    curve: tuple[tuple[int, Mapping[str, float]], ...] = ()
    measurements: tuple[Measurement, ...] = ()
    train_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    step_seconds: tuple[float, ...] = ()
    tokens: int = 0
    gradient_norms: tuple[float, ...] = ()
    start: Mapping[str, Scalar] = field(default_factory=dict)


def to_json(progress: Progress) -> dict[str, Any]:
    """As plain JSON, which keeps every float to its last digit."""
    return {
        **vars(progress),
        "curve": [[step, dict(values)] for step, values in progress.curve],
        "measurements": [vars(m) for m in progress.measurements],
        "step_seconds": list(progress.step_seconds),
        "gradient_norms": list(progress.gradient_norms),
        "start": dict(progress.start),
    }


def from_json(kept: Mapping[str, Any]) -> Progress:
    """What `to_json` gave. Raises KeyError, TypeError or ValueError for anything else."""
    return Progress(
        step=int(kept["step"]),
        curve=tuple((int(step), values) for step, values in kept["curve"]),
        measurements=tuple(Measurement(**{**m, "halves": _pair(m["halves"])}) for m in kept["measurements"]),
        train_seconds=float(kept["train_seconds"]),
        evaluation_seconds=float(kept["evaluation_seconds"]),
        step_seconds=tuple(float(seconds) for seconds in kept["step_seconds"]),
        tokens=int(kept["tokens"]),
        gradient_norms=tuple(float(norm) for norm in kept.get("gradient_norms", ())),  # a state of before has none
        start=dict(kept.get("start", {})),
    )


def _pair(value: Any) -> tuple[float, float] | None:
    return None if value is None else (float(value[0]), float(value[1]))
