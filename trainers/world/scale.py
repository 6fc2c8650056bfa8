"""Writes `studies/world.json` and `world-gpt2.json`: what gold is worth in each task to each embedded model, so that
readers of records need no model.

    python -m trainers.world.scale [--model embedded-gpt2] [--samples 98304]

Run it again whenever an embedded model, the grammar or the gold tasks change: three to eight minutes a model on one
core. A test recomputes the files.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from studies.records import EMBEDDED, EMBEDDED_MODELS
from studies.records.world_units import FILES
from trainers.world.gold import TASKS, gold_reward, sign_under
from trainers.world.grammar import Mood, prompts
from trainers.world.oracle import KL_BUDGETS, tilted_gold_at_kl
from trainers.world.pairs import Completion, load_model, load_tokenizer, sample_completions

SAMPLES: Final = 98304
"""The oracle at 4 nats leans on few of them: at a third of these it moves by .1."""


def measure(samples: int, seed: int = 0, model: str = EMBEDDED) -> dict[str, Any]:
    """Per task the mean gold of an untrained model's samples and the oracle's at each budget: under `tasks` of
    the plain prompts, under `tasks_by_prompt` of cold and warm ones where gold asks the prompt, both moods alike often.

    `samples`: of each mood; the same are judged by every task. The values are rounded to 4 digits after the point.
    """
    plain, cold, warm = (_samples(model, mood, samples, seed) for mood in ("plain", "cold", "warm"))
    return {
        "samples": samples,
        "seed": seed,
        "tasks": [_worth(k, [[gold_reward(c.words, c.ended, k) for c in plain]]) for k in range(len(TASKS))],
        "tasks_by_prompt": [
            _worth(k, [[gold_reward(c.words, c.ended, k, sign_under(c.prompt, k)) for c in of] for of in (cold, warm)])
            for k in range(len(TASKS))
        ],
    }


def _samples(model: str, mood: Mood, n: int, seed: int) -> tuple[Completion, ...]:
    """The untrained model's completions of the prompts of a mood, each prompt equally often."""
    asked = prompts(mood)
    return sample_completions(load_model(model), load_tokenizer(model), [asked[i % len(asked)] for i in range(n)], seed)


def _worth(number: int, golds: Sequence[Sequence[float]]) -> dict[str, Any]:
    """A task's entry from gold [moods, samples]."""
    gold = np.array(golds)
    oracle = tilted_gold_at_kl(gold, KL_BUDGETS)
    return {
        "name": TASKS[number].name,
        "reference": round(float(gold.mean()), 4),
        "oracle": {f"{budget:g}": round(value, 4) for budget, value in zip(KL_BUDGETS, oracle, strict=True)},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the files."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--model", action="append", choices=EMBEDDED_MODELS, help="the only ones (default: all)")
    options = parser.parse_args(arguments)
    for model in options.model or EMBEDDED_MODELS:
        text = json.dumps(measure(options.samples, model=model), indent=2)
        FILES[model].write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
