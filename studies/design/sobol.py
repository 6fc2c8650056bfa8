"""A scrambled Sobol sequence: the very numbers of `scipy.stats.qmc.Sobol`, to the bit.

SciPy's own is not used because `scipy.stats` takes .4 s to load, which each command that shows points would wait for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

_BITS: Final = 30
_PRIMITIVE: Final[tuple[tuple[int, ...], ...]] = (
    (3, 1), (7, 1, 3), (11, 1, 3, 1), (13, 1, 1, 1), (19, 1, 1, 3, 3), (25, 1, 3, 5, 13), (37, 1, 1, 5, 5, 17),
    (41, 1, 1, 5, 5, 5), (47, 1, 1, 7, 11, 19), (55, 1, 1, 5, 1, 1), (59, 1, 1, 1, 3, 11), (61, 1, 3, 5, 5, 31),
    (67, 1, 3, 3, 9, 7, 49), (91, 1, 1, 1, 15, 21, 21), (97, 1, 3, 1, 13, 27, 49), (103, 1, 1, 1, 15, 7, 5),
    (109, 1, 3, 1, 15, 13, 25), (115, 1, 1, 5, 5, 19, 61), (131, 1, 3, 7, 11, 23, 15, 103),
    (137, 1, 3, 7, 13, 13, 15, 69), (143, 1, 1, 3, 13, 7, 35, 63), (145, 1, 3, 5, 9, 1, 25, 53),
    (157, 1, 3, 1, 13, 9, 35, 107), (167, 1, 3, 1, 5, 27, 61, 31), (171, 1, 1, 5, 11, 19, 41, 61),
    (185, 1, 3, 5, 3, 3, 13, 69), (191, 1, 1, 7, 13, 1, 19, 1), (193, 1, 3, 7, 5, 13, 19, 59),
    (203, 1, 1, 3, 9, 25, 29, 41), (211, 1, 3, 5, 13, 23, 1, 55), (213, 1, 3, 7, 3, 13, 59, 17),
)  # fmt: skip
"""A column from the second on: its primitive polynomial's bits, then its first direction numbers (Joe and Kuo 2008,
https://web.maths.unsw.edu.au/~fkuo/sobol/, new-joe-kuo-6)."""

MOST_COLUMNS: Final = len(_PRIMITIVE) + 1


def scrambled_sobol(columns: int, seed: int) -> Iterator[np.ndarray]:
    """The sequence's rows of `columns` (at most MOST_COLUMNS) float64 numbers in [0, 1), fewer than 2**30 of them.

    Scrambled by a random linear matrix and a digital shift (Matousek 1998), as SciPy does with
    `rng=numpy.random.default_rng(seed)`.
    """
    (draw,) = np.random.default_rng(seed).spawn(1)
    powers = 1 << np.arange(_BITS, dtype=np.uint32)
    row = (draw.integers(2, size=(columns, _BITS), dtype=np.uint32) * powers).sum(axis=1, dtype=np.uint32)
    matrices = np.tril(draw.integers(2, size=(columns, _BITS, _BITS), dtype=np.uint32))
    directions = _scrambled(np.array([_directions(column) for column in range(columns)]), matrices)
    for number in range(1, 2**_BITS):
        yield row * 2.0**-_BITS
        # The bit in which the Gray codes of two neighbours differ.
        row = row ^ directions[:, (number & -number).bit_length() - 1]


def _directions(column: int) -> list[int]:
    """The column's direction numbers, each of _BITS bits."""
    if column == 0:
        return [1 << _BITS - place - 1 for place in range(_BITS)]
    polynomial, *found = _PRIMITIVE[column - 1]
    degree = len(found)
    for place in range(degree, _BITS):
        number = found[place - degree]
        for back in range(1, degree + 1):
            if polynomial >> degree - back & 1:
                number ^= found[place - back] << back
        found.append(number)
    return [number << _BITS - place - 1 for place, number in enumerate(found)]


def _scrambled(directions: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    """The direction numbers (columns, bits), each multiplied, over the field of two, by its column's matrix."""
    matrices[:, range(_BITS), range(_BITS)] = 1
    places = np.arange(_BITS - 1, -1, -1)
    bits = directions[:, :, None] >> places & 1  # the highest first
    product = np.einsum("crb,cdb->cdr", matrices.astype(np.int64), bits) & 1
    found: np.ndarray = (product << places).sum(axis=2).astype(np.uint32)
    return found
