"""What is asked of a device goes to the device that there is: a GPU, Apple's, or none."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from trainers.interface import Placement
from trainers.models import accelerator
from trainers.pack.growth import memory_limit

MIB = 2**20


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked of Apple's GPU and of CUDA, both played."""
    found: list[str] = []
    for of, names in (
        ("mps", ("synchronize", "empty_cache")),
        ("cuda", ("synchronize", "empty_cache", "reset_peak_memory_stats")),
    ):
        for name in names:
            monkeypatch.setattr(getattr(torch, of), name, lambda what=f"{of}.{name}": found.append(what))
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 300 * MIB)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 16000 * MIB)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 700 * MIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 200 * MIB)
    return found


@pytest.mark.parametrize("kind", ["cuda", "mps", "cpu"])
def test_waits_and_caches_are_those_of_the_device(asked: list[str], monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: kind == "cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: kind == "mps")
    assert accelerator.kind() == kind
    accelerator.wait()
    accelerator.free_memory(torch.OutOfMemoryError("no room"))
    assert asked == ([] if kind == "cpu" else [f"{kind}.synchronize", f"{kind}.empty_cache"])
    peak, taken = accelerator.peak_memory(), accelerator.taken_memory()
    if kind == "cpu":
        assert peak == taken > 0.0
    else:
        assert (peak, taken) == ((700.0, 200.0) if kind == "cuda" else (300.0, 300.0))


def test_apples_gpu_has_a_limit(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert memory_limit(Placement()) == pytest.approx(0.8 * 16000)


def test_what_memory_runs_out_with_is_no_error_of_the_work() -> None:
    def scarce() -> None:
        raise torch.OutOfMemoryError("no room")

    assert not accelerator.fits(scarce)
    assert accelerator.fits(lambda: None)
    with pytest.raises(ZeroDivisionError):
        accelerator.fits(lambda: 1 // 0)


def test_torch_is_asked_in_a_process_of_its_own() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "trainers.models.accelerator"], capture_output=True, text=True, check=True
    )
    assert json.loads(told.stdout)["torch"] == torch.__version__
