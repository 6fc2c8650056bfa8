"""Where attention sees the tokens of a pass: rows as rectangles, gathered from flat tokens and brought back.

Knows places, no model and no states.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

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
    """

    blocks: tuple[tuple[int, int], ...]
    gather: Tensor
    scatter: Tensor

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


def make_places(rows: Rows, device: torch.device, *, by_length: bool) -> Places:
    """Places for the rows: in blocks of like length and no longer than that, or in one block of length T."""
    count, longest = rows.tokens.shape
    parts, ends = [np.arange(count)], [longest]
    if by_length:
        order = np.argsort(rows.lengths, kind="stable")
        order = order[rows.lengths[order] > 0]
        parts = [order[i : i + _ROWS_OF_BLOCK] for i in range(0, len(order), _ROWS_OF_BLOCK)]
        ends = [int(rows.lengths[part].max()) for part in parts]
    gather = np.concatenate([rows.tokens[part, :end].ravel() for part, end in zip(parts, ends, strict=True)])
    widths = np.repeat(ends, [len(part) for part in parts])
    starts = np.zeros(count, np.int64)
    starts[np.concatenate(parts)] = np.cumsum(widths) - widths
    scatter = starts[rows.row] + rows.place
    there = (torch.from_numpy(array).to(device, non_blocking=True) for array in (gather, scatter))
    return Places(tuple((len(part), end) for part, end in zip(parts, ends, strict=True)), *there)
