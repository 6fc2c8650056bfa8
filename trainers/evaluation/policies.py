"""Policies in one model, and reading tokens with them behind prompts that they share; knows no metric and no data."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Final, Protocol

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor
from trl.trainer.utils import use_adapter

from trainers.evaluation.room import give_room
from trainers.models.rotary import couples_rows, coupling, own_lengths
from trainers.multi_lora.attention.kernels import attention_kernels

_READS_MASKS: Final = ("cpu",)
"""Where transformers may look into a mask to see whether it can do without: elsewhere the host waits for the answer."""
_COPIES: Final = ("cpu",)
"""Where keys and values are few, and copying them costs less than to read them from within larger tensors."""
_PLAIN_ROWS: Final = 8
"""Rows that are read whole at a time: their logits, of every place, are held together."""

Reference = Callable[[], AbstractContextManager[torch.nn.Module]]
"""Gives the reference for as long as it is used."""


Look = Callable[[], None]
"""Called between two passes: it may raise what ends them."""


def on_they_go() -> None:
    """Where nothing ends the passes."""


class Pack(Protocol):
    """Adapters over one frozen base that a forward pass applies to `count` equal, contiguous groups of its rows."""

    @property
    def model(self) -> torch.nn.Module:
        """The base model with the adapters in it."""

    @property
    def count(self) -> int:
        """Number of adapters."""

    def off(self) -> AbstractContextManager[None]:
        """Inside, the model computes what it does without any adapter."""


@dataclass(frozen=True)
class Policies:
    """`count` policies in one model: of `count * n` rows, row i belongs to policy i // n.

    `reference` gives the model that computes the reference on the same rows; None: there is none. `packed`: the model
    reads rows as `trainers.multi_lora.layout` lays them. `look`: called between two passes that measure; what it raises
    ends them.
    """

    model: torch.nn.Module
    count: int = 1
    reference: Reference | None = None
    packed: bool = False
    look: Look = on_they_go


def one_policy(
    model: torch.nn.Module, reference_model: torch.nn.Module | None = None, look: Look = on_they_go
) -> Policies:
    """A model as the only policy. Its reference is `reference_model`, else the model with its adapter off (PEFT).

    As in TRL, the reference of an adapter that is trained further is the adapter named 'ref', its state at the start.
    """
    if reference_model is not None:
        return Policies(model, reference=lambda: nullcontext(reference_model), look=look)
    reference = partial(_adapter_off, model) if isinstance(model, PeftModel) else None
    return Policies(model, reference=reference, look=look)


def packed_policies(adapters: Pack, look: Look = on_they_go) -> Policies:
    """One policy for each adapter of a pack; the reference is their common base."""
    return Policies(adapters.model, adapters.count, partial(_adapters_off, adapters), packed=True, look=look)


@contextmanager
def _adapter_off(policy: PeftModel) -> Iterator[torch.nn.Module]:
    """The policy while it computes what its reference does."""
    with use_adapter(policy, adapter_name="ref" if "ref" in policy.peft_config else None):
        yield policy


@contextmanager
def _adapters_off(adapters: Pack) -> Iterator[torch.nn.Module]:
    """The model of a pack while it computes what the reference does."""
    with adapters.off():
        yield adapters.model


@contextmanager
def measuring(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, with `attention_kernels`; afterwards the mode is what it was."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), attention_kernels(device_of(model)):
            yield
    finally:
        model.train(was_training)


def base_model(model: torch.nn.Module) -> Any:
    """The transformers model inside a PEFT model, or the model itself."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def device_of(model: torch.nn.Module) -> torch.device:
    """Where the model takes its inputs."""
    return next(model.parameters()).device


