"""The worker process: receives jobs from its sweep, trains them with one warm trainer, sends events back.

Started as `python -m sweeper.executors.process.worker TICKET WHERE [PARENT]`: the ticket of its launch, where the sweep
is, and the process that it must not outlive. WHERE is `fd:N`, a connection that it has inherited, or the addresses of
the sweep, `HOST:PORT,HOST:PORT`. The sweep's key is in the environment. Loads what its trainer loads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from threading import Thread
from types import FrameType
from typing import NoReturn

from studies.records import Cause, RunResult
from studies.text.redact import note_settings, redact_output
from sweeper.executors.attempt import WarmTrainer
from sweeper.executors.base import Finished, Reported, Started, WorkerNews
from sweeper.executors.door.dial import NobodyThere, dial, inherit
from sweeper.executors.door.frames import framed, read_frame
from sweeper.executors.door.greeting import Refused, Welcome
from sweeper.executors.door.messages import End, FromWorker, Nothing, Stop, Want, decode_order, encode
from sweeper.executors.door.network import KEY_FILE_VARIABLE, KEY_VARIABLE, key_in
from sweeper.executors.elsewhere.fence import Fence
from trainers.interface import Decision, Job, News

# Reports that may queue for a slow sweep; further ones are dropped.
REPORTS_WAITING = 100
# Of a worker whose process cannot use its device any more, and of one that has not found its sweep, or is not wanted.
BROKEN, NOT_LET_IN = 3, 4
# For runs to end their step and keep their state after a SIGTERM; pre-empted machines go 30 s after it, or later.
LEAVE_SECONDS = 20
PR_SET_PDEATHSIG = 1


class Worker:
    """The worker's work queue, in three threads, so that training never waits: one trains, one receives, one sends."""

    def __init__(self, connection: socket.socket, trainer: str, fence: Fence | None = None) -> None:
        """`fence`: keeps other attempts at its runs away, where workers are on several machines."""
        self._connection, self._fence = connection, fence
        self._trainer = WarmTrainer(trainer)
        self._name = ""
        self._answers: SimpleQueue[Job | Nothing | None] = SimpleQueue()
        self._outbox: SimpleQueue[bytes | None] = SimpleQueue()
        self._stopped: set[str] = set()
        self._held: set[str] = set()
        self._ended = self._leaving = False

    def work(self, name: str) -> None:
        """Train jobs until the sweep has no more, or this process can compute nothing on its device any more: another
        one begins with the next job.
        """
        self._name = name
        signal.signal(signal.SIGTERM, partial(self._leave, os.getpid()))
        Thread(target=self._listen, daemon=True).start()
        sender = Thread(target=self._send_all, daemon=True)
        sender.start()
        while (job := self._ask(None)) is not None:
            self._trainer.attempt(job, self)
            if self._trainer.broken:
                break
        self._outbox.put(None)
        sender.join()
        if self._trainer.broken:
            os._exit(BROKEN)  # what a library does with the device at its end would fail, or hang
        if self._leaving:
            die_by(signal.SIGTERM)  # so that the sweep sees why

    def take(self, like: str) -> Job | None:
        """See `WorkQueue.take`."""
        return self._ask(like)

    def report(self, key: str, step: int, metrics: Mapping[str, float]) -> Decision:
        """See `WorkQueue.report`. Takes microseconds: another thread sends, and reports that it cannot send are
        dropped.
        """
        if self._outbox.qsize() < REPORTS_WAITING:
            self._tell(Reported(key, step, {name: float(value) for name, value in metrics.items()}))
        return self.decision(key)

    def decision(self, key: str) -> Decision:
        """See `WorkQueue.decision`."""
        return Decision.STOP if self._leaving or key in self._stopped else Decision.CONTINUE

    def finish(self, result: RunResult) -> None:
        """See `WorkQueue.finish`. A run that SIGTERM stopped is pre-empted, and will be tried again."""
        if self._leaving and result.cause is Cause.USER_STOP and result.key not in self._stopped:
            message = f"the worker was told to go by SIGTERM; {result.message}"
            result = result.model_copy(update={"cause": Cause.PREEMPTED, "message": message})
        if self._fence is not None:
            self._fence.end(result.key)
        self._tell(Finished(result.key, result))
        self._held.discard(result.key)

    def tell(self, news: News) -> None:
        """See `WorkQueue.tell`."""
        self._tell(WorkerNews(self._name, news))

    def _leave(self, process: int, _number: int, _frame: FrameType | None) -> None:
        """On SIGTERM: stop the runs at their next step, which keeps their state, and end. At once where there is no
        run, on a second one, and in a process that was forked from this one.
        """
        if self._leaving or not self._held or os.getpid() != process:
            die_by(signal.SIGTERM)
        self._leaving = True
        signal.alarm(LEAVE_SECONDS)  # by default it ends the process, also in the middle of native code

    def _ask(self, like: str | None) -> Job | None:
        """A job from the sweep; None where it has no such job, or has ended."""
        while not (self._ended or self._leaving):
            self._tell(Want(like))
            answer = self._answers.get()
            self._ended = answer is None
            if not isinstance(answer, Job):
                return None
            if self._begin(answer):
                return answer
        return None

    def _begin(self, job: Job) -> bool:
        """Whether the job's folder is this attempt's now; a run whose folder cannot be written ends here."""
        key = job.config.key
        self._held.add(key)
        self._tell(Started(key, self._name))
        try:
            if self._fence is not None:
                self._fence.begin(job)
        except OSError as error:
            self.finish(
                RunResult(key=key, cause=Cause.INFRASTRUCTURE, message=f"its folder cannot be written: {error}")
            )
            return False
        return True

    def _tell(self, event: FromWorker) -> None:
        # Encoded here and not in the sending thread: what JSON has no words for must end this process, not silence it.
        self._outbox.put(framed(encode(event)))

    def _send_all(self) -> None:
        while (message := self._outbox.get()) is not None:
            try:
                self._connection.sendall(message)
            except OSError:
                return  # the sweep is gone; the receiving thread ends the process

    def _listen(self) -> None:
        """Receive orders. The end of the connection means that the sweep is gone, or has given this worker up."""
        while True:
            try:
                order = decode_order(read_frame(self._connection))
            except (EOFError, OSError, ValueError):
                end_group()
            match order:
                case Job():
                    # A stop that was too late for an earlier attempt must not end this one.
                    self._stopped.discard(order.config.key)
                    note_settings(order.config.model_dump())
                    self._answers.put(order)
                case Nothing():
                    self._answers.put(order)
                case Stop(key):
                    self._stopped.add(key)
                case End():
                    self._answers.put(None)


