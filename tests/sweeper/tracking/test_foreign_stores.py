"""A store of a stranger says where files of runs are kept: nothing is written elsewhere than MLflow puts them."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.store.artifact.ftp_artifact_repo import FTPArtifactRepository
from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
from mlflow.tracking._tracking_service import utils
from mlflow.tracking._tracking_service.client import TrackingServiceClient

from dashboards.store.connection import StoreError, StoreRefused, connect

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


def says(store: Path, place: str, but: str = "") -> None:
    """Write into the store that files of all runs `but` one are kept there."""
    with closing(sqlite3.connect(store)) as database, database:
        database.execute("update runs set artifact_uri = ? where run_uuid != ?", [place, but])


def _link_of_run(artifacts: Path, mine: Path) -> None:
    artifacts.parent.parent.mkdir(parents=True, exist_ok=True)
    artifacts.parent.symlink_to(mine)
    (mine / "artifacts").symlink_to(mine)


def _link_inside(artifacts: Path, mine: Path) -> None:
    artifacts.mkdir(parents=True)
    (artifacts / "deep").symlink_to(mine)


@pytest.mark.parametrize("put", [_link_of_run, _link_inside, None, "plain", "runs"])
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
        other = client.create_experiment("another", artifact_location=mine.as_uri())
        its = client.create_run(other).info.run_id
        says(store, {None: mine.as_uri(), "plain": str(mine), "runs": f"runs:/{its}/x"}[put], its)
    for name in (".bashrc", "deep/.bashrc"):
        with pytest.raises(StoreRefused, match="Nothing was written there"):
            client.log_text(run, "theirs", name)
    assert [path.name for path in mine.iterdir() if not path.is_symlink()] == [".bashrc"]
    assert (mine / ".bashrc").read_text() == "mine"


@pytest.mark.parametrize("place", ["https://example.org/x", "ftp://example.org/x"])
def test_files_of_a_run_go_where_a_store_keeps_them_on_another_machine(
    tmp_path: Path, empty_mlflow: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, str]] = []
    for kind in (HttpArtifactRepository, FTPArtifactRepository):
        monkeypatch.setattr(
            kind, "log_artifact", lambda self, file, _=None: sent.append((self.artifact_uri, Path(file).name))
        )
    shutil.copyfile(empty_mlflow, store := tmp_path / "mlflow.db")
    client = connect(f"sqlite:///{store}")
    run = client.create_run(client.create_experiment("team", artifact_location=place)).info.run_id
    client.log_text(run, "ours", "config.json")
    assert sent == [(f"{place}/{run}/artifacts", "config.json")]


def test_an_mlflow_whose_way_to_the_files_is_not_known_is_refused_by_its_version(
    tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copyfile(empty_mlflow, store := tmp_path / "mlflow.db")
    monkeypatch.delattr(TrackingServiceClient, "_get_artifact_repo")
    with pytest.raises(StoreError, match=f"MLflow {mlflow.__version__} is not known here"):
        connect(f"sqlite:///{store}")


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
