"""The tracker and whole sweeps while MLflow is away: nothing is lost, nothing is there twice."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

from dashboards.store.connection import StoreAway, StoreError
from dashboards.store.records import load_records
from studies.records import Cause, State
from sweeper.folder.names import JOURNAL
from sweeper.tracking import outbox
from sweeper.tracking.tracker import Tracker
from tests.sweeper.tracking.test_tracker import SPEC, a_config, a_result

Sweeper = Callable[..., Any]
FORMULA = """
study: small
trainer: formula
base: {model_name_or_path: embedded, use_peft: true, lora_r: 8, max_steps: 6, learning_rate: 1.0e-5}
variants: {sigmoid: {}, ipo: {}}
space: {beta: {low: 0.01, high: 1.0, log: true}}
budget: {trials: 2}
objective: {metric: ranking_gain}
"""


class Client:
    """MLflow's client at the edge: answers as the real one, or fails as that fails when its store does."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.left = 10**9  # calls that still get through
        self.lose_answer = False  # the call is done and its answer is lost

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if self.left <= 0 and not self.lose_answer:
                raise MlflowException("database is locked", TEMPORARILY_UNAVAILABLE)
            self.left -= 1
            answer = getattr(self._real, name)(*arguments, **options)
            if self.left < 0 and self.lose_answer:
                raise MlflowException("database is locked", TEMPORARILY_UNAVAILABLE)
            return answer

        return call


@pytest.fixture
def folder(empty_mlflow: Path, tmp_path: Path) -> Path:
    (tmp_path / "mlflow.db").write_bytes(empty_mlflow.read_bytes())
    return tmp_path


def opened(folder: Path, told: list[str]) -> tuple[Tracker, Client]:
    tracker = Tracker(None, folder, told.append)
    tracker.open_study(SPEC, "study: pilot\n")
    client = Client(tracker._client)
    tracker._client = client
    return tracker, client


def journal(folder: Path) -> Path:
    return folder / "runs" / "pilot" / JOURNAL


def write_two_runs(tracker: Tracker) -> None:
    for trial in range(2):
        config = a_config(trial)
        run_id = tracker.start_run(config, 1, "unbiased")
        tracker.log_curve(run_id, [(10, {"loss": 0.7})])
        tracker.finish_run(run_id, config, a_result(config))
    failed = a_config(5)
    run_id = tracker.start_run(failed, 1, "unbiased")
    tracker.finish_run(run_id, failed, a_result(failed, cause=Cause.WORKER_LOST))
    tracker.supersede(run_id, "tried again")


def told_by(folder: Path) -> list[Any]:
    """What a reader sees, without the ids that MLflow gives and the times of day."""
    records = load_records(f"sqlite:///{folder}/mlflow.db", "pilot")
    return [record.model_copy(update={"run_id": "", "started": None, "ended": None}) for record in records]


@pytest.fixture(scope="module")
def undisturbed(empty_mlflow: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "mlflow.db").write_bytes(empty_mlflow.read_bytes())
    tracker, _ = opened(folder, [])
    write_two_runs(tracker)
    return told_by(folder)


@pytest.mark.parametrize("lose_answer", [False, True], ids=["not-done", "done-without-an-answer"])
@pytest.mark.parametrize("left", [0, 1, 2, 3, 5, 8, 14])
def test_a_store_that_goes_away_at_any_call_and_returns_misses_nothing(
    folder: Path, undisturbed: list[Any], left: int, lose_answer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "FIRST_WAIT", 1000.0)
    told: list[str] = []
    tracker, client = opened(folder, told)
    client.left, client.lose_answer = left, lose_answer
    write_two_runs(tracker)
    assert tracker.undelivered
    assert len(told) == 1
    client.left = 10**9
    tracker.close_study(finished=True)
    assert tracker.undelivered == 0
    assert len(told) == 2
    assert not journal(folder).exists()
    assert told_by(folder) == undisturbed


@pytest.mark.parametrize("left", [0, 2, 7])
def test_the_next_sweep_delivers_what_the_last_could_not(
    folder: Path, undisturbed: list[Any], left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "FIRST_WAIT", 0.0)
    tracker, client = opened(folder, [])
    client.left = left
    write_two_runs(tracker)
    tracker.close_study(finished=True)
    kept = journal(folder).read_bytes()
    told: list[str] = []
    again, _ = opened(folder, told)
    assert told_by(folder) == undisturbed
    assert len(told) == 1
    assert not journal(folder).exists()
    again.close_study(finished=True)
    # A process that dies after delivering and before it removes the journal delivers all of it again.
    journal(folder).write_bytes(kept)
    opened(folder, [])
    assert told_by(folder) == undisturbed


