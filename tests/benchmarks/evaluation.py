"""What measuring a policy of the embedded world costs, in one pass with others against alone.

python -m tests.benchmarks.evaluation [--repeats 5] [--samples 512]

Interleaved, on one thread. The adapters are those of the tests, random and small, on all linear layers.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from studies.records import DataConfig, EvaluationConfig
from tests.trainers.packs import Weights, lora_weights, pack_of
from trainers.data.pairs import Pairs, load_pairs
from trainers.evaluation.evaluate import ReferenceNumbers, evaluate_all, packed_policies, reference_numbers
from trainers.world.pairs import load_model, load_tokenizer

PACKS = (1, 4, 8)
RANK = 8


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Pairs,
    config: EvaluationConfig,
    reference: ReferenceNumbers,
    weights: list[Weights],
) -> None:
    """Evaluate adapters in one pass."""
    count = len(weights)
    pack = pack_of(model, weights)
    evaluate_all(packed_policies(pack), tokenizer, [pairs] * count, config, [reference] * count)


def seconds(work: Callable[[], None]) -> float:
    """Wall time of some work."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Print median and range of the seconds a policy, for each number of policies in a pass and for one by one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--samples", type=int, default=512)
    options = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer, model = load_tokenizer(), load_model()
    pairs = load_pairs(DataConfig(), 0, tokenizer)
    config = EvaluationConfig(prompts=options.samples, max_new_tokens=32)
    reference = reference_numbers(model, tokenizer, pairs, config)
    one = partial(measure, model, tokenizer, pairs, config, reference)
    adapters = [lora_weights(model, seed, 0.05, RANK) for seed in range(max(PACKS))]
    one(adapters[:1])  # the first forward passes are slower
    for count in PACKS:
        together: list[float] = []
        alone: list[float] = []
        for _ in range(options.repeats):
            together.append(seconds(partial(one, adapters[:count])) / count)
            alone.append(sum(seconds(partial(one, [weights])) for weights in adapters[:count]) / count)
        ratios = [b / a for a, b in zip(together, alone, strict=True)]
        print(  # noqa: T201
            f"{count} policies: {shown(together)} s a policy in one pass, {shown(alone)} one by one, "
            f"ratio {shown(ratios)}"
        )


def shown(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
