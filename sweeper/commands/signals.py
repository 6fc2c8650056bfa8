"""Stops a sweep at Ctrl-C and SIGTERM, and keeps it alive when its terminal closes."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Protocol

from sweeper.executors import Cancel, DropWaiting, Executor

AGAIN_SECONDS = 0.05  # until an interrupt that Python dropped comes again


class Stopper:
    """Stops what an executor trains, as a phase of a session."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.stopped = False

    def stop(self) -> None:
        """Stop all runs at their next step."""
        self.stopped = True
        self._executor.stop(Cancel())

    def finish_up(self) -> None:
        """Start nothing new."""
        self.stopped = True
        self._executor.stop(DropWaiting())


class Stoppable(Protocol):
    """A phase that trains."""

    def stop(self) -> None:
        """Stop at the next step of each run in training."""
        ...

    def finish_up(self) -> None:
        """Start nothing new."""
        ...


@contextmanager
def stop_on_interrupt(phases: Sequence[Stoppable], tell_user: Callable[[str], None]) -> Iterator[None]:
    """First SIGINT or SIGTERM: stop cleanly. Second: KeyboardInterrupt. SIGHUP: stop cleanly, in silence. SIGUSR1:
    finish what runs. Under `nohup`, where SIGHUP is ignored, it stays so.
    """
    asked = 0

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            # What is cut short may be a query, and SQLAlchemy prints a traceback of how it then closed the cursor.
            logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
            raise KeyboardInterrupt
        tell_user("Stopping at the next step; once more stops at once. The same command goes on from here.")
        for phase in phases:
            phase.stop()

    def hang_up(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = max(asked, 1)
        let_go_of_terminal()
        for phase in phases:
            phase.stop()

    def finish_up(_number: int, _frame: FrameType | None) -> None:
        tell_user("Finishing what runs and starting nothing new. The same command goes on from here.")
        for phase in phases:
            phase.finish_up()

    handlers = {signal.SIGINT: stop, signal.SIGTERM: stop, signal.SIGUSR1: finish_up}
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        handlers[signal.SIGHUP] = hang_up
    before, hook = {number: signal.signal(number, handler) for number, handler in handlers.items()}, sys.unraisablehook

    def unraisable(found: sys.UnraisableHookArgs) -> None:
        """Interrupt again, elsewhere, where Python dropped it: in a finalizer or the callback of a weak reference."""
        if found.exc_type is KeyboardInterrupt:
            threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), signal.SIGINT)).start()
        else:
            hook(found)

    sys.unraisablehook = unraisable
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextmanager
def as_interrupt() -> Iterator[None]:
    """Raise KeyboardInterrupt at SIGTERM and SIGHUP too, so that what is inside cleans up. Under `nohup`, where SIGHUP
    is ignored, it stays so.
    """

    def interrupt(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            let_go_of_terminal()
        raise KeyboardInterrupt

    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def let_go_of_terminal() -> None:
    """Discard output that went to a terminal: it is closed, and writing to it would raise."""
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # no file behind it, as in a notebook
            if os.isatty(stream.fileno()):
                os.dup2(silence, stream.fileno())
    os.close(silence)
