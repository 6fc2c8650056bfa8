"""What an exception says of why a run failed: memory, or the machine in general. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping

from studies.records import Cause, Scalar

# Fact of a result: memory was too small for this run by itself, whatever trained beside it before.
ALONE: Mapping[str, Scalar] = {"together": 1}

_GPU = ("CUDA out of memory", "CUDA error: out of memory", "HIP out of memory", "MPS backend out of memory")
_HOST = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "Cannot allocate memory",
)


def cause_of(error: BaseException) -> Cause:
    """The cause of a run that ended with this exception, which no trainer understood.

    Torch's words are those of c10/core/impl/alloc_cpu.cpp and c10/cuda/CUDACachingAllocator.cpp; its OutOfMemoryError
    is known by its name.
    """
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        text = str(link)
        if type(link).__name__ == "OutOfMemoryError" or any(words in text for words in _GPU):
            return Cause.OUT_OF_GPU_MEMORY
        if isinstance(link, MemoryError) or any(words in text for words in _HOST):
            return Cause.OUT_OF_HOST_MEMORY
        link = link.__cause__ or link.__context__
    return Cause.INFRASTRUCTURE
