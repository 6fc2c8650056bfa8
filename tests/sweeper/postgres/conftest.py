"""What the tests with both stores on PostgreSQL share: one server, two new databases a test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dashboards.store.connection import connect
from sweeper.search.storage import open_storage
from tests.services.postgres import Postgres, missing_postgres, running_postgres


@dataclass(frozen=True)
class Databases:
    """Two databases that hold nothing but tables, as a sweep is told them."""

    server: Postgres
    optuna: str
    mlflow: str

    @property
    def storage(self) -> str:
        """Optuna's URL."""
        return self.server.url(self.optuna)

    @property
    def tracking(self) -> str:
        """MLflow's URL."""
        return self.server.url(self.mlflow)

    @property
    def environment(self) -> dict[str, str]:
        """Both, as commands read them."""
        return {"OPTUNA_STORAGE": self.storage, "MLFLOW_TRACKING_URI": self.tracking}


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server whose two databases `of_optuna` and `of_mlflow` hold tables and nothing else."""
    if why := missing_postgres():
        pytest.skip(why)
    with running_postgres() as server:
        server.make("of_optuna", "of_mlflow")
        open_storage(server.url("of_optuna")).engine.dispose()
        connect(server.url("of_mlflow"))._tracking_client.store.engine.dispose()
        yield server


_numbers = itertools.count()


@pytest.fixture
def databases(postgres: Postgres) -> Databases:
    """Copies of these, made in a moment."""
    number = next(_numbers)
    for of in ("optuna", "mlflow"):
        postgres.query("postgres", f"create database {of}_{number} template of_{of}")
    return Databases(postgres, f"optuna_{number}", f"mlflow_{number}")


@pytest.fixture
def folder(tmp_path: Path, databases: Databases, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder whose stores are these databases."""
    for name, url in databases.environment.items():
        monkeypatch.setenv(name, url)
    return tmp_path
