"""How the pairs of a pack lie in one forward pass: without padding in the linear layers, shared prefixes once.

DPO's two rows of a pair begin with the same tokens (the prompt, and answers often start alike); in a causal model
their hidden states are the same, so they are computed once. Tokens of a run lie one behind the other, [K, N]; only
attention sees rows [R, T], gathered from them. No row leaves its micro-batch, so every number is that of the padded
batch up to rounding. Knows token ids and positions; no loss, no adapter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from studies.records import Cause
from trainers.data.tokens import TokenIds
from trainers.multi_lora import llama_body as llama
from trainers.multi_lora.attention.kernels import shares_heads
from trainers.multi_lora.attention.tiled_attention import tiled_attention, tiles_pay
from trainers.multi_lora.flat import Unpackable
from trainers.multi_lora.rows import Ints, RowLayout, Rows, make_places
from trainers.multi_lora.transfer import Array, to_device
from trainers.run_folder.failures import cause_of, told

ATTENTION: Final = "packed_rows"
"""Under this name transformers finds `attention`, which reads the layout that the model is called with."""
_SHAPE_MULTIPLE: Final = 64
"""Where a kernel is chosen or built for each shape: on CUDA, and oneDNN's for half precision."""


@dataclass(frozen=True)
class Pair:
    """A pair as rows of token ids, and where in each row the completion starts."""

    chosen: Ints
    rejected: Ints
    chosen_start: int
    rejected_start: int

    @property
    def ids(self) -> TokenIds:
        """The pair with its prompt as the chosen row has it."""
        prompt, rejected = self.chosen[: self.chosen_start], self.rejected[self.rejected_start :]
        return TokenIds(prompt.tolist(), self.chosen[self.chosen_start :].tolist(), rejected.tolist())

    @cached_property
    def shared(self) -> int:
        """Length of the common beginning of both rows. At least one token of each is its own."""
        most = min(len(self.chosen), len(self.rejected)) - 1
        differ = np.flatnonzero(self.chosen[:most] != self.rejected[:most])
        return int(differ[0]) if len(differ) else max(most, 0)


def make_pair(prompt: Sequence[int], chosen: Sequence[int], rejected: Sequence[int], limit: slice) -> Pair:
    """A pair cut by `limit` as TRL's collator cuts it (`DataCollatorForPreference`)."""
    whole = [np.array([*prompt, *side], dtype=np.int64) for side in (chosen, rejected)]
    starts = [len(np.arange(len(row))[limit][: max(len(prompt) - _cut_before(len(row), limit), 0)]) for row in whole]
    return Pair(whole[0][limit], whole[1][limit], starts[0], starts[1])


def _cut_before(length: int, limit: slice) -> int:
    """How many tokens a limit takes away at the start of a row."""
    return limit.indices(length)[0]


@dataclass(frozen=True)
class MicroBatch:
    """One run's micro-batch of n pairs, chosen rows first, then rejected, as TRL orders them.

    `tokens`, `positions` [N]; `row`, `place` [N]: one row and place in it where the token stands; `tokens_of` [2n,
    T]: the token at each place (0 behind a row's end, where `attention_mask` is 0). For each of the M predicted tokens:
    `source` [M] (the token whose hidden state predicts it), `target` [M] (its id), and its place `at` in [2n, T-1].
    `lengths` [2n]: of the rows, without padding.
    """

    tokens: Ints
    positions: Ints
    row: Ints
    place: Ints
    tokens_of: Ints
    source: Ints
    target: Ints
    at: Ints
    attention_mask: Ints
    completion_mask: Ints
    lengths: Ints

    @property
    def real_tokens(self) -> int:
        """Of all rows without padding, as TRL counts them."""
        return int(self.lengths.sum())

    @property
    def rows(self) -> int:
        """2n."""
        return len(self.tokens_of)

    @property
    def length(self) -> int:
        """T, the longest row."""
        return int(self.tokens_of.shape[1])


