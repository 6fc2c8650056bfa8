"""Records of replicates whose judging runs kept their samples, and what judges gave these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dashboards.statistics.scale import Scale, scale_of
from dashboards.tuned.losses import Tuned, tuned
from dashboards.tuned.replicates import replicates_of
from dashboards.tuned.samples.contests import contests_of
from studies.records import Measurer, RunRecord
from studies.samples.kept import KeptScores, with_scores
from studies.schema.replicates import Cell
from studies.spec import Objective
from tests.dashboards.generated import a_record

JUDGE = Measurer(judge="function mine:score", content="sha256:1")
PROMPTS, END = 200, 10
WITHIN = 0.03


def judged(
    tastes: Mapping[str, Sequence[float]], *, judge: Measurer = JUDGE, luck: int = 0, metric: str = "win_rate"
) -> tuple[list[RunRecord], dict[str, KeptScores]]:
    """`tastes`: loss -> for each replicate by how much its answers please more than the untrained model's, in standard
    deviations of what one answer does.
    """
    records: list[RunRecord] = []
    kept: dict[str, KeptScores] = {}
    for name, of in tastes.items():
        for i, taste in enumerate(of):
            number = i + 1
            random = np.random.default_rng([luck, number, *name.encode()])
            start = np.random.default_rng([luck, number]).normal(0.0, 1.0, PROMPTS)
            end = random.normal(taste, 1.0, PROMPTS)
            rate = float((end > start).mean())
            records += [_a_run(name, number, metric, rate, judging=judging, judge=judge) for judging in (False, True)]
            kept[records[-1].run_id] = with_scores(
                scores_of(name, number), judge, {0: start.tolist(), END: end.tolist()}
            )
    return records, kept


def scores_of(name: str, number: int) -> KeptScores:
    """A judging run's samples before they are scored."""
    return KeptScores(
        key=f"{name}{number}",
        prompts=tuple(f"p{number}-{i}" for i in range(PROMPTS)),
        seed=1,
        longest=8,
        tokens={0: (5,) * PROMPTS, END: (5,) * PROMPTS},
    )


def _a_run(name: str, number: int, metric: str, rate: float, *, judging: bool, judge: Measurer) -> RunRecord:
    cell = Cell("clean", number)
    fields: dict[str, Any] = {
        "run_id": f"{name}-{number}-{judging}",
        "key": f"{name}{number}",
        "scenario": cell.name,
        "variant": name,
        "block": cell.judging_block if judging else cell.tuning_block,
        "phase": "confirm" if judging else "unbiased",
        "metrics": {metric: rate, "kl": 1.0, "length_ratio": 1.0},
        "facts": {"judge": str(judge.judge)},
        "judged": judge,
    }
    return a_record(**fields)


def compared(
    records: Sequence[RunRecord],
    kept: Mapping[str, KeptScores],
    *,
    metric: str = "win_rate",
    judge: Measurer = JUDGE,
    planned: int = 6,
) -> Tuned:
    """The losses of these records, against sigmoid."""
    objective = Objective(metric=metric, tie_within=WITHIN)
    scale: Scale = scale_of(objective, "elsewhere")
    names = list(dict.fromkeys(record.variant for record in records))
    points = {(n, Cell("clean", r).name): 1 for n in names for r in range(1, planned + 1)}
    found = replicates_of(records, objective, scale, points)
    of = {name: found[name, "clean"] for name in names}
    contests = contests_of(records, kept, judge, metric)
    return tuned(
        "clean", of, {n: (n,) for n in names}, scale, baseline="sigmoid", drift=None, settings=1, planned=planned,
        contests=contests,
    )  # fmt: skip
