"""Forward passes that measuring needs: samples with a cache, and logits over completions; knows no metric and no data.

Everything here leaves the global random state, the model's mode and its gradients as they were.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedTokenizerBase

_COMPACT_BELOW: Final = 0.75
"""While sampling, finished rows leave the batch when fewer than this share of it is still being written."""
_LOGITS_ON_CPU: Final = 2**25
_LOGITS_ON_GPU: Final = 2**27
"""Logits of a batch when completions are scored. Measuring KL takes about six times 4 bytes each: 0.8 and 3.2 GB."""


class NonFinite(ArithmeticError):
    """The model's logits are not numbers: the run diverged. Measuring cannot go on, and need not."""


class Completion(NamedTuple):
    """Token ids that follow a prompt; `ended`: the last one is an end token (else the length cap was reached)."""

    prompt: Sequence[int]
    ids: Sequence[int]
    ended: bool = True


class Batch(NamedTuple):
    """Some completions of a list with their prompts, ready to be scored.

    `rows` [B]: their places in the list; `inputs` and `attention` [B, L]: prompts and completions, padded on the left;
    `ids` [B, T] and `mask` [B, T] (true at their tokens): the completions, aligned to the right end.
    """

    rows: Tensor
    inputs: Tensor
    attention: Tensor
    ids: Tensor
    mask: Tensor


@contextmanager
def measuring(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards the mode is what it was."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def sample(
    model: torch.nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    end_ids: Collection[int],
    max_new_tokens: int,
    seed: int,
    batch_size: int,
) -> tuple[Completion, ...]:
    """One completion of each prompt, in order, from the untruncated softmax at temperature 1.

    Each token is found by inversion from a uniform number of its own, fixed by seed, row and position. So a row's
    completion does not depend on what shares its batch or how many rows there are, and policies that are sampled with
    one seed share their randomness. Raises NonFinite.
    """
    uniforms = np.random.default_rng(seed).random((len(prompts), max_new_tokens))
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    completions: dict[int, Completion] = {}
    with measuring(model):
        for start in range(0, len(prompts), batch_size):
            rows = by_length[start : start + batch_size]
            batch = [prompts[i] for i in rows]
            tokens = _sample_batch(model, batch, torch.from_numpy(uniforms[rows]), frozenset(end_ids))
            completions.update(
                zip(rows, (_cut(p, t, end_ids) for p, t in zip(batch, tokens.tolist(), strict=True)), strict=True)
            )
    return tuple(completions[i] for i in range(len(prompts)))