def micro_batch(pairs: Sequence[Pair]) -> MicroBatch:
    """Lay out the pairs of a micro-batch."""
    n = len(pairs)
    shared = np.array([p.shared for p in pairs])
    chosen, rejected = np.array([len(p.chosen) for p in pairs]), np.array([len(p.rejected) for p in pairs])
    sizes = chosen + rejected - shared
    starts = np.cumsum(sizes) - sizes
    lengths = np.concatenate([chosen, rejected])
    longest = int(lengths.max())
    places = np.arange(longest)
    # A rejected row takes the shared tokens from the chosen one and then jumps over what is only the chosen's.
    jump = np.where(places[None] >= shared[:, None], (chosen - shared)[:, None], 0)
    tokens_of = np.concatenate([starts[:, None] + places, starts[:, None] + places + jump])
    real = places[None] < lengths[:, None]
    tokens_of = np.where(real, tokens_of, 0)
    tokens = np.concatenate([part for p in pairs for part in (p.chosen, p.rejected[p.shared :])])
    pair = np.repeat(np.arange(n), sizes)
    inside = np.arange(len(tokens)) - starts[pair]
    own = inside >= chosen[pair]  # the rejected row's own tokens
    place = np.where(own, inside - (chosen - shared)[pair], inside)
    completion_starts = np.array([p.chosen_start for p in pairs] + [p.rejected_start for p in pairs])
    completion = real & (places[None] >= completion_starts[:, None])
    rows, ends = np.nonzero(completion[:, 1:])  # a first token that nothing precedes is not predicted
    return MicroBatch(
        tokens=tokens,
        positions=place,
        row=np.where(own, pair + n, pair),
        place=place,
        tokens_of=tokens_of,
        source=tokens_of[rows, ends],
        target=tokens[tokens_of[rows, ends + 1]],
        at=rows * (longest - 1) + ends,
        attention_mask=real.astype(np.int64),
        completion_mask=completion.astype(np.int64),
        lengths=lengths,
    )


@dataclass(frozen=True)
class PackBatch:
    """The micro-batches of K runs as one forward pass, on its device.

    `tokens`, `positions` [K, N], padded with 0, and their `places` in attention; `source`, `target` [M] over all runs,
    those of run k in `predicted[k]`. `own`: of each run what else its loss needs. `beside`: what was brought along.
    """

    micro: tuple[MicroBatch, ...]
    tokens: Tensor
    positions: Tensor
    places: RowLayout
    source: Tensor
    target: Tensor
    predicted: tuple[slice, ...]
    own: tuple[OnDevice, ...]
    beside: tuple[Tensor, ...]

    def log_probs(self, run: int, flat: Tensor) -> Tensor:
        """Log-probabilities [2n, T-1] of a run's rows from those of its predicted tokens, 0 at all other places."""
        micro = self.micro[run]
        out = flat.new_zeros(micro.rows * (micro.length - 1))
        return out.index_copy(0, self.own[run].at, flat[self.predicted[run]]).view(micro.rows, micro.length - 1)


class OnDevice(NamedTuple):
    """A micro-batch's arrays of these names."""

    at: Tensor
    attention_mask: Tensor
    completion_mask: Tensor


def shape_multiple(device: torch.device) -> int:
    """What lengths are rounded up to on this device, in the precision that is on."""
    return _SHAPE_MULTIPLE if device.type == "cuda" or torch.is_autocast_enabled(device.type) else 1


def pack_batch(
    micro: Sequence[MicroBatch], device: torch.device, multiple: int = 1, beside: Sequence[Array] = ()
) -> PackBatch:
    """Put the micro-batches of K runs side by side, on the device in one go with what is brought along `beside` them.

    `multiple`: lengths are rounded up to it and all rows are one block, so that kernels made for one shape serve the
    next steps too.
    """
    width = _up(max(len(m.tokens) for m in micro), multiple)
    tokens, positions = np.zeros((len(micro), width), np.int64), np.zeros((len(micro), width), np.int64)
    for k, m in enumerate(micro):
        tokens[k, : len(m.tokens)], positions[k, : len(m.tokens)] = m.tokens, m.positions
    ends = np.cumsum([len(m.source) for m in micro])
    source = np.concatenate([m.source + k * width for k, m in enumerate(micro)])
    target = np.concatenate([m.target for m in micro])
    places = make_places(_rows_of(micro, width, multiple), by_length=multiple == 1)
    distinct = {id(m): m for m in micro}  # runs with the same rows share one micro-batch
    own = [array for m in distinct.values() for array in (m.at, m.attention_mask, m.completion_mask)]
    there = iter(to_device([tokens, positions, source, target, *places.arrays, *own, *beside], device))
    tokens_there, positions_there, source_there, target_there = islice(there, 4)
    laid = RowLayout(places.blocks, *islice(there, len(places.arrays)))
    by_micro = {key: OnDevice(*islice(there, 3)) for key in distinct}
    return PackBatch(
        micro=tuple(micro),
        tokens=tokens_there,
        positions=positions_there,
        places=laid,
        source=source_there,
        target=target_there,
        predicted=tuple(slice(int(e) - len(m.source), int(e)) for e, m in zip(ends, micro, strict=True)),
        own=tuple(by_micro[id(m)] for m in micro),
        beside=tuple(there),
    )


