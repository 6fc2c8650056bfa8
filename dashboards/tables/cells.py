"""The comparison as cells of text: header, rows, verdicts and the notes that a reader needs; knows no file format."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dashboards.analysis.kl_budgets import AtBudget
from dashboards.analysis.spaces import Space
from dashboards.analysis.speed import SAME_PACE, Pace
from dashboards.analysis.time_to_target import SHARE, Reach
from dashboards.controls.expectations import Finding
from dashboards.guide.verdicts import Verdict
from dashboards.statistics.compare import Difference
from dashboards.statistics.estimates import Estimate, Proportion
from dashboards.tables.comparison import Comparison, Quality, Row
from studies.records import METRICS, WEIGHT_FACT, Scalar
from studies.text.plural import so_many

KNOBS = "Best knobs"
TO_TARGET = f"To {SHARE:.0%}"
WORDS = frozenset(
    {"Speed", "Best for", "Guide", "Guide: best for", "Stability", "Word", "Claim", "Guide says", "Verdict", "Why"}
    | {"Expected", "Found"}
)
LEFT = WORDS | {"Loss", "Scenario", "Control", "Held", KNOBS}
# Shares of pairs ranked right, beside which stands what the length of the answers alone gives away.
ACCURACIES = ("accuracy", "train_accuracy", "reward_accuracy")


@dataclass(frozen=True)
class Cells:
    """A table of text: as many cells in every row as in the header."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def columns(self, which: Sequence[int]) -> Cells:
        """Some of its columns."""
        return Cells([self.header[i] for i in which], [[row[i] for i in which] for row in self.rows])


def row_cells(table: Comparison) -> Cells:
    """The rows of the comparison."""
    several = _scenarios(table.rows)
    metric = table.rows[0].metric if table.rows else "quality"
    unit = table.rows[0].unit if table.rows else ""
    against = [f"vs {table.baseline} ({unit})", "Blocks", "Word", "P(better)"] if table.baseline else []
    timed = any(row.pace is not None for row in table.rows)
    soon = any(row.reach is not None for row in table.rows)
    header = [
        "Loss", *(["Scenario"] if several else []), "Trials", "Failed", f"Best {metric}", f"Mean {metric}",
        *(["Longer answer"] if metric in ACCURACIES else []), "Margin", "KL", *(["Steps/s", "Speed"] if timed else []),
        *([TO_TARGET] if soon else []), KNOBS, *against, "Stability", "Guide", "Guide: best for",
    ]  # fmt: skip
    return Cells(header, [_row(row, several, table.baseline, timed, soon) for row in table.rows])


def _scenarios(rows: Sequence[Row]) -> bool:
    return len({row.scenario for row in rows}) > 1


def _row(row: Row, scenario: bool, baseline: str | None, timed: bool, soon: bool) -> list[str]:
    named = row.losses in ((row.variant,), ())
    return [
        row.variant if named else f"{row.variant} ({'+'.join(row.losses)})",
        *([row.scenario] if scenario else []),
        f"{row.trials_done}/{row.trials_planned}" if row.trials_planned else str(row.trials_done),
        share(row.failures),
        _best_cell(row.best),
        number(row.mean),
        *([number(row.length_baseline)] if row.metric in ACCURACIES else []),
        number(row.margin),
        number(row.kl),
        *(_speed(row.pace, row.variant == baseline) if timed else []),
        *([_to_target(row.reach)] if soon else []),
        _knobs(row.knobs),
        *(_against(row, row.variant == baseline) if baseline else []),
        row.stability or "-",
        ", ".join(word for column, word in row.guide.items() if column != "Best for") or "-",
        row.guide.get("Best for", "-"),
    ]


def _speed(pace: Pace | None, is_baseline: bool) -> list[str]:
    """Steps a second, and the ratio to the baseline's with its interval and word."""
    if pace is None:
        return ["-", "-"]
    if pace.ratio is None or pace.difference is None:
        return [number(pace.steps_per_second), "baseline" if is_baseline else "-"]
    ratio = interval(pace.ratio).lstrip("+")
    return [number(pace.steps_per_second), f"{pace.word}{_doubt(pace.difference)} {ratio}"]


