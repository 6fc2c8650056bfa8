"""Learns from the passes of runs in training how many train together best; knows no pack, no run and no queue.

A pack begins with one run and takes in as many again while that makes the time a run less and memory allows. Nothing
is trained for it that is not wanted anyway.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from trainers.interface import Placement, Sizing, Timing
from trainers.models import accelerator
from trainers.models.accelerator import device_memory, peak_memory, taken_memory

_PASSES: Final = 8
"""Timed passes that judge a size: noise is a matter of milliseconds ..."""
_SECONDS: Final = 5.0
"""... and a pass of a large model takes seconds: fewer do, once they come to so many."""
_WARM_UP: Final = 1.0
"""The first pass of another size allocates and does not count, unless it takes so many seconds anyway."""
_RECENT: Final = 24
"""Readings of a size that are kept: what else the machine does changes with time, so the latest are compared."""
_WORTH_IT: Final = 0.95
"""A larger pack is kept where it needs less than this share of the time a run: else it only costs memory."""
_SMALL: Final = 2
"""Up to here one reading that says "no faster" is not believed before a size further was looked at."""
_LOOKS_AGAIN: Final = 2
"""How often a larger pack is tried again later, each time after as many new runs as train together."""
_MEMORY_SHARE: Final = 0.8


@dataclass
class _Readings:
    """Passes of one size: seconds and tokens of each, the latest last, and the peak of memory after them, in MiB."""

    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    tokens: deque[int] = field(default_factory=lambda: deque(maxlen=_RECENT))
    memory: float = 0.0

    @property
    def enough(self) -> bool:
        """Whether they say how fast the size is."""
        return len(self.seconds) >= _PASSES or sum(self.seconds) >= _SECONDS

    @property
    def pace(self) -> float:
        """Seconds a token of a run, in the median: passes of training have unlike lengths."""
        return statistics.median(s / max(1, t) for s, t in zip(self.seconds, self.tokens, strict=True))


class Growth:
    """How many runs of one kind train together in this worker: `target` now, `best` of what was tried.

    `is_open`: whether sizes are being tried; `is_short`: whether runs are missing for that; `is_fixed`: the
    placement says how many (its `begin` is None), and is kept to.
    """

    def __init__(self, placement: Placement) -> None:
        self.is_fixed = placement.begin is None
        self._placement, self._most = placement, max(1, placement.together)
        self.best = self._most if self.is_fixed else max(1, min(placement.begin or 1, self._most))
        self.target = self.best
        self.is_open = placement.begin == 0 and self._most > 1
        self.setups: list[float] = []
        self.passes = 0
        self._limit = None if self.is_fixed else memory_limit(placement)
        self._readings: dict[int, _Readings] = {}
        self._before: float | None = None
        self._too_large: int | None = None
        self._size = self._admitted = 0
        self._looks = 0 if self.is_fixed else _LOOKS_AGAIN
        self.is_short = self._again = self._is_known = False
        self._reason = ""

    def at_most(self, together: int) -> None:
        """Keep to no more runs than this from now on: runs like these had no memory for more."""
        if not self.is_fixed and together < self._most:
            self._most = max(1, together)
            self.best = min(self.best, self._most)
            self.target = min(self.target, self._most)

    def admitted(self, count: int, seconds: float, passes: int) -> bool:
        """So many runs were taken in, made ready in `seconds` altogether, of so many passes each. Whether a larger size
        is to be tried again now.
        """
        self.setups += [seconds / count] * count
        self.passes = passes
        if self._before is None:
            self._before = taken_memory()
        self._admitted = self._admitted + count if self._is_known else 0
        if not self._looks or not self._is_known or self._admitted < self.best:
            return False
        self._looks -= 1
        if not self._fits(2 * self.best):
            return False
        self.is_open, self._again, self._is_known = True, True, False
        self.target = 2 * self.best
        self._readings.pop(self.target, None)
        return True

    def passed(self, size: int, seconds: float, tokens: int, memory: float) -> bool:
        """`size` runs took a pass over so many tokens, with this peak of memory in MiB. Whether that decided something.

        The peak is the pass's own: that of an evaluation between two passes would hide what a run adds.
        """
        if self.is_fixed:
            return False
        changed, self._size = size != self._size, size
        if changed and seconds < _WARM_UP:
            return False
        here = self._readings.setdefault(size, _Readings())
        here.seconds.append(seconds)
        here.tokens.append(tokens)
        here.memory = max(here.memory, memory)
        if size != self.target or not here.enough or self._is_known:
            return False
        if self.is_open:
            self._judge(here)
        else:
            self._is_known = True
        return True

    def short(self) -> bool:
        """There are no runs now to come to the target, which stays: they may come. Whether that is new."""
        if not self.is_open or self.target == self.best or self.is_short:
            return False
        self.is_short, self._reason = True, f"too few runs were left to try {self.target} together"
        return True

    def halve(self, size: int) -> None:
        """So many runs did not fit into memory."""
        self._too_large, self._looks = size, 0
        self._most = self.best = self.best if size > self.best else max(1, size // 2)
        self._settle(f"{size} together did not fit into memory")

    def keep_to(self, size: int) -> None:
        """There was no memory for a run beside so many."""
        self._too_large, self._looks = size + 1, 0
        self._most = self.best = size
        self._settle(f"{size + 1} together did not fit into memory")

    def take_smaller(self, split: int, checkpointing: bool | None) -> None:
        """Not one run fits as it is: from now on each goes through the model so. Where the process did not live to
        decide this, `sweeper.loop.retries` does.
        """
        self._placement = replace(self._placement, split=split, checkpointing=checkpointing)
        self._readings, self._looks = {}, 0
        self._most = self.best = 1
        self._settle("one run did not fit into memory as it is")

    def fit(self, placement: Placement) -> Placement:
        """The placement of a run, cut as far as runs like it had to be here."""
        own = self._placement
        checkpointing = own.checkpointing if own.checkpointing is not None else placement.checkpointing
        return replace(placement, split=max(own.split, placement.split), checkpointing=checkpointing)

    def sizing(self) -> Sizing | None:
        """What was learnt, while no sizes are tried; with too few passes at the best one it has no timing of that."""
        if self.is_fixed or (self.is_open and not self.is_short):
            return None
        chosen = replace(self._placement, together=self.best, begin=None, workers=1, sharing=1)
        known = self._readings.get(self.best)
        each = statistics.fmean(known.tokens) / self.best if known is not None and known.tokens else 0.0
        timings = [
            Timing(replace(chosen, together=size), readings.pace * each, readings.memory)
            for size, readings in sorted(self._readings.items())
            if readings.enough and each
        ]
        timings += [Timing(replace(chosen, together=self._too_large), None, None)] if self._too_large else []
        return Sizing(
            device=accelerator.name(),
            chosen=chosen,
            timings=tuple(timings),
            setup_seconds=statistics.median_low(self.setups) if self.setups else 0.0,
            passes=self.passes,
            limit=self._limit,
            reason=self._reason,
        )

    def _judge(self, here: _Readings) -> None:
        """Go on to a larger size, or stay at the best one."""
        if self.target == self.best or here.pace < _WORTH_IT * self._readings[self.best].pace:
            self.best = self.target
        slower, further = self.target > self.best, 2 * self.target
        if slower and (self._again or self.best > _SMALL or self.target > 2 * self.best):
            self._settle(f"{self.target} together are no faster a run")
        elif not self._fits(further):
            passes = "no larger pack was asked for" if further > self._most else f"{further} together would pass"
            self._settle(passes if further > self._most else f"{passes} {self._limit or 0:.0f} MiB")
        else:
            self.target, self.is_short = further, False

    def _settle(self, reason: str) -> None:
        self.is_open = self.is_short = self._again = False
        self.target, self._admitted, self._reason = self.best, 0, reason
        known = self._readings.get(self.best)
        self._is_known = known is not None and known.enough  # else it is once that size has trained for a while

    def _fits(self, size: int) -> bool:
        return size <= self._most and (self._limit is None or self._expected(size) <= self._limit)

    def _expected(self, size: int) -> float:
        """MiB that a pack of this size will take, by what the last two sizes took: what a run adds is the same for all.
        The process before the first pass is the size 0.
        """
        known = [(n, readings.memory) for n, readings in sorted(self._readings.items()) if n <= size]
        (m, low), (n, high) = ([(0, self._before or 0.0), *known])[-2:]
        return high + max(0.0, high - low) / (n - m) * (size - n)


def memory_limit(placement: Placement) -> float | None:
    """MiB that one worker may use: its share of what its GPU has free, or of the host's; None where unknown."""
    on_device = device_memory()
    if on_device is not None:
        return _MEMORY_SHARE * on_device / placement.sharing
    left = _free_host_memory()
    return _MEMORY_SHARE * (min(left) / placement.workers) + peak_memory() if left else None


def _free_host_memory() -> Sequence[float]:
    """MiB that the machine has free, and what this process's control group may still take."""
    free = []
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free.append(int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) / 2**10)
    with suppress(OSError, ValueError):  # "max" where there is no limit
        allowed = int(Path("/sys/fs/cgroup/memory.max").read_text())
        free.append((allowed - int(Path("/sys/fs/cgroup/memory.current").read_text())) / 2**20)
    return free