def _rows_of(micro: Sequence[MicroBatch], width: int, multiple: int) -> Rows:
    """The rows of K runs whose tokens lie in [K, width]."""
    count, rows = len(micro), max(m.rows for m in micro)
    longest = _up(max(m.length for m in micro), multiple if multiple == 1 else 8)
    runs = np.arange(count)
    # What is padded points into its own run, so that one that diverged cannot reach another.
    tokens = np.broadcast_to((runs * width)[:, None, None], (count, rows, longest)).copy()
    row = np.broadcast_to((runs * rows)[:, None], (count, width)).copy()
    place = np.zeros((count, width), np.int64)
    lengths = np.zeros((count, rows), np.int64)
    for k, m in enumerate(micro):
        tokens[k, : m.rows, : m.length] += m.tokens_of
        lengths[k, : m.rows] = m.lengths
        here = slice(len(m.tokens))
        row[k, here] += m.row
        place[k, here] = m.place
    return Rows(tokens.reshape(-1, longest), lengths.ravel(), row.ravel(), place.ravel())


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: PackBatch | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **other: Any,
) -> tuple[Tensor, None]:
    """Causal attention over the rows of `layout`: query [K, heads, N, d], key and value [K, their heads, N, d].

    Rows are padded on the right, where a causal model's earlier places do not look, so no mask is needed. An
    architecture that asks for more than plain attention is refused, not approximated.
    """
    special = sorted(name for name in ("softcap", "s_aux", "position_bias") if other.get(name) is not None)
    if layout is None or attention_mask is not None or special or not getattr(module, "is_causal", True):
        raise Unpackable(f"attention of {type(module).__name__} asks for more than causal rows {special}")
    places = layout.places
    if sliding_window is not None and places.length > sliding_window:
        raise Unpackable(f"rows of {places.length} tokens pass the sliding window of {sliding_window}")
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    parts = [_blocks(states, places) for states in (query, key, value)]
    found = [_attend(q, k, v, scale, dropout).flatten(0, 1) for q, k, v in zip(*parts, strict=True)]
    flat = torch.cat(found) if len(found) > 1 else found[0]
    back = flat.flatten(1).index_select(0, places.scatter)
    return back.view(query.shape[0], query.shape[2], query.shape[1], value.shape[3]), None


def _blocks(states: Tensor, places: RowLayout) -> list[Tensor]:
    """[K, heads, N, d] of flat tokens as blocks of rows [B, T, heads, d]."""
    count, heads, width, size = states.shape
    gathered = states.transpose(1, 2).reshape(count * width, heads * size).index_select(0, places.gather)
    parts = torch.split(gathered, [rows * length for rows, length in places.blocks])
    return [p.view(*block, heads, size) for p, block in zip(parts, places.blocks, strict=True)]


def _attend(query: Tensor, key: Tensor, value: Tensor, scale: float, dropout: float) -> Tensor:
    """Causal attention [B, T, heads, d] of queries [B, T, heads, d] to keys and values [B, T, their heads, d]."""
    if dropout == 0 and tiles_pay(query, key):
        return tiled_attention(query, key, value, scale)
    groups = query.shape[2] // key.shape[2]
    q, k, v = (t.transpose(1, 2) for t in (query, key, value))
    shared = groups > 1 and shares_heads(q)
    if groups > 1 and not shared:
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    out = functional.scaled_dot_product_attention(
        q, k, v, dropout_p=dropout, is_causal=True, scale=scale, enable_gqa=shared
    )
    return out.transpose(1, 2)


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, attention)


@contextmanager
def packed_rows(model: PreTrainedModel) -> Iterator[None]:
    """The model attends over the rows of a layout, for a forward pass and the backward pass that may recompute it."""
    before = model.config._attn_implementation
    model.config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        model.config._attn_implementation = before


@contextmanager
def into_layout() -> Iterator[None]:
    """Inside, what a model meets on the layout's way through it is Unpackable; what the machine does stays as it is."""
    try:
        yield
    except Exception as error:
        if isinstance(error, Unpackable) or cause_of(error) is not Cause.REFUSED:
            raise
        raise Unpackable(f"the pack's way through this model meets {told(error)}") from error


def hidden_states(model: PreTrainedModel, batch: PackBatch) -> Tensor:
    """Hidden states [M, d] of the tokens that predict, from one pass of the model's body; inside `packed_rows`."""
    if llama.fits(model, batch.places.length):
        return llama.hidden_states(model.base_model, batch.tokens, batch.positions, batch.places, batch.source)
    body = model.base_model(
        input_ids=batch.tokens, position_ids=batch.positions, use_cache=False, layout=batch
    ).last_hidden_state
    return body.flatten(0, 1).index_select(0, batch.source)  # type: ignore[no-any-return]