def die_by(number: signal.Signals) -> None:
    """End this process as if it had never handled the signal."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def fenced_off(key: str) -> NoReturn:
    """End this process: another attempt at one of its runs has begun."""
    print(f"Another attempt at run {key} has begun: this worker ends.", file=sys.stderr)  # noqa: T201
    end_group()


def end_group() -> NoReturn:
    """Kill this process and its children at once."""
    with suppress(OSError):  # where a container or a cluster has put it into the group of another one
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends (Linux).

    The receiving thread notices a lost parent on every system, but cannot run while native code holds the interpreter's
    lock.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before the call above
        end_group()


def main() -> None:
    """Entry point; see the module's docstring."""
    redact_output()  # it goes to the worker's log
    ticket, where, *parent = sys.argv[1:]
    # Ctrl-C is for the sweep alone, which then stops the worker.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if parent:
        die_with(int(parent[0]))
    try:
        connection, welcome = _reach(where, ticket)
        if welcome.start:
            os.chdir(welcome.start)
    except (NobodyThere, Refused, OSError, EOFError, ValueError) as error:
        print(f"This worker has nothing to do: {error or 'the sweep has hung up'}", file=sys.stderr)  # noqa: T201
        sys.exit(NOT_LET_IN)
    fence = None if welcome.folder is None else Fence(ticket, fenced_off)
    Worker(connection, welcome.trainer, fence).work(welcome.name)


def _reach(where: str, ticket: str) -> tuple[socket.socket, Welcome]:
    """The connection to the sweep, and what it says; takes the key out of the environment."""
    key = key_in(os.environ)
    for name in (KEY_VARIABLE, KEY_FILE_VARIABLE):
        os.environ.pop(name, None)
    if where.startswith("fd:"):
        return inherit(int(where.removeprefix("fd:")), key, ticket)
    connection, welcome, _ = dial(where.split(","), key, ticket)
    return connection, welcome


if __name__ == "__main__":
    main()
