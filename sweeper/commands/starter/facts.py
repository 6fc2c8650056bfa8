"""Looks at a model and a data set for who designs a study of them; loads no torch and no weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from studies.records import EMBEDDED, EMBEDDED_MODELS, DataConfig
from studies.schema.paths import existing
from trainers.data.rows import counted
from trainers.data.sources import ENDINGS, DataError, Rows
from trainers.data.split_files import split_names
from trainers.examine.data import DataFacts, look_at_rows
from trainers.examine.lengths import Lengths, at_most, count_tokens
from trainers.examine.model import ModelFacts, look_at_model

Reader = Callable[[DataConfig], Rows | DataError | None]
"""Reads local data; None of what lies elsewhere."""

_MOST_LEFT_OUT: Final = 0.2
"""A larger share of the rows is not left out unasked."""


@dataclass(frozen=True)
class Facts:
    """What a study is designed from. `data`: how it reads its rows; `rows`: those, None where they lie elsewhere or
    cannot be used, for which `unusable` says why; `remark`: what there is to say of bad rows.
    """

    model: ModelFacts
    data: DataConfig
    rows: Rows | None = None
    sound: DataFacts | None = None
    lengths: Lengths | None = None
    remark: str = ""
    unusable: tuple[str, ...] = ()

    @property
    def is_embedded(self) -> bool:
        """Whether model and data are the project's own."""
        return self.model.name in EMBEDDED_MODELS

    def in_words(self) -> list[str]:
        """What the rows are, in sentences."""
        if self.rows is None or self.sound is None or self.lengths is None:
            return []
        sound, lengths = self.sound, self.lengths
        held_out = f", and {len(self.rows.evaluation):,} in {self.data.eval_split}" if self.rows.evaluation else ""
        form = "messages" if sound.messages else "plain text"
        form = "messages, written as plain text," if self.data.messages == "text" else form
        of = f" (guessed from characters: {lengths.why_guessed})" if lengths.why_guessed else ""
        told = [
            f"{sound.rows:,} rows of {form} with {sound.prompts:,} prompts{held_out}.",
            f"Half of the pairs have at most {at_most(lengths.pairs, 0.5):,} tokens, 95 of 100 at most "
            f"{at_most(lengths.pairs, 0.95):,}{of}.",
            f"The chosen answer is the longer one in {100 * lengths.longer_chosen:.0f} of 100 pairs.",
        ]
        return told + [sentence for count, sentence in _oddities(sound) if count]


def _oddities(sound: DataFacts) -> list[tuple[int, str]]:
    return [
        (sound.repeated, f"{sound.repeated:,} rows repeat others."),
        (sound.reversed, f"{sound.reversed:,} rows prefer what another row of the prompt rejects."),
        (sound.alike, f"{sound.alike:,} pairs differ in case, spaces and punctuation alone."),
    ]


def look(model: str, dataset: str, read: Reader) -> Facts:
    """What a study of `model` on `dataset` is designed from."""
    about = look_at_model(model)
    if dataset == EMBEDDED:
        return Facts(about, DataConfig())
    split, held_out = _splits(dataset)
    data = DataConfig(path=dataset, bad_rows="drop", split=split, eval_split=held_out)
    rows = read(data)
    if rows is None:
        return Facts(about, data, remark=UNREAD)
    if isinstance(rows, DataError):
        asked = data.model_copy(update={"bad_rows": "refuse"})
        return Facts(about, asked, remark=UNUSABLE, unusable=rows.problems)
    if about.has_template is False and look_at_rows(rows.train[:1]).messages:
        data = data.model_copy(update={"messages": "text"})
        again = read(data)
        rows = again if isinstance(again, Rows) else rows
    remark, drops = remark_on(rows.read, rows.dropped)
    data = data if drops else data.model_copy(update={"bad_rows": "refuse"})
    lengths = count_tokens(rows, model if about.is_here else None)
    return Facts(about, data, rows, look_at_rows(rows.train), lengths, remark)


def _splits(dataset: str) -> tuple[str, str | None]:
    """The splits to train on and to hold out, of a folder that has any by these names."""
    folder = existing(dataset)
    names = split_names(Path(folder), ENDINGS) if folder is not None and folder.is_dir() else ()
    train = next((n for n in ("train", *sorted(names, key=_by_preference)) if n in names), "train")
    ending = train.removeprefix("train")
    held_out = (f"{word}{ending}" for word in ("test", "validation", "eval", "valid", "dev"))
    return train, next((n for n in held_out if n in names), None)


def _by_preference(split: str) -> tuple[bool, bool, str]:
    return not split.startswith("train"), "pref" not in split, split


def remark_on(read: int, dropped: Counter[str]) -> tuple[str, bool]:
    """What to say of rows with so many bad ones of each kind, and whether a study may drop them unasked."""
    if not dropped:
        return (
            f"None of the {read:,} rows is bad; those that come to be are left out and counted (bad_rows: drop).",
            True,
        )
    told = f"{dropped.total():,} of {read:,} rows are bad ({counted(dropped)})"
    if dropped.total() > _MOST_LEFT_OUT * read:
        return f"{told}: too many to leave out unasked. Mend them, or add bad_rows: drop.", False
    return f"{told} and are left out; to be told of each, take bad_rows: drop away.", True


UNREAD: Final = "Bad rows are left out and counted; to be told of each, take bad_rows: drop away."
UNUSABLE: Final = "The data cannot be used as they are; sweeper plan says why."
