"""How long a training step takes with each variant of a study, as it was measured: what `speed.json` of its parent
MLflow run holds. Its reader and its writer share these types.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Final

from studies.records.configs import Frozen

SPEED_FILE: Final = "speed.json"
_VERSION: Final = 1


class Ratio(Frozen):
    """The time of a step over that of the baseline's, above 1 where it is longer, with its 95 % interval."""

    value: float
    low: float
    high: float


class Timings(Frozen):
    """What one method found: by variant, for the baseline a second time (`null`), which is as fast as itself, from so
    many rounds in so many seconds.
    """

    ratios: Mapping[str, Ratio]
    null: Ratio
    rounds: int
    seconds: float


class Speed(Frozen):
    """One measurement. `asked`: what of the study it answers (`studies.design.speed`); `machine`: what it holds for,
    with the versions of libraries; `step_seconds`: of a step of the baseline's, on `device` with so many threads.

    `losses`: from the loss alone, TRL's code on fixed log-probs, over a whole step; `steps`: from whole steps, where
    the study asks for that check. `failed`: why a variant has no ratio.
    """

    asked: str
    baseline: str
    machine: Mapping[str, str]
    device: str
    threads: int
    date: str
    step_seconds: float
    losses: Timings
    steps: Timings | None = None
    failed: Mapping[str, str] = {}


def speed_text(measured: Iterable[Speed]) -> str:
    """The file that holds these measurements."""
    return json.dumps({"v": _VERSION, "measured": [one.model_dump(mode="json") for one in measured]}, indent=1) + "\n"


def read_speed(text: str | None) -> tuple[Speed, ...]:
    """The measurements in such a file, oldest first; none without one, or in that of another version. Raises
    ValueError for a file that was edited.
    """
    if text is None:
        return ()
    whole = json.loads(text)
    if not isinstance(whole, dict):
        raise ValueError("it is no mapping")
    return tuple(map(Speed.model_validate, whole.get("measured", ()))) if whole.get("v") == _VERSION else ()
