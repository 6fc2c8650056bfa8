"""The second Ctrl-C stops at once and prints one sentence."""

from __future__ import annotations

import logging
import os
import signal
import time
import weakref
from collections.abc import Iterator

import pytest
import sqlalchemy

from sweeper.commands.signals import AGAIN_SECONDS, stop_on_interrupt


class Phase:
    """What trains, and how often it was asked to stop."""

    stopped = 0

    def stop(self) -> None:
        self.stopped += 1

    def finish_up(self) -> None:
        raise AssertionError("nobody asked for that")


@pytest.fixture
def loud() -> Iterator[None]:
    """SQLAlchemy's own level, as it is in a new process."""
    logger = logging.getLogger("sqlalchemy.pool")
    before = logger.level
    yield
    logger.setLevel(before)


def test_a_second_interrupt_in_a_query_prints_no_traceback(loud: None, caplog: pytest.LogCaptureFixture) -> None:
    engine, phase, said = sqlalchemy.create_engine("sqlite://"), Phase(), list[str]()

    def interrupted_twice() -> None:
        with stop_on_interrupt((phase,), said.append):
            os.kill(os.getpid(), signal.SIGINT)
            assert (phase.stopped, len(said)) == (1, 1)
            os.kill(os.getpid(), signal.SIGINT)

    class Cursor:
        """One that cannot be closed, as after an interrupt in the middle of a query."""

        def close(self) -> None:
            raise sqlalchemy.exc.ProgrammingError("", None, ValueError("Cannot operate on a closed database."))

    with pytest.raises(KeyboardInterrupt):
        interrupted_twice()
    with engine.connect() as connection:
        connection._safe_close_cursor(Cursor())
    assert "Error closing cursor" not in caplog.text


def test_a_second_interrupt_that_python_drops_comes_again_and_prints_nothing(
    loud: None, capfd: pytest.CaptureFixture[str]
) -> None:
    """An exception in the callback of a weak reference goes nowhere, and SQLAlchemy has many of them."""
    phase = Phase()

    def interrupted_twice() -> None:
        with stop_on_interrupt((phase,), lambda _: None):
            os.kill(os.getpid(), signal.SIGINT)
            watched = Phase()
            watch = weakref.ref(watched, lambda _: os.kill(os.getpid(), signal.SIGINT))
            del watched
            assert watch() is None
            time.sleep(100 * AGAIN_SECONDS)

    with pytest.raises(KeyboardInterrupt):
        interrupted_twice()
    assert capfd.readouterr().err == ""
