"""Peak memory of a pack of K runs, `python -m tests.benchmarks.memory`: the base once, and K times what a run adds.

A Llama of SmolLM2-135M's shape with random weights (30 layers of 576, 49,152 words), LoRA of rank 8 on all linear
layers, four pairs of up to 64 tokens. Each size in a process of its own, which makes one pass and tells its peak
resident memory (on a GPU, its peak allocation).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

SIZES = (1, 2, 4, 8)
SHAPE: dict[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}


def write_model(folder: Path) -> None:
    """The random model, with the embedded world's tokenizer, whose ids are the first of the vocabulary."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from trainers.world.paths import model_path

    tokenizer = AutoTokenizer.from_pretrained(model_path())
    torch.manual_seed(0)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    LlamaForCausalLM(LlamaConfig(**SHAPE, **ids)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def reset_peak() -> None:
    """Forget what loading the model took; Linux and CUDA only."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak_since() -> float:
    """Peak memory in MiB since `reset_peak`."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**10


def peak(model: Path, size: int) -> tuple[float, float, int]:
    """Memory in MiB before a pass of `size` runs and at its peak, and the numbers that each adapter has."""
    from studies.records import DataConfig, EvaluationConfig, RunConfig
    from tests.benchmarks.ladder import LORA, LOSSES
    from trainers.dpo import DPOTrainerWorker
    from trainers.interface import Job, Placement

    worker = DPOTrainerWorker()
    jobs = []
    for i in range(size):
        settings = {**LORA, **LOSSES[i % len(LOSSES)], "model_name_or_path": str(model), "max_steps": 4, "seed": i}
        config = RunConfig(
            study="memory",
            variant="v",
            scenario="clean",
            trial=i,
            block=0,
            seed=i,
            settings={**settings, "per_device_train_batch_size": 4},
            knobs={},
            data=DataConfig(path="embedded", rows=64, eval_rows=4),
            evaluation=EvaluationConfig(prompts=1, max_new_tokens=1, pairs=2),
        )
        jobs.append(Job(config, model.parent / f"run{i}", placement=Placement(together=size)))
    members = [worker.make(job) for job in jobs]
    pack = worker.empty_pack(jobs[0])
    reset_peak()
    before = peak_since()
    pack.admit(members)
    pack.train_micro_batch()
    return before, peak_since(), pack.adapters.geometry.size


def main() -> None:
    """Measure each size in a process of its own; print the table and the line through it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(peak(options.model, options.one)))  # noqa: T201
        return
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model"
        write_model(model)
        found = [_measured(model, size) for size in options.sizes]
    report(options.sizes, found)


def _measured(model: Path, size: int) -> tuple[float, float, int]:
    command = [sys.executable, "-m", "tests.benchmarks.memory", "--one", str(size), "--model", str(model)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    before, after, numbers = json.loads(done.stdout.strip().splitlines()[-1])
    return before, after, numbers


def report(sizes: Sequence[int], found: Sequence[tuple[float, float, int]]) -> None:
    """The table, and what the base and each run take by least squares."""
    peaks = [after for _, after, _ in found]
    each, base = np.polyfit(sizes, peaks, 1)
    print("runs  peak MiB  by the line  before the pass")  # noqa: T201
    for size, (before, after, _) in zip(sizes, found, strict=True):
        print(f"{size:4}  {after:8.0f}  {base + each * size:11.0f}  {before:15.0f}")  # noqa: T201
    state = 16 * found[0][2] / 2**20
    print(  # noqa: T201
        f"{base:.0f} MiB once and {each:.0f} MiB a run, of which {state:.0f} MiB are weights, gradient and moments "
        "of its adapter and the rest activations of a pass"
    )


if __name__ == "__main__":
    main()
