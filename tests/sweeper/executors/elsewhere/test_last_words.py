"""The end of a worker on another machine may be known before its last words have come; they count all the same."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

import pytest

from studies.records import Cause, RunResult
from sweeper.executors import Event, Executor, Finished, Lost, Process, Started
from sweeper.executors.door.dial import dial
from sweeper.executors.door.door import Door
from sweeper.executors.door.frames import framed, read_frame
from sweeper.executors.door.greeting import Welcome
from sweeper.executors.door.messages import FromWorker, Want, decode_order, encode
from sweeper.executors.door.shared import leave_mark
from sweeper.executors.process.handle import Starter
from sweeper.executors.process.team import Team
from trainers.interface import Job

KEY = b"a key for tests alone"
LATE_SECONDS = 0.5


class Early:
    """A launcher, and the handle of its one worker, of which it knows at once that it has ended; the worker says so
    later, or `speaks` no more.
    """

    place, connection, gone = "job 7", None, False

    def __init__(self, port: int, *, speaks: bool) -> None:
        self._port, self._speaks = port, speaks

    def launch(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> Early:
        log.touch()
        threading.Thread(target=self._work, args=(command[-1],), daemon=True).start()
        return self

    def _work(self, ticket: str) -> None:
        connection, _, _ = dial([f"127.0.0.1:{self._port}"], KEY, ticket)
        _tell(connection, Want(None))
        job = decode_order(read_frame(connection))
        assert isinstance(job, Job)
        _tell(connection, Started(job.config.key, ""))
        self.gone = True
        if self._speaks:
            time.sleep(LATE_SECONDS)
            _tell(connection, Finished(job.config.key, RunResult(key=job.config.key, cause=Cause.FINISHED)))
            connection.close()
        else:
            time.sleep(1000)

    def state(self) -> Literal["here", "gone"]:
        return "gone" if self.gone else "here"

    def begin(self) -> None:
        pass

    def kill(self) -> None:
        self.gone = True

    def why(self) -> tuple[Cause, str] | None:
        return Cause.WORKER_LOST, "its job has ended"


def _tell(connection: socket.socket, event: FromWorker) -> None:
    connection.sendall(framed(encode(event)))


@pytest.mark.parametrize(("speaks", "kind"), [(True, Finished), (False, Lost)])
def test_last_words_that_come_late_count_and_those_that_never_come_are_not_waited_for(
    tmp_path: Path,
    make_job: Callable[..., Job],
    until_ended: Callable[[Executor, int], list[Event]],
    monkeypatch: pytest.MonkeyPatch,
    speaks: bool,
    kind: type[Event],
) -> None:
    monkeypatch.setattr("sweeper.executors.process.handle.EXIT_SECONDS", 3.0 if speaks else 0.5)

    def team(trainer: str, _workers: int | None, logs: Path, _env: Collection[str]) -> Team:
        door, (name, holds) = Door(KEY), leave_mark(logs)
        early = Early(door.listen("127.0.0.1", 0), speaks=speaks)
        welcome = Welcome(trainer=trainer, folder=str(logs), file=name, holds=holds)
        return Team([Starter("worker-0", welcome, {}, logs, early)], {"worker-0": "worker-0"}, door)

    executor = Process("formula", 1, tmp_path / "logs", team=team)
    executor.submit(make_job("finish"))
    assert isinstance(until_ended(executor, 1)[-1], kind)
    executor.close(now=True)
