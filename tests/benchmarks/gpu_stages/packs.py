"""A pack's pass: its time, launches, kernels, waits for the device and memory; a step of stock TRL on the same pairs.

What decides comes first: the pack of 16 without gradient checkpointing, looked into, and stock with its best flags.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import torch

from tests.benchmarks.gpu_stages.figures import Figures
from tests.benchmarks.gpu_stages.inputs import Size, gpu_settings, peak_mib, reset_peak, runs, wait, with_cudnn
from tests.benchmarks.gpu_stages.profiles import one_pass, profile_passes, start_again, waits_of_a_pass
from tests.benchmarks.gpu_stages.stock import time_stock
from trainers.dpo import DPOTrainerWorker
from trainers.interface import Job, Placement
from trainers.pack.member import Member
from trainers.pack.pack import Pack

_WARM_UP: Final = 3
_STEPS: Final = 40
"""Steps that a run has data for; then it begins again."""


class Passes(NamedTuple):
    """Seconds of a pass: until all is launched, until all is done, and where passes follow one another."""

    host: float
    whole: float
    flowing: float


def measure(figures: Figures, size: Size, work: Path) -> None:
    """See the module."""
    most = max(size.pack, *size.packs)
    configs = runs(size, work, most, 10 * _STEPS, **gpu_settings())
    jobs = [Job(config, work / "packed" / config.key, pause_at=_STEPS) for config in configs]
    worker = DPOTrainerWorker()
    members = _members(figures, worker, jobs[: size.pack])
    a_run = _looked_into(figures, size, worker, members)
    stock = None
    with figures.part("stock"):
        flags = {"gradient_checkpointing": False, "precompute_ref_log_probs": True}
        stock = time_stock(figures, "best flags", runs(size, work, 1, size.stock, **gpu_settings(**flags))[0], work)
        _note_ratio(figures, size.pack, stock, a_run)
    for count, checkpointing in ((1, False), (size.pack, True), *((n, False) for n in size.packs if n > 1)):
        with figures.part("pack"):
            if count > len(members):
                members += _members(figures, worker, jobs[len(members) : count])
            # The pack is gone before the next one is made, also where its passes fail.
            found = _note_pack(figures, _pack(worker, members[:count], checkpointing), checkpointing, size.passes)
            _note_ratio(figures, count, stock, found.flowing / count, checkpointing)
    with figures.part("stock"):
        time_stock(figures, "TRL's defaults", runs(size, work, 1, size.stock, **gpu_settings())[0], work)


def _members(figures: Figures, worker: DPOTrainerWorker, jobs: Sequence[Job]) -> list[Member]:
    """The runs, made ready: what that takes is the host's work while the GPU idles."""
    members, seconds = [], []
    for job in jobs:
        began = time.perf_counter()
        members.append(worker.make(job))
        wait()
        seconds.append(time.perf_counter() - began)
    figures.note("setup", runs=len(jobs), first_s=seconds[0], a_run_s=statistics.median(seconds[1:] or seconds))
    return members


def _pack(worker: DPOTrainerWorker, members: list[Member], checkpointing: bool) -> Pack:
    """A pack of these runs, at their beginning."""
    reset_peak()
    start_again(members)
    place = Placement(together=len(members), checkpointing=checkpointing)
    pack = worker.empty_pack(Job(members[0].job.config, members[0].job.folder, placement=place))
    pack.admit(members)
    return pack


def _looked_into(figures: Figures, size: Size, worker: DPOTrainerWorker, members: list[Member]) -> float | None:
    """The pack that decides, and where its time goes. Seconds of a pass for each run."""
    a_run = None
    with figures.part("pack"):
        pack = _pack(worker, members, False)
        seconds = _note_pack(figures, pack, False, size.passes).flowing
        a_run = seconds / len(members)
        with figures.part("profile"):
            profile_passes(figures, pack, seconds)
        with figures.part("waits"):
            waits_of_a_pass(figures, pack)
        with figures.part("attention by"):
            with with_cudnn():
                other = time_passes(pack, size.passes).flowing
            figures.note("attention by", kernel="cuDNN too", pass_ms=1e3 * other, times_default=other / seconds)
    return a_run


def time_passes(pack: Pack, passes: int) -> Passes:
    """Medians of some passes after a few that do not count."""
    for _ in range(_WARM_UP):
        one_pass(pack)
    hosts, wholes = [], []
    for _ in range(passes):
        wait()
        began = time.perf_counter()
        one_pass(pack)
        hosts.append(time.perf_counter() - began)
        wait()
        wholes.append(time.perf_counter() - began)
    began = time.perf_counter()
    for _ in range(passes):
        one_pass(pack)
    wait()
    return Passes(statistics.median(hosts), statistics.median(wholes), (time.perf_counter() - began) / passes)


def _note_pack(figures: Figures, pack: Pack, checkpointing: bool, passes: int) -> Passes:
    found, count = time_passes(pack, passes), len(pack.members)
    figures.note(
        "pack",
        runs=count,
        checkpointing=checkpointing,
        a_run_ms=1e3 * found.flowing / count,
        pass_ms=1e3 * found.flowing,
        waited_for_ms=1e3 * found.whole,
        host_ms=1e3 * found.host,
        pairs=len(pack.members[0].part.rows),
        adapter=pack.adapters.geometry.size,
        peak_mib=peak_mib(),
        reserved_mib=torch.cuda.memory_reserved() / 2**20 if torch.cuda.is_available() else None,
    )
    return found


def _note_ratio(
    figures: Figures, count: int, stock: float | None, a_run: float | None, checkpointing: bool = False
) -> None:
    """How many steps of stock with its best flags the pack makes in the time of one, measured in the same call."""
    if stock is not None and a_run is not None:
        figures.note("ratio", runs=count, checkpointing=checkpointing, stock_over_pack=stock / a_run)
