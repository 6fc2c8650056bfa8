"""A layer about as small as its adapter, forward and backward, by thin products and by one weight a run:

    python -m tests.benchmarks.small_layers [--repeats 40]

Widths are those of stories260k and of the embedded model, rank 8; one thread, the two in turn, median and quartiles of
the ratio. Below 1 the weight a run is faster.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch

from trainers.multi_lora.linear import LinearWithAdapters, SmallLinearWithAdapters

RANK = 8
WIDTHS = ((64, 64), (64, 172), (172, 64))


def seconds(function: Any, runs: int, rows: int, inputs: int, outputs: int) -> float:
    """CPU seconds of one pass of one layer."""
    x = torch.randn(runs, rows, inputs, requires_grad=True)
    weight, a, b = torch.randn(outputs, inputs), torch.randn(runs, inputs, RANK), torch.randn(runs, RANK, outputs)
    scaling, trained = torch.ones(runs, 1, 1), torch.zeros((), requires_grad=True)
    started = time.thread_time()
    y = function.apply(x, weight, None, a, b, scaling, torch.zeros_like(a), torch.zeros_like(b), trained)
    y.backward(torch.ones_like(y))
    return time.thread_time() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for runs in (1, 2, 8):
        for rows in (300, 1200):
            for inputs, outputs in WIDTHS:
                shape = (runs, rows, inputs, outputs)
                ratios = [
                    seconds(SmallLinearWithAdapters, *shape) / seconds(LinearWithAdapters, *shape)
                    for _ in range(options.repeats)
                ]
                low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
                where = f"{runs} runs of {rows} rows, {inputs} to {outputs}"
                print(f"{where:32} {middle:.2f} ({low:.2f} to {high:.2f})")  # noqa: T201


if __name__ == "__main__":
    main()
