"""How many tokens a model has positions for, and whether a run's rows and samples fit; knows no training, no loss.

Rotary positions and ALiBi go on as far as one likes; a table of learned or precomputed ones ends, on a GPU with an
error that takes the process with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from studies.records import EvaluationConfig
from trainers.data.pairs import Pairs, Row
from trainers.data.tokens import prompt_ids, tokenise
from trainers.models.bases import UnusableModel

# Where the table is no embedding: model type -> the entry of its config that says how long it is.
_IN_CONFIG: Final = {"mpt": "max_seq_len", "ctrl": "n_positions"}
_BUFFER: Final = "embed_positions"  # of GPT-J and CodeGen


def positions_of(model: PreTrainedModel) -> int | None:
    """How many tokens a row can have; None where there is no such limit."""
    config = model.config.get_text_config()
    found = [
        module.num_embeddings - int(getattr(module, "offset", 0))
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and _is_of_positions(name.rpartition(".")[2])
    ]
    found += [len(buffer) for name, buffer in model.named_buffers() if _is_table(name, buffer)]
    told = getattr(config, _IN_CONFIG.get(config.model_type, ""), None)
    return min([*found, *([int(told)] if told else [])], default=None)


def _is_of_positions(name: str) -> bool:
    return name == "wpe" or ("position" in name and "relative" not in name)


def _is_table(name: str, buffer: torch.Tensor) -> bool:
    return name.rpartition(".")[2] == _BUFFER and buffer.ndim == 2


def check_positions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Pairs,
    evaluation: EvaluationConfig,
    max_length: int | None,
) -> None:
    """Raises UnusableModel where a pair, or a prompt and what is sampled behind it, has more tokens than the model has
    positions. `max_length`: tokens that TRL leaves of a training row.
    """
    limit = positions_of(model)
    if limit is None:
        return
    train = _longest(pairs.train, tokenizer)
    held_out = _longest(pairs.evaluation[: evaluation.pairs], tokenizer)
    longest = max(held_out, train if max_length is None else min(train, max_length))
    prompt = max(len(prompt_ids(prompt, tokenizer)) for prompt in pairs.prompts)
    asked = evaluation.max_new_tokens
    told = []
    if longest > limit:
        told.append(f"a pair has {longest}: leave such pairs out with --set data.max_length={limit}")
    if prompt + asked - 1 > limit:  # the last token is not read
        left = limit + 1 - prompt
        remedy = (
            f"sample fewer with --set evaluate.max_new_tokens={left}"
            if left > 0
            else f"leave such pairs out with --set data.max_prompt_length={max(1, limit + 1 - asked)}"
        )
        told.append(f"the longest prompt has {prompt} and evaluate.max_new_tokens is {asked}: {remedy}")
    if told:
        name = model.name_or_path
        raise UnusableModel(f"model {name} has positions for {limit} tokens in a row; {'; '.join(told)}")


def _longest(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of the longest pair, its prompt and longer answer."""
    ids = (tokenise(row, tokenizer) for row in rows)
    return max((len(p.prompt) + max(len(p.chosen), len(p.rejected)) for p in ids), default=0)
