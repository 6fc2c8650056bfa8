"""What a run costs the main process beside its training: Optuna, MLflow, result files. Needs no model.

    python -m tests.benchmarks.orchestration [--runs 500]

Trains runs of the formula trainer (12 logged steps of 5 values: 60 metric values, and its measurements) inline through
real Optuna and MLflow stores on SQLite, and prints milliseconds a run in fifths of the sweep, so that growth shows.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from studies.spec import arms, load_study
from sweeper.commands.run import run_session
from sweeper.folder.paths import places
from trainers.formula import FormulaTrainer
from trainers.interface import Job, WorkQueue

STUDY = """
study: orchestration
trainer: tests.benchmarks.orchestration:Timed
base: {{model_name_or_path: embedded, use_peft: true, lora_r: 8, max_steps: 12}}
variants: {{sigmoid: {{}}, ipo: {{}}, hinge: {{}}, robust: {{base: {{label_smoothing: 0.1}}}}, sft: {{}}}}
space: {{beta: {{low: 0.01, high: 1.0, log: true}}, learning_rate: {{low: 1.0e-6, high: 1.0e-4, log: true}}}}
sampler: {sampler}
budget: {{trials: {trials}}}
objective: {{metric: ranking_gain}}
"""

ENDED: list[tuple[float, float]] = []  # when each run began and ended, in seconds


class Timed:
    """The formula trainer, noting when each run began and ended."""

    def __init__(self) -> None:
        self._formula = FormulaTrainer()

    def train(self, job: Job, desk: WorkQueue) -> None:
        """See `Trainer.train`."""
        began = time.perf_counter()
        self._formula.train(job, desk)
        ENDED.append((began, time.perf_counter()))


def measure(sampler: str, runs: int) -> list[float]:
    """Milliseconds that the main process spends between the end of a run and the start of the next, in order."""
    ENDED.clear()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        file = folder / "study.yaml"
        file.write_text(STUDY.format(sampler=sampler, trials=runs // 5))
        spec = load_study(file)
        outcome, _ = run_session(
            spec, arms(spec), file.read_text(), places(spec, folder, None), "inline", None, _ignore, print, _no_table
        )
    assert outcome.trained == len(ENDED), f"{outcome.trained} of {len(ENDED)} runs recorded"
    return [1000 * (begin - end) for (_, end), (begin, _) in itertools.pairwise(ENDED)]


def _ignore(_progress: object) -> None:
    pass


def _no_table() -> Mapping[str, str]:
    return {}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    runs = parser.parse_args().runs
    print(f"milliseconds a run in the main process, {runs} runs, by fifths of the sweep")  # noqa: T201
    for sampler in ("sobol", "tpe"):
        cost = measure(sampler, runs)
        fifths = [statistics.median(cost[i * len(cost) // 5 : (i + 1) * len(cost) // 5]) for i in range(5)]
        p90 = statistics.quantiles(cost, n=10)[-1]
        shown = "  ".join(f"{f:6.1f}" for f in fifths)
        print(f"{sampler:6} medians {shown}   all: median {statistics.median(cost):.1f}, p90 {p90:.1f}")  # noqa: T201


if __name__ == "__main__":
    from tests.benchmarks import orchestration  # the module that the trainer is loaded from, not this copy of it

    orchestration.main()
