"""The comparison as cells of text: header, rows, verdicts and the notes that a reader needs; knows no file format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dashboards.analysis.kl_budgets import AtBudget
from dashboards.analysis.spaces import Space
from dashboards.analysis.speed import Pace
from dashboards.analysis.time_to_target import SHARE, Reach
from dashboards.controls.expectations import Finding
from dashboards.guide.verdicts import Verdict
from dashboards.statistics.compare import Difference
from dashboards.tables.comparison import Comparison, Row
from dashboards.tables.numbers import best_cell, interval, knob, number, plain, share
from studies.records import Scalar
from studies.text.plural import so_many

KNOBS = "Best settings"
TO_TARGET = f"To {SHARE:.0%}"
WORDS = frozenset(
    {"Speed", "Best for", "Stability", "Word", "Claim", "Guide says", "Verdict", "Why"} | {"Expected", "Found"}
)
LEFT = WORDS | {"Loss", "Scenario", "Control", "Held", "Settings used", KNOBS}
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
    against = [f"vs {table.baseline} ({unit})", "Draws", "Verdict", "P(better)"] if table.baseline else []
    timed = any(row.pace is not None for row in table.rows)
    soon = any(row.reach is not None for row in table.rows)
    header = [
        "Loss", *(["Scenario"] if several else []), "Trials", "Failed", f"Best {metric}", f"Mean {metric}",
        *(["Longer answer"] if metric in ACCURACIES else []), "Margin", "KL", *(["Speed"] if timed else []),
        *([TO_TARGET] if soon else []), KNOBS, *against, "Stability",
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
        best_cell(row.best),
        number(row.mean),
        *([number(row.length_baseline)] if row.metric in ACCURACIES else []),
        number(row.margin),
        number(row.kl),
        *([speed_cell(row.pace)] if timed else []),
        *([_to_target(row.reach)] if soon else []),
        _knobs(row.knobs),
        *(_against(row, row.variant == baseline) if baseline else []),
        row.stability or "-",
    ]


def speed_cell(pace: Pace | None) -> str:
    """The word and the ratio to a step of the baseline's with its interval; of the baseline, what its step takes."""
    if pace is None:
        return "-"
    if pace.loss is None:
        return f"baseline: {1000 * pace.seconds:.3g} ms a step"
    return pace.loss.said


def _to_target(reach: Reach | None) -> str:
    """Steps and seconds to the target, and how many runs got there."""
    if reach is None:
        return "-"
    seconds = "" if reach.seconds is None else f" = {number(reach.seconds)} s"
    steps = "not reached" if reach.steps is None else f"{so_many(reach.steps, 'step')}{seconds}"
    return f"{steps} ({reach.reached}/{reach.runs})"


def _doubt(difference: Difference) -> str:
    """A mark at a word that hangs on a single task."""
    return "" if difference.is_general else "~" if difference.is_robust else "?"


def _against(row: Row, is_baseline: bool) -> list[str]:
    """The difference with its interval, its blocks, its word, and the probability of improvement."""
    difference = row.difference
    if difference is None:
        return ["-", "-", row.said or ("baseline" if is_baseline else "-"), "-"]
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
    front = ["-"] * budgets if space.frontier is None else [plain(value) for value in space.frontier.values]
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


def budget_cells(table: Comparison) -> Cells:
    """The strata at each KL budget of the confirm phase, a row each that has a trial there or says why it has none."""
    rows = [row for row in table.at_kl if row.trial is not None or row.said]
    several = len({row.scenario for row in rows}) > 1
    unit = rows[0].unit if rows else ""
    against = [f"vs {table.baseline} ({unit})", "Draws", "Verdict"] if table.baseline else []
    header = ["KL at most", "Loss", *(["Scenario"] if several else []), f"Retested ({unit})", "KL", *against, KNOBS]
    return Cells(header, [_at_budget(row, several, table.baseline) for row in rows])


def _at_budget(row: AtBudget, scenario: bool, baseline: str | None) -> list[str]:
    against: list[str] = []
    if baseline:
        against = ["-", "-", row.said or ("baseline" if row.variant == baseline else "-")]
    if baseline and row.compared is not None:
        difference = row.compared.difference
        against = [interval(difference.estimate), str(difference.estimate.blocks), _word(difference)]
    return [
        f"{row.budget:g}",
        row.variant,
        *([row.scenario] if scenario else []),
        "-" if row.value is None else plain(row.value),
        number(row.kl),
        *against,
        _knobs(row.knobs),
    ]


def _word(difference: Difference) -> str:
    """The word of a difference, marked where it leans on one task: see `_difference_notes`."""
    return difference.instead or difference.word + _doubt(difference)


def _knobs(knobs: Mapping[str, Scalar]) -> str:
    return " ".join(f"{name}={knob(value)}" for name, value in knobs.items()) or "-"


def guide_cells(verdicts: Sequence[Verdict]) -> Cells:
    """The guide's own table, each of its words with the verdict on it, of the losses that claims were tested of."""
    columns = ("Speed", "Stability", "Best for")
    by_loss: dict[str, dict[str, str]] = {}
    for verdict in verdicts:
        if verdict.claim.column in columns:
            said = f"{verdict.claim.words}: {verdict.ruling}"
            by_loss.setdefault(verdict.claim.loss, {})[verdict.claim.column] = said
    rows = [[loss, *(said.get(column, "-") for column in columns)] for loss, said in by_loss.items()]
    return Cells(["Loss", *columns], rows)


def claim_cells(verdicts: Sequence[Verdict]) -> Cells:
    """The verdicts, one a row."""
    header = ["Claim", "Guide says", "Verdict", "Effect", "Replicates", "Why"]
    return Cells(header, [_claim(verdict) for verdict in verdicts])


def _claim(verdict: Verdict) -> list[str]:
    effect = verdict.effect
    return [
        f"{verdict.claim.loss}: {verdict.claim.column}",
        verdict.claim.words,
        verdict.ruling,
        "-" if effect is None else f"{interval(effect)} {verdict.unit}".strip(),
        "-" if effect is None else f"{effect.blocks} rounds" if verdict.claim.column == "Speed" else str(effect.blocks),
        verdict.because,
    ]


def control_cells(controls: Sequence[Finding]) -> Cells:
    """The controls, one a row."""
    held = {True: "yes", False: "NO", None: "not yet"}
    rows = [[c.control, c.scenario, c.expected, c.found, f"{c.n} {c.unit}", held[c.held]] for c in controls]
    return Cells(["Control", "Scenario", "Expected", "Found", "n", "Held"], rows)
