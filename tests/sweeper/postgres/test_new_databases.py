"""Sweeps that find empty databases on a server at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from dashboards.store.connection import check_store
from sweeper.search.ledger import Ledger
from sweeper.search.storage import check_storage
from sweeper.tracking.experiment.new_store import make_store
from tests.services.postgres import Postgres

pytestmark = pytest.mark.slow


def at_once(call: Callable[[], None], times: int = 3) -> None:
    """Call it in so many threads that begin together; raises what one of them raises."""
    together = threading.Barrier(times)

    def begin(_: int) -> None:
        together.wait()
        call()

    with ThreadPoolExecutor(times) as pool:
        list(pool.map(begin, range(times)))


def test_one_makes_the_tables_and_the_others_wait(postgres: Postgres) -> None:
    postgres.make("new_optuna", "new_mlflow")
    storage, tracking = postgres.url("new_optuna"), postgres.url("new_mlflow")
    at_once(lambda: Ledger(storage, "small").make())
    assert check_storage(storage)
    at_once(lambda: make_store(tracking))
    assert check_store(tracking, write=True)
