"""Where attention sees the tokens of a pass: rows as rectangles, gathered from flat tokens and brought back.

Knows places, no model and no states.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from torch import Tensor

from trainers.multi_lora.transfer import Array

Ints = npt.NDArray[np.int64]

_PLACES_OF_BLOCK: Final = 1280
"""Places of rows of like length that lie as one rectangle, at most: few, so that little is padded and their attention
fits in a cache, and enough for products that are worth a call.
"""
_SHORTEST: Final = 16
"""Places of a row at least: products with fewer for a side take a CPU twice as long."""


@dataclass(frozen=True)
class RowLayout:
    """P places in `blocks` of (rows, length), one behind the other.

    `gather` [P]: the flat token at each place. `scatter` [tokens]: the one place where a token stands by itself; of
    what is no token but padding, any of its run, and not `real` [tokens]. `again` [2, A]: tokens, and places where
    they stand too because rows share them.
    """

    blocks: tuple[tuple[int, int], ...]
    gather: Tensor
    scatter: Tensor
    real: Tensor
    again: Tensor

    @property
    def count(self) -> int:
        """P."""
        return len(self.gather)

    @property
    def length(self) -> int:
        """Of the longest row."""
        return max(length for _, length in self.blocks)


@dataclass(frozen=True)
class Rows:
    """Rows of tokens to be put in places.

    `tokens` [R, T]: the flat token at each place of a row, also behind its end; `lengths` [R]; `row`, `place` [tokens]:
    where each token stands by itself, or one of its run that padding may read.
    """

    tokens: Ints
    lengths: Ints
    row: Ints
    place: Ints


@dataclass(frozen=True)
class Places:
    """A `RowLayout` before its tensors are on the device: they are made of these arrays, in this order."""

    blocks: tuple[tuple[int, int], ...]
    arrays: tuple[Array, Array, Array, Array]


def make_places(rows: Rows, *, by_length: bool) -> Places:
    """Places for the rows: in blocks of like length and hardly longer than that, or in one block of length T."""
    count, longest = rows.tokens.shape
    parts, ends = [np.arange(count)], [longest]
    if by_length:
        parts = list(_parts(rows.lengths))
        ends = [max(_SHORTEST, int(rows.lengths[part].max())) for part in parts]
    tokens = np.pad(rows.tokens, ((0, 0), (0, max(0, max(ends) - longest))), mode="edge")
    gather = np.concatenate([tokens[part, :end].ravel() for part, end in zip(parts, ends, strict=True)])
    order, widths = np.concatenate(parts), np.repeat(ends, [len(part) for part in parts])
    starts = np.zeros(count, np.int64)
    starts[order] = np.cumsum(widths) - widths
    scatter = starts[rows.row] + rows.place
    real = gather[scatter] == np.arange(len(scatter))
    stands = np.arange(len(gather)) - np.repeat(starts[order], widths) < np.repeat(rows.lengths[order], widths)
    stands[scatter] = False
    again = np.flatnonzero(stands)
    blocks = tuple((len(part), end) for part, end in zip(parts, ends, strict=True))
    return Places(blocks, (gather, scatter, real, np.stack([gather[again], again])))


def _parts(lengths: Ints) -> Iterator[Ints]:
    """The rows that are not empty in groups of like length, shortest first."""
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    while len(order):
        # As many as stay below the limit at the length of their longest, which is their last.
        fit = np.arange(1, len(order) + 1) * np.maximum(lengths[order], _SHORTEST) <= _PLACES_OF_BLOCK
        part, order = np.split(order, [max(1, int(fit.sum()))])
        yield part
