"""Assigns each worker a GPU and a share of the CPU cores, without loading torch."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Collection, Mapping, Sequence

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


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """The GPUs that a process with this environment can use, as CUDA_VISIBLE_DEVICES names them.

    CUDA_VISIBLE_DEVICES decides where it is set, else `nvidia-smi -L`; a card cut by MIG counts as its parts.
    """
    named = environment.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        names = [name.strip() for name in named.split(",")]
        # CUDA itself ignores all that follows an empty or a negative entry.
        end = next((i for i, name in enumerate(names) if not name or name.startswith("-")), len(names))
        return names[:end]
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return listed_gpus(listing.stdout) if listing.returncode == 0 else []


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

    `workers` None means one per GPU, else one per core.

    Workers beyond the number of GPUs share them in turn. Each gets an equal share of the cores, or fewer where the
    environment already asks for fewer threads. Raises ValueError for less than one worker.
    """
    count = workers if workers is not None else len(gpus) or cores
    if count < 1:
        raise ValueError(f"the number of workers must be 1 or more, but it is {count}")
    kept = handed_on(environment, also)
    # MKL's variable overrules OpenMP's in torch, and who sets a limit sets OpenMP's: it holds for all of them.
    general = _threads(cores // count, kept.get("OMP_NUM_THREADS"))
    threads = {name: str(_threads(general, kept.get(name))) for name in THREAD_VARIABLES}
    devices = [{"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {} for i in range(count)]
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
