"""What only a GPU can show of packs: their numbers there, real want of memory, what is told of memory and time, and the
end of a process whose device broke. `python -m tests.benchmarks.on_gpu --stages tests` runs them.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from studies.records import Cause
from tests.trainers.pack_runs import (
    assert_rounding,
    config,
    distance,
    exact_training,
    float64,
    more_padding,
    plain_training,
    train,
    weights,
)
from trainers.dpo import DPOTrainerWorker
from trainers.interface import Placement
from trainers.models import accelerator
from trainers.pack.growth import memory_limit

pytestmark = pytest.mark.gpu
LOSSES = ("sigmoid", "ipo", "robust", "bco_pair")


@pytest.mark.parametrize("checkpointing", [False, True])
def test_in_float64_a_pack_gives_the_adapters_of_plain_dpo_trainers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpointing: bool
) -> None:
    runs = [config(loss, seed=i, lora_r=4 + 4 * (i % 2), max_steps=12) for i, loss in enumerate(LOSSES)]
    with float64(monkeypatch):
        train(tmp_path, runs, together=4, checkpointing=checkpointing)
        stock = [plain_training(tmp_path / "stock", run) for run in runs]
    for run, plain in zip(runs, stock, strict=True):
        assert distance(weights(tmp_path, run), plain) < 1e-9


@pytest.mark.parametrize("bf16", [False, True])
def test_a_pack_is_no_further_from_stock_than_stock_from_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bf16: bool
) -> None:
    runs = [config(loss, max_steps=12, bf16=bf16) for loss in LOSSES]
    results = train(tmp_path, runs, together=4)
    assert {run.facts["together"] for run in results} == {4}
    for run in runs:
        other = more_padding(tmp_path / "other", run) if bf16 else exact_training(tmp_path / "other", run, monkeypatch)
        assert_rounding(weights(tmp_path, run), plain_training(tmp_path / "stock", run), other)


def test_a_pack_that_does_not_fit_goes_on_with_half_and_all_its_runs_tell_one_peak(tmp_path: Path) -> None:
    worker, total = DPOTrainerWorker(), accelerator.card_memory()
    runs = [config("sigmoid", max_steps=8, beta=0.1 * (i + 1)) for i in range(8)]
    peaks = []
    for together in (4, 8):
        results = train(tmp_path / str(together), runs[:together], together, worker)
        peaks.append({run.final()["peak_memory"].value for run in results})
        worker.forget()
    assert [len(found) for found in peaks] == [1, 1]
    low, high = (max(found) for found in peaks)
    torch.cuda.set_per_process_memory_fraction((low + high) / 2 * 2**20 / total)
    try:
        results = train(tmp_path / "scarce", runs, 8, worker)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert [run.cause for run in results] == [Cause.FINISHED] * 8
    assert max(int(run.facts["together"]) for run in results) < 8


def test_steps_are_told_as_long_as_they_take(tmp_path: Path) -> None:
    runs = [config("sigmoid", max_steps=96, beta=0.1 * (i + 1), at=()) for i in range(4)]
    worker = DPOTrainerWorker()
    train(tmp_path / "warm", runs, 4, worker)
    accelerator.wait()
    began = time.perf_counter()
    results = train(tmp_path / "timed", runs, 4, worker)
    accelerator.wait()
    wall = time.perf_counter() - began
    told = sum(run.final()["train_seconds"].value for run in results)
    assert told < wall
    passes = sum(run.final()["steps_per_second"].value for run in results) / 4 / 4  # a second, of four runs each
    assert told == pytest.approx(96 / passes, rel=0.5)


def test_two_workers_on_one_card_take_half_of_it_each() -> None:
    one, two = (memory_limit(Placement(workers=n, sharing=n)) for n in (1, 2))
    assert one is not None
    assert two == pytest.approx(one / 2, rel=0.1)


BREAKS = """
import torch
from studies.records import Cause
from trainers.run_folder.failures import breaks_the_process
try:
    torch.zeros(4, device="cuda")[torch.tensor([9], device="cuda")].sum().item()
except Exception as error:
    assert breaks_the_process(error), error
    try:
        torch.ones(4, device="cuda").sum().item()
    except Exception as again:
        assert breaks_the_process(again), again
        print("broken")
"""


def test_a_failed_assertion_on_the_device_is_known_to_end_the_process() -> None:
    told = subprocess.run([sys.executable, "-c", BREAKS], capture_output=True, text=True, check=False)
    assert told.stdout.strip() == "broken", told.stderr


def test_tf32_of_one_run_is_not_that_of_the_next(tmp_path: Path) -> None:
    worker = DPOTrainerWorker()
    plain = config("sigmoid", max_steps=6)
    train(tmp_path / "alone", [plain], 2, worker)
    (coarse,) = train(tmp_path / "coarse", [config("sigmoid", max_steps=6, tf32=True)], 2, worker)
    assert "together" in coarse.facts  # the check's tolerance knows TF32
    train(tmp_path / "after", [plain], 2, worker)
    assert not accelerator.uses_tf32()
    assert distance(weights(tmp_path / "alone", plain), weights(tmp_path / "after", plain)) < 1e-6
