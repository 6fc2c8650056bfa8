"""Brings what a pass needs to its device; knows no pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[Any]

_ALIGNED: Final = 64
"""Bytes that the beginning of each array is a multiple of."""


def to_device(arrays: Sequence[Array], device: torch.device) -> list[Tensor]:
    """The arrays as tensors on the device. On a GPU all in one copy from pinned memory: from any other the host waits
    until the device has done all that was asked of it before.
    """
    if device.type != "cuda":
        return [torch.from_numpy(array).to(device) for array in arrays]
    sizes = np.array([-(-array.nbytes // _ALIGNED) * _ALIGNED for array in arrays])
    starts = np.cumsum(sizes) - sizes
    places = [slice(int(start), int(start) + array.nbytes) for array, start in zip(arrays, starts, strict=True)]
    whole = np.zeros(int(sizes.sum()), np.uint8)
    for array, place in zip(arrays, places, strict=True):
        whole[place] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    there = _pinned(whole).to(device, non_blocking=True)
    return [there[place].view(_dtype(array)).view(array.shape) for array, place in zip(arrays, places, strict=True)]


def _pinned(array: Array) -> Tensor:
    """The array in memory that a device reads by itself; torch keeps it until that is done."""
    return torch.from_numpy(array).pin_memory()


def _dtype(array: Array) -> torch.dtype:
    return torch.from_numpy(np.empty(0, array.dtype)).dtype
