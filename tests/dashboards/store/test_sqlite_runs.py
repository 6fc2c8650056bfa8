"""Runs that are read from MLflow's tables are those that its client gives, at every moment. A real store on SQLite."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dashboards.store import sqlite_runs
from dashboards.store.connection import StoreError, connect
from dashboards.store.histories import load_curves
from dashboards.store.mlflow_tags import KIND, RUN, SUPERSEDED
from dashboards.store.records import StoredStudy, load_records, read_runs, stored_study
from dashboards.store.sqlite_runs import KNOWN_SCHEMAS, StoredRun, read_sqlite_experiments, read_sqlite_runs

ROOT = str(Path(__file__).parents[3])
TAGS = {
    "kind": "run", "key": "k", "variant": "ipo", "scenario": "clean", "block": "0", "seed": "0", "attempt": "1",
    "arm": "unbiased", "state": "COMPLETE", "cause": "finished",
}  # fmt: skip


@dataclass(frozen=True)
class Store:
    """A store with one study, and MLflow's client of it."""

    file: Path
    client: Any
    experiment: str

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.file}"

    def add(self, trial: int, status: str | None = "FINISHED", start: int | None = None, **tags: str) -> str:
        """A run with one measurement and one knob; a status of None leaves it running."""
        start = trial + 1 if start is None else start
        run = self.client.create_run(self.experiment, start, {**TAGS, "trial": str(trial), **tags}, f"ipo t{trial}")
        run_id: str = run.info.run_id
        self.client.log_metric(run_id, "gold", 0.1 * trial, timestamp=5, step=0)
        self.client.log_param(run_id, "beta", 0.1)
        if status:
            self.client.set_terminated(run_id, status)
        return run_id

    def read(self) -> list[StoredRun] | None:
        return read_sqlite_runs(self.file, "pilot", (KIND, RUN))

    def by_client(self) -> list[StoredRun]:
        return list(read_runs(self.client, self.experiment))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a store with three finished runs of the study `pilot`."""
    folder = tmp_path_factory.mktemp("filled")
    store = opened(folder / "mlflow.db", new=True)
    for trial in range(3):
        store.add(trial)
    return store.file


def opened(file: Path, new: bool = False) -> Store:
    client = connect(f"sqlite:///{file}")
    if new:
        client.create_experiment("pilot", artifact_location=file.parent.as_uri())
    return Store(file, client, client.get_experiment_by_name("pilot").experiment_id)


@pytest.fixture
def store(filled: Path, tmp_path: Path) -> Store:
    return opened(Path(shutil.copyfile(filled, tmp_path / "mlflow.db")))


def test_the_installed_mlflow_makes_tables_that_are_known(filled: Path) -> None:
    with closing(sqlite3.connect(filled)) as database:
        (version,) = database.execute("select version_num from alembic_version").fetchone()
    assert version in KNOWN_SCHEMAS, "compare MLflow's models with the queries of sqlite_runs.py, then add the version"


def test_both_readings_give_the_same_runs_in_the_same_order(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_runs, "CHUNK", 2)
    monkeypatch.setattr(sqlite_runs, "PAGE", 2)
    monkeypatch.setattr("dashboards.store.records.PAGE", 3)
    client = store.client
    store.add(3, "KILLED", cause="collapsed", state="PRUNED", message="ünï\ncode", **{"fact.empty": ""})
    store.add(4, "FAILED", start=2, superseded="tried again")
    running, deleted = store.add(5, None, start=2), store.add(6)
    client.delete_run(deleted)
    client.create_run(store.experiment, tags={"mine": "of another kind"})
    client.create_run(client.create_experiment("other"), tags=TAGS)
    for step, value in enumerate((1.0, float("nan"), float("inf"), float("-inf"), 1 / 3, 1e-300)):
        client.log_metric(running, f"at{step}", value, timestamp=5, step=0)
    for step, value in ((10, 0.5), (20, 0.25), (15, 0.75)):
        client.log_metric(running, "loss", value, timestamp=5, step=step)
    with closing(sqlite3.connect(store.file)) as database, database:
        database.execute("update tags set value = null where run_uuid = ? and key = 'attempt'", (running,))
    found = store.read()
    assert found is not None
    assert repr(found) == repr(store.by_client())
    assert len(found) == 6
    (unfinished,) = (run for run in found if run.run_id == running)
    assert unfinished.metrics["loss"] == 0.25


def test_both_readings_give_the_same_history_of_a_metric(store: Store) -> None:
    run_id = store.add(3, None)
    for step, value in ((4, 1 / 3), (2, float("nan")), (2, float("inf")), (2, 0.5), (4, 1 / 3), (9, -1e-300)):
        store.client.log_metric(run_id, "loss", value, timestamp=9 - step, step=step)
    found = load_curves(store.uri, [run_id], ["loss", "none"])
    assert repr(found[run_id]["loss"]) == repr(
        sorted((m.step, m.value) for m in store.client.get_metric_history(run_id, "loss"))
    )
    assert (len(found[run_id]["loss"]), list(found[run_id])) == (5, ["loss"])


def test_studies_are_listed_with_their_runs_whatever_the_size_of_a_page(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.client.delete_run(store.add(7, start=999))
    store.client.create_run(store.experiment, 999, tags={"mine": "of another kind"})
    other = store.client.create_experiment("other")
    store.client.create_run(other, 4, tags=TAGS)
    ended = max(run.ended or 0 for run in store.read() or ())
    for size in (1, 2, 3, 1000):
        monkeypatch.setattr(sqlite_runs, "PAGE", size)
        listed = read_sqlite_experiments(store.file, (KIND, RUN))
        assert listed is not None
        assert [(one.name, one.runs, one.last) for one in listed] == [
            ("Default", 0, None), ("other", 1, 4), ("pilot", 3, ended)
        ]  # fmt: skip


def test_both_readings_say_the_same_of_whose_a_study_is(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Marked or not, deleted or not, its newest run deleted or not."""
    client = store.client
    client.create_run(store.experiment, 99, tags={"mine": "of another kind"})
    client.create_run(client.create_experiment("other"), 99, tags=TAGS)
    newest = store.add(3, None, start=50, key="newest", **{"mlflow.user": "alice"})

    def said(name: str = "pilot") -> StoredStudy | None:
        by_tables = stored_study(store.uri, name)
        with monkeypatch.context() as unknown:
            unknown.setattr(sqlite_runs, "KNOWN_SCHEMAS", frozenset[str]())
            assert stored_study(store.uri, name) == by_tables
        return by_tables

    unmarked = said()
    assert unmarked is not None
    assert unmarked.keys == {"k", "newest"}
    assert (unmarked.user, unmarked.last) == ("alice", 0.05)
    client.delete_run(newest)
    assert said() == unmarked
    client.set_experiment_tag(store.experiment, "sweeper.id", "A")
    client.delete_experiment(store.experiment)
    marked = said()
    assert marked is not None
    assert marked.keys == {"newest"}
    assert marked.marks == {"id": "A"}
    empty = client.create_experiment("empty")
    assert said("empty") == StoredStudy({}, frozenset(), None, None, None)
    client.set_experiment_tag(empty, "sweeper.format", "99")
    with pytest.raises(StoreError, match="format 99"):
        stored_study(store.uri, "empty")
    assert said("of nobody") is None


