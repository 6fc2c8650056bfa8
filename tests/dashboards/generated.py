"""Records as a sweep would leave them, generated: single ones, and whole pools with the noise that was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from dashboards.statistics.estimates import Floats
from studies.records import CONSEQUENCES, Cause, RunRecord, State
from studies.records.world_units import FIRST_TASKS, task_of_block, tasks


def a_record(cause: Cause | None = Cause.FINISHED, **changes: Any) -> RunRecord:
    """One run, complete unless its cause says otherwise; a cause of None leaves it running. Every trial is a config."""
    fields: dict[str, Any] = {
        "run_id": f"{changes.get('variant', 'sigmoid')}-{changes.get('trial', 0)}-{changes.get('block', 0)}",
        "key": f"k{changes.get('trial', 0)}",
        "study": "pool",
        "variant": "sigmoid",
        "scenario": "clean",
        "trial": 0,
        "block": 0,
        "seed": 0,
        "attempt": 1,
        "state": CONSEQUENCES[cause].told if cause else State.RUNNING,
        "cause": cause,
        "phase": "unbiased",
        "knobs": {"beta": 0.1 + changes.get("trial", 0)},
        "metrics": {},
        "errors": {},
        "facts": {"source": "embedded"},
    }
    return RunRecord(**(fields | changes))


# Noise as it was measured on the embedded world, in gold: a run at KL 2.5 and above (below, a quarter of it), a draw
# of pairs, a task's own preference for a loss, and the evaluation of 1024 samples.
RUN_SD, BLOCK_SD, TASK_SD, SAMPLE_SE = 0.15, 0.3, 0.36, 0.07
OTHERS = {"margin": 3.0, "accuracy": 0.8, "length_ratio": 1.1, "steps_per_second": 10.0}


def pool(
    advantages: Mapping[str, float],
    *,
    configs: int = 12,
    blocks: Sequence[int] = range(3),
    confirm: Sequence[int] = (),
    scenario: str = "clean",
    task_sd: float = TASK_SD,
    seed: int = 0,
    seeds: int = 1,
    highest_kl: float = 6.0,
) -> list[RunRecord]:
    """Records of an unbiased arm and of its best config's confirm runs, for variants with an advantage in U.

    All variants have the same configs: config c reaches KL .2 to `highest_kl` and gold .55 sqrt(KL) U, times an
    efficiency of its own, and falling above KL 4. Variants differ by their advantage, by task and by a run's noise.
    """
    draw = np.random.default_rng(seed)
    kl = np.geomspace(0.2, highest_kl, configs)[draw.permutation(configs)]
    level = 0.55 * np.sqrt(np.minimum(kl, 4.0)) - 0.15 * np.maximum(kl - 4.0, 0.0)
    level *= np.append(1.0, draw.uniform(0.6, 1.0, configs - 1))[draw.permutation(configs)]
    luck = dict(zip([*blocks, *confirm], draw.normal(0.0, BLOCK_SD, len(blocks) + len(confirm)), strict=True))
    found = []
    for variant, advantage in advantages.items():
        taste = draw.normal(0.0, task_sd, FIRST_TASKS)
        taste -= taste.mean()

        def run(
            config: int, block: int, phase: str, number: int = 0, *, name: str, gain: float, by: Floats
        ) -> RunRecord:
            noise = RUN_SD if kl[config] > 2.5 else RUN_SD / 4
            gold = gold_of(block, level[config] + gain) + luck[block] + by[task_of_block(block)]
            gold += draw.normal(0.0, noise)
            halves = gold + draw.normal(0.0, SAMPLE_SE * 2**0.5, 2)
            at = kl[config] * (1 + draw.normal(0.0, 0.02, 2))
            return a_record(
                run_id=f"{name}-{scenario}-{config}-{block}-{number}-{phase}",
                variant=name,
                scenario=scenario,
                trial=config,
                block=block,
                seed=number,
                phase=phase,
                knobs={"beta": round(float(1 / (1 + kl[config])), 3), "learning_rate": 1e-3},
                metrics=OTHERS | {"gold": float(halves.mean()), "kl": float(at.mean())},
                errors={"gold": SAMPLE_SE, "kl": 0.02},
                halves={"gold": tuple(halves.tolist()), "kl": tuple(at.tolist())},
            )

        one = partial(run, name=variant, gain=advantage, by=taste)
        own = [one(c, b, "unbiased", s) for c in range(configs) for b in blocks for s in range(seeds)]
        found += own
        if confirm:
            mean = {c: np.mean([r.metrics["gold"] for r in own if r.trial == c]) for c in range(configs)}
            best = max(mean, key=mean.__getitem__)
            found += [one(best, b, "confirm") for b in confirm]
    return found


def gold_of(block: int, u: float) -> float:
    """The gold that is worth `u` on a block."""
    task = tasks()[task_of_block(block)]
    return task.reference + u * (task.oracle["2"] - task.reference)
