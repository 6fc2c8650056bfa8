"""What the sweep's side of many workers costs: connecting them, and the pump's CPU for each message and run.

    python -m tests.benchmarks.many_workers --workers 200 --seconds 20

The workers are simulated: one process speaks for all of them, each over a TCP connection of its own and with the real
greeting and messages. A run takes an exponential time, 4 s in the mean, and reports five steps; so each run is nine
messages with the job. Door, pump and executor are the real ones. The pump's CPU is that of its thread.
"""

from __future__ import annotations

import argparse
import heapq
import os
import random
import selectors
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from studies.records import Cause, DataConfig, EvaluationConfig, RunConfig, RunResult
from sweeper.executors import Finished, Process, Reported, Started
from sweeper.executors.door.dial import dial
from sweeper.executors.door.door import Door
from sweeper.executors.door.frames import Frames
from sweeper.executors.door.greeting import Welcome
from sweeper.executors.door.messages import End, FromWorker, Want, decode_order, encode
from sweeper.executors.process.handle import Starter
from sweeper.executors.process.team import Team
from trainers.interface import Job

KEY = "a key for benchmarks alone"
MEAN_SECONDS, REPORTS = 4.0, 5


@dataclass
class Simulated:
    """See `Launcher`; and the handle of each worker, as they all live in one process."""

    crowd: subprocess.Popen[str]
    place: str = "simulated"
    connection: None = None

    def launch(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> Simulated:
        assert self.crowd.stdin is not None
        log.touch()
        print(command[-1], file=self.crowd.stdin, flush=True)
        return self

    def state(self) -> Literal["here"]:
        return "here"

    def begin(self) -> None:
        pass

    def kill(self) -> None:
        pass

    def why(self) -> tuple[Cause, str]:
        return Cause.WORKER_LOST, "its connection has ended"


def measure(workers: int, seconds: float) -> None:
    """Print how long it took to connect so many workers, and what they cost for so many seconds."""
    random.seed(1)
    door = Door(KEY.encode())
    port = door.listen("127.0.0.1", 0)
    command = [sys.executable, "-m", "tests.benchmarks.many_workers", "--crowd", f"127.0.0.1:{port}"]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as crowd,
    ):
        assert crowd.stdout is not None
        crowd.stdout.readline()  # it has loaded all it needs
        executor = Process("formula", None, Path(folder), team=partial(_team, workers, door, Simulated(crowd)))
        clock = time.pthread_getcpuclockid(_pump().ident or 0)
        jobs = iter(range(10**9))
        for _ in range(workers + workers // 10):
            executor.submit(_job(next(jobs), Path(folder)))
        began, started, counted, runs = time.monotonic(), 0, 0, 0
        while started < workers:
            events = executor.events(1.0)
            started += sum(isinstance(event, Started) for event in events)
        connected = time.monotonic() - began
        at, cpu = time.monotonic(), time.clock_gettime(clock)
        while time.monotonic() - at < seconds:
            for event in executor.events(0.2):
                counted += isinstance(event, Started | Reported | Finished)
                if isinstance(event, Finished):
                    runs += 1
                    executor.submit(_job(next(jobs), Path(folder)))
        spent, took = time.clock_gettime(clock) - cpu, time.monotonic() - at
        messages = counted + runs  # a run that ends is followed by a want, which is no event
        sys.stdout.write(
            f"{workers} workers connected and at work after {connected:.2f} s, {cpu:.2f} s of the pump's CPU\n"
        )
        sys.stdout.write(
            f"{runs / took:.0f} runs/s, {messages / took:.0f} messages/s: {1e6 * spent / messages:.0f} us of CPU a "
            f"message, {1e3 * spent / runs:.2f} ms a run, {100 * spent / took:.1f} % of a core\n"
        )
        executor.close(now=True)
        if crowd.stdin is not None:
            crowd.stdin.close()


def _team(
    count: int, door: Door, launcher: Simulated, trainer: str, _workers: int | None, logs: Path, _env: Collection[str]
) -> Team:
    starters = [Starter(f"worker-{i}", Welcome(trainer=trainer), {}, logs, launcher) for i in range(count)]
    return Team(starters, {starter.name: starter.name for starter in starters}, door)


def _pump() -> threading.Thread:
    return next(thread for thread in threading.enumerate() if thread.name == "executor")


def _job(number: int, folder: Path) -> Job:
    config = RunConfig(
        study="many",
        variant="sigmoid",
        scenario="clean",
        trial=number,
        block=0,
        seed=0,
        settings={"beta": 0.1, "learning_rate": 1e-4, "max_steps": 100},
        knobs={"beta": 0.1},
        data=DataConfig(),
        evaluation=EvaluationConfig(),
    )
    return Job(config, folder / config.key)


@dataclass
class _Worker:
    frames: Frames
    key: str = ""
    step: int = 0


def crowd(address: str) -> None:
    """Be all workers whose tickets come by standard input, until it ends."""
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ, None)
    os.set_blocking(sys.stdin.fileno(), False)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    due: list[tuple[float, int, _Worker]] = []
    count = 0
    while True:
        wait = max(0.0, due[0][0] - time.monotonic()) if due else 1.0
        for key, _ in selector.select(wait):
            if key.data is None:
                tickets = sys.stdin.read()
                if not tickets:
                    return
                for ticket in tickets.split():
                    connection, _, _ = dial([address], KEY.encode(), ticket)
                    worker = _Worker(Frames(connection, 1 << 20))
                    selector.register(connection, selectors.EVENT_READ, worker)
                    _tell(worker, Want(None))
            else:
                try:
                    orders = [decode_order(data) for data in key.data.frames.receive()]
                except (EOFError, OSError):
                    orders = [End()]
                for order in orders:
                    if isinstance(order, Job):
                        key.data.key, key.data.step = order.config.key, 0
                        _tell(key.data, Started(order.config.key, ""))
                        count += 1
                        heapq.heappush(due, (time.monotonic() + _step(), count, key.data))
                    elif isinstance(order, End):
                        selector.unregister(key.fileobj)
                        key.data.frames.close()
        while due and due[0][0] <= time.monotonic():
            _, _, worker = heapq.heappop(due)
            worker.step += 1
            if worker.frames.socket.fileno() < 0:
                continue
            if worker.step <= REPORTS:
                metrics = {"loss": random.random(), "rewards/margins": random.random(), "grad_norm": random.random()}
                _tell(worker, Reported(worker.key, worker.step, metrics))
                count += 1
                heapq.heappush(due, (time.monotonic() + _step(), count, worker))
            else:
                curve = tuple((step, {"loss": 0.5, "rewards/margins": 0.1}) for step in range(24))
                _tell(worker, Finished(worker.key, RunResult(key=worker.key, cause=Cause.FINISHED, curve=curve)))
                _tell(worker, Want(None))


def _step() -> float:
    return random.expovariate((REPORTS + 1) / MEAN_SECONDS)


def _tell(worker: _Worker, event: FromWorker) -> None:
    worker.frames.send(encode(event))


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--workers", type=int, default=200)
    options.add_argument("--seconds", type=float, default=20.0)
    options.add_argument("--crowd", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.crowd:
        crowd(given.crowd)
    else:
        measure(given.workers, given.seconds)
