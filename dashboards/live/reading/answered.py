"""A study and its runs -> its table and answer, as `sweeper table` prints them, and how far it is."""

from __future__ import annotations

from collections.abc import Sequence

from dashboards.live.reading.words import words
from dashboards.live.views import Answer, Bar, Table
from dashboards.tables.comparison import Comparison
from dashboards.tables.sections import short_sections
from dashboards.tables.short import by_verdict, verdict
from dashboards.tuned.answer import Answer as Said
from dashboards.tuned.losses import Tuned


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
            unit="% of what is possible" if tuned.unit == "U" else words(tuned.metric),
        )
        for section, tuned, said in zip(found, compared.tuned, compared.answers, strict=False)
    )
    notes = [note for section in found for note in section.notes]
    return Answer(tables, (*map(words, compared.aside), *map(words, notes)))


def _texts(cells: Sequence[str]) -> tuple[str, ...]:
    return tuple(words(cell) for cell in cells)


def _bars(tuned: Tuned, said: Said) -> tuple[Bar, ...]:
    times = 100.0 if tuned.unit == "U" else 1.0

    def scaled(value: float | None) -> float | None:
        return None if value is None else value * times

    return tuple(
        Bar(
            words(loss.variant),
            words(verdict(loss, tuned, said)),
            *(
                (None, None, None)
                if loss.gained is None
                else (scaled(loss.gained.value), scaled(loss.gained.low), scaled(loss.gained.high))
            ),
        )
        for loss in by_verdict(tuned, said)
    )
