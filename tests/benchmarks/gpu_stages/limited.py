"""A pack that does not fit into memory: it is halved, and its runs come to their end with the same numbers.

Without a GPU the limit is played: a pass of more runs than fit raises what CUDA would.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch

from studies.records import RunConfig
from tests.benchmarks.gpu_stages.figures import Figures
from tests.benchmarks.gpu_stages.inputs import Size, gpu_settings, peak_mib, reset_peak, runs
from tests.trainers.pack_runs import apart, train, weights
from trainers.dpo import DPOTrainerWorker
from trainers.pack.engine import Engine


class _Trained(NamedTuple):
    """Where runs were trained, the peak of memory, and whether all of them were, as many together as said."""

    folder: Path
    peak: float
    together: int
    whole: bool


def measure(figures: Figures, size: Size, work: Path) -> None:
    """See the module."""
    count = min(8, size.pack)
    settings = gpu_settings(gradient_checkpointing=False, warmup_steps=1)
    configs = runs(size, work, count, 4, **settings)
    half = _train(figures, "half", work, configs, count // 2)
    whole = _train(figures, "whole", work, configs, count)
    with _limit(count // 2, (half.peak + whole.peak) / 2):
        limited = _train(figures, "under a limit", work, configs, count)
    far = [apart(weights(limited.folder, c), weights(half.folder, c)) for c in configs] if limited.whole else []
    figures.note(
        "limited",
        limit_mib=(half.peak + whole.peak) / 2,
        together=limited.together,
        peak_mib=limited.peak,
        adapters_apart=max(far, default=None),
        holds=limited.whole and limited.together < count,
    )


def _train(figures: Figures, name: str, work: Path, configs: Sequence[RunConfig], together: int) -> _Trained:
    worker, folder = DPOTrainerWorker(), work / "limited" / name
    reset_peak()
    began = time.monotonic()
    results = train(folder, configs, together, worker, checkpointing=False)
    peak, most = peak_mib() or 0.0, max(int(result.facts.get("together", 0)) for result in results)
    figures.note(
        name,
        seconds=time.monotonic() - began,
        together=most,
        peak_mib=peak,
        causes=sorted({str(result.cause) for result in results}),
        peaks_told=sorted({round(r.final()["peak_memory"].value) for r in results if r.measurements}),
        messages=[result.message[:200] for result in results if result.message][:3],
    )
    worker.forget()
    return _Trained(folder, peak, most, all(result.adapter for result in results))


@contextmanager
def _limit(fits: int, mib: float) -> Iterator[None]:
    """Inside, the process has so much of the GPU's memory; without a GPU, so many runs fit."""
    if torch.cuda.is_available():
        reset_peak()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(mib * 2**20 / total)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return
    plain = Engine.accumulate

    def played(self: Engine, work: Any, precision: Any) -> Any:
        if len(work) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory, as it is played on a CPU")
        return plain(self, work, precision)

    with patch.object(Engine, "accumulate", played):
        yield
