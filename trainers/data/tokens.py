"""Texts as token ids, whole or as a chat template renders them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from trainers.data.sources import DataError, Row, Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TokenIds(NamedTuple):
    """A pair as TRL trains on it: prompt ids, and the ids of both completions with their end tokens."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


def plain(prompt: Text) -> str:
    """A prompt as one text: messages as `role: content` lines."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def tokenise(row: Row, tokenizer: PreTrainedTokenizerBase) -> TokenIds:
    """The ids that TRL 1.16 trains on (`DPOTrainer._prepare_dataset`), without its truncation.

    Plain text: the end token is appended to both answers where it is not there. Messages: the chat template, with its
    generation prompt. A completion begins where prompt and prompt + answer first differ in ids.
    """
    prompt = _whole_prompt_ids(row["prompt"], tokenizer)
    chosen, rejected = (_whole_ids(row["prompt"], row[side], tokenizer) for side in ("chosen", "rejected"))
    start = min(_in_common(prompt, chosen), _in_common(prompt, rejected))
    return TokenIds(prompt[:start], chosen[start:], rejected[start:])


def ids_of(rows: Sequence[Row], prompts: Sequence[Text], tokenizer: PreTrainedTokenizerBase) -> Iterator[list[int]]:
    """The ids of each row, and of each prompt: it may end with what no answer is trained behind, as `<think>`."""
    for row in rows:
        yield [id for ids in tokenise(row, tokenizer) for id in ids]
    for prompt in prompts:
        yield prompt_ids(prompt, tokenizer)


def _in_common(ids: Sequence[int], others: Sequence[int]) -> int:
    """How many ids two texts begin with alike; as TRL's `common_prefix_length`, whose module loads `datasets`."""
    return next(
        (i for i, (id, other) in enumerate(zip(ids, others, strict=False)) if id != other), min(len(ids), len(others))
    )


def prompt_ids(prompt: Text, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of a prompt as a model is sampled under it: messages end with the template's generation prompt.

    What the tokenizer puts behind every text is left out: an answer follows, as it does where the model is trained.
    """
    ids = _whole_prompt_ids(prompt, tokenizer)
    return ids if isinstance(prompt, list) else ids[: len(ids) - _appended(tokenizer)]


def _whole_prompt_ids(prompt: Text, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of a prompt by itself."""
    if isinstance(prompt, list):
        return _chat_ids(prompt, tokenizer, add_generation_prompt=True)
    return list(tokenizer(text=prompt)["input_ids"])


def _appended(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many ids the tokenizer puts behind every text."""
    empty, some = (list(tokenizer(text=text)["input_ids"]) for text in ("", "a"))
    return len(empty) - _in_common(empty, some)


def _whole_ids(prompt: Text, answer: Text, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of prompt and answer together."""
    if isinstance(prompt, list) and isinstance(answer, list):
        return _chat_ids(prompt + answer, tokenizer, add_generation_prompt=False)
    text, end = f"{prompt}{answer}", tokenizer.eos_token
    return list(tokenizer(text=text if text.endswith(end) else text + end)["input_ids"])


def _chat_ids(
    messages: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, *, add_generation_prompt: bool
) -> list[int]:
    """Ids of messages by the model's chat template. Raises DataError for messages that it does not take."""
    from jinja2 import TemplateError

    try:
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=add_generation_prompt, return_dict=True)
    except (TemplateError, TypeError, ValueError) as error:  # the last two are what a template does with odd values
        roles = ", ".join(message["role"] for message in messages)
        raise DataError(
            [
                f"the model's chat template does not take messages of the roles {roles[:200]} ({error}); change or "
                "remove such rows, or take a model whose template takes them"
            ]
        ) from error
    return list(ids["input_ids"])
