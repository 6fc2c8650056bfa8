"""Why a pair is not trained on, and in which words that is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from studies.records import DataConfig
from trainers.data.sources import DataError, Row
from trainers.data.tokens import tokenise

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


TOO_LONG: Final = "too long"


REFUSED: Final = "refused by the chat template"


NO_PROMPT: Final = "prompts without a token"


UNTOLD: Final = "answers without a token"


ALIKE: Final = "answers of the same tokens"


REMEDIES: Final[Mapping[str, str]] = {
    TOO_LONG: "raise the limits in `data`",
    REFUSED: "take a model whose chat template takes these roles",
    NO_PROMPT: "write the prompts out, in roles that the chat template has",
    UNTOLD: "the chat template passes over roles that it does not know, so write those that it has",
    ALIKE: "give answers that differ in more than the model's tokenizer or template leaves of them",
}


def why_not(row: Row, data: DataConfig, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Why a row is not trained on, in words to count by: it passes a length limit, each of which may be reached, or
    has answers without tokens or with the same. None where it is.
    """
    if isinstance(row["prompt"], list) and not tokenizer.chat_template:
        raise DataError(
            [
                f"data {data.path}: rows are messages but the model's tokenizer has no chat template; "
                "take an instruct model or write the rows as plain text"
            ]
        )
    try:
        ids = tokenise(row, tokenizer)
    except DataError:
        if data.bad_rows == "drop":
            return REFUSED
        raise
    if not ids.prompt:
        if data.bad_rows == "drop":
            return NO_PROMPT
        raise DataError(
            [
                f"the prompt {str(row['prompt'])[:60]!r} has no token of its own under the model's tokenizer, so that "
                "nothing would stand before the answers; write it out or remove the row"
            ]
        )
    if not ids.chosen or not ids.rejected:
        return UNTOLD
    if ids.chosen == ids.rejected:
        return ALIKE
    completion = max(len(ids.chosen), len(ids.rejected))
    limits = (
        (len(ids.prompt), data.max_prompt_length),
        (completion, data.max_completion_length),
        (len(ids.prompt) + completion, data.max_length),
    )
    return None if all(limit is None or length <= limit for length, limit in limits) else TOO_LONG


def share_chosen_longer(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> float:
    """Share of pairs whose chosen answer has more tokens, ties one half: what 'pick the longer answer' gets right."""
    tokens = [tokenise(row, tokenizer) for row in rows]
    return sum((len(t.chosen) > len(t.rejected)) + 0.5 * (len(t.chosen) == len(t.rejected)) for t in tokens) / len(rows)
