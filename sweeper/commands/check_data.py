"""What is wrong with a data set, without a study: every split by itself, then what they share, then what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from studies.records import DataConfig
from studies.schema.paths import existing
from studies.text.plural import so_many
from trainers.data.sources import ENDINGS, DataError, Rows, UnreadableData, kind_of
from trainers.data.split_files import split_names
from trainers.examine.data import DataFacts, look_at_rows, shared
from trainers.examine.lengths import Lengths, at_most, count_tokens
from trainers.examine.model import ModelFacts, look_at_model
from trainers.preview import preview

_ONE_SIDED: Final = 0.6
"""Of a share of pairs whose chosen answer is longer, what length alone would explain too well."""
_FEW_ROWS: Final = 400


@dataclass(frozen=True)
class Section:
    """A heading and the sentences under it."""

    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class DataCheck:
    """What was found. `unreadable`: no row could be looked at, and why; `unusable`: why no run could use the rows."""

    sections: tuple[Section, ...] = ()
    advice: tuple[str, ...] = ()
    unusable: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Split:
    name: str
    data: DataConfig
    rows: Rows
    facts: DataFacts
    lengths: Lengths


def check(path: str, model: str | None, read: Callable[[DataConfig], Rows | DataError]) -> DataCheck:
    """Look at every split of `path`, with the tokens of `model` where one is named."""
    about = None if model is None else look_at_model(model)
    found: list[_Split] = []
    unusable: list[str] = [] if about is None else list(about.problems)
    unreadable: list[str] = []
    for split in (splits := _splits(path)):
        data = DataConfig(path=path, bad_rows="drop", split=split or "train")
        rows = read(data)
        if isinstance(rows, DataError):
            (unreadable if isinstance(rows, UnreadableData) else unusable).extend(rows.problems)
            continue
        facts = look_at_rows(rows.train)
        if facts.messages and about is not None and about.has_template is False:
            again = read(data := data.model_copy(update={"messages": "text"}))
            rows = again if isinstance(again, Rows) else rows
        lengths = count_tokens(rows, model if about is not None and about.is_here else None)
        found.append(_Split(split or "", data, rows, facts, lengths))
    if not found and not unusable:
        return DataCheck(unreadable=tuple(unreadable))
    sections = [_section(path, one) for one in found]
    advice = [*unreadable, *(said for one in found for said in _advice(one, about))]
    if len(found) > 1:
        in_common, remedies = _shared(found)
        sections.append(Section("What the splits share", tuple(in_common)))
        advice += remedies
    refused = _refused(found[0], model, alone=len(found) == 1) if found else []
    if found and found[0].name == (splits[0] or "") and not (about is not None and about.problems):
        advice, unusable = [*unusable, *advice], []  # of other splits
    return DataCheck(tuple(sections), tuple(dict.fromkeys(advice)), (*unusable, *refused))


def _splits(path: str) -> tuple[str | None, ...]:
    """The splits of a folder, those to train on first; one without a name of all else."""
    if kind_of(path) != "folder":
        return (None,)
    folder = existing(path)
    names = split_names(folder, ENDINGS) if folder is not None else ()
    return tuple(sorted(names, key=lambda name: not name.startswith("train"))) or (None,)


def _section(path: str, one: _Split) -> Section:
    form = "messages" if one.facts.messages else "plain text"
    title = f"{path}{f', {one.name}' if one.name else ''}: {so_many(one.facts.rows, 'row')} of {form}"
    return Section(title, (*_bad(one.rows), *_contents(one.facts), *_told_lengths(one.lengths), *one.rows.notes))


def _bad(rows: Rows) -> list[str]:
    if not rows.dropped:
        return [f"Bad rows: none of {rows.read:,}."]
    told = [f"Bad rows: {rows.dropped.total():,} of {rows.read:,}."]
    for kind, count in rows.dropped.most_common():
        places, text = rows.faults[kind]
        more = ", ..." if count > len(places) else ""
        told.append(f"  {count:,} {kind} ({', '.join(places)}{more}): {text}.")
    return told


def _contents(facts: DataFacts) -> list[str]:
    told = [f"Prompts: {so_many(facts.prompts, 'different one')}."]
    if facts.repeated:
        told.append(f"Repeated: {so_many(facts.repeated, 'row', 'is', 'are')} there before, word for word.")
    if facts.reversed:
        prefer = so_many(facts.reversed, "row", "prefers", "prefer")
        told.append(f"Contradictions: {prefer} what another row of their prompt rejects.")
    if facts.alike:
        rows = so_many(facts.alike, "row")
        told.append(f"Nearly tied: in {rows} the answers differ in case, spaces or punctuation alone.")
    return told


def _told_lengths(lengths: Lengths) -> list[str]:
    if not lengths.prompts:
        return []
    of = "tokens, guessed as characters / 4" if lengths.why_guessed else "the model's tokens"
    sides: Mapping[str, Sequence[int]] = {
        "prompt": lengths.prompts,
        "chosen": lengths.chosen,
        "rejected": lengths.rejected,
        "pair": lengths.pairs,
    }
    mean = [sum(n) / len(n) for n in (lengths.chosen, lengths.rejected)]
    return [
        f"Lengths in {of}, of {so_many(len(lengths.prompts), 'row')}:",
        f"  {'':10}{'half':>8}{'95 of 100':>12}{'longest':>10}",
        *(f"  {name:10}{at_most(n, 0.5):>8,}{at_most(n, 0.95):>12,}{max(n):>10,}" for name, n in sides.items()),
        f"Length bias: the chosen answer is the longer one in {100 * lengths.longer_chosen:.0f} of 100 pairs; means "
        f"{mean[0]:.0f} and {mean[1]:.0f}.",
    ]


def _shared(found: Sequence[_Split]) -> tuple[list[str], list[str]]:
    """What two splits share, and what to do about it."""
    told, advice = [], []
    for first, second in combinations(found, 2):
        both = shared(first.rows.train, second.rows.train)
        if both.prompts:
            rows = so_many(second.facts.rows, "row")
            told.append(
                f"Of the {rows} of {second.name}, {both.rows:,} {'is' if both.rows == 1 else 'are'} "
                f"in {first.name} too, and {both.prompts:,} {'has' if both.prompts == 1 else 'have'} a prompt of it."
            )
            advice.append(
                f"{second.name}: take what is in {first.name} too out of one of them. A study that holds one out of "
                "them trains on no row with a held-out prompt; other tools do."
            )
    return told or ["No row and no prompt."], advice


def _refused(one: _Split, model: str | None, *, alone: bool) -> list[str]:
    """Why no run could use a split, as far as that shows without a study."""
    if not one.rows.train:
        return ["no row is sound"]
    if alone and one.facts.prompts < 2:
        return ["all rows have one prompt, so that none could be held out: give more prompts"]
    if model is None:
        return []
    data = one.data.model_copy(update={"max_length": None})
    return list(preview(one.rows, data, model, None, False, 0).problems)


def _advice(one: _Split, about: ModelFacts | None) -> list[str]:
    """What to do about a split, in sentences."""
    facts, lengths, told = one.facts, one.lengths, []
    if one.rows.dropped:
        told.append("mend the bad rows, or leave them out: data: {bad_rows: drop}.")
    if facts.repeated:
        told.append("remove the repeated rows, which count twice.")
    if facts.reversed:
        told.append("the contradictions are wrong labels to a loss: leave both rows out, or try the loss robust.")
    longer = lengths.longer_chosen
    if lengths.prompts and max(longer, 1 - longer) > _ONE_SIDED:
        side = "longer" if longer > 0.5 else "shorter"
        told.append(
            f"always picking the {side} answer is right in {100 * max(longer, 1 - longer):.0f} of 100 pairs: hold "
            "gains against that, and watch the length of samples."
        )
    if facts.rows < _FEW_ROWS and one.name in ("", "train"):
        told.append(f"{so_many(facts.rows, 'row', 'is', 'are')} few: only large differences between losses will show.")
    if one.data.messages == "text":
        told.append("the model has no chat template: take an instruct model, or data: {messages: text}.")
    positions = None if about is None else about.positions
    if positions is not None and max(lengths.pairs, default=0) > positions:
        out = sum(n > positions for n in lengths.pairs) / len(lengths.pairs)
        told.append(
            f"{100 * out:.0f} of 100 pairs are longer than the {positions:,} tokens that the model was made for: "
            f"data: {{max_length: {positions}}} leaves them out."
        )
    return [f"{one.name}: {said}" if one.name else said for said in told]
