"""The PostgreSQL that tests start for themselves."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.services.postgres import Postgres, missing_postgres, running_postgres

pytestmark = pytest.mark.slow


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    if why := missing_postgres():
        pytest.skip(why)
    with running_postgres() as server:
        yield server
    assert not server.folder.exists()


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGQUIT], ids=["restarted", "crashed"])
def test_a_query_answers_and_what_was_written_is_there_after_a_restart(postgres: Postgres, by: signal.Signals) -> None:
    postgres.make("one")
    postgres.query("one", "create table numbers (number integer)")
    postgres.query("one", "insert into numbers values (42)")
    postgres.stop(by)
    postgres.start()
    assert postgres.query("one", "select number from numbers") == [("42",)]


def test_a_wrong_password_is_refused(postgres: Postgres) -> None:
    import psycopg

    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgres.url("postgres", password="wrong").replace("+psycopg", ""))
