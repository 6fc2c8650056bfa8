"""What stands below the tables: what their words and numbers mean here."""

from __future__ import annotations

from collections.abc import Sequence

from dashboards.analysis.speed import SAME, Paces, said
from dashboards.analysis.time_to_target import SHARE
from dashboards.tables.cells import ACCURACIES, TO_TARGET
from dashboards.tables.comparison import Comparison, Row
from studies.records import JUDGED, METRICS, WEIGHT_FACT
from studies.spec import MOST_DRIFT
from studies.text.plural import so_many


def budget_notes(table: Comparison) -> list[str]:
    """What a reader must know of `budget_cells`; nothing where they are empty."""
    if not any(row.trial is not None for row in table.at_kl):
        return []
    return [
        "KL at most: for each loss the trial with the best objective among those whose mean KL kept the budget, "
        "retested on fresh data draws and seeds; KL is that of the fresh runs. Holm over the losses of one budget."
    ]


CONTROL_NOTES = (
    "A control's answer is known beforehand: where one is not held, other numbers of this study may be wrong as well.",
)


def notes(table: Comparison) -> list[str]:
    """What a reader must know of these very numbers, and nothing that does not apply to them."""
    return [
        *table.aside,
        *table.pairs,
        *_quality_notes(table.rows),
        *_difference_notes(table),
        *speed_notes(table.speed),
        *_reach_notes(table.rows, table.baseline),
        *_count_notes(table.rows),
    ]


def space_notes(table: Comparison) -> list[str]:
    """What a reader must know of `space_cells`, with the box that was tried; nothing where there is none."""
    spaces = [row.space for row in table.rows if row.space is not None]
    if not spaces:
        return []
    found = [
        f"Over configs chosen in advance ({table.rows[0].unit}; failed ones as 0). Broken: failed, and not out of "
        "memory. Within: share of configs near the best. Best of 1 and of half of the configs: expected, too low on "
        "average. Rate loss: mean loss from the best over thirds of the learning rate. "
        "Gap: training less held-out accuracy.",
        *_boxes(table.rows),
    ]
    if any(space.frontier for space in spaces):
        found.append(
            "KL: least concave majorant over configs that did not fail, in nats a sequence, vertices chosen on one "
            "half of the samples and read on the other; no interval below 10 data draws, and no claim of difference."
        )
    return found


def _boxes(rows: Sequence[Row]) -> list[str]:
    """The boxes, variants with the same one together."""
    by_box: dict[str, list[str]] = {}
    for row in rows:
        if row.space is not None:
            box = ", ".join(f"{name} {low:.3g} to {high:.3g}" for name, (low, high) in row.space.box.items())
            by_box.setdefault(box or "no setting", []).append(row.variant)
    return [f"Tried by {', '.join(dict.fromkeys(names))}: {box}." for box, names in by_box.items()]


def _quality_notes(rows: Sequence[Row]) -> list[str]:
    bests = [row.best for row in rows if row.best is not None]
    found = []
    if bests:
        metric = rows[0].metric
        unit = f" ({METRICS[metric].what}; {METRICS[metric].unit})" if metric in METRICS else ""
        found.append(f"Best {metric}{unit}: of the variant's best trial. Margin, KL and settings are that trial's.")
    balanced = dict.fromkeys(row.variant for row in rows if row.balanced)
    if balanced:
        found.append(
            f"{', '.join(balanced)}: loss_weights are shares of the gradient before training; the weights that TRL was "
            f"given for them are tags of each run, fact.{WEIGHT_FACT}LOSS."
        )
    judges = sorted({judge for row in rows for judge in row.judges if row.metric in JUDGED})
    if judges:
        several = "; not comparable, since they are several: score all runs by one with `sweeper evaluate`"
        found.append(f"Gold by {' and by '.join(judges)}{several if len(judges) > 1 else ''}.")
    if any(row.metric in ACCURACIES and row.length_baseline is not None for row in rows):
        found.append("Longer answer: what picking the longer answer gets right of the same pairs, without a model.")
    if any(best.is_optimistic for best in bests):
        found.append("* chosen as the best of several by this very number, so too good on average.")
    if any(best.estimate.low is None for best in bests):
        found.append("n too small: fewer than 3 data draws, so no interval; ± is the evaluator's standard error alone.")
    if any(best.estimate.low is not None for best in bests):
        found.append("[a, b] after a quality: 95% t interval over data draws.")
    return found


def _difference_notes(table: Comparison) -> list[str]:
    differences = [row.difference for row in table.rows if row.difference is not None]
    if not table.baseline:
        return []
    if not differences:
        return [
            f"No retests of {table.baseline} and another on the same data draws: nothing is better, worse or a tie."
        ]
    found = [
        f"vs {table.baseline}: paired over data draws, more is better, from retests alone, which chose nothing; 95% t "
        "interval. better and worse: Holm at 5% over the losses of a scenario; tie: TOST at 5%, not corrected."
    ]
    if all(d.p_tie is None for d in differences):
        found.append("No tie can be concluded: objective.tie_within says what difference does not matter.")
    elif any(d.word == "inconclusive" and not d.could_tie and not d.instead for d in differences):
        found.append("inconclusive: among them are some whose data draws are too few for their spread to show a tie.")
    if not all(d.is_robust for d in differences):
        found.append("? without one of the tasks it would be said the other way round.")
    if any(d.is_robust and not d.is_general for d in differences):
        found.append("~ without one of the tasks it would be inconclusive: no claim leans on it.")
    if any(row.stability for row in table.rows):
        found.append(
            "Stability: Good at most 2%, Fair at most 10% of configs chosen in advance fail, by one-sided 95% limits."
        )
    return found