def test_whose_a_study_is_is_read_without_mlflow(store: Store) -> None:
    code = (
        "import sys\nfrom dashboards.store.records import stored_study\n"
        f"assert stored_study({store.uri!r}, 'pilot') is not None\nassert 'mlflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True, env={**os.environ, "PYTHONPATH": ROOT})


def trials(store: Store) -> list[int]:
    return [record.trial for record in load_records(store.uri, "pilot")]


def metric(store: Store, trial: int, name: str) -> float | None:
    (record,) = (record for record in load_records(store.uri, "pilot") if record.trial == trial)
    return record.metrics.get(name)


def test_a_run_that_was_superseded_after_a_reading_is_not_in_the_next(store: Store) -> None:
    assert trials(store) == [0, 1, 2]
    store.client.set_tag(load_records(store.uri, "pilot")[1].run_id, SUPERSEDED, "tried again")
    assert trials(store) == [0, 2]


def test_a_run_that_was_deleted_is_gone_and_one_that_was_restored_is_back(store: Store) -> None:
    run_id = load_records(store.uri, "pilot")[0].run_id
    store.client.delete_run(run_id)
    assert trials(store) == [1, 2]
    store.client.restore_run(run_id)
    assert trials(store) == [0, 1, 2]


def test_what_was_measured_of_a_finished_run_later_is_read(store: Store) -> None:
    assert metric(store, 2, "judged") is None
    run_id = load_records(store.uri, "pilot")[2].run_id
    store.client.log_metric(run_id, "judged", 0.75, timestamp=9, step=0)
    assert metric(store, 2, "judged") == 0.75
    store.client.log_metric(run_id, "judged", 0.5, timestamp=10, step=1)
    assert metric(store, 2, "judged") == 0.5


def test_a_tag_that_somebody_edited_is_read(store: Store) -> None:
    run_id = load_records(store.uri, "pilot")[2].run_id
    store.client.set_tag(run_id, "trial", "7")
    assert trials(store) == [0, 1, 7]
    store.client.set_tag(run_id, "trial", "seven")
    with pytest.raises(StoreError, match=f"tags of MLflow run {run_id}.*seven"):
        trials(store)


def test_another_store_at_the_same_path_is_read_as_what_it_is(store: Store, tmp_path: Path) -> None:
    assert trials(store) == [0, 1, 2]
    other = opened(Path(shutil.copyfile(store.file, tmp_path / "other.db")))
    other.client.delete_run(load_records(other.uri, "pilot")[0].run_id)
    times = store.file.stat()
    os.replace(other.file, store.file)
    os.utime(store.file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert trials(store) == [1, 2]


def test_reading_leaves_the_folder_as_it_was(store: Store) -> None:
    folder, before = store.file.parent, store.file.read_bytes()
    names = sorted(folder.iterdir())
    store.file.chmod(0o444)
    folder.chmod(0o555)
    try:
        assert trials(store) == [0, 1, 2]
        assert (sorted(folder.iterdir()), store.file.read_bytes()) == (names, before)
    finally:
        folder.chmod(0o755)


def test_an_unfinished_write_of_another_process_is_not_seen_and_not_waited_for(store: Store) -> None:
    with closing(sqlite3.connect(store.file, isolation_level=None)) as writer:
        writer.execute("begin immediate")
        writer.execute("update tags set value = '9' where key = 'trial'")
        assert trials(store) == [0, 1, 2]
        writer.execute("commit")
    assert trials(store) == [9, 9, 9]


def test_what_a_killed_process_left_half_written_is_taken_back(store: Store) -> None:
    said = (
        "import os, sqlite3, sys; d = sqlite3.connect(sys.argv[1], isolation_level=None); "
        "d.execute('pragma cache_size = 1'); d.execute('begin'); "
        "d.execute(\"update tags set value = '9' where key = 'trial'\"); "
        "d.execute('create table filler as select randomblob(500000)'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", said, str(store.file)], check=False)
    assert Path(f"{store.file}-journal").is_file()
    assert trials(store) == [0, 1, 2]


def test_a_store_of_another_version_is_left_to_mlflow(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dashboards.store.sqlite_runs.KNOWN_SCHEMAS", frozenset({"728d730b5ebd"}))
    assert store.read() is None
    assert trials(store) == [0, 1, 2]


def test_a_store_that_the_installed_mlflow_does_not_work_with_is_refused(store: Store) -> None:
    with closing(sqlite3.connect(store.file)) as database, database:
        database.execute("update alembic_version set version_num = '728d730b5ebd'")
    assert store.read() is None
    with pytest.raises(StoreError, match="made by an older MLflow"):
        trials(store)


def test_a_damaged_page_is_told_in_a_sentence(store: Store) -> None:
    content = bytearray(store.file.read_bytes())
    with closing(sqlite3.connect(store.file)) as database:
        (page,) = database.execute("select rootpage from sqlite_master where name = 'latest_metrics'").fetchone()
        (size,) = database.execute("pragma page_size").fetchone()
    content[(page - 1) * size : page * size] = b"\x5a" * size
    store.file.write_bytes(content)
    with pytest.raises(StoreError, match=r"mlflow\.db is damaged"):
        load_records(store.uri, "pilot")


@pytest.mark.parametrize("study", ["pilot", "missing", "deleted"])
def test_a_study_that_is_missing_or_deleted_is_left_to_mlflow(store: Store, study: str) -> None:
    store.client.delete_experiment(store.client.create_experiment("deleted"))
    found = read_sqlite_runs(store.file, study, (KIND, RUN))
    assert (found is not None) == (study == "pilot")


def test_runs_of_a_file_are_read_without_loading_mlflow(store: Store) -> None:
    said = "import sys; from dashboards.store.records import load_records as l; l(sys.argv[1], 'pilot'); "
    said += "print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", said, store.uri], capture_output=True, text=True, check=True)
    assert not {"mlflow", "sqlalchemy"} & set(done.stdout.split())
