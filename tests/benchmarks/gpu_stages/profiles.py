"""Where the time of a pack's pass goes: kernels, calls of CUDA, and lines at which the host waits for the device."""

from __future__ import annotations

import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch.profiler import ProfilerActivity, profile

from tests.benchmarks.gpu_stages.figures import Figures
from tests.benchmarks.gpu_stages.inputs import wait
from trainers.pack.member import Member
from trainers.pack.pack import Pack

_ROOT: Final = Path(__file__).parents[3]
_PASSES: Final = 2
_TOP: Final = 30


def one_pass(pack: Pack) -> None:
    """A pass of the pack with the optimizer's step; runs at the end of their data begin again."""
    if any(member.step + 1 >= member.last_step for member in pack.members):
        start_again(pack.members)
    pack.train_micro_batch()


def start_again(members: Sequence[Member]) -> None:
    """Let runs read their data from the beginning."""
    for member in members:
        member.step = member.micro = member.logged = 0


def profile_passes(figures: Figures, pack: Pack, seconds: float) -> None:
    """Kernels of a pass, what they take, and for which share of a pass, which takes so many `seconds` without the
    profiler, the GPU works.
    """
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profile(activities=activities) as seen:
        for _ in range(_PASSES):
            one_pass(pack)
        wait()
    kernels: dict[str, list[float]] = defaultdict(list)
    calls: dict[str, list[float]] = defaultdict(list)
    spans = []
    for event in seen.events() or ():
        if getattr(event, "is_user_annotation", False):
            continue
        start, end = event.time_range.start, event.time_range.end
        if "CUDA" in str(event.device_type):
            spans.append((start, end))
            kernels[event.name[:90]].append(end - start)
        elif event.name.startswith("cuda"):
            calls[event.name].append(end - start)
    busy = _covered(spans) / 1e3 / _PASSES
    figures.note(
        "profile",
        kernels_a_pass=len(spans) / _PASSES,
        busy_ms=busy,
        busy_share=busy / 1e3 / seconds if spans else None,
        top=_largest(kernels, _TOP),
        calls=_largest(calls, _TOP),
    )
    order = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    table = seen.key_averages().table(sort_by=order, row_limit=40)
    (figures.folder / f"profile-{figures.stage}.txt").write_text(table, encoding="utf-8")


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    """Length of the union of spans."""
    covered = last = 0.0
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, last))
        last = max(last, end)
    return covered


def _largest(found: dict[str, list[float]], most: int) -> list[dict[str, Any]]:
    """The names that take most: how often in a pass, and milliseconds, of what was seen in microseconds."""
    ordered = sorted(found.items(), key=lambda item: -sum(item[1]))[:most]
    return [{"name": name, "calls": len(t) / _PASSES, "ms": sum(t) / 1e3 / _PASSES} for name, t in ordered]


def waits_of_a_pass(figures: Figures, pack: Pack) -> None:
    """The lines of the project at which a pass waits for the device. A copy from memory that is not pinned does."""
    if not torch.cuda.is_available():
        figures.note("waits", of_a_pass=None, why="a CPU waits for nothing")
        return
    places: Counter[str] = Counter()

    def seen(message: Warning | str, *_: Any, **__: Any) -> None:
        inside = [f for f in traceback.extract_stack() if Path(f.filename).is_relative_to(_ROOT / "trainers")]
        place = f"{Path(inside[-1].filename).relative_to(_ROOT)}:{inside[-1].lineno}" if inside else "elsewhere"
        places[f"{place} {str(message)[:60]}"] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = seen
        torch.cuda.set_sync_debug_mode("warn")
        try:
            one_pass(pack)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    count = sum(places.values())
    figures.note("waits", of_a_pass=count, holds=count == 0, places=dict(places.most_common(30)))
