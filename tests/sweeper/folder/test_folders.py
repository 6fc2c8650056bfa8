"""Working folders with names that mean something in a URL, and working folders that were renamed, moved or copied."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dashboards.store.connection import store_uri
from dashboards.store.histories import load_asked, load_samples
from dashboards.store.records import load_records
from studies.records import Cause, RunResult, Shown
from studies.spec import arms, load_study, resolve_run
from sweeper.tracking.experiment.moved import are_elsewhere
from sweeper.tracking.tracker import Tracker

Sweeper = Callable[..., Any]
STUDY = """
study: small
trainer: formula
base: {model_name_or_path: embedded, use_peft: true, lora_r: 8, max_steps: 20, learning_rate: 1.0e-5}
variants: {sigmoid: {points: [{beta: 0.1}]}}
objective: {metric: ranking_gain}
"""
SAMPLE = Shown(prompt="a", before="b", after="c")
RUN = ("run", "study.yaml", "--executor", "inline")


@pytest.fixture(autouse=True)
def stores_are_copies() -> None:
    """Here they are made, where MLflow makes them."""


@pytest.fixture(autouse=True)
def own_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if every sweep were a process of its own: MLflow remembers in one where a run's artifacts were."""
    from mlflow.tracking._tracking_service import utils

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield
    utils._artifact_repos_cache.clear()


