"""Causal attention on a CPU in tiles that stay in its cache; knows no model and no layout.

PyTorch's kernel for CPUs takes every head of every row by itself, which costs most where heads are small and rows
short, as in the models that a CPU trains. Here one batched product serves all heads of some rows, the queries that
share a key are one side of it, and a head's few numbers are never its columns, for which a CPU is slow.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any, Final

import torch
from torch import Tensor

_PLACES: Final = 32
"""Places of a tile, about; later keys than the tile's last query are left out."""
_SHORTEST, _LONGEST = 32, 256
"""Places of a row from which and up to which this pays; the weights that are kept grow with the square of them."""


def tiles_pay(query: Tensor, key: Tensor) -> bool:
    """Whether this takes less time than PyTorch's kernel for queries [B, T, heads, d] and keys [B, T, their heads, d].

    Where each head has its own keys, or rows are short, the products are too small for it; measured by
    tests/benchmarks/pack_step.py.
    """
    length, groups = query.shape[1], query.shape[2] // key.shape[2]
    fits = groups > 1 and _SHORTEST <= length <= _LONGEST
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
    return out.view(rows, shared, size, length, -1).permute(0, 3, 1, 4, 2).reshape(rows, length, heads, size)


class _TiledAttention(torch.autograd.Function):
    """Attention [B, d, T G] of queries [B, T G, d], G at each place, to keys and values [B, T, d]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        batch, length, size = k.shape
        group = q.shape[1] // length
        out = q.new_empty(batch, size, length * group)
        kept = []
        for start, end in _tiles(length):
            queries = slice(start * group, end * group)
            scores = torch.bmm(q[:, queries], k[:, :end].mT)
            scores[:, :, start:] += _later(end - start, group, q.dtype)
            kept.append(scores.softmax(-1))
            out[:, :, queries] = torch.bmm(v[:, :end].mT, kept[-1].mT)
        ctx.save_for_backward(q, k, v, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> Any:
        q, k, v, *kept = ctx.saved_tensors
        group = q.shape[1] // k.shape[1]
        dq, dk, dv = (torch.zeros_like(t.mT, memory_format=torch.contiguous_format) for t in (q, k, v))
        for (start, end), weights in zip(_tiles(k.shape[1]), kept, strict=True):
            queries = slice(start * group, end * group)
            d_here = d_out[:, :, queries]
            d_weights = torch.bmm(d_here.mT, v[:, :end].mT)
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            dq[:, :, queries] = torch.bmm(k[:, :end].mT, d_scores.mT)
            dk[:, :, :end] += torch.bmm(q[:, queries].mT, d_scores)
            dv[:, :, :end] += torch.bmm(d_here, weights)
        return dq.mT, dk.mT, dv.mT


def _tiles(length: int) -> Iterator[tuple[int, int]]:
    """Where tiles of about as many places start and end."""
    count = -(-length // _PLACES)
    ends = [length * i // count for i in range(count + 1)]
    return pairwise(ends)


@cache
def _later(places: int, group: int, dtype: torch.dtype) -> Tensor:
    """-inf [places G, places] where a key is later than the query, else 0."""
    mask = torch.full((places, places), float("-inf"), dtype=dtype).triu(1)
    return mask.repeat_interleave(group, dim=0)
