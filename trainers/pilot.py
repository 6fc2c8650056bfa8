"""Measures what training costs on this device, and chooses how runs share it; knows no store and no executor.

A few passes of real runs on their real rows, at growing pack sizes: time and memory of a pass are all that the choice
rests on. A size is only tried where the memory seen so far says that it fits. A run that does not fit alone is taken in
parts (which costs little), and with gradient checkpointing (which costs a forward pass) only when parts do not help.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

import torch

from trainers.interface import Job, Pilot, Placement, Timing
from trainers.member import Member
from trainers.pack import Pack

_SIZES: Final = (1, 2, 4, 8, 16, 32)
_TIMED_PASSES: Final = 5
_PRACTISED: Final = _TIMED_PASSES + 1
"""Steps that the runs of a pilot come to: their reference log-probs, which all of the data may need, are not computed
for more."""
_ENOUGH_SECONDS: Final = 10.0
"""Of timed passes at one size: noise is a matter of milliseconds, and a pass of a large model takes seconds."""
_WORTH_IT: Final = 0.95
"""A larger pack is taken where it needs less than this share of the time a run: else it only costs memory."""
_FASTER: Final = 1.1
"""Another precision than the default is taken only where it is so much faster."""
_MEMORY_SHARE: Final = 0.8


class Crew(Protocol):
    """Who makes runs ready and packs around their base."""

    def make(self, job: Job) -> Member:
        """A run, ready for a pack."""
        ...

    def empty_pack(self, job: Job) -> Pack:
        """A pack around the base of a run."""
        ...

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether an error says that memory is short."""
        ...


@dataclass
class _Costs:
    """What was seen on the way."""

    setup: list[float]
    evaluation: float = 0.0
    passes: int = 0


def run_pilot(jobs: Sequence[Job], crew: Crew, workers: int) -> Pilot:
    """Measure with these runs, which share a pack key, and choose. `workers`: how many share the machine's memory.

    Raises MemoryError where not one run fits, and what making a run raises (Unpackable, refused settings).
    """
    limit, costs = memory_limit(workers), _Costs([])
    plain = replace(jobs[0].placement, together=1)
    timings = _grow(jobs, plain, crew, limit, costs)
    rows = int(jobs[0].config.settings.get("per_device_train_batch_size", 8))
    for checkpointing in (plain.checkpointing, True):
        split = 1
        while not any(t.seconds for t in timings) and split < rows:
            split *= 2
            timings += _grow(jobs[:1], replace(plain, split=split, checkpointing=checkpointing), crew, limit, costs)
    fitting = [t for t in timings if t.seconds is not None]
    if not fitting:
        raise MemoryError(f"not one run fits into {limit or 0:.0f} MiB; take fewer tokens a row, or another model")
    best = _best(fitting)
    reason = _why(timings, best, limit)
    if _bf16_is_open(jobs[0]):
        low = _grow(jobs[: best.placement.together], replace(best.placement, bf16=True), crew, limit, costs)
        timings += low
        ratio = (best.seconds or 0.0) / (low[-1].seconds or float("inf"))
        if ratio > _FASTER:
            best, reason = low[-1], f"{reason}; bf16 is {ratio:.2f} times as fast"
    return Pilot(
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        chosen=best.placement,
        timings=tuple(timings),
        setup_seconds=statistics.median(costs.setup),
        evaluation_seconds=costs.evaluation,
        passes=costs.passes * best.placement.split,
        limit=limit,
        reason=reason,
    )


def memory_limit(workers: int) -> float | None:
    """MiB that one worker may use: of the free memory of its GPU, or its share of the host's; None where unknown."""
    if torch.cuda.is_available():
        return _MEMORY_SHARE * torch.cuda.mem_get_info()[0] / 2**20
    free = []
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free.append(int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) / 2**10)
    with suppress(OSError, ValueError):  # "max" where there is no limit
        allowed = int(Path("/sys/fs/cgroup/memory.max").read_text())
        free.append((allowed - int(Path("/sys/fs/cgroup/memory.current").read_text())) / 2**20)
    return _MEMORY_SHARE * (min(free) / workers) + peak_memory() if free else None