def speed_notes(speed: Paces | None) -> list[str]:
    """How the speed was measured; that it was not is said by the verdicts."""
    if speed is None:
        return []
    name, where = speed.baseline, speed.machine.get("gpu") or speed.machine.get("processor") or speed.device
    found = [
        f"Speed: time of a step over one of {name}, from the time of its loss alone (TRL's code on fixed log-probs, "
        f"{so_many(speed.null.ratio.blocks, 'round')} in random order and back, {speed.seconds:.0f} s, on {where}, "
        f"{speed.date[:10]}), 95% bootstrap interval; {name} against itself {said(speed.null.ratio)}. as fast: within "
        f"{SAME:.2f} times; slower, faster: the whole interval on one side of 1."
    ]
    checks = [f"{of} {pace.check.said}" for of, pace in speed.of.items() if pace.check is not None]
    if checks and speed.null_check is not None:
        ratio = speed.null_check.ratio
        found.append(
            f"Check by {so_many(ratio.blocks, 'round')} of whole steps: {'; '.join(checks)}; {name} against itself "
            f"{said(ratio)}."
        )
    found += [f"The speed of {of} was not measured: {why}." for of, why in speed.failed.items()]
    return found


def _reach_notes(rows: Sequence[Row], baseline: str | None) -> list[str]:
    if not any(row.reach is not None for row in rows):
        return []
    return [
        f"{TO_TARGET}: first evaluation at or above {SHARE:.0%} of {baseline}'s mean at its end, median over retests "
        "(how many got there), known to the evaluated steps; seconds of training alone on one thread, by "
        "the timed steps."
    ]


def _count_notes(rows: Sequence[Row]) -> list[str]:
    found = []
    if any(row.failures.n for row in rows):
        found.append(
            "Failed: trials whose first draw diverged, inverted, collapsed, drifted (samples below half or "
            "above twice the reference's length) or ran out of memory, 95% exact limits."
        )
    several = len({row.scenario for row in rows}) > 1
    later = [f"{r.variant}{f' in {r.scenario}' * several} {r.later[0]} of {r.later[1]}" for r in rows if r.later[0]]
    found += [f"Later draws of these configs failed, of which Failed does not tell: {', '.join(later)}."] * bool(later)
    stopped, lost, outside = (sum(getattr(row, f) for row in rows) for f in ("stopped", "lost", "outside"))
    found += [
        f"{so_many(stopped, 'run', 'was', 'were')} stopped by a limit, at a rung or by hand and "
        f"{'is' if stopped == 1 else 'are'} not counted as failed."
    ] * (stopped > 0)
    refused = sum(row.refused for row in rows)
    found += [
        f"{so_many(refused, 'run', 'was', 'were')} not started, as TRL or the data refused; `sweeper status "
        "--failed` says why."
    ] * (refused > 0)
    found += [
        f"{so_many(lost, 'run', 'was', 'were')} lost by the machine; `sweeper status --failed` says why, `sweeper run` "
        "repeats them."
    ] * (lost > 0)
    found += [
        f"{so_many(outside, 'trial')} broke a bound of the objective, or broke when trained again, and cannot be best."
    ] * (outside > 0)
    return [*found, *_drift_notes(rows), *edge_notes(rows)]


def edge_notes(rows: Sequence[Row]) -> list[str]:
    """Which of the best settings are at an edge of what was tried, and what range would widen it."""
    several = len({row.scenario for row in rows}) > 1
    found: dict[str, list[str]] = {}
    for row in rows:
        for edge in row.edges:
            further = f"; {'high' if edge.end == 'highest' else 'low'}: {edge.wider:g} is further" if edge.wider else ""
            text = f"the {edge.end} {edge.knob} of {edge.tried} tried ({edge.value:.3g}{further})"
            found.setdefault(text, []).append(f"{row.variant}{f' in {row.scenario}' * several}")
    said = "Best at an edge: {} is that of {}. A wider range may hold a better."
    return [said.format(text, ", ".join(names)) for text, names in found.items()]


def _drift_notes(rows: Sequence[Row]) -> list[str]:
    """Which losses have trials beyond the default bound on drift."""
    several = len({row.scenario for row in rows}) > 1
    where = [f"{r.variant}{f' in {r.scenario}' * several} {r.too_far} of {r.trials_done}" for r in rows if r.too_far]
    if not where:
        return []
    return [
        f"Too far from the start to be best, at more than {MOST_DRIFT:g} nats a token: {', '.join(where)}. "
        "objective.constraints.kl sets another bound, objective.unbounded=[drift] none."
    ]
