"""The command that a study names for its sweep's end: it is told what happened, and can do the sweep no harm."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from studies.design.identity import questions
from studies.spec import Study, load_study
from sweeper.commands.sharing import notify
from sweeper.commands.sharing.notify import Notice, Notifier, run_command
from sweeper.folder.events import Heartbeat, Line, SweepEnded

Sweeper = Callable[..., Any]
STUDY = """
study: told
trainer: formula
base: {model_name_or_path: embedded, max_steps: 6}
variants: {sigmoid: {}, ipo: {}}
space: {beta: {low: 0.1, high: 1.0}}
budget: {trials: 1}
objective: {metric: ranking_gain}
"""
TELLS = """
import json, os, sys
told = json.load(sys.stdin)
seen = {name: os.environ.get(name) for name in ("SWEEPER_EVENT", "SWEEPER_STUDY", "SWEEPER_FOLDER", "MY_TOKEN", "MINE")}
json.dump([told, seen], open("told.json", "w"))
print("here I am")
"""
NOTICE = Notice("finished", "told", "", "0" * 12, 2, 2)


@pytest.fixture
def folder(tmp_path: Path, empty_mlflow: Path) -> Path:
    (tmp_path / "tells.py").write_text(TELLS)
    (tmp_path / "plain.yaml").write_text(STUDY)
    (tmp_path / "study.yaml").write_text(f"{STUDY}notify: {{command: ['{sys.executable}', tells.py]}}\n")
    (tmp_path / "mlflow.db").write_bytes(empty_mlflow.read_bytes())
    return tmp_path


def told(folder: Path) -> tuple[dict[str, Any], dict[str, str | None]]:
    found, seen = json.loads((folder / "told.json").read_text())
    return found, seen


def test_it_is_told_how_the_sweep_ended_after_a_warning_and_by_nothing_but_run(
    sweeper: Sweeper, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "only-for-me")
    monkeypatch.setenv("MINE", "for-the-command")
    planned = sweeper(folder, "plan", "study.yaml")
    warning = f"warning: notify.command: `sweeper run` will run {sys.executable} tells.py when it has ended"
    assert warning in planned.stderr
    assert not (folder / "told.json").exists()
    done = sweeper(folder, "run", "study.yaml", "--executor", "inline", "--set", "resources.env=[MINE]")
    assert done.returncode == 0, done.stderr
    assert warning in done.stderr
    found, seen = told(folder)
    runs = str(folder / "runs" / "told")
    assert seen == {
        **{"SWEEPER_EVENT": "finished", "SWEEPER_STUDY": "told", "SWEEPER_FOLDER": runs},
        **{"MY_TOKEN": None, "MINE": "for-the-command"},
    }
    assert (found["schema"], found["event"], found["message"]) == ("notice/1", "finished", "")
    assert (found["planned"], found["done"], found["failures"]) == (2, 2, {})
    assert "sigmoid" in found["table"]
    assert (folder / "runs" / "told" / "logs" / "notify.log").read_text() == "here I am\n"
    (folder / "told.json").unlink()
    assert sweeper(folder, "table", "study.yaml").returncode == 0
    assert not (folder / "told.json").exists()


def test_it_makes_no_other_study_and_no_other_runs(folder: Path) -> None:
    plain, with_command = (Study.of(load_study(folder / name)) for name in ("plain.yaml", "study.yaml"))
    assert questions(plain) == questions(with_command)


def test_a_budget_that_ends_the_sweep_is_told(sweeper: Sweeper, folder: Path) -> None:
    short = ("--set", "budget.wall_clock=0.001", "--set", "budget.trials=4")
    done = sweeper(folder, "run", "study.yaml", "--executor", "inline", *short)
    assert done.returncode == 1, done.stderr
    found, seen = told(folder)
    assert (found["event"], seen["SWEEPER_EVENT"]) == ("budget", "budget")
    assert "wall-clock budget" in found["message"]


@pytest.mark.parametrize(
    ("end", "failures", "event"),
    [
        (SweepEnded("finished"), {"diverged": 2}, "finished"),
        (SweepEnded("stopped"), {"diverged": 2}, "stopped"),
        (SweepEnded("stopped"), {"untrained": 2}, "stopped"),
        (SweepEnded("incomplete", "2 runs could not be trained"), {"untrained": 2}, "failed"),
        (SweepEnded("stopped", "the wall-clock budget of 5 s is spent"), {"untrained": 2}, "budget"),
        (SweepEnded("interrupted", "the store is gone"), {}, "failed"),
        (SweepEnded("refused", "no such model"), {}, "failed"),
        (None, {}, None),
    ],
)
def test_what_is_told_follows_from_how_the_sweep_ended(
    folder: Path, monkeypatch: pytest.MonkeyPatch, end: SweepEnded | None, failures: dict[str, int], event: str | None
) -> None:
    notices: list[Notice] = []

    def run(_command: tuple[str, ...], notice: Notice, *_: Any) -> str:
        notices.append(notice)
        return ""

    monkeypatch.setattr(notify, "run_command", run)
    with Notifier(load_study(folder / "study.yaml"), folder, print) as notifier:
        see = notifier.after(lambda _line: None)
        see(Line("0" * 12, 1, 0.0, Heartbeat("host", "machine", 1, "train", planned=3, done=2, failures=failures)))
        if end is not None:
            see(Line("0" * 12, 2, 0.0, end))
    assert [notice.event for notice in notices] == ([] if event is None else [event])


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("./nowhere",), "could not be run: No such file or directory"),
        (("sh", "-c", "exit 3"), "ended with code 3"),
        (("sh", "-c", "sleep 60 & sleep 60"), "had not ended after 1 s and was killed"),
        (("yes",), "had not ended after 1 s and was killed"),
        (("true",), ""),
    ],
)
def test_whatever_it_does_it_ends_and_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], said: str
) -> None:
    monkeypatch.setattr(notify, "SECONDS", 1.0)
    problem = run_command(command, NOTICE, tmp_path)
    assert said in problem if said else problem == ""
    log = tmp_path / "logs" / "notify.log"
    assert log.stat().st_size <= notify.MOST_BYTES


def test_a_large_notice_that_nobody_reads_holds_nothing_up(tmp_path: Path) -> None:
    large = Notice("finished", "told", "", "0" * 12, 2, 2, table="x" * 1_000_000)
    assert run_command(("true",), large, tmp_path) == ""


def test_a_command_that_fails_changes_nothing_of_the_sweep(sweeper: Sweeper, folder: Path) -> None:
    done = sweeper(folder, "run", "plain.yaml", "--executor", "inline", "--set", "notify.command=[sh, -c, 'exit 3']")
    assert done.returncode == 0, done.stderr
    assert "notify: sh -c 'exit 3' ended with code 3" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("curl http://x", "must be a list of words, as [notify-send, done]; for a shell [sh, -c, '...']"),
        ("[]", "names no command"),
        ("['']", "names no command"),
    ],
)
def test_what_is_no_command_is_refused(sweeper: Sweeper, folder: Path, command: str, said: str) -> None:
    refused = sweeper(folder, "plan", "plain.yaml", "--set", f"notify.command={command}")
    assert refused.returncode == 2
    assert f"notify.command: {said}" in refused.stderr or said in refused.stderr
