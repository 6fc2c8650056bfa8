"""Trainers for the tests of kills and of memory: the shipped formula, slow or hungry for memory, and the real one."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Mapping
from pathlib import Path

from studies.records import RunResult
from trainers.formula import FormulaTrainer
from trainers.interface import Decision, Job, News, WorkQueue

MEBIBYTE = 2**20


class Slow:
    """The formula trainer with STEP_SECONDS (an environment variable) between two steps."""

    def train(self, job: Job, desk: WorkQueue) -> None:
        FormulaTrainer().train(job, _SlowDesk(desk, float(os.environ.get("STEP_SECONDS", "0"))))


class Broken:
    """The slow trainer, which fails the runs of `ipo` while the file BROKEN (an environment variable) exists."""

    def train(self, job: Job, desk: WorkQueue) -> None:
        if job.config.variant == "ipo" and Path(os.environ["BROKEN"]).exists():
            raise OSError("the device is broken")
        Slow().train(job, desk)


class Kept:
    """The real trainer, which keeps every run after every step, so that a kill finds something to go on from."""

    def __init__(self) -> None:
        from trainers.dpo import DPOTrainerWorker

        self._trainer = DPOTrainerWorker(keep_every=0.0)

    def train(self, job: Job, desk: WorkQueue) -> None:
        self._trainer.train(job, desk)


class _SlowDesk:
    def __init__(self, desk: WorkQueue, seconds: float) -> None:
        self._desk, self._seconds = desk, seconds

    def take(self, like: str) -> Job | None:
        return self._desk.take(like)

    def report(self, key: str, step: int, metrics: Mapping[str, float]) -> Decision:
        time.sleep(self._seconds)
        return self._desk.report(key, step, metrics)

    def decision(self, key: str) -> Decision:
        return self._desk.decision(key)

    def finish(self, result: RunResult) -> None:
        self._desk.finish(result)

    def tell(self, news: News) -> None:
        self._desk.tell(news)


class Hungry:
    """The formula trainer, which first takes memory: as many MiB as `lora_r`, for each row of a micro-batch.

    Under ADDRESS_SPACE_MIB it may take no more than so many MiB beyond what it has at the start, by a limit of the
    kernel's own (setrlimit), and meets a MemoryError beyond it.
    """

    def __init__(self) -> None:
        self._limit = os.environ.get("ADDRESS_SPACE_MIB")
        if self._limit is not None:
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            most = pages * resource.getpagesize() + int(self._limit) * MEBIBYTE
            resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))

    def train(self, job: Job, desk: WorkQueue) -> None:
        settings = job.config.settings
        rows = int(settings["per_device_train_batch_size"]) // job.placement.split
        taken = [bytearray(int(settings["lora_r"]) * MEBIBYTE) for _ in range(rows)]
        for block in taken:  # pages that were never touched take no memory
            block[:: resource.getpagesize()] = b"x" * len(block[:: resource.getpagesize()])
        FormulaTrainer().train(job, desk)
