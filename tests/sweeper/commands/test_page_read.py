"""What the live page shows of a recorded study is what the commands say of it, and only what is new is read again."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dashboards.live.reading.database import Beside
from dashboards.live.reading.followed import Followed
from dashboards.live.reading.watcher import Watcher
from dashboards.live.views import Glance
from dashboards.store.histories import load_curves
from dashboards.store.records import load_records
from sweeper.commands.page.files import StudyFiles
from sweeper.commands.page.serve import asked_name
from sweeper.commands.page.told import told
from sweeper.ownership.owner import user

Sweeper = Callable[..., Any]
STUDY = """
study: small
question: Is <b>ipo</b> better?
trainer: formula
base: {model_name_or_path: embedded, use_peft: true, lora_r: 8, max_steps: 6, learning_rate: 1.0e-5}
variants: {sigmoid: {}, ipo: {}}
space: {beta: {low: 0.01, high: 1.0, log: true}, learning_rate: {low: 1.0e-5, high: 1.0e-3, log: true}}
budget: {trials: 3}
objective: {metric: ranking_gain}
"""


@pytest.fixture
def swept(sweeper: Sweeper, tmp_path: Path) -> Path:
    (tmp_path / "mine.yaml").write_text(STUDY)
    assert sweeper(tmp_path, "run", "mine.yaml", "--executor", "inline").returncode == 0
    return tmp_path


def glance(folder: Path) -> Glance:
    watcher = Watcher(f"sqlite:///{folder / 'mlflow.db'}", folder, told(folder, StudyFiles(folder, None)))
    watcher.open("one")
    watcher.look()
    (found,) = watcher.seen.studies
    return found


def test_table_counts_and_command_are_those_of_the_commands(sweeper: Sweeper, swept: Path) -> None:
    found = glance(swept)
    table = json.loads(sweeper(swept, "table", "mine.yaml", "--format", "json").stdout)
    status = json.loads(sweeper(swept, "status", "mine.yaml", "--json").stdout)
    assert found.problem == ""
    assert found.answer is not None
    assert found.counts is not None
    (shown,) = found.answer.tables
    losses = {loss["variant"]: loss for loss in table["tuned"][0]["losses"]}
    assert shown.answer == " ".join(table["answers"][0]["sentences"]).replace("`", "")  # marks of the report's commands
    assert [bar.variant for bar in shown.bars] == [row[0] for row in shown.rows]
    for bar in shown.bars:
        gained = losses[bar.variant]["exported"] or losses[bar.variant]["gain"]
        assert bar.value == pytest.approx(gained["value"], abs=1e-12) if gained else bar.value is None
    assert (found.counts.planned, found.counts.ended) == (status["counts"]["planned"], status["counts"]["ended"])
    assert found.state == "ended"
    assert found.again == "sweeper run mine.yaml"
    assert found.material == "Model: embedded. Pairs: embedded."
    assert (found.owner, found.folder) == (f"{user()}@{socket.gethostname()}", str(swept))
    assert found.question == "Is <b>ipo</b> better?"  # text, for a page that shows it as text
    assert found.figures is not None
    assert {heat.name for heat in found.figures.heats} == {"sigmoid", "ipo"}
    assert len(found.figures.runs) == found.counts.ended == 6


def test_a_look_reads_only_runs_that_changed_and_gives_what_a_whole_reading_gives(swept: Path) -> None:
    uri, file = f"sqlite:///{swept / 'mlflow.db'}", swept / "mlflow.db"
    followed = Followed(uri, "small")
    assert followed.look()
    assert followed.reads == 6
    assert not followed.look()
    first, *_, last = [record.run_id for record in followed.records]
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("insert into tags (run_uuid, key, value) values (?, 'superseded', 'tried again')", (first,))
        database.execute("update runs set lifecycle_stage = 'deleted' where run_uuid = ?", (last,))
    assert followed.look()
    assert followed.reads == 7
    assert list(followed.records) == load_records(uri, "small")
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("update runs set lifecycle_stage = 'active' where run_uuid = ?", (last,))
        database.execute("delete from tags where run_uuid = ? and key = 'superseded'", (first,))
        database.execute("update runs set status = 'RUNNING', end_time = null where run_uuid = ?", (last,))
    assert followed.look()
    assert list(followed.records) == load_records(uri, "small")
    followed.close()


def test_all_that_the_page_shows_is_read_beside_one_who_lets_nobody_lock_the_store(
    swept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, file = f"sqlite:///{swept / 'mlflow.db'}", swept / "mlflow.db"
    monkeypatch.chdir(swept)
    before = glance(swept)
    assert before.figures is not None
    runs, beside = [one.run_id for one in before.figures.runs], Beside()
    curves = load_curves(uri, runs, ["loss"])
    assert len(curves) == 6
    with closing(sqlite3.connect(file, isolation_level=None)) as writer:
        writer.execute("begin exclusive")
        found = glance(swept)
        assert (found.answer, found.figures, found.problem) == (before.answer, before.figures, "")
        assert load_curves(uri, runs, ["loss"], beside.reader) == curves
        writer.execute("rollback")
    beside.close()


def test_other_stores_give_the_same_by_mlflows_client(swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"sqlite:///{swept / 'mlflow.db'}"
    monkeypatch.setattr("dashboards.store.sqlite_runs.KNOWN_SCHEMAS", frozenset())
    followed = Followed(uri, "small")
    assert followed.look()
    assert not followed.look()
    assert list(followed.records) == load_records(uri, "small")
    followed.close()


def test_the_page_is_not_served_where_something_listens(sweeper: Sweeper, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = sweeper(tmp_path, "ui", "--port", str(taken.getsockname()[1]))
    assert ended.returncode == 2
    assert "--port" in ended.stderr


def test_without_its_library_mlflows_own_pages_open(
    sweeper: Sweeper, tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    monkeypatch.setattr("os.execv", lambda _program, arguments: started.extend(arguments))
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "")  # the command sets it
    monkeypatch.setattr("sweeper.commands.page.serve.is_installed", lambda: False)
    shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db")
    ended = sweeper(tmp_path, "ui", "mine.yaml", "--port", "5017")
    assert "pip install 'nicegui" in ended.stdout
    assert {"mlflow", "server", "5017"} <= set(started)


def test_the_link_opens_at_the_study_that_was_asked_for_by_file_or_name(swept: Path) -> None:
    sources = told(swept, StudyFiles(swept, "mine.yaml"))
    names = [*sources.folders()]
    assert asked_name(str(swept / "mine.yaml"), sources.file, names) == "small"
    assert asked_name("small", sources.file, names) == "small"
    assert asked_name("another", sources.file, names) == "another"
