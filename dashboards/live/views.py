"""What the page shows, as frozen types: texts are as people read them, numbers as figures draw them.

Every text that came from a study, its data or a store has no secret in it and no character that acts on a screen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dashboards.live.ports import Sweep
from dashboards.report.progress import StatusCounts


@dataclass(frozen=True)
class Training:
    """A run in training: `since` when (seconds since 1970), its last step, and what it logged there."""

    key: str
    worker: str
    variant: str
    scenario: str
    trial: int
    block: int
    seed: int
    since: float
    step: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Span:
    """What a worker trained from when to when; `end` and `cause` are None while it does."""

    worker: str
    variant: str
    begin: float
    end: float | None
    cause: str | None


@dataclass(frozen=True)
class Answered:
    """An act that a sweep has answered."""

    at: float
    id: str
    ask: str
    outcome: str
    message: str


@dataclass(frozen=True)
class Happening:
    """What the events of a study's last sweep tell. `workers`: name -> state and place."""

    training: tuple[Training, ...] = ()
    spans: tuple[Span, ...] = ()
    workers: Mapping[str, str] = field(default_factory=dict)
    answered: tuple[Answered, ...] = ()


@dataclass(frozen=True)
class Bar:
    """A loss in one condition: what it gains, or how often it wins, with its interval, in percent or in the metric's
    unit.
    """

    variant: str
    verdict: str
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Table:
    """The table and the answer of one condition, the texts of `sweeper table`. `runs`: of each row, the runs that
    judged it. `beside`: what a loss has more than the `baseline`, which ranks them; none where that is not known.
    """

    condition: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    runs: tuple[tuple[str, ...], ...]
    answer: str
    bars: tuple[Bar, ...]
    unit: str
    beside: tuple[Bar, ...] = ()
    baseline: str = ""
    is_rate: bool = False


WON = "% won against the untrained model"
"""The unit of a win rate, which is no gain: 50 is no better."""
_NOT_FIRST = ("avoid", "no gain", "weak", "not ranked")  # verdicts of losses that no line at the top names


def _worth(bar: Bar, unit: str) -> str:
    """What a loss gains, rounded as in the table: 56% [33 to 79] of what is possible."""
    value, low, high = bar.value or 0.0, bar.low, bar.high
    if unit.startswith("% "):
        held = "" if low is None or high is None else f" [{low:.0f} to {high:.0f}]"
        return f"{value:.0f}%{held} {unit[2:]}"
    held = "" if low is None or high is None else f" [{low:.3g} to {high:.3g}]"
    return f"{value:.3g}{held} {unit}".rstrip()


def _first(table: Table, several: bool) -> tuple[str, str] | None:
    """What a condition's answer says of the loss that it names first, and that loss with what it gains; `several`:
    there are other conditions.
    """
    fit = (bar for bar in table.bars if bar.value is not None and not bar.verdict.startswith(_NOT_FIRST))
    if (bar := next(fit, None)) is None:
        return None
    where = f" in {table.condition}" if several else ""
    gains = f"{bar.variant}{where}, {_worth(bar, table.unit)}"
    if bar.verdict != "use":
        return f"First so far ({bar.verdict}): ", gains
    alike = [one.variant for one in table.bars if one.verdict == "as good"]
    by = table.answer.partition(":")[0]
    lead = f"{by}: use " if by.startswith("So far") else "Use: "
    return lead, gains + (f" (as good: {', '.join(alike)})" if alike else "")


@dataclass(frozen=True)
class Answer:
    """What a study says now: its tables, what their columns mean, and what else there is to say."""

    tables: tuple[Table, ...]
    notes: tuple[str, ...]

    @property
    def best(self) -> str:
        """In a line: the loss to use in each condition, or the first so far that nothing speaks against; "" where there
        is none.
        """
        told, before = list[str](), ""
        for lead, loss in filter(None, (_first(table, len(self.tables) > 1) for table in self.tables)):
            told.append(loss if lead == before else f"{lead}{loss}")
            before = lead
        return "; ".join(told)

    @property
    def said(self) -> str:
        """The first sentence of each condition's answer."""
        several = len(self.tables) > 1
        return " ".join(
            f"{f'{table.condition}: ' if several else ''}{table.answer.partition('. ')[0].removesuffix('.')}."
            for table in self.tables
            if table.answer
        )


@dataclass(frozen=True)
class Point:
    """A finished run: drift in nats, the objective, and which run it is."""

    run_id: str
    variant: str
    label: str
    drift: float
    value: float
    failed: bool


@dataclass(frozen=True)
class Heat:
    """The mean objective over two settings of `name`: a variant, with its condition where there are several. `cells` of
    (column, row, mean, runs); labels name the middle of a bin.
    """

    name: str
    x: str
    y: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    cells: tuple[tuple[int, int, float | None, int], ...]


@dataclass(frozen=True)
class RunLine:
    """A run as a choice: its name and where its log is; `failure`: of one that failed, why in a word, and `message` in
    its own; `finished`: it came to its end.
    """

    run_id: str
    key: str
    variant: str
    label: str
    log: str | None
    failure: str | None
    message: str
    finished: bool


@dataclass(frozen=True)
class Figures:
    """What the figures of a study are drawn of. `metric`: the objective, with its unit in words."""

    metric: str
    about: str
    points: tuple[Point, ...]
    heats: tuple[Heat, ...]
    runs: tuple[RunLine, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Glance:
    """A study at a glance. `material`: its models and pairs, "" until they are known; `owner`, `folder`: who swept it
    last, and where. `state`: running, ended, dead, or unknown where nothing tells; `counts`: None until its runs are
    read; `reading`: how far that is, empty once done; `problem`: why it cannot be read. `changed`: when something
    of it was last written. `again`: the command that goes on with it.
    """

    name: str
    question: str
    state: str
    sweep: Sweep | None
    paused: frozenset[str]
    changed: float | None
    runs: int
    again: str
    page: str | None = None
    counts: StatusCounts | None = None
    answer: Answer | None = None
    happening: Happening = Happening()
    figures: Figures | None = None
    notes: tuple[str, ...] = ()
    reading: str = ""
    problem: str = ""
    read_at: float = 0.0
    material: str = ""
    owner: str = ""
    folder: str = ""


@dataclass(frozen=True)
class Seen:
    """All that the page knows at one moment: the studies, those that changed last first. `number`: grows with every
    change.
    """

    number: int
    at: float
    studies: tuple[Glance, ...]
    problem: str = ""

    def study(self, name: str) -> Glance | None:
        """The study of this name."""
        return next((one for one in self.studies if one.name == name), None)
