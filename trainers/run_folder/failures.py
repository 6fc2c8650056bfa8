"""What an exception says of why a run failed: memory, the machine in general, or what the run asks for. Loads no torch.

The machine's are those that another try may not meet: of devices, disks and the network. All others are met again by
the same model, data and settings, and another try would end the same.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator, Mapping
from typing import Final

from studies.records import Cause, Scalar

# Fact of a result: memory was too small for this run by itself, whatever trained beside it before.
ALONE: Mapping[str, Scalar] = {"together": 1}

MEMORY: Final = frozenset({Cause.OUT_OF_GPU_MEMORY, Cause.OUT_OF_HOST_MEMORY})

# Of the allocators of torch, and of the libraries and drivers that take a GPU's memory beside them.
_GPU: Final = re.compile(
    r"(CUDA|HIP|XPU|MPS backend) out of memory|(CUDA|HIP|XPU)( driver)? error: out of memory|\[CUDA\]: out of memory"
    r"|(cuda|hip)Error(Memory|Out)\w*|CUDA_ERROR_OUT_OF_MEMORY|(Cuda|Hip) failure.{0,9}out of memory"
    # A handle's workspace did not fit: what cuBLAS calls NOT_INITIALIZED is nearly always that.
    r"|(CU|HIP)[A-Z]+_STATUS_(\w*ALLOC(ATION)?_FAILED|NOT_INITIALIZED)|miopenStatusAllocFailed"
    r"|rocblas_status_memory_error|NCCL(?s:.)*out of memory"
)
_HOST = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "Cannot allocate memory",
)
# Torch's words for what a device or its driver did; those of a tensor on another device are none of them.
_DEVICE: Final = (
    *("CUDA error", "CUDA driver", "CUDA GPUs are available", "HIP error", "NVIDIA driver", "cuDNN error"),
    *("CUDNN_STATUS", "CUBLAS_STATUS", "CUSOLVER_STATUS", "NCCL", "DataLoader worker"),
    # of a file that torch could not write, where a disk is full
    *("PytorchStreamWriter", "inline_container.cc", "No space left on device"),
)
_DEVICE_TYPES: Final = frozenset({"AcceleratorError", "DistBackendError", "BrokenProcessPool"})
# After one of these every later call of its process fails too: the device's context cannot be made anew in it.
_BROKEN: Final = ("CUDA error", "HIP error", "cuDNN error", "CUDA driver error", "device-side assert", "Triton Error [")
# Packages whose exceptions are of the network, and the Hub's answers that stay the same however often it is asked.
_NETWORK: Final = frozenset({"httpx", "httpcore", "requests", "urllib3", "aiohttp"})
_ANSWERS: Final = frozenset(
    {
        *("RepositoryNotFoundError", "RevisionNotFoundError", "GatedRepoError", "DisabledRepoError"),
        *("EntryNotFoundError", "RemoteEntryNotFoundError", "DatasetNotFoundError"),
    }
)
# Whose own words say enough; what others say (`'x'` of a KeyError) needs their name.
_IN_WORDS: Final = (ValueError, TypeError, NotImplementedError, ImportError)


def cause_of(error: BaseException) -> Cause:
    """The cause of a run that ended with this exception: memory, INFRASTRUCTURE, or REFUSED for all that another try
    would meet again.

    Torch's words are those of c10/core/impl/alloc_cpu.cpp and c10/cuda/CUDACachingAllocator.cpp; its OutOfMemoryError
    is known by its name.
    """
    links = list(_chain(error))
    for link in links:
        text = str(link)
        if type(link).__name__ == "OutOfMemoryError" or _GPU.search(text):
            return Cause.OUT_OF_GPU_MEMORY
        if isinstance(link, MemoryError) or any(words in text for words in _HOST):
            return Cause.OUT_OF_HOST_MEMORY
    if not isinstance(error, Exception):
        return Cause.INFRASTRUCTURE
    if any(type(link).__name__ in _ANSWERS for link in links):
        return Cause.REFUSED
    if isinstance(error, OSError) or any(_is_machine(link) for link in links):
        return Cause.INFRASTRUCTURE
    return Cause.REFUSED


def breaks_the_process(error: BaseException) -> bool:
    """Whether the device fails in every later call of this process too (an illegal access, a failed assertion on the
    device, a memory error of the card): then only a new process can use it.
    """
    if cause_of(error) in MEMORY:
        return False
    return any(
        type(link).__name__ == "AcceleratorError"
        or (isinstance(link, RuntimeError) and any(words in str(link) for words in _BROKEN))
        for link in _chain(error)
    )


def let_go(error: BaseException) -> None:
    """Drop the frames that an exception, and those behind it, went through: their variables hold what was computed. A
    handler may call this: what it keeps then is the exception without a traceback.
    """
    for link in _chain(error):
        traceback.clear_frames(link.__traceback__)
        link.__traceback__ = None


def is_of_library(error: OSError) -> bool:
    """Whether it is no disk or network that raised this, but a library in words of its own: a file of a model that is
    not there or damaged, which transformers tells by a bare OSError.
    """
    return error.errno is None and not any(_is_machine(link) for link in _chain(error))


def told(error: BaseException) -> str:
    """What a run's message says of an exception."""
    text = str(error).strip()
    return text if text and isinstance(error, _IN_WORDS) else f"{type(error).__name__}: {text}"


def _is_machine(error: BaseException) -> bool:
    """Whether devices or the network are to blame. A plain OSError behind another exception is often a file that the
    other tells of in better words.
    """
    kind, text = type(error), str(error)
    return (
        isinstance(error, ConnectionError | TimeoutError)
        or kind.__name__ in _DEVICE_TYPES
        or (kind.__module__.partition(".")[0] in _NETWORK and kind.__name__ not in _ANSWERS)
        or kind.__name__ in ("LocalEntryNotFoundError", "HfHubHTTPError")
        or (isinstance(error, RuntimeError) and any(words in text for words in _DEVICE))
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, and those that it was raised from or in the handling of."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__
