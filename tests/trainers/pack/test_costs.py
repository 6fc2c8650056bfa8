"""What runs tell of memory and time on a device that computes beside the host, played here."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainers.pack_runs import config, train
from trainers.interface import Placement
from trainers.models import accelerator
from trainers.pack import growth
from trainers.pack.engine import Engine
from trainers.pack.growth import Growth
from trainers.pack.pack import Pack


class Device:
    """A device's allocator: MiB that are taken, and the most since the peak was begun."""

    def __init__(self) -> None:
        self.taken = self.peak = 100.0

    def take(self, mib: float) -> None:
        self.peak = max(self.peak, self.taken + mib)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    found = Device()

    def begin() -> None:
        found.peak = found.taken

    monkeypatch.setattr(accelerator, "peak_memory", lambda: found.peak)
    monkeypatch.setattr(accelerator, "begin_peak", begin)
    monkeypatch.setattr(growth, "taken_memory", lambda: found.taken)
    accumulate, evaluate = Engine.accumulate, Pack.evaluate

    def passes(self: Engine, work: Any, precision: Any) -> Any:
        found.take(10.0 * len(work))
        return accumulate(self, work, precision)

    def evaluates(self: Pack, slots: Any) -> Any:
        found.take(300.0)
        return evaluate(self, slots)

    monkeypatch.setattr(Engine, "accumulate", passes)
    monkeypatch.setattr(Pack, "evaluate", evaluates)
    return found


def test_runs_that_end_together_tell_the_same_peak_and_one_that_comes_later_its_own(
    tmp_path: Path, device: Device
) -> None:
    device.take(5000.0)  # of before, which is none of theirs
    runs = [config("sigmoid", max_steps=4, beta=0.1 * (i + 1)) for i in range(3)]
    told = [run.final()["peak_memory"].value for run in train(tmp_path, runs, together=2)]
    assert told == [400.0, 400.0, 400.0]


@pytest.mark.slow
def test_an_evaluation_does_not_hide_what_a_run_adds(
    tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs take 20 MiB in a pass, four would take 40: the 300 of evaluations between them are none of a pass."""
    monkeypatch.setattr(growth, "_WORTH_IT", 10.0)
    monkeypatch.setattr(growth, "memory_limit", lambda _: 135.0)
    device.take(5000.0)
    runs = [config("sigmoid", max_steps=24, beta=0.1 * (i + 1), at=(0.1, 0.5, 1.0)) for i in range(5)]
    results = train(tmp_path, runs, together=32, begin=0)
    assert max(run.facts["together"] for run in results) == 2


def test_workers_that_share_a_gpu_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    gib = 2**30
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (70 * gib, 80 * gib))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 10 * gib)  # its allocator's own cache is not lost
    limits = [growth.memory_limit(Placement(workers=4, sharing=n)) for n in (1, 2, 4)]
    assert limits == [pytest.approx(0.8 * 80 * 1024 / n) for n in (1, 2, 4)]
    assert Growth(Placement(together=8, begin=0, workers=2, sharing=2))._limit == pytest.approx(0.4 * 80 * 1024)


def test_steps_are_timed_to_their_end_and_not_to_their_launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that takes 50 ms a pass and is waited for only where somebody waits."""
    owed = [0.0]
    plain, begun = Pack.train_micro_batch, Pack.__init__

    def launch(self: Pack) -> None:
        owed[0] += 0.05
        plain(self)

    def wait() -> None:
        time.sleep(owed[0])
        owed[0] = 0.0

    def on_device(self: Pack, *given: Any, **named: Any) -> None:
        begun(self, *given, **named)
        self._device = torch.device("cuda")

    monkeypatch.setattr(Pack, "train_micro_batch", launch)
    monkeypatch.setattr(Pack, "__init__", on_device)
    monkeypatch.setattr(accelerator, "wait", wait)
    runs = [config("sigmoid", max_steps=48, beta=0.1 * (i + 1)) for i in range(2)]
    for run in train(tmp_path, runs, together=2):
        told = run.final()
        assert 2 * told["train_seconds"].value >= 48 * 0.05
        assert told["steps_per_second"].value <= 2 / 0.05
