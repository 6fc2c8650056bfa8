"""A study and its runs -> its table and answer, as `sweeper table` prints them, and what it trains on what."""

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
from studies.schema.variants import possible
from studies.spec import Study


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


def material(study: Study) -> str:
    """Which models a study trains, on which pairs."""
    data, models = study.spec.data, dict[str, None]()
    for arm, scenario in study.strata():
        tried = possible(arm) | {name: (value,) for name, value in study.spec.scenarios[scenario].base.items()}
        models |= dict.fromkeys(map(str, tried.get("model_name_or_path", ())))
    pairs = f"{data.path} ({data.name})" if data.name else data.path
    return words(f"{'Models' if len(models) > 1 else 'Model'}: {', '.join(models)}. Pairs: {pairs}.")


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
