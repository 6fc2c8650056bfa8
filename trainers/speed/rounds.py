"""Tasks timed side by side: in random order and back, so that what the machine does to one it does to the others.
Knows no loss and no model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from studies.records.speed import Ratio

Task = Callable[[], None]
Clock = Callable[[Task], float]
Times = Mapping[str, tuple[float, float]]
"""Task -> seconds on the way there and on the way back."""

_RESAMPLED: Final = 1000
_TRIMMED: Final = 0.2


def clock_of(device: torch.device) -> Clock:
    """What a task takes on this device, in seconds: of the thread's own time on a CPU, which other work beside it
    does not lengthen as it lengthens time on the wall, and of the device's on a GPU.
    """
    return {"cpu": _thread_time, "cuda": _event_time}.get(device.type, _wall_time)


def _thread_time(task: Task) -> float:
    began = time.thread_time_ns()
    task()
    return (time.thread_time_ns() - began) / 1e9


def _event_time(task: Task) -> float:
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    first.record()
    task()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) / 1e3


def _wall_time(task: Task) -> float:
    began = time.perf_counter()
    task()
    torch.mps.synchronize()
    return time.perf_counter() - began


def one_round(tasks: Mapping[str, Task], clock: Clock, draw: Random) -> Times:
    """Every task once in random order, and once more in the reverse of that order."""
    order = draw.sample(list(tasks), len(tasks))
    there = {name: clock(tasks[name]) for name in order}
    back = {name: clock(tasks[name]) for name in reversed(order)}
    return {name: (there[name], back[name]) for name in tasks}


def by_difference(rounds: Sequence[Times], name: str, baseline: str, seconds: float) -> Ratio:
    """From what takes a small part of `seconds`: 1 and the median over rounds of the difference, the smaller of two
    times of each, over `seconds`.
    """
    found = np.array([min(times[name]) - min(times[baseline]) for times in rounds])
    return _resampled(1 + found / seconds, _medians)


def by_ratio(rounds: Sequence[Times], name: str, baseline: str) -> Ratio:
    """From what takes long itself: the trimmed mean over rounds of the logarithm of the ratio, both times of each."""
    found = np.array([np.log(times[name]).mean() - np.log(times[baseline]).mean() for times in rounds])
    log = _resampled(found, _trimmed_means)
    return Ratio(**{limit: float(np.exp(value)) for limit, value in log.model_dump().items()})


def _medians(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.median(values, axis=1))


def _trimmed_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    cut = int(values.shape[1] * _TRIMMED)
    return np.asarray(np.sort(values, axis=1)[:, cut : values.shape[1] - cut].mean(axis=1))


def _resampled(values: NDArray[np.float64], statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Ratio:
    """The statistic of one value a round, and its 95 % interval by the bootstrap over rounds."""
    picks = np.random.default_rng(0).integers(len(values), size=(_RESAMPLED, len(values)))
    low, high = np.quantile(statistic(values[picks]), (0.025, 0.975))
    return Ratio(value=float(statistic(values[None])[0]), low=float(low), high=float(high))
