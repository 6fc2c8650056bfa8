"""A study and its runs -> its table and answer, as `sweeper table` prints them, and how far it is."""

from __future__ import annotations

from collections.abc import Sequence

from dashboards.live.reading.words import measure_words, words
from dashboards.live.views import WON, Answer, Bar, Table
from dashboards.statistics.estimates import Estimate
from dashboards.tables.comparison import Comparison
from dashboards.tables.sections import short_sections
from dashboards.tables.short import by_verdict, verdict
from dashboards.tuned.answer import Answer as Said
from dashboards.tuned.losses import Tuned
from dashboards.tuned.samples.contests import as_rate


def answer_view(compared: Comparison) -> Answer:
    """The short table of each condition with its answer, and the notes under them."""
    found = short_sections(compared)
    tables = tuple(
        Table(
            condition=words(tuned.condition),
            header=_texts(section.cells.header),
            rows=tuple(map(_texts, section.cells.rows)),
            runs=tuple(loss.run_ids for loss in by_verdict(tuned, said)),
            answer=words(said.text),
            bars=_bars(tuned, said),
            unit=_unit(tuned),
        )
        for section, tuned, said in zip(found, compared.tuned, compared.answers, strict=False)
    )
    notes = [note for section in found for note in section.notes]
    return Answer(tables, (*map(words, compared.aside), *map(words, notes)))


def _texts(cells: Sequence[str]) -> tuple[str, ...]:
    return tuple(words(cell) for cell in cells)


def _unit(tuned: Tuned) -> str:
    if tuned.is_rate:
        return WON
    return "% of what is possible" if tuned.unit == "U" else measure_words(tuned.metric)


def _bars(tuned: Tuned, said: Said) -> tuple[Bar, ...]:
    """A bar a loss, in the numbers of the table."""
    times = 100.0 if tuned.unit == "U" or tuned.is_rate else 1.0

    def scaled(value: float | None) -> float | None:
        return None if value is None else value * times

    def limits(gained: Estimate | None) -> tuple[float | None, float | None, float | None]:
        if gained is None:
            return None, None, None
        shown = as_rate(gained) if tuned.is_rate else gained
        return scaled(shown.value), scaled(shown.low), scaled(shown.high)

    return tuple(
        Bar(words(loss.variant), words(verdict(loss, tuned, said)), *limits(loss.gained))
        for loss in by_verdict(tuned, said)
    )
