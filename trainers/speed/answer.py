"""Answers a request: makes the runs of a study ready and times their losses and steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import datasets
import torch
import transformers

from trainers.run_folder.failures import told
from trainers.speed.bench import make_bench
from trainers.speed.measure import step_seconds, time_losses, time_steps
from trainers.speed.request import Answer, Request
from trainers.speed.rounds import clock_of


class Tell(Protocol):
    """Hears what is done, and for how many seconds at most."""

    def __call__(self, doing: str, left: float | None = None) -> None: ...


def answer(request: Request, news: Tell) -> Answer:
    """Measure what is asked for on one thread, or one device; `news` hears what is done. Raises what stands against it
    and what `news` does.
    """
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)  # the time of one thread is measured
    news("loading model and data")
    bench = make_bench(request.runs, request.baseline, request.bf16, Path(request.folder))
    device, baseline = bench.trainer.args.device, request.baseline
    clock = clock_of(device)
    news("a whole step")
    step = step_seconds(bench, baseline, clock)
    tasks, failed = _sound(bench.losses(), baseline)
    losses = time_losses(tasks, baseline, step / bench.together, clock, news)
    steps = None
    if request.check:

        def of_round(number: int) -> Mapping[str, Callable[[], None]]:
            whole = bench.whole_steps(bench.batches[number % len(bench.batches)])
            return {name: whole[name] for name in tasks}

        steps = time_steps(of_round, baseline, request.check, clock, news)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return Answer(
        device=name, threads=torch.get_num_threads(), step_seconds=step, losses=losses, steps=steps, failed=failed
    )


def _sound(
    tasks: Mapping[str, Callable[[], None]], baseline: str
) -> tuple[dict[str, Callable[[], None]], dict[str, str]]:
    """The tasks that can be done, and why the others cannot. Raises what the baseline's does."""
    failed = {}
    for name, task in tasks.items():
        try:
            task()
        except (ValueError, RuntimeError, TypeError, AttributeError, KeyError) as error:
            if name == baseline:
                raise
            failed[name] = told(error)
    return {name: task for name, task in tasks.items() if name not in failed}, failed
