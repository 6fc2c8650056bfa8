"""The same runs, each with its evaluation, by packs in a worker and by a loop over stock: rungs e, b, c of the ladder,
and packs that begin with all runs.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from studies.records import RunResult
from tests.benchmarks.gpu_stages.figures import Figures
from tests.benchmarks.gpu_stages.inputs import Size, gpu_settings, runs
from tests.benchmarks.ladder import by_loop, by_workers, growing
from trainers.interface import Placement

_TIMES: Final = ("train_seconds", "evaluation_seconds", "steps_per_second", "peak_memory")


def measure(figures: Figures, size: Size, work: Path) -> None:
    """See the module."""
    about = {"prompts": size.prompts, "new_tokens": size.new_tokens, "warmup_steps": 2, "gradient_checkpointing": False}
    many = runs(size, work, size.runs, size.steps, **gpu_settings(**about))
    seconds: dict[str, float] = {}

    def note(rung: str, count: int, whole: float, results: list[RunResult]) -> None:
        seconds[rung] = whole / count
        ratio = {"times_e": seconds[rung] / seconds["e"]} if "e" in seconds else {}
        each = [_times(result) for result in results]
        together = max((int(result.facts.get("together", 1)) for result in results), default=1)
        figures.note("rung", rung=rung, a_run_s=seconds[rung], **ratio, runs=count, together=together, each=each)

    with figures.part("rung"):
        note("e", len(many), *by_workers(many, _scratch(work), growing()))
    for rung in ("b", "c"):
        with figures.part("rung"):
            few = many[: size.loops]
            note(rung, len(few), by_loop(few, _scratch(work), precompute=rung == "c"), [])
    with figures.part("rung"):
        note("all at once", len(many), *by_workers(many, _scratch(work), Placement(together=len(many))))


def _scratch(work: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=work))


def _times(result: RunResult) -> dict[str, float]:
    """What the run itself tells of its time and memory."""
    last = result.final()
    return {name: last[name].value for name in _TIMES if name in last}
