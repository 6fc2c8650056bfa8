"""A study and its runs -> its table and answer, as `sweeper table` prints them, and how far it is."""

from __future__ import annotations

from collections.abc import Sequence

from dashboards.live.reading.words import measure_words, words
from dashboards.live.views import WON, Answer, Bar, Table
from dashboards.statistics.estimates import Estimate
from dashboards.tables.comparison import Comparison, Short
from dashboards.tables.sections import condition_sections
from dashboards.tables.short import by_verdict, verdict
from dashboards.tuned.answer import Answer as Said
from dashboards.tuned.losses import Tuned, TunedLoss
from dashboards.tuned.samples.contests import as_rate


def answer_view(compared: Comparison | Short) -> Answer:
    """The short table of each condition with its answer, and the notes under them."""
    found = condition_sections(compared)
    tables = tuple(
        Table(
            condition=words(tuned.condition),
            header=_texts(section.cells.header),
            rows=tuple(map(_texts, section.cells.rows)),
            runs=tuple(loss.run_ids for loss in by_verdict(tuned, said)),
            answer=words(said.text.replace("`", "")),  # which mark a command in a terminal
            bars=_bars(tuned, said),
            unit=_unit(tuned),
            beside=_beside(tuned, said),
            baseline=words(tuned.baseline),
            is_rate=tuned.is_rate,
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

    def gained(loss: TunedLoss) -> Estimate | None:
        return as_rate(loss.gained) if loss.gained is not None and tuned.is_rate else loss.gained

    return tuple(_bar(loss, gained(loss), tuned, said) for loss in by_verdict(tuned, said))


def _beside(tuned: Tuned, said: Said) -> tuple[Bar, ...]:
    """What each loss has more than the baseline, in the numbers of the table: what ranks them."""
    found = []
    for loss in by_verdict(tuned, said):
        more = None if loss.difference is None else loss.difference.estimate
        found.append(_bar(loss, as_rate(more) if more is not None and loss.met is not None else more, tuned, said))
    return tuple(found) if any(bar.value is not None for bar in found) else ()


def _bar(loss: TunedLoss, value: Estimate | None, tuned: Tuned, said: Said) -> Bar:
    times = 100.0 if tuned.unit == "U" or tuned.is_rate else 1.0
    name, word = words(loss.variant), words(verdict(loss, tuned, said))
    if value is None:
        return Bar(name, word, None, None, None)
    low, high = (None if limit is None else limit * times for limit in (value.low, value.high))
    return Bar(name, word, value.value * times, low, high)
