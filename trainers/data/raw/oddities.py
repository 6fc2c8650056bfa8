"""What is odd of rows that are none the less rows, and how a reader is told of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple


class Seen(NamedTuple):
    """What a raw row holds beside its three texts that its reader should know of.

    `prompted`: there is a prompt; `lost`: columns whose text is no part of the texts; `forms`: what stood there in the
    place of lists of messages, and was read as them; `repeated`: an answer begins with the prompt; `otherwise`: columns
    by which the chosen answer has the lower score; `begun`: the prompt was taken from the answers, with a part of them.
    """

    prompted: bool = False
    lost: tuple[str, ...] = ()
    forms: tuple[str, ...] = ()
    repeated: bool = False
    otherwise: tuple[str, str] | None = None
    begun: bool = False


@dataclass
class Oddities:
    """What is odd of the rows of a split: of all of them `prompts` and `lost`, else of the sound ones. See `Seen`."""

    prompts: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    forms: Counter[str] = field(default_factory=Counter)
    otherwise: Counter[tuple[str, str]] = field(default_factory=Counter)
    begun: int = 0
    repeated: int = 0

    def count(self, seen: Seen, *, sound: bool) -> None:
        """One row more."""
        self.prompts += seen.prompted
        self.lost.update(seen.lost)
        if sound:
            self.forms.update(seen.forms)
            self.otherwise.update([seen.otherwise] if seen.otherwise else [])
            self.begun += seen.begun
            self.repeated += seen.repeated

    def notes(self, where: str) -> Iterator[str]:
        """What a reader should know of it."""
        if self.lost and self.prompts:
            names = " and ".join(map(repr, self.lost))
            yield (
                f"{where}: text in {names} of {max(self.lost.values())} rows is not trained on, as only prompt, chosen "
                "and rejected are; write it into the prompt where it belongs there"
            )
        for form, count in self.forms.items():
            yield f"{where}: {count} rows hold {form}; they are read as messages"
        for (better, worse), count in self.otherwise.items():
            yield (
                f"{where}: in {count} rows {better!r} is below {worse!r}, so that the answers may stand the wrong way "
                "round; exchange or remove them, where a higher number is the better one"
            )
        if self.begun:
            yield (
                f"{where}: there is no 'prompt', and what both answers begin with, which is taken for it, as by TRL, "
                f"goes on into the answers in {self.begun} rows; write the prompt into a column of its own"
            )
        if self.repeated:
            yield (
                f"{where}: in {self.repeated} rows an answer begins with the prompt, which stands before it already, "
                "so that it is trained on twice; take it out of the answers, or, where both begin with all of it, take "
                "it from there with --set data.columns.prompt=null"
            )