class Reader(Protocol):
    """Reads tokens behind prompts, a few at a time. Feed `last`, then what was written."""

    last: Tensor
    last_mask: Tensor

    def logits(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits [B, T, V] behind each of the tokens `ids` [B, T], in float32 or the model's wider type.

        `mask` [B, T] is 0 at tokens that are padding. What stands there has no meaning.
        """
        ...

    def keep(self, rows: Tensor) -> None:
        """Go on with only these rows, in this order."""
        ...


def reader(model: torch.nn.Module, prompts: Sequence[Sequence[int]], count: int, lengths: Sequence[int]) -> Reader:
    """A reader behind the prompts of `count` equal groups of rows, of at most `lengths` tokens. Use it inside
    `measuring`.
    """
    try:
        return CachedReader(model, prompts, count, lengths)
    except _NoCacheError:
        return PlainReader(model, prompts)


class _NoCacheError(Exception):
    """The model keeps no keys and values of what it has read that rows could share."""


class CachedReader:
    """Reads with a cache of keys and values. Making one raises _NoCacheError where the model has none.

    A prompt that several rows of a policy share is read once. Its last token is left to the first call of `logits`,
    so that all tokens of a completion are predicted by the same call: feed `last`, then what was written.
    """

    def __init__(
        self, model: torch.nn.Module, prompts: Sequence[Sequence[int]], count: int, lengths: Sequence[int]
    ) -> None:
        """Read all but the last token of each prompt of `count` equal groups of rows.

        `lengths`: the tokens that each row may come to, whose angles it has from its first token on where they depend
        on them (`trainers.models.rotary`).
        """
        self._model, self._cache = model, None
        if "past_key_values" not in _parameters(type(base_model(model)).forward):
            raise _NoCacheError
        self._rotary = coupling(model)
        self._masks = _takes_whole_masks(model)
        own = list(lengths) if self._rotary and couples_rows(model, max(lengths)) else [1] * len(prompts)
        self._lengths = torch.tensor(own)
        ids, mask = left_padded(prompts, device_of(model))
        self.last, self.last_mask = ids[:, -1:], mask[:, -1:]
        self._mask = mask[:, :-1]
        if ids.shape[1] > 1:
            read, places = _distinct([(tuple(prompt), n) for prompt, n in zip(prompts, own, strict=True)], count)
            output = self._forward(ids[read, :-1], mask[read, :-1], self._lengths[read], keep=1)
            self._cache = getattr(output, "past_key_values", None)
            if self._cache is None or not hasattr(self._cache, "reorder_cache"):
                raise _NoCacheError
            self._cache.reorder_cache(places.to(ids.device))
            if ids.device.type not in _COPIES:
                give_room(self._cache, max(lengths))

    def logits(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """See `Reader.logits`."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(ids.shape) if mask is None else mask], dim=1)
        output = self._forward(ids, self._mask, self._lengths, keep=ids.shape[1])
        self._cache = output.past_key_values
        logits: Tensor = output.logits[:, -ids.shape[1] :]
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def keep(self, rows: Tensor) -> None:
        """See `Reader.keep`."""
        self._mask, self._lengths = self._mask[rows], self._lengths[rows.cpu()]
        if self._cache is not None:
            self._cache.reorder_cache(rows)

    def _forward(self, ids: Tensor, mask: Tensor, lengths: Tensor, *, keep: int) -> Any:
        """The model's output for ids [B, T] that follow the cache, with logits of at least the last `keep` positions.

        Positions are counted without padding. Models that take no positions (ALiBi) or cannot leave logits out are
        asked for neither.
        """
        accepted = _parameters(type(base_model(self._model)).forward)
        arguments: dict[str, Any] = {"past_key_values": self._cache, "use_cache": True}
        if "position_ids" in accepted:
            arguments["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        if "logits_to_keep" in accepted:
            arguments["logits_to_keep"] = keep
        if self._cache is not None and self._masks:
            mask = _whole_mask(mask, ids.shape[1])
        with own_lengths(self._rotary, lengths.tolist()):
            return self._model(input_ids=ids, attention_mask=mask, **arguments)


def _takes_whole_masks(model: torch.nn.Module) -> bool:
    """Whether the model is given masks of every place by every other: where it looks as far as it has read, on a device
    that the host would wait for.
    """
    inner = base_model(model)
    config: Any = inner.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return (
        device_of(model).type not in _READS_MASKS
        and getattr(inner.config, "_attn_implementation", None) == "sdpa"
        and "position_ids" in _parameters(type(inner).forward)
        and kinds == {"full_attention"}
        and not getattr(config, "sliding_window", None)
    )


def _whole_mask(mask: Tensor, count: int) -> Tensor:
    """Which places each of the last `count` tokens sees [B, 1, count, T], from which of all T are real [B, T]."""
    seen = mask.bool()[:, None, None, :]
    if count == 1:
        return seen
    whole = mask.shape[1]
    return seen & torch.ones(count, whole, dtype=torch.bool, device=mask.device).tril(whole - count)


class PlainReader:
    """Reads all of a row again each time, padded on the right as in training: for models that keep states of their own
    kind (Mamba, RecurrentGemma), which no two readings of a pass may share.
    """

    def __init__(self, model: torch.nn.Module, prompts: Sequence[Sequence[int]]) -> None:
        """Of each prompt the last token is left to the first call of `logits`."""
        self._model, self._device = model, device_of(model)
        self._rows = [list(prompt[:-1]) for prompt in prompts]
        ids, mask = left_padded([prompt[-1:] for prompt in prompts], self._device)
        self.last, self.last_mask = ids, mask

    def logits(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """See `Reader.logits`."""
        new = mask if mask is not None else torch.ones_like(ids)
        places = torch.tensor([len(row) for row in self._rows], device=ids.device)[:, None] + new.cumsum(1) - 1
        for row, tokens, real in zip(self._rows, ids.tolist(), new.tolist(), strict=True):
            row += [token for token, counts in zip(tokens, real, strict=True) if counts]
        found = []
        for start in range(0, len(ids), _PLAIN_ROWS):
            rows = slice(start, start + _PLAIN_ROWS)
            whole, there = right_padded(self._rows[rows], self._device)
            logits: Tensor = self._model(input_ids=whole, attention_mask=there, use_cache=False).logits
            at = places[rows].clamp(min=0)[:, :, None].expand(-1, -1, logits.shape[-1])
            found.append(logits.gather(1, at))
        read = torch.cat(found)
        return read.to(torch.promote_types(read.dtype, torch.float32))

    def keep(self, rows: Tensor) -> None:
        """See `Reader.keep`."""
        self._rows = [list(self._rows[row]) for row in rows.tolist()]


@cache
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    """Names that a function takes."""
    return frozenset(inspect.signature(function).parameters)


def _distinct(prompts: Sequence[Hashable], count: int) -> tuple[list[int], Tensor]:
    """Rows with the different prompts of `count` groups, as many of each, and where among them each row's prompt is."""
    size = len(prompts) // count
    firsts: list[dict[Hashable, int]] = [{} for _ in range(count)]
    for row, prompt in enumerate(prompts):
        firsts[row // size].setdefault(prompt, row)
    most = max(map(len, firsts))
    places = [
        {prompt: group * most + place for place, prompt in enumerate(first)} for group, first in enumerate(firsts)
    ]
    read = [rows[min(i, len(rows) - 1)] for rows in (list(first.values()) for first in firsts) for i in range(most)]
    return read, torch.tensor([places[row // size][prompt] for row, prompt in enumerate(prompts)])


def left_padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and attention mask [rows, longest, 1 at least], padded on the left with id 0."""
    return _padded(rows, device, left=True)


def right_padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and attention mask [rows, longest, 1 at least], padded on the right with id 0."""
    return _padded(rows, device, left=False)


def _padded(rows: Sequence[Sequence[int]], device: torch.device, *, left: bool) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, padded with id 0."""
    longest = max(1, *map(len, rows))
    ids, mask = np.zeros((2, len(rows), longest), dtype=np.int64)
    for i, row in enumerate(rows):
        place = slice(longest - len(row), longest) if left else slice(len(row))
        ids[i, place], mask[i, place] = row, 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)
