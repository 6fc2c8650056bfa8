"""Trains in warm worker processes, one per GPU or per share of the CPU cores.

One thread, the pump, owns the workers: it hands jobs to idle ones and receives their messages also while the sweep is
busy with its stores, so that no worker waits. POSIX only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

from studies.text.files import UnusableFile, is_folder
from sweeper.executors.base import Capacity, Event, SetAside, StopOrder
from sweeper.executors.process.pump import Close, Pump, Request
from sweeper.executors.process.team import Team, local_team
from trainers.interface import Job

MakeTeam = Callable[[str, int | None, Path, Collection[str]], Team]


class Process:
    """An executor with worker processes, which are started when there is a job for them and kept until `close`.

    `trainer` is a name as in a study file, or `module:Class`. `workers` None means one per GPU, else one per core.
    Workers print to `worker-N.log` in `log_folder`. `env`: names of environment variables that they get beside those
    that training needs. `team`: makes the workers of these four, by default on this machine.
    """

    def __init__(
        self,
        trainer: str,
        workers: int | None,
        log_folder: Path,
        env: Collection[str] = (),
        team: MakeTeam = local_team,
    ) -> None:
        log_folder.mkdir(parents=True, exist_ok=True)
        if not is_folder(log_folder):
            raise UnusableFile(log_folder, "is no real folder, and what workers print is kept there: move it away")
        made = team(trainer, workers, log_folder, env)
        self._places, self._door = dict(made.places), made.door
        self._requests: SimpleQueue[Request] = SimpleQueue()
        self._events: SimpleQueue[Event | BaseException] = SimpleQueue()
        pump = Pump(made, self._requests, self._events)
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

    def _request(self, request: Request) -> None:
        # Both steps may happen in a signal handler that interrupts either of them.
        self._requests.put(request)
        self._door.wake()
