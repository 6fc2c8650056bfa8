"""Stores that are not there or not understood. What is read from a good one: tests/sweeper/tracking/test_tracker.py."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from dashboards.store.connection import StoreError, StoreMissing, connect, store_uri
from dashboards.store.mlflow_tags import decode, encode
from dashboards.store.records import load_records
from studies.records import Scalar


@pytest.fixture
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_the_store_is_mlflow_db_in_the_working_folder(tmp_path: Path, no_environment: None) -> None:
    assert store_uri(None, tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"


def test_the_environment_names_another_store_and_an_option_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert store_uri(None, tmp_path) == "http://127.0.0.1:5000"
    assert store_uri("sqlite:///other.db", tmp_path) == f"sqlite:///{tmp_path}/other.db"


def test_an_absolute_store_stays_where_it_is(tmp_path: Path) -> None:
    assert store_uri("sqlite:////somewhere/else.db", tmp_path) == "sqlite:////somewhere/else.db"


def test_reading_a_missing_store_is_an_error_and_makes_none(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing, match="no MLflow store"):
        load_records(store_uri("sqlite:///mlflow.db", tmp_path), "pilot")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["empty", "text", "another database"])
def test_a_file_that_is_no_mlflow_store_is_left_as_it_is(tmp_path: Path, content: str) -> None:
    file = tmp_path / "mlflow.db"
    if content == "another database":
        with closing(sqlite3.connect(file)) as database:
            database.execute("create table trials (id int)")
    else:
        file.write_text("" if content == "empty" else "no database at all, but longer than a hundred bytes " * 9)
    before = file.read_bytes()
    said = "no database at all" if content == "text" else "no MLflow store"
    with pytest.raises(StoreError, match=said):
        load_records(f"sqlite:///{file}", "pilot")
    assert file.read_bytes() == before


def test_an_unknown_study_is_told_with_those_that_are_there(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    connect(uri).create_experiment("quickstart", artifact_location=tmp_path.as_uri())
    with pytest.raises(StoreMissing, match=r"no study 'quickstrt'; it holds: quickstart\."):
        load_records(uri, "quickstrt")
    assert load_records(uri, "quickstart") == []


def test_more_runs_than_a_page_are_all_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dashboards.store.records.PAGE", 2)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = connect(uri)
    experiment = client.create_experiment("pilot", artifact_location=tmp_path.as_uri())
    tags = {"kind": "run", "key": "k", "variant": "ipo", "scenario": "clean", "block": "0", "seed": "0"}
    tags |= {"attempt": "1", "arm": "fixed", "state": "RUNNING"}
    for trial in range(5):
        client.create_run(experiment, tags={**tags, "trial": str(trial)}, start_time=trial + 1)
    client.create_run(experiment, tags={"mine": "not ours"})
    assert [record.trial for record in load_records(uri, "pilot")] == [0, 1, 2, 3, 4]
    edited = client.create_run(experiment, tags={**tags, "trial": "five"}).info.run_id
    with pytest.raises(StoreError, match=f"tags of MLflow run {edited}.*five"):
        load_records(uri, "pilot")


@pytest.mark.parametrize("value", [0.1, 1e-05, 3, True, None, "ipo", "12", "true", "", "null", '"quoted"', "1e-5"])
def test_a_knob_is_read_as_it_was_written(value: Scalar) -> None:
    again = decode(encode(value))
    assert (again, type(again)) == (value, type(value))


def test_plain_text_and_numbers_are_stored_as_people_write_them() -> None:
    assert [encode(v) for v in ("ipo", 0.1, 3)] == ["ipo", "0.1", "3"]
