"""A new store is there whole or not at all: a process dies while MLflow makes its tables, and another begins anew."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sweeper.tracking.tracker import Tracker

KILLED = """
import os, signal, sys
import sqlalchemy
from sweeper.tracking.tracker import Tracker

left = [int(sys.argv[1])]

@sqlalchemy.event.listens_for(sqlalchemy.Engine, "after_cursor_execute")
def count(_connection, _cursor, statement, *_):
    left[0] -= statement.lstrip().startswith(("ALTER", "CREATE"))
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)

from pathlib import Path
Tracker(None, Path(sys.argv[2]))
"""


@pytest.fixture(autouse=True)
def stores_are_copies() -> None:
    """Here they are made."""


@pytest.mark.slow
def test_a_kill_while_the_tables_are_made_is_not_in_the_way_of_the_next_sweep(tmp_path: Path) -> None:
    for statements in (5, 80):
        died = subprocess.run([sys.executable, "-c", KILLED, str(statements), str(tmp_path)], capture_output=True)
        assert died.returncode == -signal.SIGKILL, died.stderr
        assert not (tmp_path / "mlflow.db").exists()
    Tracker(None, tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["mlflow.db"]


def test_a_store_that_is_there_is_left_as_it_is(tmp_path: Path, empty_mlflow: Path) -> None:
    shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db")
    before = (tmp_path / "mlflow.db").stat().st_ino
    Tracker(None, tmp_path)
    assert (tmp_path / "mlflow.db").stat().st_ino == before
