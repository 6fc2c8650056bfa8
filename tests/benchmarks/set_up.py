"""CPU seconds that make a run ready for a pack: `python -m tests.benchmarks.set_up`.

    injected   PEFT injects its adapter and takes it out again, as for the first run of a configuration
    drawn      its adapter is drawn without, as for every later one

On the model of `tests.benchmarks.memory`, on one thread, the two in turn: median and quartiles. The very first run,
which also loads the model and measures it, does not count.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from studies.records import DataConfig, EvaluationConfig, RunConfig
from tests.benchmarks.ladder import LORA
from tests.benchmarks.memory import write_model
from trainers.components.worker_cache import WorkerCache
from trainers.interface import Job, Placement
from trainers.pack.member import make_member


def seconds(model: Path, cache: WorkerCache, seed: int) -> float:
    """Of the processor, for a run that comes to all of its 64 pairs."""
    settings = {**LORA, "model_name_or_path": str(model), "per_device_train_batch_size": 4, "max_steps": 16}
    config = RunConfig(
        study="set_up",
        variant="v",
        scenario="clean",
        trial=seed,
        block=0,
        seed=seed,
        settings={**settings, "seed": seed},
        knobs={},
        data=DataConfig(path="embedded", rows=64, eval_rows=4),
        evaluation=EvaluationConfig(prompts=1, max_new_tokens=1, pairs=2),
    )
    started = time.process_time()
    make_member(Job(config, model.parent / f"run{seed}", placement=Placement(together=8)), cache)
    return time.process_time() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[float]] = {"injected": [], "drawn": []}
    with tempfile.TemporaryDirectory() as scratch:
        model, cache = Path(scratch) / "model", WorkerCache()
        write_model(model)
        seconds(model, cache, 0)
        for seed in range(1, 2 * options.repeats, 2):
            cache.drawings = []
            for step, kind in enumerate(found):
                found[kind].append(seconds(model, cache, seed + step))
    for kind, all_of_it in found.items():
        low, middle, high = np.quantile(all_of_it, (0.25, 0.5, 0.75))
        print(f"{kind:9} {middle:.3f} s ({low:.3f} to {high:.3f})", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