def _to_target(reach: Reach | None) -> str:
    """Steps and seconds to the target, and how many runs got there."""
    if reach is None:
        return "-"
    seconds = "" if reach.seconds is None else f" = {number(reach.seconds)} s"
    steps = "not reached" if reach.steps is None else f"{so_many(reach.steps, 'step')}{seconds}"
    return f"{steps} ({reach.reached}/{reach.runs})"


def _doubt(difference: Difference) -> str:
    """A mark at a word that hangs on a single task or round."""
    return "" if difference.is_general else "~" if difference.is_robust else "?"


def _against(row: Row, is_baseline: bool) -> list[str]:
    """The difference with its interval, its blocks, its word, and the probability of improvement."""
    difference = row.difference
    if difference is None:
        return ["-", "-", "baseline" if is_baseline else "-", "-"]
    better = "-" if row.improvement is None else f"{row.improvement.value:.2f}"
    return [interval(difference.estimate), str(difference.estimate.blocks), _word(difference), better]


def space_cells(table: Comparison) -> Cells:
    """What the unbiased arms say of whole spaces, a row a stratum that has one; empty where none has."""
    rows = [row for row in table.rows if row.space is not None]
    several = _scenarios(table.rows)
    fronts = next((row.space.frontier for row in rows if row.space and row.space.frontier), None)
    budgets = () if fronts is None else fronts.budgets
    unit = rows[0].unit if rows else ""
    header = [
        "Loss", *(["Scenario"] if several else []), *(f"KL {budget:g} ({unit})" for budget in budgets), "Configs",
        "Broken", "Within 5%", "Within 10%", "Best of 1", "Best of half", "Rate loss", "Gap",
    ]  # fmt: skip
    return Cells(header, [_space(row, row.space, several, len(budgets)) for row in rows if row.space is not None])


def _space(row: Row, space: Space, scenario: bool, budgets: int) -> list[str]:
    front = ["-"] * budgets if space.frontier is None else [_plain(value) for value in space.frontier.values]
    best_of = list(space.best_of.values())
    return [
        row.variant,
        *([row.scenario] if scenario else []),
        *front,
        str(space.failures.all.n),
        " ".join(f"{p.k} {kind}" for kind, p in space.failures.by_kind.items() if p.k) or "0",
        "-" if space.within_5 is None else f"{space.within_5:.0%}",
        "-" if space.within_10 is None else f"{space.within_10:.0%}",
        number(best_of[0]),
        number(best_of[-1]),
        number(space.rate_sensitivity),
        number(None if space.gap is None else space.gap.value),
    ]


def _plain(e: Estimate) -> str:
    """A value without a sign, with its interval where it has one."""
    return interval(e).lstrip("+") if e.low is not None else number(e.value)


def budget_cells(table: Comparison) -> Cells:
    """The strata at each KL budget of the confirm phase, a row each that has a trial there."""
    rows = [row for row in table.at_kl if row.trial is not None]
    several = len({row.scenario for row in rows}) > 1
    unit = rows[0].unit if rows else ""
    against = [f"vs {table.baseline} ({unit})", "Blocks", "Word"] if table.baseline else []
    header = ["KL at most", "Loss", *(["Scenario"] if several else []), f"Confirmed ({unit})", "KL", *against, KNOBS]
    return Cells(header, [_at_budget(row, several, table.baseline) for row in rows])


def _at_budget(row: AtBudget, scenario: bool, baseline: str | None) -> list[str]:
    against: list[str] = []
    if baseline:
        against = ["-", "-", "baseline" if row.variant == baseline else "-"]
    if baseline and row.compared is not None:
        difference = row.compared.difference
        against = [interval(difference.estimate), str(difference.estimate.blocks), _word(difference)]
    return [
        f"{row.budget:g}",
        row.variant,
        *([row.scenario] if scenario else []),
        "-" if row.value is None else _plain(row.value),
        number(row.kl),
        *against,
        _knobs(row.knobs),
    ]


