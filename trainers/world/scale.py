"""Writes `studies/world.json`: what gold is worth in each task, so that readers of records need no model.

    python -m trainers.world.scale [--samples 98304]

Run it again whenever the embedded model, the grammar or the gold tasks change; a test recomputes the file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from studies.world import FILE
from trainers.world.gold import TASKS, gold_reward
from trainers.world.grammar import prompts
from trainers.world.oracle import KL_BUDGETS, tilted_gold_at_kl
from trainers.world.pairs import load_model, load_tokenizer, sample_completions

SAMPLES: Final = 98304
"""The oracle at 4 nats leans on few of them: at a third of these it moves by .1."""


def measure(samples: int, seed: int = 0) -> dict[str, Any]:
    """Per task the mean gold of the untrained model's samples of the plain prompts and the oracle's at each budget.

    The same samples are judged by every task. The values are rounded to 4 digits after the point.
    """
    asked = prompts("plain")
    completions = sample_completions(
        load_model(), load_tokenizer(), [asked[i % len(asked)] for i in range(samples)], seed
    )
    tasks = []
    for number, task in enumerate(TASKS):
        gold = np.array([gold_reward(c.words, c.ended, number) for c in completions])
        oracle = tilted_gold_at_kl(gold, KL_BUDGETS)
        tasks.append(
            {
                "name": task.name,
                "reference": round(float(gold.mean()), 4),
                "oracle": {f"{budget:g}": round(value, 4) for budget, value in zip(KL_BUDGETS, oracle, strict=True)},
            }
        )
    return {"samples": samples, "seed": seed, "tasks": tasks}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    FILE.write_text(json.dumps(measure(parser.parse_args(arguments).samples), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
