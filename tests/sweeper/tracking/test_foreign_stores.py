"""A store of a stranger says where files of runs are kept: nothing is written elsewhere than MLflow puts them."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking._tracking_service import utils

from dashboards.store.connection import StoreRefused, connect

STUDY = """
study: small
trainer: formula
base: {model_name_or_path: embedded, max_steps: 4}
variants: {ipo: {}}
objective: {metric: ranking_gain}
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder of other work."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / ".bashrc").write_text("mine")
    return tmp_path / "mine"


def says(store: Path, place: str) -> None:
    """Write into the store that files of all runs are kept there."""
    with closing(sqlite3.connect(store)) as database, database:
        database.execute("update runs set artifact_uri = ?", [place])


def _link_of_run(artifacts: Path, mine: Path) -> None:
    artifacts.parent.parent.mkdir(parents=True, exist_ok=True)
    artifacts.parent.symlink_to(mine)
    (mine / "artifacts").symlink_to(mine)


def _link_inside(artifacts: Path, mine: Path) -> None:
    artifacts.mkdir(parents=True)
    (artifacts / "deep").symlink_to(mine)


@pytest.mark.parametrize("put", [_link_of_run, _link_inside, None, "https://example.org/x"])
def test_what_a_store_calls_the_place_of_a_runs_files_is_no_other(
    tmp_path: Path, mine: Path, empty_mlflow: Path, put: Callable[[Path, Path], None] | str | None
) -> None:
    shutil.copyfile(empty_mlflow, store := tmp_path / "mlflow.db")
    client = connect(f"sqlite:///{store}")
    place = tmp_path / "mlartifacts" / "small"
    run = client.create_run(client.create_experiment("small", artifact_location=place.as_uri())).info.run_id
    if callable(put):
        put(place / run / "artifacts", mine)
    else:
        says(store, put or mine.as_uri())
    for name in (".bashrc", "deep/.bashrc"):
        with pytest.raises(StoreRefused, match="Nothing was written there"):
            client.log_text(run, "theirs", name)
    assert [path.name for path in mine.iterdir() if not path.is_symlink()] == [".bashrc"]
    assert (mine / ".bashrc").read_text() == "mine"


@pytest.mark.slow
def test_a_sweep_on_a_store_and_a_journal_of_a_stranger_replaces_no_file(
    sweeper: Callable[..., Any], tmp_path: Path, mine: Path, empty_mlflow: Path
) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db")
    run = ("run", "study.yaml", "--executor", "inline")
    assert sweeper(tmp_path, *run).returncode == 0
    says(tmp_path / "mlflow.db", mine.as_uri())
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        ((identity,),) = database.execute("select run_uuid from runs limit 1").fetchall()
    line = {"do": "files", "time": 1, "run": identity, "files": {".bashrc": "theirs"}}
    (tmp_path / "runs" / "small" / "mlflow-journal.jsonl").write_text(json.dumps(line) + "\n")
    utils._artifact_repos_cache.clear()  # as in the process of somebody who has just been given all this
    refused = sweeper(tmp_path, *run)
    assert refused.returncode == 2
    assert "Nothing was written there" in refused.stderr
    assert {path.name: path.read_text() for path in mine.iterdir()} == {".bashrc": "mine"}
