"""Waits for a database on a server that went away in the middle of a sweep; knows no call in particular."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import sqlalchemy

from dashboards.store.databases import is_lost, shown
from sweeper.search.storage import StorageError, reason_of

AWAY_SECONDS = 300.0  # after which a sweep no longer waits
FIRST_WAIT, LONGEST_WAIT = 0.5, 10.0  # between tries

Answer = TypeVar("Answer")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """What goes with waiting: who is told, and what is asked before a call is made again, which raises where the study
    is somebody else's by now.
    """

    say: Callable[[str], None] = _log.warning
    check: Callable[[], None] = lambda: None


LOGGED: Final = Patience()


def again(url: str, patience: Patience, call: Callable[[], Answer]) -> Answer:
    """The answer of a call that is safe to repeat; it is repeated while its database is away.

    Raises what it raised last once that has been so for `AWAY_SECONDS`, and at once whatever else it raises.
    """
    from optuna.exceptions import StorageInternalError

    began, wait, tries = time.monotonic(), FIRST_WAIT, 0
    while True:
        tries += 1
        try:
            if tries > 1:
                patience.check()
            answer = call()
        except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError, StorageError) as error:
            if not is_lost(url, error) or time.monotonic() - began > AWAY_SECONDS:
                raise
            if tries == 1:
                patience.say(
                    f"Optuna's storage {shown(url)} does not answer ({reason_of(error)}). It is tried again for "
                    f"{AWAY_SECONDS:g} s; what trains goes on."
                )
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)
        else:
            if tries > 1:
                patience.say(f"Optuna's storage answers again, after {time.monotonic() - began:.0f} s.")
            return answer
