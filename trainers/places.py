"""Where attention sees the tokens of a pass: rows as rectangles, gathered from flat tokens and brought back.

Knows places and states, no model. Both ways are selections in both directions: autograd's own backward of a selection
adds row after row, which on a CPU takes several times as long.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Ints = npt.NDArray[np.int64]

_ROWS_OF_BLOCK: Final = 16
"""Rows of like length that lie as one rectangle: few, so that little is padded and their attention fits in a cache."""


@dataclass(frozen=True)
class Places:
    """P places in `blocks` of (rows, length), one behind the other.

    `gather` [P]: the flat token at each place. `scatter` [tokens]: the one place where a token stands by itself.
    `copies`: all other places; some are padding, and in some a token stands again: at places `second` [S] the tokens
    `twice` [S]. `padding`: tokens that are none.
    """

    blocks: tuple[tuple[int, int], ...]
    gather: Tensor
    scatter: Tensor
    copies: Tensor
    twice: Tensor
    second: Tensor
    padding: Tensor

    @property
    def length(self) -> int:
        """Of the longest row."""
        return max(length for _, length in self.blocks)


@dataclass(frozen=True)
class Rows:
    """Rows of tokens to be put in places.

    `tokens` [R, T]: the flat token at each place of a row, also behind its end; `lengths` [R]; `row`, `place` [tokens]:
    where each token stands by itself; `real` [tokens]: False for padding.
    """

    tokens: Ints
    lengths: Ints
    row: Ints
    place: Ints
    real: npt.NDArray[np.bool_]


def make_places(rows: Rows, device: torch.device, *, by_length: bool) -> Places:
    """Places for the rows: in blocks of like length and no longer than that, or in one block of length T."""
    count, longest = rows.tokens.shape
    parts, ends = [np.arange(count)], [longest]
    if by_length:
        order = np.argsort(rows.lengths, kind="stable")
        order = order[rows.lengths[order] > 0]
        parts = [order[i : i + _ROWS_OF_BLOCK] for i in range(0, len(order), _ROWS_OF_BLOCK)]
        ends = [int(rows.lengths[part].max()) for part in parts]
    along = np.arange(longest)
    gather = np.concatenate([rows.tokens[part, :end].ravel() for part, end in zip(parts, ends, strict=True)])
    filled = [(along[:end] < rows.lengths[part, None]).ravel() for part, end in zip(parts, ends, strict=True)]
    widths = np.repeat(ends, [len(part) for part in parts])
    starts = np.zeros(count, np.int64)
    starts[np.concatenate(parts)] = np.cumsum(widths) - widths
    scatter = starts[rows.row] + rows.place
    copies = np.ones(len(gather), bool)
    copies[scatter[rows.real]] = False
    second = np.flatnonzero(copies & np.concatenate(filled))
    arrays = (gather, scatter, np.flatnonzero(copies), gather[second], second, np.flatnonzero(~rows.real))
    there = (torch.from_numpy(array).to(device, non_blocking=True) for array in arrays)
    return Places(tuple((len(part), end) for part, end in zip(parts, ends, strict=True)), *there)


def to_places(states: Tensor, places: Places) -> Tensor:
    """States [P, d] at all places from those of flat tokens [tokens, d]."""
    return _ToPlaces.apply(states, places)  # type: ignore[no-any-return, no-untyped-call]


def to_tokens(states: Tensor, places: Places) -> Tensor:
    """States of flat tokens [tokens, d] from those [P, d] where each stands by itself."""
    return _ToTokens.apply(states, places)  # type: ignore[no-any-return, no-untyped-call]


class _ToPlaces(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, places: Places) -> Tensor:
        ctx.places = places
        return states.index_select(0, places.gather)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        places = ctx.places
        found = gradient.index_select(0, places.scatter)
        found[places.padding] = 0.0
        found[places.twice] += gradient.index_select(0, places.second)
        return found, None


class _ToTokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, places: Places) -> Tensor:
        ctx.places = places
        return states.index_select(0, places.scatter)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        places = ctx.places
        found = gradient.index_select(0, places.gather)
        found[places.copies] = 0.0
        return found, None