def begin(folder: Path, empty_mlflow: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(STUDY)
    shutil.copyfile(empty_mlflow, folder / "mlflow.db")
    return folder


def spoken(folder: Path) -> str:
    """A run of the study with a sample, as a finished sweep leaves it in the folder's store; its id."""
    from mlflow.tracking._tracking_service import utils

    spec = load_study(str(folder / "study.yaml"))
    tracker = Tracker(None, folder)
    tracker.open_study(spec, "study: small\n")
    config = resolve_run(spec, arms(spec)["sigmoid"], "clean", trial=9, knobs={"beta": 0.2}, block=0, seed=0)
    run_id = tracker.start_run(config, 1, "fixed")
    tracker.finish_run(run_id, config, RunResult(key=config.key, cause=Cause.FINISHED, samples=(SAMPLE,)))
    tracker.close_study(finished=True)
    utils._artifact_repos_cache.clear()
    return run_id


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


ONE_BY_ONE = ("a%20b", "100%", "what?", "a#b&c", "it's {x}")


@pytest.mark.usefixtures("torch_is_asked_once")
@pytest.mark.parametrize(
    "name",
    ["it's a%20b {x} #1?&c 100%", "grün: 数", *(pytest.param(name, marks=pytest.mark.slow) for name in ONE_BY_ONE)],
)
def test_everything_lies_in_the_working_folder_whatever_its_name(
    sweeper: Sweeper, tmp_path: Path, empty_mlflow: Path, name: str
) -> None:
    (tmp_path / "a b").mkdir()
    folder = begin(tmp_path / name, empty_mlflow)
    ended = sweeper(folder, *RUN)
    assert ended.returncode == 0, ended
    assert {"mlflow.db", "optuna.db", "mlartifacts", "runs"} < {path.name for path in folder.iterdir()}
    assert any((folder / "mlartifacts").rglob("table.md"))
    assert sweeper(folder, "report", "study.yaml").returncode == 0
    assert sweeper(folder, "doctor").returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {"a b", name}
    assert list((tmp_path / "a b").iterdir()) == []


def test_a_store_that_somebody_names_is_where_mlflow_has_it(
    sweeper: Sweeper, tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    folder = begin(tmp_path / "work", empty_mlflow)
    url = f"sqlite:///{tmp_path}/of%20all/x%2520y.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    assert sweeper(folder, *RUN, "--storage", "sqlite:///o%20p.db").returncode == 0
    assert [path.name for path in (tmp_path / "of all").iterdir()] == ["x%20y.db"]
    assert (folder / "o p.db").exists()
    assert MlflowClient(tracking_uri=url).get_experiment_by_name("small") is not None


def test_a_sweep_in_a_renamed_folder_writes_there_alone_and_says_so(
    sweeper: Sweeper, tmp_path: Path, empty_mlflow: Path
) -> None:
    old = begin(tmp_path / "old%20", empty_mlflow)
    run_id = spoken(old)
    new = old.rename(tmp_path / "new#1")
    ended = sweeper(new, *RUN)
    assert ended.returncode == 0, ended
    assert " ".join(ended.stdout.split()).count("was moved or copied") == 1
    assert not old.exists()
    client = Tracker(None, new)._client
    assert client.list_artifacts(run_id)
    assert len(list((new / "mlartifacts").rglob("config.json"))) == 2
    assert "moved" not in sweeper(new, *RUN).stdout


def test_a_sweep_in_a_copy_leaves_the_original_as_it_was(sweeper: Sweeper, tmp_path: Path, empty_mlflow: Path) -> None:
    old = begin(tmp_path / "old", empty_mlflow)
    spoken(old)
    new = tmp_path / "copy"
    shutil.copytree(old, new)
    before = files(old)
    assert sweeper(new, *RUN).returncode == 0
    assert files(old) == before
    assert len(list((new / "mlartifacts").rglob("config.json"))) == 2


def test_a_sweep_beside_a_copied_database_alone_leaves_the_original_as_it_was(
    sweeper: Sweeper, tmp_path: Path, empty_mlflow: Path
) -> None:
    old = begin(tmp_path / "old", empty_mlflow)
    run_id = spoken(old)
    new = begin(tmp_path / "copy", old / "mlflow.db")
    before = files(old)
    assert sweeper(new, *RUN).returncode == 0
    assert files(old) == before
    assert load_samples(store_uri(None, new), [run_id], new) == {run_id: (SAMPLE,)}  # lies in the original alone


@pytest.mark.parametrize("move", ["renamed", "copied"])
def test_samples_are_read_where_the_folder_is_now_and_nothing_is_changed(
    tmp_path: Path, empty_mlflow: Path, move: str
) -> None:
    old = begin(tmp_path / "old", empty_mlflow)
    run_id = spoken(old)
    new = tmp_path / "new"
    if move == "renamed":
        old.rename(new)
    else:
        shutil.copytree(old, new)
        next((old / "mlartifacts").rglob("samples.json")).write_text("[]")
        next((old / "mlartifacts").rglob("study.yaml")).write_text("another")
    before = files(tmp_path)
    uri = store_uri(None, new)
    assert load_samples(uri, [run_id], new) == {run_id: (SAMPLE,)}
    assert load_asked(uri, "small", new).text == "study: small\n"
    assert [record.run_id for record in load_records(uri, "small")] == [run_id]
    assert files(tmp_path) == before


def test_a_shared_store_keeps_the_artifacts_of_the_folder_that_made_them(
    sweeper: Sweeper, tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = begin(tmp_path / "shared", empty_mlflow)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shared}/mlflow.db")
    one = begin(tmp_path / "one", empty_mlflow)
    spoken(one)
    two = begin(tmp_path / "two", empty_mlflow)
    said: list[str] = []
    Tracker(None, two, said.append)
    assert said == []
    moved = one.rename(tmp_path / "uno")
    Tracker(None, moved, said.append)
    assert len(said) == 1
    assert str(one) in said[0]
    assert str(moved) in said[0]


def test_the_ui_shows_the_artifacts_of_a_moved_folder(
    sweeper: Sweeper, tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    monkeypatch.setattr("os.execv", lambda _program, arguments: started.extend(arguments))
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "")  # the command sets it
    old = begin(tmp_path / "old", empty_mlflow)
    run_id = spoken(old)
    new = old.rename(tmp_path / "new?")
    ended = sweeper(new, "ui", "--mlflow")
    assert "was moved or copied" in ended.stdout
    assert "server" in started
    assert Tracker(None, new)._client.list_artifacts(run_id)
    assert not old.exists()


def test_the_page_loads_mlflow_only_where_a_folder_was_moved(
    sweeper: Sweeper, tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.execv", lambda _program, _arguments: None)
    connected: list[str] = []
    with monkeypatch.context() as patched:
        folder = begin(tmp_path / "old", empty_mlflow)
        spoken(folder)
        patched.setattr("dashboards.store.connection.connect", lambda uri: connected.append(uri))
        assert sweeper(folder, "ui", "--port", "0").returncode == 0
        assert connected == []
    assert "was moved or copied" in sweeper(folder.rename(tmp_path / "new"), "ui", "--port", "0").stdout


def test_a_store_that_names_another_folder_is_known_without_mlflow(tmp_path: Path, empty_mlflow: Path) -> None:
    folder = begin(tmp_path / "a folder#1", empty_mlflow)
    spoken(folder)
    with closing(sqlite3.connect(folder / "mlflow.db")) as store:
        assert not are_elsewhere(store, folder)
        assert are_elsewhere(store, tmp_path / "another")
        store.execute("update experiments set artifact_location = 's3://bucket/of/all'")
        assert are_elsewhere(store, tmp_path / "another"), "its run names the folder still"
        store.execute("update runs set artifact_uri = 's3://bucket/of/all/x/artifacts'")
        assert not are_elsewhere(store, tmp_path / "another"), "that is no folder of anybody's"
