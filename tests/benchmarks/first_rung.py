"""From which step on runs with other losses and betas differ, and early gold says something about the end.

    python -m tests.benchmarks.first_rung [--samples 256]

On the embedded world, 32 configs: 4 losses x 4 betas x 2 learning rates, one block and seed, paused at each step of the
table. Cosine: between what the training has done to the weights of two runs of one learning rate, over all pairs of
them (under AdamW the first steps do not depend on loss or beta). Rank correlation: of gold at the step with gold at
the end; and where the four that are best at the end within the bound on KL stand at the step, in the order of a rung.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from studies.design.halving import rung_scores
from studies.records import RunConfig, RunResult
from studies.spec import arms, load_study, resolve_run
from trainers.dpo import DPOTrainerWorker
from trainers.interface import Job, Placement
from trainers.job_list import train_all
from trainers.pack.state import load_state

PAUSES = (5, 10, 20, 30, 40, 50, 60, 80, 100)
STEPS, TOGETHER, BEST = 120, 8, 4
STUDY = """
study: first-rung
base:
  model_name_or_path: embedded
  use_peft: true
  lora_r: 8
  lora_alpha: 16
  lora_dropout: 0.0
  lora_target_modules: all-linear
  per_device_train_batch_size: 16
  lr_scheduler_type: cosine
  warmup_steps: 10
  max_steps: 120
data: {path: embedded, rows: 2048}
variants: {sigmoid: {}, hinge: {}, apo_zero: {}, ipo: {}}
evaluate: {max_new_tokens: 32}
objective: {metric: gold, constraints: {kl: {max: 4.0}}}
"""
BETAS = (0.02, 0.1, 0.3, 1.0)  # ipo: ten times that
RATES = (1e-3, 3e-3)


def configs(folder: Path, samples: int) -> list[RunConfig]:
    """The 32 runs."""
    file = folder / "first-rung.yaml"
    file.write_text(STUDY)
    spec = load_study(file, [f"evaluate.prompts={samples}"])
    found: list[RunConfig] = []
    for rate, beta, arm in itertools.product(RATES, BETAS, arms(spec).values()):
        knobs = {"beta": beta * (10 if arm.name == "ipo" else 1), "learning_rate": rate}
        found.append(resolve_run(spec, arm, "clean", trial=len(found), knobs=knobs, block=0, seed=0))
    return found


def weights(folder: Path, config: RunConfig) -> torch.Tensor:
    """All adapter weights of a paused run, in one row."""
    state = load_state(folder / config.key, config.key)
    assert state is not None, f"run {config.key} has no state: it failed"
    loras = state.moments.adapter
    return torch.cat([part.flatten() for name in sorted(loras) for part in (loras[name].a, loras[name].b)])


def cosines(moved: Mapping[str, torch.Tensor], runs: Sequence[RunConfig]) -> list[float]:
    """Of all pairs of runs with one learning rate."""
    pairs = [(a, b) for a, b in itertools.combinations(runs, 2) if a.knobs["learning_rate"] == b.knobs["learning_rate"]]
    return [float(torch.cosine_similarity(moved[a.key], moved[b.key], dim=0)) for a, b in pairs]


def gold(result: RunResult, step: int) -> float:
    """Gold measured at a step."""
    return next(m.value for m in result.measurements if (m.name, m.step) == ("gold", step))


def main() -> None:
    """Train to each pause in turn and print a line for it; the correlations at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=256)
    samples = parser.parse_args().samples
    torch.set_num_threads(1)
    worker, place = DPOTrainerWorker(), Placement(together=TOGETHER)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        runs = configs(folder, samples)
        objective = load_study(folder / "first-rung.yaml").objective
        start: dict[str, torch.Tensor] = {}
        for step in (1, *PAUSES, STEPS):
            pause = step if step < STEPS else None
            results = train_all(worker, [Job(c, folder / c.key, False, place, pause) for c in runs])
            if step == STEPS:
                break
            now = {c.key: weights(folder, c) for c in runs}
            start = start or now
            if step == 1:
                continue
            found = cosines({key: now[key] - start[key] for key in now}, runs)
            print(f"step {step:3d}: cosine median {statistics.median(found):.3f}, least {min(found):.3f}", flush=True)  # noqa: T201
    ended = [r for r in results if any(m.name == "gold" and m.step == STEPS for m in r.measurements)]
    end = np.array([gold(r, STEPS) for r in ended])
    last = {n: rung_scores([r], (STEPS,), objective, over=True)[0] for n, r in enumerate(ended)}
    best = sorted(last, key=lambda n: last[n])[:BEST]
    for step in PAUSES:
        scores = {n: rung_scores([r], (step,), objective, over=True)[0] for n, r in enumerate(ended)}
        order = sorted(scores, key=lambda n: scores[n])
        places = sorted(order.index(n) + 1 for n in best)
        rank = float(spearmanr([gold(r, step) for r in ended], end)[0])
        print(f"step {step:3d}: rank correlation {rank:5.2f}; the {BEST} best stand at {places} of {len(ended)}")  # noqa: T201


if __name__ == "__main__":
    main()
