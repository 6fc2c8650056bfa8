"""How surely both methods tell the speed of TRL's losses on this machine: every loss of a study, its baseline a second
time, and steps of the baseline with 3 and 6 % of a step burnt.

    python -m tests.benchmarks.step_speed [STUDY [ROUNDS OF WHOLE STEPS]]
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from dashboards.analysis.speed import paces
from studies.design.speed import Asked, speed_asked
from studies.records.speed import Speed, Timings
from studies.spec import Study, load_study
from sweeper.executors.process.devices import usable_cores
from trainers.speed.bench import make_bench
from trainers.speed.machine import machine_kind
from trainers.speed.measure import step_seconds, time_losses, time_steps
from trainers.speed.rounds import Task, clock_of

BURNT = {"+3% burnt": 0.03, "+6% burnt": 0.06}


def main() -> None:
    """Print a table."""
    given = dict(enumerate(sys.argv[1:]))
    asked, rounds = speed_asked(Study.of(load_study(given.get(0, "guide-small")))), int(given.get(1, 100))
    assert asked is not None
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        bench = make_bench(asked.runs, asked.baseline, None, Path(folder))
        clock = clock_of(bench.trainer.args.device)
        step = step_seconds(bench, asked.baseline, clock)
        part = step / bench.together
        losses = time_losses(with_burnt(bench.losses(), asked, part), asked.baseline, part, clock, silent)

        def of_round(number: int) -> Mapping[str, Task]:
            return with_burnt(bench.whole_steps(bench.batches[number % len(bench.batches)]), asked, step)

        steps = time_steps(of_round, asked.baseline, rounds, clock, silent)
    show(asked, losses, steps, step)


def with_burnt(tasks: Mapping[str, Task], asked: Asked, step: float) -> dict[str, Task]:
    """The tasks, and the baseline's with a share of a step burnt."""

    def burning(share: float) -> Task:
        own = tasks[asked.baseline]

        def task() -> None:
            own()
            until = time.thread_time() + share * step
            while time.thread_time() < until:
                pass

        return task

    return {**tasks, **{name: burning(share) for name, share in BURNT.items()}}


def silent(_doing: str, _left: float | None) -> None:
    """Say nothing."""


def show(asked: Asked, losses: Timings, steps: Timings, step: float) -> None:
    """The table on standard output."""
    machine = machine_kind(None, usable_cores())
    speed = Speed(
        asked=asked.digest, baseline=asked.baseline, machine=machine, device="cpu", threads=1,
        date=time.strftime("%Y-%m-%d %H:%M"), step_seconds=step, losses=losses, steps=steps,
    )  # fmt: skip
    found = paces([speed], asked)
    assert found is not None
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    lines = [
        f"{speed.date}, load {load}, {dict(machine)}; a step of {asked.baseline} {1000 * step:.1f} ms",
        f"the losses alone: {losses.rounds} rounds, {losses.seconds:.1f} s",
        f"whole steps: {steps.rounds} rounds, {steps.seconds:.0f} s",
        "| loss | from the loss alone | from whole steps |",
        "|---|---|---|",
    ]
    assert found.null_check is not None
    lines.append(f"| {asked.baseline} again | {found.null.said} | {found.null_check.said} |")
    for name, pace in found.of.items():
        if pace.loss is not None and pace.check is not None:
            lines.append(f"| {name} | {pace.loss.said} | {pace.check.said} |")
    print("\n".join(lines))  # noqa: T201


if __name__ == "__main__":
    main()
