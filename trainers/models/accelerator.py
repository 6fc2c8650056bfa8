"""What is asked of the device that this process trains on, a GPU by CUDA or ROCm, Apple's, or none: memory, waits,
precision. Knows no run.

`python -m trainers.models.accelerator` prints in a line of JSON what torch finds, for those who do not load it.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

import torch

from trainers.run_folder.failures import MEMORY, cause_of, let_go

MIB: Final = 2.0**20
_CLEAR_REFS: Final = Path("/proc/self/clear_refs")


def kind() -> Literal["cuda", "mps", "cpu"]:
    """As torch calls the device that runs go to where nothing else is asked for."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def name() -> str:
    """The device in words for people, with what its runs are in where that is not bfloat16."""
    found = kind()
    if found != "cuda":
        return found
    told = torch.cuda.get_device_name()
    return told if computes_bf16() else f"{told}, which computes no bfloat16: float32 unless a study says fp16"


def wait() -> None:
    """Until all that was launched is done: before that a clock tells how long launching took."""
    found = kind()
    if found == "cuda":
        torch.cuda.synchronize()
    elif found == "mps":
        torch.mps.synchronize()


# ---- memory -------------------------------------------------------------------------------------------------------


def free_memory(error: BaseException | None = None) -> None:
    """Give back what nothing uses any more. `error`: what memory ran out with, whose frames still hold the tensors of
    the pass that it ended.
    """
    if error is not None:
        let_go(error)
    gc.collect()  # graphs and frames may lie in circles
    found = kind()
    if found == "cuda":
        torch.cuda.empty_cache()
    elif found == "mps":
        torch.mps.empty_cache()


def fits(work: Callable[[], object]) -> bool:
    """Do what memory may be too small for. Whether it was done; what is not used any more is given back either way."""
    try:
        work()
    except Exception as error:
        if cause_of(error) not in MEMORY:
            raise
        free_memory(error)
        return False
    free_memory()
    return True


def begin_peak() -> None:
    """Let `peak_memory` tell the peak from here on; on a CPU see `begin_peak_of_process`."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def begin_peak_of_process() -> None:
    """`begin_peak`, also of a process on a CPU. That takes Linux; elsewhere the peak stays that of its whole life."""
    begin_peak()
    with suppress(OSError):
        _CLEAR_REFS.write_text("5")  # proc(5): resets the peak resident size, which getrusage tells too


def peak_memory() -> float:
    """Peak memory in MiB since it was begun: allocated on the GPU, or resident in this process. Apple's GPUs keep no
    peak: what the driver holds for this process now.
    """
    found = kind()
    if found == "cuda":
        return torch.cuda.max_memory_allocated() / MIB
    if found == "mps":
        return torch.mps.driver_allocated_memory() / MIB
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def taken_memory() -> float:
    """MiB that are taken now, before any pass: allocated on the GPU, or the peak of this process so far."""
    return torch.cuda.memory_allocated() / MIB if torch.cuda.is_available() else peak_memory()


def card_memory() -> int:
    """Bytes of the whole GPU that this process trains on."""
    return int(torch.cuda.mem_get_info()[1])


def free_card_memory() -> int:
    """Bytes of it that nobody uses, not even this process's allocator."""
    return int(torch.cuda.mem_get_info()[0])


def device_memory() -> float | None:
    """MiB of the GPU that this process has or could take, its allocator's cache included; None without a GPU."""
    found = kind()
    if found == "cuda":
        return (torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()) / MIB
    return torch.mps.recommended_max_memory() / MIB if found == "mps" else None


# ---- precision ----------------------------------------------------------------------------------------------------


def computes_bf16() -> bool:
    """Whether the GPU computes bfloat16 by itself. Before Ampere (T4, V100) it is emulated, at a fraction of the speed,
    which torch counts as support.
    """
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def set_tf32(asked: bool | None) -> None:
    """Multiply float32 in TF32, or not (None: as torch does by itself): a run's own setting, and not what an earlier
    one has left behind. transformers sets it for the whole process, the same way only once.
    """
    if not torch.cuda.is_available():
        return
    if hasattr(torch.backends, "fp32_precision"):
        torch.backends.fp32_precision = {None: "none", True: "tf32", False: "ieee"}[asked]
        return
    torch.backends.cuda.matmul.allow_tf32 = bool(asked)
    torch.backends.cudnn.allow_tf32 = asked is not False


def uses_tf32() -> bool:
    """Whether products of float32 round to TF32's 10 bits. The older flag raises where the newer one was set."""
    if not torch.cuda.is_available():
        return False
    if hasattr(torch.backends, "fp32_precision"):
        return bool(torch.backends.cuda.matmul.fp32_precision == "tf32")
    return bool(torch.backends.cuda.matmul.allow_tf32)


# ---- for those who load no torch ----------------------------------------------------------------------------------


def found() -> dict[str, object]:
    """Torch's version, the CUDA or ROCm that it was built for, and each device in words."""
    devices = []
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(i)
            bf16 = "" if torch.version.hip or about.major >= 8 else ", no bfloat16: runs are in float32"
            devices.append(f"{about.name}, {about.total_memory / 2**30:.0f} GiB{bf16}")
    elif kind() == "mps":
        devices.append(f"Apple's GPU, {torch.mps.recommended_max_memory() / 2**30:.0f} GiB")
    built = f"ROCm {torch.version.hip}" if torch.version.hip else torch.version.cuda and f"CUDA {torch.version.cuda}"
    return {"torch": torch.__version__, "built_for": built, "devices": devices}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(found()) + "\n")
