"""What kind of machine a measurement of speed holds for; loads no torch."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

_PACKAGES: Final = ("torch", "trl", "transformers", "peft")


def machine_kind(gpu: str | None, cores: int) -> dict[str, str]:
    """What a measurement holds for: processor, cores, the GPU, and the libraries that train."""
    kind = {"processor": _processor(), "cores": str(cores), **({"gpu": gpu} if gpu is not None else {})}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            kind[package] = version(package)
    return kind


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
