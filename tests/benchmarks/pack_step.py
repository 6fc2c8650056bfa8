"""Pieces of a pack's step on a CPU, as ratios to what they took the place of: `python -m tests.benchmarks.pack_step`.

    tiles    attention in tiles to PyTorch's kernel, over shapes (rows, heads, their heads, length, size of a head)
    body     the body of a small Llama with adapters to the model's own modules with them, over (runs, width, layers)

One thread, the two in turn, median and quartiles of the ratio of CPU seconds. Below 1 the piece saves time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from tests.trainers.packs import lora_weights, pack_of
from trainers.multi_lora.attention.tiled_attention import tiled_attention
from trainers.multi_lora.layout import hidden_states, make_pair, micro_batch, pack_batch, packed_rows

SHAPES = (
    *((16, 8, 4, length, 8) for length in (32, 48, 64, 90, 128, 256)),
    *((16, 4, 4, length, 16) for length in (26, 64, 128, 256)),
    *((8, 9, 3, length, 64) for length in (26, 43, 64, 128, 256)),
)

BODIES = ((2, 64, 5), (4, 64, 5), (8, 64, 5), (4, 48, 3))


def report(name: str, ratios: Sequence[float]) -> None:
    """Print median and quartiles."""
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    print(f"{name:44} {middle:.2f} ({low:.2f} to {high:.2f})", flush=True)  # noqa: T201


def seconds(function: Callable[[], Tensor]) -> float:
    """CPU seconds of a pass there and back."""
    started = time.thread_time()
    out = function()
    out.backward(torch.ones_like(out))  # type: ignore[no-untyped-call]
    return time.thread_time() - started


def ratios(ours: Callable[[], Tensor], theirs: Callable[[], Tensor], repeats: int) -> list[float]:
    """Of both in turn, after one pass of each that does not count."""
    return [seconds(ours) / seconds(theirs) for _ in range(repeats + 1)][1:]


def attention(shape: tuple[int, int, int, int, int], repeats: int) -> list[float]:
    """Tiles to PyTorch's kernel."""
    rows, heads, shared, length, size = shape
    q, k, v = (torch.randn(rows, length, n, size, requires_grad=True) for n in (heads, shared, shared))

    def kernel() -> Tensor:
        turned_q, turned_k, turned_v = (
            t.transpose(1, 2).repeat_interleave(heads // t.shape[2], dim=1) for t in (q, k, v)
        )
        return functional.scaled_dot_product_attention(turned_q, turned_k, turned_v, is_causal=True)

    return ratios(lambda: tiled_attention(q, k, v, size**-0.5), kernel, repeats)


def body(shape: tuple[int, int, int], repeats: int) -> list[float]:
    """The pack's own body to the model's, eight pairs a run: a prompt of 20 tokens, answers of 20 to 70."""
    runs, width, layers = shape
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "num_hidden_layers": layers}
    config = LlamaConfig(hidden_size=width, intermediate_size=width * 8 // 3, vocab_size=512, **heads)
    model = LlamaForCausalLM(config)
    pack = pack_of(model, [lora_weights(model, seed, 0.1, rank=8) for seed in range(runs)])
    draw = np.random.default_rng(0)
    answers = [[draw.integers(512, size=draw.integers(20, 70)).tolist() for _ in range(2)] for _ in range(8)]
    prompts = draw.integers(512, size=(8, 20)).tolist()
    pairs = [make_pair(p, c, r, slice(None)) for p, (c, r) in zip(prompts, answers, strict=True)]
    batch = pack_batch([micro_batch(pairs)] * runs, pack.device)

    def ours() -> Tensor:
        with packed_rows(pack.model):
            return hidden_states(pack.model, batch)

    def theirs() -> Tensor:
        with patch("trainers.multi_lora.llama_body.LONGEST", 0):
            return ours()

    return ratios(ours, theirs, repeats)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for shape in SHAPES:
        report(f"tiles, {shape}", attention(shape, options.repeats))
    for sizes in BODIES:
        report(f"body, {sizes}", body(sizes, options.repeats))


if __name__ == "__main__":
    main()
