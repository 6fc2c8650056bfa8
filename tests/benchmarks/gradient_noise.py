"""How far one batch tells how large the gradients of two losses are: what `gradient_balance.PAIRS` rests on.

    python -m tests.benchmarks.gradient_noise

Steps of a training that moves nothing, on several blocks of the embedded world; no number depends on the machine.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from tests.trainers.pack_runs import config, train
from trainers.components.gradient_balance import PAIRS

BLOCKS, STEPS = range(4), 24  # as many as a curve has points
STILL = {"learning_rate": 0.0, "lr_scheduler_type": "constant", "max_steps": STEPS, "beta": 0.1, "rows": 512}


def ratios(folder: Path, rows: int, loss: str, block: int) -> list[float]:
    """The gradient's norm of a loss over that of sigmoid, step by step, in batches of so many pairs."""
    runs = [config(name, block=block, per_device_train_batch_size=rows, **STILL) for name in (loss, "sigmoid")]
    one, other = ([values["grad_norm"] for _, values in r.curve] for r in train(folder, runs, together=2))
    return [a / b for a, b in zip(one, other, strict=True)]


def main() -> None:
    """Print, by loss and batch, the mean ratio and the standard deviations of one batch and of the mean of 64 pairs."""
    for loss in ("ipo", "sft", "sppo_hard"):
        for rows in (4, 16):
            with tempfile.TemporaryDirectory() as folder:
                found = [ratios(Path(folder), rows, loss, block) for block in BLOCKS]
            mean = statistics.fmean(map(statistics.fmean, found))
            spread = statistics.fmean(statistics.stdev(one) / statistics.fmean(one) for one in found)
            whole = spread / (PAIRS / rows) ** 0.5
            said = f"{mean:.3g}, sd of one batch {spread:.0%}, of {PAIRS} pairs {whole:.0%}"
            print(f"{loss} over sigmoid, {rows} pairs a batch: {said}")  # noqa: T201


if __name__ == "__main__":
    main()