def budget_notes(table: Comparison) -> list[str]:
    """What a reader must know of `budget_cells`; nothing where they are empty."""
    if not any(row.trial is not None for row in table.at_kl):
        return []
    return [
        "KL at most: for each loss the trial with the best objective among those whose mean KL kept the budget, "
        "trained again on fresh blocks and seeds; KL is that of the fresh runs. Holm over the losses of one budget."
    ]


def _word(difference: Difference) -> str:
    """The word of a difference, marked where it leans on one task: see `_difference_notes`."""
    return difference.word + _doubt(difference)


def _knobs(knobs: Mapping[str, Scalar]) -> str:
    return " ".join(f"{name}={_knob(value)}" for name, value in knobs.items()) or "-"


def guide_cells(verdicts: Sequence[Verdict]) -> Cells:
    """The guide's own table, each of its words with the verdict on it."""
    columns = ("Speed", "Stability", "Best for")
    by_loss: dict[str, dict[str, str]] = {}
    for verdict in verdicts:
        if verdict.claim.column in columns:
            said = f"{verdict.claim.words}: {verdict.ruling}"
            by_loss.setdefault(verdict.claim.loss, {})[verdict.claim.column] = said
    return Cells(["Loss", *columns], [[loss, *(said[column] for column in columns)] for loss, said in by_loss.items()])


def claim_cells(verdicts: Sequence[Verdict]) -> Cells:
    """The verdicts, one a row."""
    header = ["Claim", "Guide says", "Verdict", "Effect", "Blocks", "Failed", "Why"]
    return Cells(header, [_claim(verdict) for verdict in verdicts])


def _claim(verdict: Verdict) -> list[str]:
    effect = verdict.effect
    return [
        f"{verdict.claim.loss}: {verdict.claim.column}",
        verdict.claim.words,
        verdict.ruling,
        "-" if effect is None else f"{interval(effect)} {verdict.unit}",
        "-" if effect is None else str(effect.blocks),
        "-" if verdict.failures is None else share(verdict.failures),
        verdict.because,
    ]


CONTROL_NOTES = (
    "A control's answer is known beforehand: where one is not held, other numbers of this study may be wrong as well.",
)


def control_cells(controls: Sequence[Finding]) -> Cells:
    """The controls, one a row."""
    held = {True: "yes", False: "NO", None: "not yet"}
    rows = [[c.control, c.scenario, c.expected, c.found, f"{c.n} {c.unit}", held[c.held]] for c in controls]
    return Cells(["Control", "Scenario", "Expected", "Found", "n", "Held"], rows)


def share(of: Proportion) -> str:
    """`k/n` with its limits in per cent."""
    return f"{of.k}/{of.n} [{100 * of.low:.0f}-{100 * of.high:.0f}%]" if of.n else "-"


def interval(e: Estimate) -> str:
    """The value with its sign, and its interval where it has one, to the digits that the interval supports."""
    if e.low is None or e.high is None:
        return f"{e.value:+.3g} (n too small)"
    half = (e.high - e.low) / 2
    value, low, high = (_to_error(v, half) for v in (e.value, e.low, e.high))
    return f"{'+' if e.value > 0 else ''}{value} [{low}, {high}]"


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
        return f"{number(e.value)}{mark} (n too small)"
    return f"{_to_error(e.value, e.error)}{mark} ±{_to_error(e.error, e.error)} (n too small)"