def peak_memory() -> float:
    """Peak memory in MiB: allocated on the GPU since it was last reset, or resident in this process so far."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def _grow(jobs: Sequence[Job], placement: Placement, crew: Crew, limit: float | None, costs: _Costs) -> list[Timing]:
    """Time a pack of growing size, until it no longer pays or fits."""
    found: list[Timing] = []
    pack = crew.empty_pack(replace(jobs[0], placement=placement))
    sizes = [size for size in _SIZES if size <= len(jobs) and (placement.together == 1 or size == placement.together)]
    for size in sizes:
        here = replace(placement, together=size)
        if limit is not None and _expected(found, size) > limit:
            found.append(Timing(here, None, None))
            break
        try:
            new = [replace(job, placement=here, pause_at=_PRACTISED) for job in jobs[len(pack.members) : size]]
            pack.admit([_make(job, crew, costs) for job in new])
            seconds = _time(pack)
        except (RuntimeError, MemoryError) as error:
            if not crew.is_out_of_memory(error):
                raise
            found.append(Timing(here, None, None))
            break
        if not found:
            costs.passes = sum(len(step) for step in pack.members[0].run.steps) // here.split
            costs.evaluation = _time_evaluation(pack)
        found.append(Timing(here, seconds / size, peak_memory()))
        if len(found) > 1 and found[-1].seconds > _WORTH_IT * found[-2].seconds:  # type: ignore[operator]
            break
    return found


def _make(job: Job, crew: Crew, costs: _Costs) -> Member:
    started = time.perf_counter()
    member = crew.make(job)
    costs.setup.append(time.perf_counter() - started)
    return member


def _time(pack: Pack) -> float:
    """Median seconds of a pass, after one that is not counted."""
    found: list[float] = []
    while len(found) <= _TIMED_PASSES and (len(found) < 2 or sum(found[1:]) < _ENOUGH_SECONDS):
        if any(member.step == member.last_step for member in pack.members):
            pack.begin_again()
        started = time.perf_counter()
        pack.practise()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    pack.begin_again()  # with those that are to come, which then have the same batches
    return statistics.median(found[1:])


def _time_evaluation(pack: Pack) -> float:
    started = time.perf_counter()
    pack.evaluate([0])
    return time.perf_counter() - started


def _expected(found: Sequence[Timing], size: int) -> float:
    """MiB that a pack of this size will take, by what the last two sizes took: what a run adds is the same for all."""
    known = [t for t in found if t.memory is not None]
    if len(known) < 2:
        return 0.0
    (a, b), memory = known[-2:], [t.memory or 0.0 for t in known[-2:]]
    each = (memory[1] - memory[0]) / (b.placement.together - a.placement.together)
    return memory[1] + each * (size - b.placement.together)


def _best(fitting: Sequence[Timing]) -> Timing:
    """The fastest, and of those that are nearly as fast the smallest."""
    fastest = min(t.seconds or 0.0 for t in fitting)
    return next(t for t in fitting if (t.seconds or 0.0) * _WORTH_IT <= fastest)


def _why(timings: Sequence[Timing], best: Timing, limit: float | None) -> str:
    """What ended the search."""
    last = timings[-1]
    if last.seconds is None:
        return f"{last.placement.together} together would pass {limit or 0:.0f} MiB"
    if last.placement.together > best.placement.together:
        return f"{last.placement.together} together are no faster a run"
    return "no larger pack was asked for"


def _bf16_is_open(job: Job) -> bool:
    """Whether the study leaves the precision open, on a CPU that has bf16 in hardware. (A GPU's default is bf16.)"""
    if torch.cuda.is_available() or {"bf16", "fp16", "dtype"} & job.config.settings.keys():
        return False
    return "avx512_bf16" in _cpu_flags() or "amx_bf16" in _cpu_flags()


def _cpu_flags() -> frozenset[str]:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return frozenset(next(line for line in lines if line.startswith("flags")).split())
    return frozenset()
