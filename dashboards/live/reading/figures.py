"""Runs of a study -> what its figures are drawn of: reward against drift, heat maps of two settings, runs to choose."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final

from dashboards.analysis.failures import message_of
from dashboards.live.reading.words import measure_words, words
from dashboards.live.views import Figures, Heat, Point, RunLine
from studies.records import METRICS, PROBE, RunRecord, State
from studies.schema.replicates import cell_of
from studies.spec import Objective

DRIFT: Final = "kl"
MOST_BINS: Final = 8
CURVES: Final = ("loss", "reward_margin", "reward_accuracy", "grad_norm", "learning_rate", "eval_loss")


def figures_view(records: Sequence[RunRecord], objective: Objective) -> Figures:
    """The figures of a study, of the runs that answer it."""
    shown = [record for record in records if record.phase != PROBE]
    several = len({cell_of(record.scenario).condition for record in shown}) > 1
    metric = objective.metric
    named_runs = [(record, label_of(record, several)) for record in shown]
    return Figures(
        metric=measure_words(metric),
        about=METRICS[metric].what.replace("gold reward", "reward") if metric in METRICS else words(metric),
        points=tuple(
            _point(record, metric, label) for record, label in named_runs if _has(record, metric, DRIFT, broken=True)
        ),
        heats=_heats(shown, metric),
        runs=tuple(run_line(record, label) for record, label in named_runs),
        names=(*CURVES, *sorted({words(name) for record in shown for name in record.curves})),
    )


def label_of(record: RunRecord, several: bool) -> str:
    """A run as people name it: `ipo in clean, trial 3, data draw 2, seed 1`; `several`: there are other conditions."""
    judging = " (judging)" if record.phase not in ("unbiased", "fixed", "adaptive") else ""
    where = words(record.variant), words(record.scenario)
    return f"{named(*where, record.trial, record.block, record.seed, several=several)}{judging}"


def named(variant: str, scenario: str, trial: int, block: int, seed: int, *, several: bool = True) -> str:
    """A run by its variant and scenario and what it is there."""
    cell = cell_of(scenario)
    where = (f" in {cell.condition}" if several else "") + ("" if cell.number is None else f", replicate {cell.number}")
    return f"{variant}{where}, trial {trial}, data draw {block}, seed {seed}"


def run_line(record: RunRecord, label: str) -> RunLine:
    """A run as a choice."""
    failed = record.failure
    failure = None if failed is None else str(failed)
    if failure is None and record.state is not State.COMPLETE and record.state is not State.RUNNING:
        failure = words(record.cause) or None
    return RunLine(
        record.run_id,
        record.key,
        words(record.variant),
        label,
        record.facts.get("log"),
        failure,
        words(record.facts.get("message", "").strip() if failed is None else message_of(record)),
        record.state is State.COMPLETE,
    )


def _has(record: RunRecord, *names: str, broken: bool = False) -> bool:
    """Whether a run that ended has such numbers; `broken`: also one that its settings broke on its way."""
    values = [record.metrics.get(name) for name in names]
    ended = record.state is State.COMPLETE or (broken and record.failure is not None)
    return ended and all(value is not None and math.isfinite(value) for value in values)


def _point(record: RunRecord, metric: str, label: str) -> Point:
    return Point(
        record.run_id,
        words(record.variant),
        label,
        record.metrics[DRIFT],
        record.metrics[metric],
        record.failure is not None,
    )


def _heats(records: Sequence[RunRecord], metric: str) -> tuple[Heat, ...]:
    """A map for each variant in each condition where two settings were tried, beta and the learning rate where it has
    them.
    """
    of: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    for record in records:
        of[record.variant, cell_of(record.scenario).condition].append(record)
    several = len({condition for _, condition in of}) > 1
    found = []
    for (variant, condition), mine in of.items():
        tried = _numbers(mine)
        axes: list[str] = [name for name in ("learning_rate", "beta") if name in tried]
        axes += [name for name in tried if name not in axes]
        if len(axes) >= 2:
            name = f"{variant} in {condition}" if several else variant
            found.append(_heat(name, mine, metric, axes[0], axes[1]))
    return tuple(found)


def _numbers(records: Sequence[RunRecord]) -> list[str]:
    """The settings that have several numbers."""
    values: dict[str, set[float]] = defaultdict(set)
    for record in records:
        for name, value in record.knobs.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                values[name].add(float(value))
    return [name for name, several in values.items() if len(several) > 1]


def _heat(name: str, records: Sequence[RunRecord], metric: str, x: str, y: str) -> Heat:
    placed = [record for record in records if all(isinstance(record.knobs.get(name), int | float) for name in (x, y))]
    column, columns = bins([float(str(record.knobs[x])) for record in placed])
    row, rows = bins([float(str(record.knobs[y])) for record in placed])
    cells: dict[tuple[int, int], list[float]] = defaultdict(list)
    tried: dict[tuple[int, int], int] = defaultdict(int)
    for record in placed:
        place = column(float(str(record.knobs[x]))), row(float(str(record.knobs[y])))
        tried[place] += 1
        if _has(record, metric) and record.failure is None:
            cells[place].append(record.metrics[metric])
    means = {place: sum(values) / len(values) for place, values in cells.items()}
    return Heat(
        *(words(name), words(x), words(y), columns, rows),
        cells=tuple((*place, means.get(place), number) for place, number in sorted(tried.items())),
    )


def bins(values: Sequence[float]) -> tuple[Callable[[float], int], tuple[str, ...]]:
    """Which bin a value lies in, and their labels: one a value where those are few, else equal ones, of logarithms
    where all are positive.
    """
    distinct = sorted(set(values))
    if len(distinct) <= MOST_BINS:
        place = {value: i for i, value in enumerate(distinct)}
        return place.__getitem__, tuple(f"{value:.3g}" for value in distinct)
    log = distinct[0] > 0
    low, high = (math.log(distinct[0]), math.log(distinct[-1])) if log else (distinct[0], distinct[-1])

    def which(value: float) -> int:
        at = math.log(value) if log else value
        return min(int((at - low) / (high - low) * MOST_BINS), MOST_BINS - 1)

    middles = [low + (i + 0.5) * (high - low) / MOST_BINS for i in range(MOST_BINS)]
    return which, tuple(f"{math.exp(middle) if log else middle:.2g}" for middle in middles)
