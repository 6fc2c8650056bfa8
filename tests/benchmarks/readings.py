"""How well gold is read between two evaluations: each one of recorded runs left out and read from its neighbours.

    python -m tests.benchmarks.readings

The error is in shares of what is possible at 1 nat, by how near the nearest neighbour is in the root of the KL.
"""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from statistics import fmean, stdev

import studies
from dashboards.store.records_file import read_records
from studies.records.paths import joined, read_at
from studies.records.world_units import task_of_block, tasks

FILE = Path(studies.__file__).parent / "results" / "guide-clean" / "records.jsonl.gz"
BOUNDS = (0.15, 0.3, 0.5, 1.0)
LOW, HIGH = 0.4, 2.0  # nats at which an evaluation is left out


def main() -> None:
    """Print the mean error and its spread by nearness."""
    errors: dict[float, list[float]] = defaultdict(list)
    for run in read_records(FILE).records:
        task = tasks()[task_of_block(run.block)]
        path = joined(run.curves.get("kl", ()), run.curves.get("gold", ()))
        for i in range(len(path) - 1):
            _, kl, gold = path[i]
            before = path[i - 1][1] if i else 0.0
            if not (LOW <= kl <= HIGH and before < kl < path[i + 1][1]):
                continue
            reading = read_at([*path[:i], *path[i + 1 :]], kl, task.reference)
            if reading is None or reading.drift_at_step not in (before, path[i + 1][1]):
                continue
            near = abs(math.sqrt(reading.drift_at_step / kl) - 1.0)
            errors[next((b for b in BOUNDS if near < b), math.inf)].append(
                task.in_units(reading.value - gold, budget="1")
            )
    for bound in sorted(errors):
        of = errors[bound]
        line = f"nearest within {bound:g}: {len(of)} readings, mean error {fmean(of):+.3f}, spread {stdev(of):.3f}"
        print(line)  # noqa: T201


if __name__ == "__main__":
    main()
