"""Assigns each worker a GPU and a share of the CPU cores, without loading torch."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

# torch, MKL, numpy's BLAS and the Rust tokenizers each start as many threads as there are cores unless told.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
# What training reads of the environment. All else stays with the sweep: workers run what a study names, and need no
# password of a store. What a judge or a trainer of one's own needs beside it, `resources.env` names.
_NAMES = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TMP", "TEMP", "TERM"),
        *("LD_LIBRARY_PATH", "LD_PRELOAD", "LIBRARY_PATH", "CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH"),
        *("CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS", "VIRTUAL_ENV", "MPLCONFIGDIR", "NO_COLOR", "DO_NOT_TRACK"),
        *("DISABLE_TELEMETRY", "LRU_CACHE_CAPACITY", "GPU_DEVICE_ORDINAL", "HUGGING_FACE_HUB_TOKEN"),
        *("HUGGINGFACE_HUB_CACHE", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "FTP_PROXY", "GLIBC_TUNABLES", "USE_TORCH", "USE_TF"),
        *("CONDA_PREFIX", "CONDA_DEFAULT_ENV", "CONDA_EXE", "CONDA_SHLVL"),
        *("USE_HUB_KERNELS", "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "TZDIR"),
    }
)
_PREFIXES = (
    *("LC_", "XDG_", "PYTHON", "DYLD_", "MALLOC_", "SLURM_", "TQDM_", "NUMEXPR_", "NUMBA_", "RAYON_", "ARROW_"),
    *("HF_", "TRANSFORMERS_", "DATASETS_", "TOKENIZERS_", "SAFETENSORS_", "ACCELERATE_", "TRL_", "PEFT_", "BNB_"),
    *("BITSANDBYTES_", "FLASH_ATTENTION_", "XFORMERS_", "TORCH", "PYTORCH_", "ATEN_", "TRITON_", "KINETO_"),
    *("CUDA_", "CUDNN_", "CUBLAS_", "NVIDIA_", "NVTE_", "NCCL_", "GLOO_", "UCX_", "FI_", "ROCR_", "ROCM_", "HIP_"),
    *("HSA_", "AMD_", "MIOPEN_", "ONEAPI_", "SYCL_", "ZE_", "OMP_", "GOMP_", "KMP_", "MKL_", "ONEDNN_", "DNNL_"),
    *("OPENBLAS_", "GOTO_", "BLIS_", "VECLIB_", "OPENMP_"),
)
_NEVER = frozenset({"SLURM_JWT"})  # signs in to the cluster


# Variables that say which GPUs a process sees. HIP's is ROCm's name for CUDA's, which it reads too; ROCR's names those
# that either of them counts.
GPU_VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
_DRIVER = Path("/proc/driver/nvidia/gpus")
_AMD_NODES = Path("/sys/class/kfd/kfd/topology/nodes")
_SECONDS = 30
"""For a driver to answer: the first question may wake it."""


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """The GPUs that a process with this environment can use, as its variables name them.

    A variable decides where it is set; else the driver is asked, by its tool, its library or what the kernel tells of
    it: slim containers have no tool. A card cut by MIG counts as its parts.
    """
    named = next((environment[name] for name in GPU_VARIABLES if name in environment), None)
    if named is not None:
        names = [name.strip() for name in named.split(",")]
        # CUDA itself ignores all that follows an empty or a negative entry.
        end = next((i for i, name in enumerate(names) if not name or name.startswith("-")), len(names))
        return names[:end]
    listing = _answer("nvidia-smi", "-L")
    if listing is not None:
        return listed_gpus(listing)
    return _by_library() or _by_driver() or _amd_gpus()


def of_gpu(name: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that give a worker this one of `visible_gpus`: those that have named it, else CUDA's, which ROCm
    reads too.
    """
    counted = [variable for variable in GPU_VARIABLES[:2] if variable in environment]
    beneath = [variable for variable in GPU_VARIABLES[2:] if variable in environment]
    return dict.fromkeys(counted or beneath or GPU_VARIABLES[:1], name)


def default_workers(gpus: Sequence[str], cores: int) -> int:
    """How many workers there are where nobody says: one per GPU, else one per core. On Apple's machines, whose GPU no
    variable names and all processes share: one.
    """
    return len(gpus) or (1 if sys.platform == "darwin" and platform.machine() == "arm64" else cores)


def _answer(*command: str) -> str | None:
    """What a driver's tool prints, "" where it fails; None where it is not there, or does not answer."""
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return told.stdout if told.returncode == 0 else ""


