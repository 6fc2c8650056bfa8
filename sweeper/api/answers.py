"""What a study says, and the settings to use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape

from dashboards.statistics.estimates import Estimate
from dashboards.tables.comparison import Comparison
from dashboards.tuned.answer import Settle
from studies.records import Scalar

__all__ = ["Answer", "Best", "Estimate", "answer_in", "best_in"]


@dataclass(frozen=True)
class Answer:
    """What a study says in one condition. `use`: the loss to use, with its `settings`, the `step` to stop at and its
    `gain`; None where none can be named. `as_good`: losses that are shown to be as good; `avoid`: loss -> why;
    `undecided`: those that these runs cannot tell from it, and `settle` what would. `start`: with which to start, with
    its `settings` and `step`, where what decides is too weak to name one. `str()`: all of it as a paragraph.
    """

    condition: str
    use: str | None
    settings: Mapping[str, Scalar]
    step: int | None
    gain: Estimate | None
    as_good: tuple[str, ...]
    avoid: Mapping[str, str]
    undecided: tuple[str, ...]
    settle: Settle | None
    start: str | None
    text: str = field(repr=False)

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return f"<p>{escape(self.text)}</p>"


@dataclass(frozen=True)
class Best:
    """The settings of a loss that `export` would write: those of the replicate in the middle, or of the best trial of a
    study without replicates. `gain`: over the untrained model; of a study without replicates `gain` is its objective.
    """

    variant: str
    condition: str
    settings: Mapping[str, Scalar]
    step: int | None
    gain: Estimate | None


def answer_in(table: Comparison, condition: str) -> Answer:
    """The answer of a condition, which the table has."""
    said = next(said for found, said in zip(table.tuned, table.answers, strict=True) if found.condition == condition)
    return Answer(
        condition=condition,
        use=said.use,
        settings=said.settings,
        step=said.step,
        gain=said.gain,
        as_good=said.as_good,
        avoid=said.avoid,
        undecided=said.undecided,
        settle=said.settle,
        start=said.start,
        text=said.text,
    )


def best_in(table: Comparison, condition: str, variant: str) -> Best | None:
    """The settings of a loss in a condition; None where nothing of it was judged or has finished."""
    found = next(one for one in table.tuned if one.condition == condition)
    loss = next((one for one in found.losses if one.variant == variant), None)
    if loss is None or (loss.chosen is None and not loss.settings):
        return None
    return Best(variant, condition, loss.settings, loss.step, loss.gained)
