"""What a run costs the main process beside its training: Optuna, MLflow, result files. Needs no model.

    python -m tests.benchmarks.orchestration [--runs 500] [--postgres]

Trains runs of the formula trainer (12 logged steps of 5 values: 60 metric values, and its measurements) inline through
real Optuna and MLflow stores on SQLite, or on a PostgreSQL server of its own on this machine, and prints milliseconds
a run in fifths of the sweep, so that growth shows, and of these the CPU time of this process.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from studies.spec import Study, load_study
from sweeper.commands.run import run_session
from sweeper.folder.paths import places
from tests.services.postgres import running_postgres
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

Clocks = tuple[float, float]
"""The time, and the CPU time of this process, in seconds."""

ENDED: list[tuple[Clocks, Clocks]] = []  # when each run began and ended


class Timed:
    """The formula trainer, noting when each run began and ended."""

    def __init__(self) -> None:
        self._formula = FormulaTrainer()

    def train(self, job: Job, desk: WorkQueue) -> None:
        """See `Trainer.train`."""
        began = _clocks()
        self._formula.train(job, desk)
        ENDED.append((began, _clocks()))


def _clocks() -> Clocks:
    return time.perf_counter(), time.process_time()


def measure(sampler: str, runs: int, storage: str | None = None, tracking: str | None = None) -> list[Clocks]:
    """Milliseconds that the main process spends between the end of a run and the start of the next, in order, and of
    these its CPU time. The stores are files where no URL is given.
    """
    ENDED.clear()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        file = folder / "study.yaml"
        file.write_text(STUDY.format(sampler=sampler, trials=runs // 5))
        spec = load_study(file)
        where = replace(places(spec, folder, storage), tracking=tracking)
        outcome, _, _ = run_session(Study.of(spec), file.read_text(), where, "inline", None, _ignore, print, _no_table)
    assert outcome.trained == len(ENDED), f"{outcome.trained} of {len(ENDED)} runs recorded"
    between = [(end, begin) for (_, end), (begin, _) in itertools.pairwise(ENDED)]
    return [(1000 * (begin[0] - end[0]), 1000 * (begin[1] - end[1])) for end, begin in between]


def _ignore(_progress: object) -> None:
    pass


def _no_table(_: Study) -> Mapping[str, str]:
    return {}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--postgres", action="store_true")
    given = parser.parse_args()
    print(f"milliseconds a run in the main process, {given.runs} runs, by fifths of the sweep")  # noqa: T201
    with running_postgres() if given.postgres else nullcontext() as server:
        for sampler in ("sobol", "tpe"):
            stores: tuple[str | None, str | None] = (None, None)
            if server is not None:
                server.make(f"optuna_{sampler}", f"mlflow_{sampler}")
                stores = server.url(f"optuna_{sampler}"), server.url(f"mlflow_{sampler}")
            cost = measure(sampler, given.runs, *stores)
            wall = [one for one, _ in cost]
            fifths = [statistics.median(wall[i * len(wall) // 5 : (i + 1) * len(wall) // 5]) for i in range(5)]
            p90, cpu = statistics.quantiles(wall, n=10)[-1], statistics.mean(one for _, one in cost)
            shown = "  ".join(f"{f:6.1f}" for f in fifths)
            told = f"all: median {statistics.median(wall):.1f}, p90 {p90:.1f}; CPU {cpu:.1f} on average"
            print(f"{sampler:6} medians {shown}   {told}")  # noqa: T201


if __name__ == "__main__":
    from tests.benchmarks import orchestration  # the module that the trainer is loaded from, not this copy of it

    orchestration.main()