def _by_library() -> list[str]:
    """The UUIDs that NVIDIA's management library tells (nvml.h), of the MIG parts where a card has them."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
        if library.nvmlInit_v2() != 0:
            return []
    except (OSError, AttributeError):
        return []
    try:
        count = ctypes.c_uint()
        if library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            return []
        found = []
        for i in range(count.value):
            card = ctypes.c_void_p()
            if library.nvmlDeviceGetHandleByIndex_v2(i, ctypes.byref(card)) == 0:
                found += _parts(library, card) or _uuid(library, card)
        return found
    except AttributeError:  # a library that is older than what is asked of it
        return []
    finally:
        library.nvmlShutdown()


def _parts(library: ctypes.CDLL, card: ctypes.c_void_p) -> list[str]:
    most = ctypes.c_uint()
    with suppress(AttributeError):
        if library.nvmlDeviceGetMaxMigDeviceCount(card, ctypes.byref(most)) != 0:
            return []
        found = []
        for i in range(most.value):
            part = ctypes.c_void_p()
            if library.nvmlDeviceGetMigDeviceHandleByIndex(card, i, ctypes.byref(part)) == 0:
                found += _uuid(library, part)
        return found
    return []


def _uuid(library: ctypes.CDLL, device: ctypes.c_void_p) -> list[str]:
    text = ctypes.create_string_buffer(96)
    return [text.value.decode()] if library.nvmlDeviceGetUUID(device, text, len(text)) == 0 else []


def _by_driver() -> list[str]:
    """The UUIDs of the cards that NVIDIA's kernel module tells of."""
    found = []
    for file in sorted(_DRIVER.glob("*/information")):
        with suppress(OSError):
            match = re.search(r"GPU UUID:\s*(GPU-[\w-]+)", file.read_text(encoding="utf-8", errors="replace"))
            found += [match[1]] if match else []
    return found


def _amd_gpus() -> list[str]:
    """The numbers of AMD's GPUs, by what the kernel lets this process see of them, else by `rocm-smi`."""
    count = 0
    for file in _AMD_NODES.glob("*/properties"):
        with suppress(OSError):  # a GPU that a container is not given cannot be read
            match = re.search(r"^simd_count (\d+)", file.read_text(encoding="utf-8"), re.MULTILINE)
            count += match is not None and int(match[1]) > 0  # a processor is a node too, and has none
    if not count:
        count = len(set(re.findall(r"GPU\[(\d+)\]", _answer("rocm-smi", "--showid") or "")))
    return [str(i) for i in range(count)]


def listed_gpus(listing: str) -> list[str]:
    """The UUIDs in the output of `nvidia-smi -L`: of the MIG parts where a card has them, else of the card."""
    cards: list[tuple[str, list[str]]] = []
    for line in listing.splitlines():
        match = re.search(r"UUID: ([\w/-]+)\)", line)
        if match and line.startswith("GPU"):
            cards.append((match[1], []))
        elif match and cards:
            cards[-1][1].append(match[1])
    return [name for card, parts in cards for name in (parts or [card])]


def gpu_gib(environment: Mapping[str, str]) -> float | None:
    """GiB of the smallest card that a process with this environment can use, as NVIDIA's tool tells; None where it does
    not.
    """
    gpus = visible_gpus(environment)
    if not gpus or any(name.startswith("MIG") for name in gpus):
        return None
    told = _answer("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits", "-i", ",".join(gpus))
    sizes = [float(line) / 1024 for line in (told or "").split() if line.replace(".", "", 1).isdigit()]
    return min(sizes, default=None)


def usable_cores() -> int:
    """CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_environments(
    workers: int | None,
    gpus: Sequence[str],
    cores: int,
    environment: Mapping[str, str],
    also: Collection[str] = (),
) -> list[dict[str, str]]:
    """The environment of each worker: what training needs, and the variables that are named in `also`.

    `workers` None: see `default_workers`.

    Workers beyond the number of GPUs share them in turn. Each gets an equal share of the cores, or fewer where the
    environment already asks for fewer threads. Raises ValueError for less than one worker.
    """
    count = workers if workers is not None else default_workers(gpus, cores)
    if count < 1:
        raise ValueError(f"the number of workers must be 1 or more, but it is {count}")
    kept = handed_on(environment, also)
    # MKL's variable overrules OpenMP's in torch, and who sets a limit sets OpenMP's: it holds for all of them.
    general = _threads(cores // count, kept.get("OMP_NUM_THREADS"))
    threads = {name: str(_threads(general, kept.get(name))) for name in THREAD_VARIABLES}
    devices = [of_gpu(gpus[i % len(gpus)], environment) if gpus else {} for i in range(count)]
    return [{**kept, **threads, **device} for device in devices]


def handed_on(environment: Mapping[str, str], also: Collection[str] = ()) -> dict[str, str]:
    """The variables that what a study names gets to see: those that training reads, and those in `also`."""
    return {name: value for name, value in environment.items() if name in also or _is_needed(name)}


def _is_needed(name: str) -> bool:
    """Whether training reads the variable. Those of proxies count in small letters too."""
    return name not in _NEVER and (name.upper() in _NAMES or name.startswith(_PREFIXES))


def _threads(share: int, asked: str | None) -> int:
    """A worker's threads: at least one, and at most the user's own setting where that is a number."""
    limit = int(asked) if asked is not None and asked.isdigit() and int(asked) > 0 else share
    return max(1, min(share, limit))
