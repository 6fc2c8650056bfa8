"""Memory of the device: how much of it is free, and work that is halved where it runs out; knows no model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import torch

from trainers.models import accelerator
from trainers.run_folder.failures import MEMORY, cause_of, let_go

Found = TypeVar("Found")

_SHARE: Final = 0.8
"""Of what is free; the rest is for what kernels take beside tensors, and for pieces that fit nothing."""


def usable_bytes(device: torch.device) -> int | None:
    """Bytes that work on a GPU may take now, what its allocator keeps for later among them; None on other devices."""
    if device.type != "cuda":
        return None
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(_SHARE * (torch.cuda.mem_get_info(device)[0] + kept))


def give_back() -> None:
    """Give the memory back that the allocator keeps for later."""
    accelerator.free_memory()


def halved_on_oom(work: Callable[[int], Found], size: int) -> tuple[Found, int]:
    """What `work` gives for this size, and the size; where memory runs out, for the half, as often as it takes.

    Raises what `work` raises for other reasons, and what it raises at size 1.
    """
    while True:
        try:
            return work(size), size
        except Exception as error:
            if size <= 1 or cause_of(error) not in MEMORY:
                raise
            let_go(error)
        give_back()  # behind the handler, which holds the last of the frames
        size = -(-size // 2)


def in_batches(work: Callable[[slice], None], total: int, size: int) -> None:
    """Do work on consecutive slices of so many at most, of fewer from where memory runs out on. What failed half done
    is done again.
    """
    start = 0

    def some(count: int) -> None:
        work(slice(start, start + count))

    while start < total:
        _, size = halved_on_oom(some, min(size, total - start))
        start += size