def number(value: float | None) -> str:
    """Three significant digits, which is what errors of a few per cent leave; whole numbers from 100 on."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def _to_error(value: float, error: float) -> str:
    """The value to the first digit of its error, to the second where the first is 1 or 2."""
    if error <= 1e-9 * abs(value):
        return number(value)
    exponent = math.floor(math.log10(error))
    decimals = -exponent + (error < 3 * 10**exponent)
    return f"{value:.{max(decimals, 0)}f}"


def _knob(value: Scalar) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def notes(table: Comparison) -> list[str]:
    """What a reader must know of these very numbers, and nothing that does not apply to them."""
    return [
        *table.aside,
        *table.pairs,
        *_quality_notes(table.rows),
        *_difference_notes(table),
        *_pace_notes(table.rows, table.baseline),
        *_reach_notes(table.rows, table.baseline),
        *_count_notes(table.rows),
    ]


def space_notes(table: Comparison) -> list[str]:
    """What a reader must know of `space_cells`, with the box that was tried; nothing where there is none."""
    spaces = [row.space for row in table.rows if row.space is not None]
    if not spaces:
        return []
    found = [
        f"Over the unbiased arm ({table.rows[0].unit}; failed configs as 0). Broken: failed, and not for want of "
        "memory. Within: share of configs near the best. Best of 1 and of half of the configs: expected, too low on "
        "average. Rate loss: mean loss from the best over thirds of the learning rate. "
        "Gap: training less held-out accuracy.",
        *_boxes(table.rows),
    ]
    if any(space.frontier for space in spaces):
        found.append(
            "KL: least concave majorant over configs that did not fail, in nats a sequence, vertices chosen on one "
            "half of the samples and read on the other; no interval below 10 blocks, and no claim of difference."
        )
    return found


def _boxes(rows: Sequence[Row]) -> list[str]:
    """The boxes, variants with the same one together."""
    by_box: dict[str, list[str]] = {}
    for row in rows:
        if row.space is not None:
            box = ", ".join(f"{name} {low:.3g} to {high:.3g}" for name, (low, high) in row.space.box.items())
            by_box.setdefault(box or "no knob", []).append(row.variant)
    return [f"Tried by {', '.join(dict.fromkeys(names))}: {box}." for box, names in by_box.items()]


def _quality_notes(rows: Sequence[Row]) -> list[str]:
    bests = [row.best for row in rows if row.best is not None]
    found = []
    if bests:
        metric = rows[0].metric
        unit = f" ({METRICS[metric].what}; {METRICS[metric].unit})" if metric in METRICS else ""
        found.append(f"Best {metric}{unit}: of the stratum's best trial. Margin, KL and knobs are that trial's.")
    balanced = dict.fromkeys(row.variant for row in rows if row.balanced)
    if balanced:
        found.append(
            f"{', '.join(balanced)}: loss_weights are shares of the gradient before training; the weights that TRL was "
            f"given for them are tags of each run, fact.{WEIGHT_FACT}LOSS."
        )
    judges = sorted({judge for row in rows for judge in row.judges if row.metric.startswith("gold")})
    if judges:
        several = "; not comparable, since they are several: score all runs by one with `sweeper evaluate`"
        found.append(f"Gold by {' and by '.join(judges)}{several if len(judges) > 1 else ''}.")
    if any(row.metric in ACCURACIES and row.length_baseline is not None for row in rows):
        found.append("Longer answer: what picking the longer answer gets right of the same pairs, without a model.")
    if any(best.is_optimistic for best in bests):
        found.append("* chosen as the best of several by this very number, so too good on average.")
    if any(best.estimate.low is None for best in bests):
        found.append("n too small: fewer than 3 blocks, so no interval; ± is the evaluator's standard error alone.")
    if any(best.estimate.low is not None for best in bests):
        found.append("[a, b] after a quality: 95% t interval over blocks.")
    return found


def _difference_notes(table: Comparison) -> list[str]:
    differences = [row.difference for row in table.rows if row.difference is not None]
    if not table.baseline:
        return []
    if not differences:
        return [
            f"No confirm runs of {table.baseline} and another on the same blocks: nothing is better, worse or a tie."
        ]
    found = [
        f"vs {table.baseline}: paired over blocks, more is better, from confirm runs alone, which chose nothing; 95% t "
        "interval. better and worse: Holm at 5% over the losses of a scenario; tie: TOST at 5%, not corrected."
    ]
    if any(row.best is None and row.difference is not None for row in table.rows):
        found.append("A loss of which no trial keeps the bounds is worth the untrained model, which keeps them: 0.")
    if all(d.p_tie is None for d in differences):
        found.append("No tie can be concluded: objective.tie_within says what difference does not matter.")
    elif any(d.word == "inconclusive" and not d.could_tie for d in differences):
        found.append("inconclusive: among them are some whose blocks are too few for their spread to show a tie.")
    if not all(d.is_robust for d in differences):
        found.append("? without one of the tasks it would be said the other way round.")
    if any(d.is_robust and not d.is_general for d in differences):
        found.append("~ without one of the tasks it would be inconclusive: no claim leans on it.")
    if any(row.stability for row in table.rows):
        found.append("Stability: Good at most 2%, Fair at most 10% of unbiased configs fail, by one-sided 95% limits.")
    return found


def _pace_notes(rows: Sequence[Row], baseline: str | None) -> list[str]:
    """How the speed was measured; that it was not, where a study has no probe, is said by the verdicts."""
    timed = {row.variant: row.pace for row in rows if row.pace is not None}
    if not timed:
        return []
    paces = list(timed.values())
    rounds = _or(sorted({pace.rounds for pace in paces}))
    places = {f" on {pace.device}, {pace.threads} threads" for pace in paces if pace.device and pace.threads}
    where = places.pop() if len(places) == 1 else ""
    found = [
        f"Steps/s: one run at a time, variants in turn, median of {rounds} round{'' if rounds == '1' else 's'}{where}; "
        "loading, logging and evaluation are not in it."
    ]
    if baseline in timed:
        found.append(
            f"Speed: steps a second over {baseline}'s in the same round, 95% t interval over rounds; as fast: within "
            f"{math.exp(SAME_PACE):.2f} times, by TOST at 5%; slower, faster: Holm at 5%."
        )
    memory = [pace.peak_memory for pace in paces if pace.peak_memory is not None]
    if memory:
        found.append(f"Peak memory of the timed runs: {min(memory):.0f} to {max(memory):.0f} MiB.")
    return found


def _reach_notes(rows: Sequence[Row], baseline: str | None) -> list[str]:
    if not any(row.reach is not None for row in rows):
        return []
    return [
        f"{TO_TARGET}: first evaluation at or above {SHARE:.0%} of {baseline}'s mean at its end, median over confirm "
        "runs (how many got there), known to the evaluated steps; seconds of training alone, at the timed pace."
    ]


def _or(numbers: Sequence[int]) -> str:
    return " or ".join(map(str, numbers))


def _count_notes(rows: Sequence[Row]) -> list[str]:
    found = []
    if any(row.failures.n for row in rows):
        found.append(
            "Failed: trials that diverged, inverted, collapsed, drifted (samples below half or above twice the "
            "reference's length) or ran out of memory, 95% exact limits."
        )
    stopped, lost, outside = (sum(getattr(row, f) for row in rows) for f in ("stopped", "lost", "outside"))
    found += [
        f"{so_many(stopped, 'run', 'was', 'were')} stopped by a limit, at a rung or by hand and "
        f"{'is' if stopped == 1 else 'are'} not counted as failed."
    ] * (stopped > 0)
    refused = sum(row.refused for row in rows)
    found += [
        f"{so_many(refused, 'run', 'was', 'were')} refused by TRL or the data; `sweeper status --failed` says why."
    ] * (refused > 0)
    found += [
        f"{so_many(lost, 'run', 'was', 'were')} lost by the machine; `sweeper status --failed` says why, `sweeper run` "
        "repeats them."
    ] * (lost > 0)
    found += [f"{so_many(outside, 'trial')} broke a bound of the objective and cannot be best."] * (outside > 0)
    return found
