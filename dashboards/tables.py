"""Records -> the rows of the comparison table -> text; knows nothing of stores, and prints no word without a number.

Three words of the guide's table (stability, best for, verdict) need experiments that this table does not have yet:
they read "not assessed".
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Literal

from dashboards.statistics import Estimate, Proportion, block_mean, clopper_pearson
from studies.records import CONSEQUENCES, METRICS, Cause, RunRecord, Scalar, State
from studies.spec import Objective

if TYPE_CHECKING:
    from rich.table import Table as RichTable

NOT_ASSESSED = "not assessed"
Format = Literal["text", "markdown", "csv", "json"]
FORMATS: tuple[Format, ...] = ("text", "markdown", "csv", "json")
Basis = Literal["confirmed", "selected"]
# Width of a text table where nobody says how wide the screen is.
WIDE = 170
# Below this width a row does not fit into a line, and the table is printed in two parts.
NARROW = 150


@dataclass(frozen=True)
class Stratum:
    """A variant in a scenario as the study plans it: its losses, its trials (0 where it has no share of its own, as in
    `mode: search`), and the runs of every trial.
    """

    variant: str
    scenario: str
    losses: tuple[str, ...]
    trials: int
    runs_per_trial: int = 1


@dataclass(frozen=True)
class Quality:
    """The objective of a stratum's best trial.

    `basis`: "confirmed" on fresh blocks and seeds, or "selected" by these very numbers from `trials` trials, and so
    too good on average where they are several.
    """

    trial: int
    estimate: Estimate
    basis: Basis
    trials: int

    @property
    def is_optimistic(self) -> bool:
        """Whether the trial was chosen from several by this very number."""
        return self.basis == "selected" and self.trials > 1


@dataclass(frozen=True)
class Row:
    """One stratum of the comparison.

    `failures`: trials whose training diverged, inverted, collapsed or did not fit into memory, of those that came
    to an end, its confirm runs included. `stopped`, `lost` and `refused` count runs that a limit, a rung or a user
    stopped, that the machine lost, and that TRL or the data refused; none is held against the loss. `mean` is the mean objective over the trials of the unbiased arm, where there is one,
    else over all. `run_ids` holds, per cell, the MLflow runs that it came from.
    """

    metric: str
    variant: str
    scenario: str
    losses: tuple[str, ...]
    trials_done: int
    trials_planned: int
    failures: Proportion
    stopped: int
    lost: int
    refused: int
    outside: int
    best: Quality | None
    mean: float | None
    knobs: Mapping[str, Scalar]
    margin: float | None
    kl: float | None
    steps_per_second: float | None
    stability: str
    best_for: str
    verdict: str
    run_ids: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class _Trial:
    """The runs of one trial outside of the confirm arm."""

    number: int
    runs: tuple[RunRecord, ...]

    @property
    def failed(self) -> bool:
        return any(_broke(run) for run in self.runs)

    @property
    def complete(self) -> bool:
        return all(run.state is State.COMPLETE for run in self.runs)


def comparison(records: Iterable[RunRecord], objective: Objective, strata: Sequence[Stratum]) -> tuple[Row, ...]:
    """One row a stratum, in the order of `strata`, those without a run among them; other records are not shown."""
    grouped: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    for record in records:
        grouped[record.variant, record.scenario].append(record)
    return tuple(_row(grouped[s.variant, s.scenario], objective, s) for s in strata)


def _row(records: Sequence[RunRecord], objective: Objective, stratum: Stratum) -> Row:
    trials = _trials(records)
    done = [trial for trial in trials if _is_done(trial, stratum)]
    ended = [trial for trial in done if trial.complete or trial.failed]
    broken = {run.trial for run in records if run.arm == "confirm" and _broke(run)}
    failed = [trial for trial in ended if trial.failed or trial.number in broken]
    good = [trial for trial in done if trial.complete and all(objective.metric in r.metrics for r in trial.runs)]
    allowed = [trial for trial in good if _keeps(trial, objective)]
    best = _best(allowed, objective)
    best_runs = _best_runs(best, records)
    unbiased = [trial for trial in good if all(run.arm == "unbiased" for run in trial.runs)] or good
    timed = [run for run in records if run.state is State.COMPLETE and "steps_per_second" in run.metrics]
    return Row(
        metric=objective.metric,
        variant=stratum.variant,
        scenario=stratum.scenario,
        losses=stratum.losses,
        trials_done=len(done),
        trials_planned=stratum.trials,
        failures=clopper_pearson(len(failed), len(ended)),
        stopped=sum(run.cause in (Cause.TIME_LIMIT, Cause.USER_STOP, Cause.PAUSED) for run in records),
        lost=sum(run.state is State.FAIL and run.cause is not Cause.REFUSED for run in records),
        refused=sum(run.cause is Cause.REFUSED for run in records),
        outside=len(good) - len(allowed),
        best=_quality(best, best_runs, objective, len(allowed)),
        mean=_mean([_mean_of(trial.runs, objective.metric) for trial in unbiased]),
        knobs={} if best is None else best.runs[0].knobs,
        margin=_mean_of(best_runs, "margin"),
        kl=_mean_of(best_runs, "kl"),
        steps_per_second=median([r.metrics["steps_per_second"] for r in timed]) if timed else None,
        stability=NOT_ASSESSED,
        best_for=NOT_ASSESSED,
        verdict=NOT_ASSESSED,
        run_ids={
            "best": tuple(run.run_id for run in best_runs),
            "mean": tuple(run.run_id for trial in unbiased for run in trial.runs),
            "failures": tuple(run.run_id for trial in failed for run in trial.runs),
            "steps_per_second": tuple(run.run_id for run in timed),
        },
    )


def _trials(records: Iterable[RunRecord]) -> list[_Trial]:
    runs: dict[int, list[RunRecord]] = defaultdict(list)
    for record in records:
        if record.arm != "confirm":
            runs[record.trial].append(record)
    return [_Trial(number, tuple(runs[number])) for number in sorted(runs)]


def _is_done(trial: _Trial, stratum: Stratum) -> bool:
    """Whether all runs of the trial have ended, none of them by a failure of the machine, or one failed for good."""
    over = all(run.state in (State.COMPLETE, State.PRUNED) for run in trial.runs)
    return over and (trial.failed or len(trial.runs) >= stratum.runs_per_trial)


def _keeps(trial: _Trial, objective: Objective) -> bool:
    """Whether the trial's means keep the objective's bounds; a bound on what was not measured is not kept."""
    for name, bound in objective.constraints.items():
        value = _mean_of(trial.runs, name)
        if value is None or value < bound.get("min", value) or value > bound.get("max", value):
            return False
    return True


def _best(trials: Sequence[_Trial], objective: Objective) -> _Trial | None:
    """The trial with the best mean objective; of equal ones the first."""
    sign = 1 if objective.direction == "maximize" else -1
    score: Callable[[_Trial], float] = lambda t: sign * _estimate(t.runs, objective.metric).value  # noqa: E731
    return max(trials, key=score, default=None)


def _best_runs(best: _Trial | None, records: Sequence[RunRecord]) -> tuple[RunRecord, ...]:
    """The runs that speak for the best trial: its confirm runs where there are any and none failed, else its own."""
    if best is None:
        return ()
    again = [r for r in records if r.arm == "confirm" and r.trial == best.number and r.state is not State.RUNNING]
    if any(_broke(run) for run in again):  # what survived would speak too well of it
        return best.runs
    return tuple(r for r in again if r.state is State.COMPLETE) or best.runs


def _broke(run: RunRecord) -> bool:
    """Whether the run diverged, inverted, collapsed or did not fit into memory."""
    return run.cause is not None and CONSEQUENCES[run.cause].infeasible


def _quality(best: _Trial | None, runs: Sequence[RunRecord], objective: Objective, trials: int) -> Quality | None:
    if best is None:
        return None
    basis: Basis = "confirmed" if runs[0].arm == "confirm" else "selected"
    return Quality(best.number, _estimate(runs, objective.metric), basis, trials)


def _estimate(runs: Sequence[RunRecord], metric: str) -> Estimate:
    blocks: dict[int, list[float]] = defaultdict(list)
    for run in runs:
        blocks[run.block].append(run.metrics[metric])
    return block_mean(blocks, [run.errors.get(metric) for run in runs])


def _mean_of(runs: Sequence[RunRecord], metric: str) -> float | None:
    """The mean of a metric over runs, None where one of them lacks it."""
    values = [run.metrics.get(metric) for run in runs]
    return None if None in values else _mean(values)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def render(rows: Sequence[Row], format: Format = "text", width: int | None = None) -> str:
    """The rows as text for a screen, Markdown, CSV or JSON; JSON holds all numbers and the ids of their runs.

    `width`: of the screen in characters, for text alone.
    """
    if format == "json":
        return json.dumps([asdict(row) for row in rows], indent=2) + "\n"
    if format == "csv":
        return _csv(rows)
    header, cells, notes = _header(rows), [_cells(row, _scenarios(rows)) for row in rows], _notes(rows)
    return _markdown(header, cells, notes) if format == "markdown" else _text(header, cells, notes, width)


def _scenarios(rows: Sequence[Row]) -> bool:
    return len({row.scenario for row in rows}) > 1


def _header(rows: Sequence[Row]) -> list[str]:
    metric = rows[0].metric if rows else "quality"
    scenario = ["Scenario"] if _scenarios(rows) else []
    return [
        "Loss", *scenario, "Trials", "Failed", f"Best {metric}", f"Mean {metric}", "Margin", "KL", "Steps/s",
        "Best knobs", "Stability", "Best for", "Verdict",
    ]  # fmt: skip


def _cells(row: Row, scenario: bool) -> list[str]:
    named = row.losses in ((row.variant,), ())
    return [
        row.variant if named else f"{row.variant} ({'+'.join(row.losses)})",
        *([row.scenario] if scenario else []),
        f"{row.trials_done}/{row.trials_planned}" if row.trials_planned else str(row.trials_done),
        _failures(row),
        _best_cell(row.best),
        _number(row.mean),
        _number(row.margin),
        _number(row.kl),
        _number(row.steps_per_second),
        " ".join(f"{name}={_knob(value)}" for name, value in row.knobs.items()) or "-",
        row.stability,
        row.best_for,
        row.verdict,
    ]


def _failures(row: Row) -> str:
    share = row.failures
    if not share.n:
        return "-"
    return f"{share.k}/{share.n} [{100 * share.low:.0f}-{100 * share.high:.0f}%]"


def _best_cell(best: Quality | None) -> str:
    """The best trial's objective: with interval, or with the evaluator's own error and 'n too small'."""
    if best is None:
        return "-"
    e = best.estimate
    mark = "*" if best.is_optimistic else ""
    if e.low is not None and e.high is not None:
        value, low, high = (_to_error(v, (e.high - e.low) / 2) for v in (e.value, e.low, e.high))
        return f"{value}{mark} [{low}, {high}]"
    if e.error is None:
        return f"{_number(e.value)}{mark} (n too small)"
    return f"{_to_error(e.value, e.error)}{mark} ±{_to_error(e.error, e.error)} (n too small)"


def _number(value: float | None) -> str:
    """Three significant digits, which is what errors of a few per cent leave; whole numbers from 100 on."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def _to_error(value: float, error: float) -> str:
    """The value to the first digit of its error, to the second where the first is 1 or 2."""
    if error <= 0:
        return _number(value)
    exponent = math.floor(math.log10(error))
    decimals = -exponent + (error < 3 * 10**exponent)
    return f"{value:.{max(decimals, 0)}f}"


