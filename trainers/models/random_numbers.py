"""The state of the random numbers that training draws from: read, compared, set. Knows no model and no run."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class RandomNumbers(NamedTuple):
    """States of what `transformers.set_seed` seeds: Python's, NumPy's, torch's, and those of its GPUs."""

    python: tuple[Any, ...]
    numpy: tuple[Any, ...]
    torch: Tensor
    cuda: tuple[Tensor, ...]


def random_numbers() -> RandomNumbers:
    """Where they have come to."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return RandomNumbers(random.getstate(), tuple(np.random.get_state(legacy=True)), torch.get_rng_state(), tuple(cuda))


def same_numbers(one: RandomNumbers, other: RandomNumbers) -> bool:
    """Whether the same numbers follow."""
    return (
        one.python == other.python
        and all(np.array_equal(a, b) for a, b in zip(one.numpy, other.numpy, strict=True))
        and all(torch.equal(a, b) for a, b in zip((one.torch, *one.cuda), (other.torch, *other.cuda), strict=True))
    )


def go_on_from(numbers: RandomNumbers) -> None:
    """Let the same numbers follow as did from there."""
    random.setstate(numbers.python)
    np.random.set_state(numbers.numpy)
    torch.set_rng_state(numbers.torch)
    if numbers.cuda:
        torch.cuda.set_rng_state_all(list(numbers.cuda))
