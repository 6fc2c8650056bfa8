"""How long pairs are in a model's tokens, counted on some of them in a process that loads no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any, NamedTuple

from trainers.data.pairs import DataError
from trainers.data.rows import Row, length
from trainers.data.sources import Rows
from trainers.preview import asked_aside, model_place, spread

CHARACTERS_A_TOKEN = 4
"""Nearly, of English in the tokens of a large vocabulary."""


class Lengths(NamedTuple):
    """Tokens of some rows' prompts, chosen and rejected answers, in the order of the rows. `why_guessed`: why they are
    guessed from characters, empty where they are counted.
    """

    prompts: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    why_guessed: str = ""

    @property
    def pairs(self) -> list[int]:
        """Tokens of each row, its prompt and longer answer."""
        return [p + max(c, r) for p, c, r in zip(self.prompts, self.chosen, self.rejected, strict=True)]

    @property
    def longer_chosen(self) -> float:
        """Share of rows whose chosen answer is the longer one, ties one half: what 'pick the longer' gets right."""
        told = [(c > r) + 0.5 * (c == r) for c, r in zip(self.chosen, self.rejected, strict=True)]
        return sum(told) / max(len(told), 1)


def at_most(numbers: Sequence[int], share: float) -> int:
    """The number that so large a share of them is at most."""
    ranked = sorted(numbers)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))] if ranked else 0


def count_tokens(rows: Rows, model: str | None) -> Lengths:
    """The lengths of some rows, drawn, in the tokens of `model` (None: of none that is here)."""
    some = [row for _, row in spread([*zip(rows.train_places, rows.train, strict=True)])]
    if model is None:
        return _guessed(some, "no tokenizer is here")
    try:
        found = asked_aside("trainers.examine.lengths", {"model": model_place(model), "rows": some})
    except (subprocess.SubprocessError, OSError, ValueError):
        return _guessed(some, f"the tokenizer of {model} cannot be loaded here")
    if not found:
        return _guessed(some, f"the tokenizer of {model} takes none of the rows")
    prompts, chosen, rejected = (tuple(numbers) for numbers in zip(*found, strict=True))
    return Lengths(prompts, chosen, rejected)


def _guessed(rows: Sequence[Row], why: str) -> Lengths:
    sides = ([-(-length(row[side]) // CHARACTERS_A_TOKEN) for row in rows] for side in ("prompt", "chosen", "rejected"))
    prompts, chosen, rejected = (tuple(side) for side in sides)
    return Lengths(prompts, chosen, rejected, why)


# ---- in the process of its own ---------------------------------------------------------------------------------------


def main() -> None:
    """Answer the request on standard input: for each row that the tokenizer takes its three lengths, as JSON."""
    sys.modules["torch"] = None  # type: ignore[assignment]
    request = json.load(sys.stdin)
    with redirect_stdout(sys.stderr):
        found = _counted(request["model"], request["rows"])
    json.dump(found, sys.stdout)


def _counted(model: str, rows: Sequence[Any]) -> list[tuple[int, int, int]]:
    from trainers.data.tokens import tokenise
    from trainers.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(model, None, trust_remote_code=False)
    found = []
    for row in rows:
        if isinstance(row["prompt"], list) and not tokenizer.chat_template:
            return []
        try:
            ids = tokenise(row, tokenizer)
        except DataError:
            continue
        found.append((len(ids.prompt), len(ids.chosen), len(ids.rejected)))
    return found


if __name__ == "__main__":
    main()