def _knob(value: Scalar) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _notes(rows: Sequence[Row]) -> list[str]:
    """What a reader must know of these very numbers, and nothing that does not apply to them."""
    bests = [row.best for row in rows if row.best is not None]
    notes = []
    if bests:
        metric = rows[0].metric
        unit = f" ({METRICS[metric].what}; {METRICS[metric].unit})" if metric in METRICS else ""
        notes.append(f"Best {metric}{unit}: of the stratum's best trial. Margin, KL and knobs are that trial's.")
    if any(best.is_optimistic for best in bests):
        notes.append("* chosen as the best of several by this very number, so too good on average.")
    if any(best.estimate.low is None for best in bests):
        notes.append("n too small: fewer than 3 blocks, so no interval; ± is the evaluator's standard error alone.")
    if any(best.estimate.low is not None for best in bests):
        notes.append("[a, b] after a quality: 95% t interval over blocks.")
    if any(row.failures.n for row in rows):
        notes.append("Failed: trials that diverged, inverted, collapsed or ran out of memory, 95% exact limits.")
    stopped, lost, outside = (sum(getattr(row, f) for row in rows) for f in ("stopped", "lost", "outside"))
    notes += [f"{stopped} runs were stopped by a limit, at a rung or by hand and are not counted as failed."] * (
        stopped > 0
    )
    refused = sum(row.refused for row in rows)
    notes += [f"{refused} runs were refused by TRL or the data; `sweeper status` and MLflow say why."] * (refused > 0)
    notes += [f"{lost} runs were lost by the machine; run the study again to repeat them."] * (lost > 0)
    notes += [f"{outside} trials broke a bound of the objective and cannot be best."] * (outside > 0)
    return notes


