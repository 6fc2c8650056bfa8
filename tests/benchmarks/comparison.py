"""What the comparison costs once the records are read: ten thousand generated ones. Needs no model and no store.

    python -m tests.benchmarks.comparison [--records 10000]

Prints the seconds that the whole table takes, rendered, then its dearest part, the frontier of every stratum with
2000 resamples of its blocks, and the peak memory of this process.
"""

from __future__ import annotations

import argparse
import resource
import time

from dashboards.analysis.strata import Stratum
from dashboards.statistics.frontier import frontier, points_of
from dashboards.statistics.scale import scale_of
from dashboards.tables.comparison import comparison
from dashboards.tables.formats import render
from studies.spec import Objective
from tests.dashboards.generated import pool

LOSSES = (
    "sigmoid", "ipo", "hinge", "robust", "bco_pair", "discopop", "apo_zero", "apo_down", "nca_pair", "exo_pair", "aot",
    "sppo_hard",
)  # fmt: skip
SCENARIOS = ("clean", "flips")
BLOCKS, CONFIRM = range(12), range(12, 28)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--records", type=int, default=10_000)
    wanted = parser.parse_args().records
    configs = max(1, wanted // (len(LOSSES) * len(SCENARIOS) * len(BLOCKS)))
    records = [
        record
        for number, name in enumerate(SCENARIOS)
        for record in pool(
            dict.fromkeys(LOSSES, 0.0), configs=configs, blocks=BLOCKS, confirm=CONFIRM, scenario=name, seed=number
        )
    ]
    objective, strata = Objective(metric="gold"), [Stratum(v, s, (v,), configs) for s in SCENARIOS for v in LOSSES]
    start = time.perf_counter()
    table = comparison(records, objective, strata, baseline="sigmoid", source="embedded")
    render(table, "text", 150)
    whole = time.perf_counter() - start
    start = time.perf_counter()
    scale = scale_of(objective, "embedded")
    for stratum in strata:
        own = [r for r in records if (r.variant, r.scenario) == (stratum.variant, stratum.scenario)]
        frontier(points_of(own, scale, [], {}))
    hulls = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{len(records)} records, {len(strata)} strata of {configs} configs on {len(BLOCKS)} blocks")  # noqa: T201
    print(f"table with verdicts: {whole:.2f} s; frontiers: {hulls:.2f} s; peak {peak:.0f} MiB")  # noqa: T201


if __name__ == "__main__":
    main()