def test_runs_are_known_while_the_store_is_away(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "FIRST_WAIT", 1000.0)
    tracker, client = opened(folder, [])
    assert tracker.known_runs() == ()
    client.left = 0
    write_two_runs(tracker)
    known = tracker.known_runs()
    assert [(run.trial, run.state) for run in known] == [(0, State.COMPLETE), (1, State.COMPLETE)]
    adapter = folder / "runs" / "pilot" / known[1].key / "adapter"
    adapter.mkdir(parents=True)
    (adapter / "adapter_model.safetensors").write_text("w")
    tracker.log_adapter(known[1].run_id, known[1].key)
    client.left = 10**9
    tracker.close_study(finished=True)
    (kept,) = (folder / "mlartifacts").rglob("adapter_model.safetensors")
    assert tracker.known_runs()[1].run_id in str(kept)


def test_what_waits_holds_no_secret(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_TOKEN", "planted-in-the-environment")
    tracker, client = opened(folder, [])
    client.left = 0
    config = a_config(settings={"model_init_kwargs": {"token": "planted-in-the-study"}})
    run_id = tracker.start_run(config, 1, "unbiased")
    message = "401 for https://me:planted-password@h with planted-in-the-environment"
    tracker.finish_run(run_id, config, a_result(config, message=message))
    tracker.log_table({"table.md": "planted-in-the-environment"})
    kept = journal(folder).read_text()
    assert "planted" not in kept
    assert "401 for https" in kept


def test_runs_that_were_never_read_are_not_taken_for_none(folder: Path) -> None:
    tracker, client = opened(folder, [])
    client.left = 0
    with pytest.raises(StoreError):
        tracker.known_runs()


def test_a_run_that_somebody_deleted_is_told_and_stops_nothing(folder: Path) -> None:
    told: list[str] = []
    tracker, client = opened(folder, told)
    config = a_config()
    run_id = tracker.start_run(config, 1, "unbiased")
    client.delete_run(run_id)
    tracker.finish_run(run_id, config, a_result(config))
    write_two_runs(tracker)
    assert len(told_by(folder)) == 2
    assert any("not taken" in line for line in told)


def test_a_damaged_store_is_named_with_the_way_out(folder: Path) -> None:
    file = folder / "mlflow.db"
    content = bytearray(file.read_bytes())
    content[:4000] = b"\x5a" * 4000
    file.write_bytes(content)
    with pytest.raises(StoreError, match=r"mlflow\.db is damaged.*move it away"):
        Tracker(None, folder)
    with pytest.raises(StoreError, match=r"mlflow\.db is damaged.*move it away"):
        load_records(f"sqlite:///{file}", "pilot")


def test_a_locked_store_is_waited_for(folder: Path, undisturbed: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "FIRST_WAIT", 1000.0)
    told: list[str] = []
    tracker, _ = opened(folder, told)
    shorten_busy_timeout(tracker)
    holder = sqlite3.connect(folder / "mlflow.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    write_two_runs(tracker)
    assert "locked" in told[0]
    holder.execute("ROLLBACK")
    holder.close()
    tracker.close_study(finished=True)
    assert told_by(folder) == undisturbed


def shorten_busy_timeout(tracker: Tracker) -> None:
    """MLflow waits 20 s for a lock, which it says at the start of every transaction."""
    import sqlalchemy

    @sqlalchemy.event.listens_for(
        tracker._client._real._tracking_client.store.engine, "before_cursor_execute", retval=True
    )
    def _(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> tuple[str, Any]:
        return statement.replace("busy_timeout = 20000", "busy_timeout = 50"), parameters


def test_a_sweep_ends_with_1_while_mlflow_is_away_and_the_same_command_delivers(
    sweeper: Sweeper, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "FIRST_WAIT", 1000.0)
    (folder / "study.yaml").write_text(FORMULA)
    real = Tracker._deliver
    calls: list[int] = []

    def dies_at_the_third(tracker: Tracker, entry: Any, again: bool) -> None:
        calls.append(1)
        if len(calls) > 3:
            raise StoreAway("MLflow is away.")
        real(tracker, entry, again)

    monkeypatch.setattr(Tracker, "_deliver", dies_at_the_third)
    ended = sweeper(folder, "run", "study.yaml", "--executor", "inline")
    assert ended.returncode == 1, ended
    assert "4 runs trained" in ended.stdout
    assert "sweeper run study.yaml" in ended.stdout
    assert (folder / "runs" / "small" / JOURNAL).is_file()
    monkeypatch.setattr(Tracker, "_deliver", real)
    ended = sweeper(folder, "run", "study.yaml", "--executor", "inline")
    assert ended.returncode == 0, ended
    assert "0 runs trained, 4 were there already" in ended.stdout
    records = load_records(f"sqlite:///{folder}/mlflow.db", "small")
    assert len({record.key for record in records}) == len(records) == 4
    assert {record.state for record in records} == {State.COMPLETE}
    listed = json.loads(sweeper(folder, "table", "study.yaml", "--format", "json").stdout)
    assert all(row["best"] for row in listed["rows"])