def _text(header: Sequence[str], cells: Sequence[Sequence[str]], notes: Sequence[str], width: int | None) -> str:
    """One table, or two under each other on a narrow screen: the numbers, then knobs and words."""
    from rich.console import Console

    out = io.StringIO()
    console = Console(file=out, width=width or WIDE, highlight=False, markup=False, no_color=True)
    knobs = header.index("Best knobs")
    parts = [range(len(header))] if console.width >= NARROW else [range(knobs), [0, *range(knobs, len(header))]]
    for part in parts:
        console.print(_rich_table([header[i] for i in part], [[row[i] for i in part] for row in cells]))
    for note in notes:
        console.print(note)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _rich_table(header: Sequence[str], cells: Sequence[Sequence[str]]) -> RichTable:
    """The cells as rich lays them out; columns narrow down to their longest word and never break one."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, padding=(0, 1))
    for name, column in zip(header, zip(*cells, strict=True) if cells else [()] * len(header), strict=True):
        longest_word = max(len(word) for text in (name, *column) for word in text.split())
        table.add_column(
            name,
            justify="left" if name in _LEFT else "right",
            no_wrap=name == "Loss",
            min_width=longest_word,
            max_width=9 if name in _WORDS else None,
        )
    for row in cells:
        table.add_row(*row)
    return table


_WORDS = frozenset({"Stability", "Best for", "Verdict"})
_LEFT = _WORDS | {"Loss", "Scenario", "Best knobs"}


def _markdown(header: Sequence[str], cells: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    rule = ["---" if name in _LEFT else "---:" for name in header]
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in [header, rule, *cells]]
    lines = ["| " + " | ".join(row) + " |" for row in escaped]
    return "\n".join([*lines, "", *[f"- {note.replace('*', chr(92) + '*')}" for note in notes]]) + "\n"


def _csv(rows: Sequence[Row]) -> str:
    """One number a column, unrounded, so that nothing has to be parsed out of a cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([
        "variant", "losses", "scenario", "trials_done", "trials_planned", "failed", "failed_of", "failed_low",
        "failed_high", "stopped", "lost", "outside_bounds", "metric", "best", "best_low", "best_high", "best_error",
        "best_blocks", "best_basis", "best_trial", "mean", "margin", "kl", "steps_per_second", "knobs", "stability",
        "best_for", "verdict",
    ])  # fmt: skip
    for row in rows:
        share, best = row.failures, row.best
        writer.writerow([
            row.variant, "+".join(row.losses), row.scenario, row.trials_done, row.trials_planned, share.k, share.n,
            share.low, share.high, row.stopped, row.lost, row.outside, row.metric,
            *((e.value, e.low, e.high, e.error, e.blocks) if (e := best and best.estimate) else [None] * 5),
            *((best.basis, best.trial) if best else [None] * 2),
            row.mean, row.margin, row.kl, row.steps_per_second, json.dumps(dict(row.knobs)), row.stability,
            row.best_for, row.verdict,
        ])  # fmt: skip
    return out.getvalue()