def end_ids(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids that end a completion: the tokenizer's end token, and those that the model itself names."""
    named = getattr(_base(model).generation_config, "eos_token_id", None)
    own = named if isinstance(named, list) else [named]
    return frozenset(int(i) for i in [tokenizer.eos_token_id, *own] if i is not None)


def _cut(prompt: Sequence[int], tokens: list[int], end_ids: Collection[int]) -> Completion:
    """The tokens up to and with the first end token, of a row that may go on behind it."""
    end = next((i for i, token in enumerate(tokens) if token in end_ids), None)
    return Completion(prompt, tokens if end is None else tokens[: end + 1], end is not None)


def _sample_batch(
    model: torch.nn.Module, prompts: Sequence[Sequence[int]], uniforms: Tensor, end_ids: frozenset[int]
) -> Tensor:
    """Sampled ids [rows, steps], repeating an end token behind the end."""
    device = next(model.parameters()).device
    ids, mask = _left_padded(prompts, device)
    ends = torch.tensor(sorted(end_ids))
    uniforms = uniforms.to(device, torch.float32 if device.type == "mps" else torch.float64)
    tokens = torch.full(tuple(uniforms.shape), int(ends[0]))
    active = torch.arange(len(prompts))
    cache: Any = None
    for step in range(tokens.shape[1]):
        output = _forward(model, ids, mask, keep=1, use_cache=True, cache=cache)
        cache = output.past_key_values
        drawn = _invert(_finite(output.logits[:, -1].float()), uniforms[active.to(device), step]).cpu()
        if step:
            before = tokens[active, step - 1]
            drawn = torch.where(torch.isin(before, ends), before, drawn)
        tokens[active, step] = drawn
        writing = (~torch.isin(drawn, ends)).nonzero().flatten()
        if len(writing) == 0:
            break
        if len(writing) < _COMPACT_BELOW * len(active):
            active, drawn, mask = active[writing], drawn[writing], mask[writing.to(device)]
            cache.batch_select_indices(writing.to(device))
        ids = drawn[:, None].to(device)
        mask = torch.cat([mask, mask.new_ones(len(active), 1)], dim=1)
    return tokens


def _invert(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Ids [rows] where the cumulated probabilities of logits [rows, vocabulary] pass the uniforms [rows]."""
    cumulated = logits.softmax(-1).to(uniforms.dtype).cumsum(-1)
    passed = torch.searchsorted(cumulated, (uniforms * cumulated[:, -1])[:, None], right=True)[:, 0]
    return passed.clamp(max=logits.shape[-1] - 1)


def batches(model: torch.nn.Module, completions: Sequence[Completion], batch_size: int) -> Iterator[Batch]:
    """Completions on the model's device, those of like length together.

    A batch is smaller than `batch_size` where the logits of its completions would not fit the memory allowed.
    """
    device = next(model.parameters()).device
    order = sorted(range(len(completions)), key=lambda i: len(completions[i].prompt) + len(completions[i].ids))
    vocabulary = _base(model).config.get_text_config().vocab_size
    most_logits = _LOGITS_ON_CPU if device.type == "cpu" else _LOGITS_ON_GPU
    while order:
        longest = max(len(completions[i].ids) for i in order[:batch_size])
        fitting = max(1, min(batch_size, most_logits // ((longest + 1) * vocabulary)))
        rows, order = order[:fitting], order[fitting:]
        batch = [completions[i] for i in rows]
        longest = max(len(c.ids) for c in batch)
        inputs, attention = _left_padded([[*c.prompt, *c.ids] for c in batch], device)
        lengths = torch.tensor([len(c.ids) for c in batch], device=device)
        mask = torch.arange(longest, 0, -1, device=device)[None] <= lengths[:, None]
        yield Batch(torch.tensor(rows), inputs, attention, inputs[:, -longest:], mask)


def completion_logits(model: torch.nn.Module, batch: Batch) -> Tensor:
    """A model's logits [B, T, V] in float32 for the tokens of a batch, given all before each. Raises NonFinite.

    Use it inside `measuring`. What stands outside the mask has no meaning.
    """
    keep = batch.ids.shape[1] + 1
    logits = _forward(model, batch.inputs, batch.attention, keep=keep).logits[:, -keep:-1].float()
    return _finite(logits, batch.mask)


def _left_padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and attention mask [rows, longest], padded on the left with id 0."""
    longest = max(map(len, rows))
    ids = [[0] * (longest - len(row)) + list(row) for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _forward(
    model: torch.nn.Module, ids: Tensor, mask: Tensor, *, keep: int, use_cache: bool = False, cache: Any = None
) -> Any:
    """The model's output for ids [B, T] that follow the cache, with logits of at least the last `keep` positions.

    Positions are counted without padding. Models that take no positions (ALiBi) or cannot leave logits out are asked
    for neither.
    """
    accepted = inspect.signature(type(_base(model)).forward).parameters
    arguments: dict[str, Any] = {"past_key_values": cache, "use_cache": use_cache}
    if "position_ids" in accepted:
        arguments["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    if "logits_to_keep" in accepted:
        arguments["logits_to_keep"] = keep
    return model(input_ids=ids, attention_mask=mask, **arguments)


def _base(model: torch.nn.Module) -> Any:
    """The transformers model inside a PEFT model, or the model itself."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _finite(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """The logits [..., V], if all of them (where a mask [...] is 1) are finite; raises NonFinite otherwise."""
    usable = torch.isfinite(logits).all(-1)
    if not bool((usable if mask is None else usable | ~mask).all()):
        raise NonFinite("the model's logits are not finite: training diverged")
    return logits
