"""What the machine is, what torch chooses on it, what a launch costs, and what the project's own doctor says."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from sweeper.executors.process.devices import usable_cores, visible_gpus, worker_environments
from tests.benchmarks.gpu_stages.figures import Figures
from tests.benchmarks.gpu_stages.inputs import Size, device, wait

_PACKAGES: Final = (
    *("torch", "triton", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "huggingface_hub"),
    *("optuna", "mlflow", "mlflow-skinny", "numpy", "pandas", "pyarrow", "scipy", "matplotlib", "pydantic", "typer"),
    *("bitsandbytes", "flash-attn", "liger-kernel", "kernels"),
)
_KERNELS: Final = {-1: "error", 0: "math", 1: "flash", 2: "efficient", 3: "cudnn", 4: "overrideable"}
_BACKENDS: Final = {"flash": SDPBackend.FLASH_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION}
_LAUNCHES: Final = 5000


def measure(figures: Figures, size: Size, work: Path) -> None:
    """See the module."""
    with figures.part("device"):
        _note_device(figures)
    with figures.part("versions"):
        figures.note("versions", python=sys.version.split()[0], **_versions())
    with figures.part("kernels chosen"):
        _note_kernels(figures)
    with figures.part("launch"):
        _note_launch(figures)
    for backend in (None, *(_BACKENDS if torch.cuda.is_available() else ())):
        with figures.part("attention"):
            _note_attention(figures, backend, (16, 24, 32) if size.is_tiny else (40, *range(64, 144, 8)))
    with figures.part("workers"):
        _note_workers(figures)
    with figures.part("doctor"):
        command = [sys.executable, "-m", "sweeper", "doctor"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=work, check=False)
        lines = (done.stdout + done.stderr).splitlines()
        unwell = [line for line in lines if line.startswith("not ok")]
        figures.note("doctor", rc=done.returncode, not_ok="; ".join(unwell), out=lines[-60:])


def _note_device(figures: Figures) -> None:
    if not torch.cuda.is_available():
        figures.note("device", name="cpu", cores=os.cpu_count(), torch=torch.__version__, cuda=torch.version.cuda)
        return
    about, (free, total) = torch.cuda.get_device_properties(0), torch.cuda.mem_get_info()
    figures.note(
        "device",
        name=about.name,
        capability=f"{about.major}.{about.minor}",
        processors=about.multi_processor_count,
        free_gib=free / 2**30,
        total_gib=total / 2**30,
        torch=torch.__version__,
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        bf16=torch.cuda.is_bf16_supported(including_emulation=False),
        cores=os.cpu_count(),
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name.replace("-", "_")] = version(name)
    return found


def _note_kernels(figures: Figures) -> None:
    """Which kernel of attention torch takes: for a pack's rows, with grouped heads, and for a token behind a cache."""
    choose = torch._fused_sdp_choice
    for dtype in (torch.bfloat16, torch.float32):
        q, k = (torch.randn(32, heads, 256, 64, device=device(), dtype=dtype) for heads in (9, 3))
        mask = torch.ones(32, 1, 1, 256, dtype=torch.bool, device=device())
        figures.note(
            "kernels chosen",
            dtype=str(dtype),
            causal=_KERNELS.get(choose(q, q, q, None, 0.0, True)),
            grouped=_KERNELS.get(choose(q, k, k, None, 0.0, True, enable_gqa=True)),
            one_query=_KERNELS.get(choose(q[:, :, :1], q, q, mask, 0.0, False)),
        )


def _note_launch(figures: Figures) -> None:
    """What the host needs to launch a kernel that does nothing much, and what host and device need together."""
    x = torch.zeros(64, device=device())
    for is_warm in (False, True):
        wait()
        began = time.perf_counter()
        for _ in range(_LAUNCHES):
            x.add_(1.0)
        host = time.perf_counter() - began
        wait()
        if is_warm:
            whole = time.perf_counter() - began
            figures.note("launch", host_us=1e6 * host / _LAUNCHES, whole_us=1e6 * whole / _LAUNCHES)


def _note_attention(figures: Figures, backend: str | None, lengths: Sequence[int]) -> None:
    """Milliseconds of attention there and back at a length that is new to the kernel, and again at the same one."""
    new: list[float] = []
    known: list[float] = []
    with sdpa_kernel(_BACKENDS[backend]) if backend else nullcontext():
        for length in lengths:
            new.append(_attention_ms(length))
            known.append(_attention_ms(length))
    times = {"new_length_ms": statistics.median(new[1:]), "known_length_ms": statistics.median(known[1:])}
    figures.note("attention", kernel=backend or "default", **times)


def _attention_ms(length: int) -> float:
    rows = 128 if torch.cuda.is_available() else 2
    sides = [torch.randn(rows, 9, length, 64, device=device(), dtype=torch.bfloat16) for _ in range(3)]
    q, k, v = (side.requires_grad_() for side in sides)
    wait()
    began = time.perf_counter()
    scaled_dot_product_attention(q, k, v, is_causal=True).sum().backward()  # type: ignore[no-untyped-call]
    wait()
    return 1e3 * (time.perf_counter() - began)


def _note_workers(figures: Figures) -> None:
    """How many workers a sweep would have, and whether torch finds its GPU in the environment of one."""
    gpus = visible_gpus(os.environ)
    environments = worker_environments(None, gpus, usable_cores(), os.environ)
    code = "import torch; print(torch.cuda.device_count(), torch.cuda.is_available())"
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environments[0], timeout=60, check=False
    )
    figures.note(
        "workers",
        gpus=len(gpus),
        workers=len(environments),
        threads=environments[0]["OMP_NUM_THREADS"],
        torch_in_one=(said.stdout + said.stderr[-300:]).strip(),
    )
