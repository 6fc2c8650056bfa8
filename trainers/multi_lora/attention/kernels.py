"""Which kernels of attention a GPU takes, chosen on purpose; knows no model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Final

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

_KERNELS: Final = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
_WIDEST_HEAD: Final = 256


@contextmanager
def attention_kernels(device: torch.device) -> Iterator[None]:
    """Inside, attention on a GPU goes without cuDNN, which torch prefers on some: it builds a graph for every new
    length, tens of milliseconds of host each, and here nearly every pass has another one.
    """
    if device.type != "cuda":
        yield
        return
    with sdpa_kernel(_KERNELS):
        yield


def shares_heads(query: Tensor) -> bool:
    """Whether the kernel that these queries get reads keys and values that heads share as they are: flash attention
    does, the others want them repeated.
    """
    is_half = query.dtype in (torch.bfloat16, torch.float16)
    return query.device.type == "cuda" and is_half and query.shape[-1] <= _WIDEST_HEAD and _has_flash()


@cache
def _has_flash() -> bool:
    """Whether this GPU has flash attention."""
    return torch.cuda.is_available() and torch.version.hip is None and torch.cuda.get_device_capability() >= (8, 0)
