"""Trains in warm worker processes, one per GPU or per share of the CPU cores.

One thread, the pump, owns the workers: it hands jobs to idle ones and receives their messages also while the sweep is
busy with its stores, so that no worker waits. POSIX only.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

from studies.text.files import UnusableFile, is_folder
from sweeper.executors.base import Capacity, Event, SetAside, StopOrder
from sweeper.executors.door.door import Door
from sweeper.executors.door.greeting import Welcome
from sweeper.executors.door.network import KEY_VARIABLE
from sweeper.executors.process.devices import GPU_VARIABLES, usable_cores, visible_gpus, worker_environments
from sweeper.executors.process.handle import Starter
from sweeper.executors.process.launcher import Launcher
from sweeper.executors.process.local import Local
from sweeper.executors.process.pump import Pump
from sweeper.executors.process.requests import Close, Request
from trainers.interface import Job


class Process:
    """An executor with worker processes, which are started when there is a job for them and kept until `close`.

    `trainer` is a name as in a study file, or `module:Class`. `workers` None means one per GPU, else one per core.
    Workers print to `worker-N.log` in `log_folder`. `env`: names of environment variables that they get beside those
    that training needs. `launcher`: starts them, by default on this machine.
    """

    def __init__(
        self,
        trainer: str,
        workers: int | None,
        log_folder: Path,
        env: Collection[str] = (),
        launcher: Launcher | None = None,
    ) -> None:
        gpus = visible_gpus(os.environ)
        environments = worker_environments(workers, gpus, usable_cores(), os.environ, env)
        log_folder.mkdir(parents=True, exist_ok=True)
        if not is_folder(log_folder):
            raise UnusableFile(log_folder, "is no real folder, and what workers print is kept there: move it away")
        self._requests: SimpleQueue[Request] = SimpleQueue()
        self._events: SimpleQueue[Event | BaseException] = SimpleQueue()
        self._wakeup, wakeups = socket.socketpair()
        self._wakeup.setblocking(False)
        key = secrets.token_hex(32)
        door, welcome = Door(key.encode(), wakeups), Welcome(trainer=trainer)
        launcher = Local() if launcher is None else launcher
        starters = [
            Starter(f"worker-{i}", welcome, {**env, KEY_VARIABLE: key}, log_folder, launcher)
            for i, env in enumerate(environments)
        ]
        self._places = {starter.name: _place(starter) for starter in starters}
        pump = Pump(starters, self._requests, door, self._events)
        self._pump = Thread(target=pump.run, name="executor", daemon=True)
        self._pump.start()

    @property
    def capacity(self) -> Capacity:
        """See `Executor.capacity`."""
        return Capacity(self._places, ahead=True)

    def submit(self, job: Job) -> None:
        """See `Executor.submit`. Jobs beyond the capacity let a worker that has finished go on at once."""
        if not self._pump.is_alive():
            raise RuntimeError("a closed or broken executor takes no more jobs; events(0) says what broke it")
        self._request(job)

    def events(self, timeout: float) -> list[Event]:
        """See `Executor.events`. Raises RuntimeError when workers can no longer be run at all."""
        found: list[Event | BaseException] = []
        with suppress(Empty):
            found.append(self._events.get(timeout=timeout))
            while True:
                found.append(self._events.get_nowait())
        broken = next((item for item in found if isinstance(item, BaseException)), None)
        if broken is not None:
            raise RuntimeError(f"the workers cannot be run any more: {broken}") from broken
        return [item for item in found if not isinstance(item, BaseException)]

    def stop(self, order: StopOrder) -> None:
        """See `Executor.stop`."""
        if isinstance(order, SetAside):
            self._places = {name: place for name, place in self._places.items() if name != order.worker}
        self._request(order)

    def close(self, now: bool = False) -> None:
        """See `Executor.close`."""
        self._request(Close(now))
        self._pump.join()
        self._wakeup.close()

    def _request(self, request: Request) -> None:
        # Both steps may happen in a signal handler that interrupts either of them.
        self._requests.put(request)
        with suppress(OSError):  # the socket is full, so the pump wakes up anyway, or it has ended
            self._wakeup.send(b"!")


def _place(starter: Starter) -> str:
    device = next((starter.environment[name] for name in GPU_VARIABLES if name in starter.environment), None)
    return f"{starter.name} on GPU {device}" if device else starter.name
