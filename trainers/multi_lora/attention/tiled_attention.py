"""Causal attention on a CPU in tiles that stay in its cache; knows no model and no layout.

PyTorch's kernel for CPUs takes every head of every row by itself, which costs most where heads are small and rows
short, as in the models that a CPU trains. Here one batched product serves all heads of some rows, the queries that
share a key are one side of it, and a head's few numbers are never its columns, for which a CPU is slow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, Final

import torch
from torch import Tensor

_QUERIES: Final = 32
"""Queries of a tile that share their keys, about; later keys than the tile's last query are left out."""
_FEWEST: Final = 16
"""Places of a tile at least: below that, products take a CPU twice as long."""
_SHORTEST: Final = 32
"""Places of a row from which this pays where states come and go by row."""
LONGEST: Final = 256
"""Places of a row up to which this pays; the weights that are kept grow with the square of them."""


def tiles_pay(query: Tensor, key: Tensor) -> bool:
    """Whether this takes less time than PyTorch's kernel for queries [B, T, heads, d] and keys [B, T, their heads, d].

    Where each head has its own keys, or rows are short, the products are too small for it; measured by
    tests/benchmarks/pack_step.py.
    """
    length, groups = query.shape[1], query.shape[2] // key.shape[2]
    fits = groups > 1 and _SHORTEST <= length <= LONGEST
    whole = query.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(query.device.type)
    return fits and query.device.type == "cpu" and whole


def tiled_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Attention [B, T, heads, d] of queries [B, T, heads, d] to keys and values [B, T, their heads, d] before them.

    The probabilities are kept for the backward pass: B heads T T numbers, less what is left out.
    """
    rows, length, heads, size = query.shape
    shared = key.shape[2]
    q = query.view(rows, length, shared, -1).transpose(1, 2).reshape(rows * shared, -1, size)
    k, v = (t.transpose(1, 2).reshape(rows * shared, length, size) for t in (key, value))
    out: Tensor = _TiledAttention.apply(q * scale, k, v)  # type: ignore[no-untyped-call]
    return out.view(rows, shared, length, -1).transpose(1, 2).reshape(rows, length, heads, size)


class _TiledAttention(torch.autograd.Function):
    """`attend` for autograd."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, *attend(q, k, v, out))
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> Any:
        q, k, v, *kept = ctx.saved_tensors
        gradients = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        attend_back(d_out, (q, k, v), kept, gradients)
        return gradients


def attend(q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> list[Tensor]:
    """Write the attention [B, T G, d] of queries [B, T G, d], G at each place, to keys and values [B, T, d].

    Gives the probabilities, a tensor for each tile.
    """
    group = q.shape[1] // k.shape[1]
    kept = []
    for start, end in _tiles(k.shape[1], group):
        queries = slice(start * group, end * group)
        scores = torch.bmm(q[:, queries], k[:, :end].mT)
        scores[:, :, start:].add_(_later(end - start, group, q.dtype))
        kept.append(scores.softmax(-1))
        out[:, queries] = torch.bmm(v[:, :end].mT, kept[-1].mT).mT
    return kept


def attend_back(
    d_out: Tensor, inputs: tuple[Tensor, Tensor, Tensor], kept: Sequence[Tensor], into: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Write the gradients of what went into `attend`, from that of what came out and the probabilities."""
    q, k, v = inputs
    group = q.shape[1] // k.shape[1]
    dk, dv = (torch.zeros_like(t.mT, memory_format=torch.contiguous_format) for t in (k, v))
    for (start, end), weights in zip(_tiles(k.shape[1], group), kept, strict=True):
        queries = slice(start * group, end * group)
        d_here = d_out[:, queries]
        d_weights = torch.bmm(d_here, v[:, :end].mT)
        d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
        into[0][:, queries] = torch.bmm(k[:, :end].mT, d_scores.mT).mT
        dk[:, :, :end].add_(torch.bmm(q[:, queries].mT, d_scores))
        dv[:, :, :end].add_(torch.bmm(d_here.mT, weights))
    into[1].copy_(dk.mT)
    into[2].copy_(dv.mT)


def _tiles(length: int, group: int) -> Iterator[tuple[int, int]]:
    """Where tiles start and end; the last takes what would be less than half a tile."""
    places = max(_FEWEST, _QUERIES // group)
    count = max(1, (length + places // 2) // places)
    return pairwise([*range(0, count * places, places), length])


@cache
def _later(places: int, group: int, dtype: torch.dtype) -> Tensor:
    """-inf [places G, places] where a key is later than the query, else 0."""
    mask = torch.full((places, places), float("-inf"), dtype=dtype).triu(1)
    return mask.repeat_interleave(group, dim=0)
