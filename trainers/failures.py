"""What an exception says of why a run failed: memory, a model's files, or the machine in general. Loads no torch."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

from studies.records import Cause, Scalar

# Fact of a result: memory was too small for this run by itself, whatever trained beside it before.
ALONE: Mapping[str, Scalar] = {"together": 1}

_GPU = ("CUDA out of memory", "CUDA error: out of memory", "HIP out of memory", "MPS backend out of memory")
_HOST = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "Cannot allocate memory",
)
# How files are refused by those who read them: by type, and where the type says nothing by its name or words.
_UNREADABLE = (
    *(pickle.UnpicklingError, EOFError, zipfile.BadZipFile, RecursionError, LookupError, AttributeError),
    *(json.JSONDecodeError, UnicodeDecodeError),
)
_UNREADABLE_NAMES = frozenset({"SafetensorError", "StrictDataclassFieldValidationError", "StrictDataclassError"})
_UNREADABLE_WORDS = ("PytorchStreamReader", "loading state_dict", "size mismatch")


def bad_files(error: Exception, model: str) -> str | None:
    """What is wrong with a model's files, of an exception that was raised while they were loaded; None where it was
    something else: memory, the disk, the network, or settings.
    """
    if cause_of(error) is not Cause.INFRASTRUCTURE:
        return None
    here = isinstance(error, OSError) and error.errno is None and Path(model).is_dir()  # transformers' own
    named = type(error) is Exception or type(error).__name__ in _UNREADABLE_NAMES  # the Rust libraries'
    told = isinstance(error, RuntimeError) and any(words in str(error) for words in _UNREADABLE_WORDS)
    if not (here or named or told or isinstance(error, _UNREADABLE)):
        return None
    lines = str(error).strip().splitlines()
    return f"its files cannot be read ({': '.join([type(error).__name__, *lines[:1]])[:300]}); put whole ones there"


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
