"""Records of replicates as a sweep would leave them: points that are tried, and what was chosen judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from studies.records import EMBEDDED, Cause, RunRecord
from studies.records.world_units import task_of_block, tasks
from studies.schema.replicates import Cell
from tests.dashboards.generated import a_record

STEPS = (10, 20, 40, 80)
KLS = (0.25, 1.0, 2.25, 4.0)
DRIFT = 1.0


def a_run(
    variant: str,
    replicate: int,
    trial: int,
    gain: float,
    *,
    judging: bool = False,
    kls: Sequence[float] = KLS,
    cause: Cause = Cause.FINISHED,
    model: str = EMBEDDED,
    **changes: Any,
) -> RunRecord:
    """A run of an embedded model that gains `gain` of what is possible for it at 1 nat, and by the root of the KL
    before and after.
    """
    cell = Cell("clean", replicate)
    block = cell.judging_block if judging else cell.tuning_block
    task = tasks(model=model)[task_of_block(block)]
    whole = task.oracle["1"] - task.reference
    golds = [task.reference + gain * whole * kl**0.5 for kl in kls]
    curves = {"kl": tuple(zip(STEPS, kls, strict=True)), "gold": tuple(zip(STEPS, golds, strict=True))}
    fields: dict[str, Any] = {
        "run_id": f"{variant}-{replicate}-{trial}-{'judge' if judging else 'tune'}",
        "key": f"{variant}{replicate}{trial}",
        "scenario": cell.name,
        "variant": variant,
        "trial": trial,
        "block": block,
        "phase": "confirm" if judging else "unbiased",
        "knobs": {"beta": 0.1 * (trial + 1), "learning_rate": 1e-4 * (trial + 1)},
        "metrics": {"gold": golds[-1], "kl": kls[-1], "length_ratio": 1.1},
        "curves": curves | {"length_ratio": tuple((step, 1.1) for step in STEPS)},
        "facts": {"source": model, "reference_gold": str(task.reference)},
    }
    return a_record(cause, **(fields | changes))


def replicated(gains: Mapping[str, Sequence[float]], points: int = 2) -> list[RunRecord]:
    """`gains`: variant -> judged gain of each replicate. The last point is the best by .1 on the tuning draw."""
    found = []
    for variant, of in gains.items():
        for i, gain in enumerate(of):
            found += [a_run(variant, i + 1, n, gain - 0.1 * (points - n)) for n in range(points)]
            found.append(a_run(variant, i + 1, points - 1, gain, judging=True))
    return found
