"""The command line: speed, what it loads, exit codes, and that wrong input leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from tests.sweeper.conftest import SweptOnce

Sweeper = Callable[..., Any]
COMMANDS = ("init", "plan", "run", "status", "table", "report", "export", "evaluate", "ui", "doctor")
FORMULA = """
study: small
trainer: formula
base: {model_name_or_path: embedded, use_peft: true, lora_r: 8, max_steps: 6, learning_rate: 1.0e-5}
variants: {sigmoid: {}, ipo: {}}
space: {beta: {low: 0.01, high: 1.0, log: true}}
budget: {trials: 2}
objective: {metric: ranking_gain}
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, swept_once: SweptOnce) -> Path:
    """A folder in which the study was run, to be read."""
    return swept_once(tmp_path_factory.mktemp("swept"), FORMULA)


def loaded_by(folder: Path, *arguments: str) -> set[str]:
    """Top-level modules in memory when the command has ended."""
    code = (
        "import sys\nfrom sweeper.cli.app import app\n"
        f"try:\n    app({list(arguments)!r})\nexcept SystemExit:\n    pass\n"
        "print('LOADED', *sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True).stdout
    return set(out.rpartition("LOADED ")[2].split())


@pytest.mark.parametrize("arguments", [("--help",), ("plan", "quickstart")])
def test_help_and_plan_load_neither_torch_nor_datasets_nor_a_store(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    heavy = {"torch", "datasets", "transformers", "trl", "peft", "mlflow", "optuna", "pandas"}
    assert not heavy & loaded_by(tmp_path, *arguments)


def test_every_command_has_help(sweeper: Sweeper, tmp_path: Path) -> None:
    listed = sweeper(tmp_path, "--help").stdout
    for command in COMMANDS:
        assert command in listed
        assert sweeper(tmp_path, command, "--help").returncode == 0


def test_plan_shows_every_trial_and_writes_nothing(sweeper: Sweeper, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(FORMULA)
    shown = sweeper(tmp_path, "plan", "study.yaml")
    assert shown.returncode == 0
    assert shown.stdout.count("trial ") == 4
    assert "4 runs" in shown.stdout
    assert [f.name for f in tmp_path.iterdir()] == ["study.yaml"]


@pytest.mark.parametrize("command", ["plan", "run", "status", "table", "report", "export", "evaluate"])
def test_a_wrong_study_file_exits_2_with_every_mistake_and_no_traceback(
    sweeper: Sweeper, tmp_path: Path, command: str
) -> None:
    wrong = (
        FORMULA.replace("ipo: {}", "ippo: {}").replace("ranking_gain", "ranking_gane").replace("trials: 2", "trails: 2")
    )
    (tmp_path / "study.yaml").write_text(wrong)
    refused = sweeper(tmp_path, command, "study.yaml")
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr + refused.stdout
    for valid in ("ipo", "ranking_gain", "trials"):
        assert valid in refused.stderr
    assert refused.stderr.count("error:") >= 3
    assert [f.name for f in tmp_path.iterdir()] == ["study.yaml"]


def test_what_is_planned_but_not_built_is_refused_by_run_and_noted_by_plan(sweeper: Sweeper, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(FORMULA + "resources: {gpus_per_run: 2}\n")
    assert "not built yet" in sweeper(tmp_path, "plan", "study.yaml").stdout
    refused = sweeper(tmp_path, "run", "study.yaml")
    assert refused.returncode == 2
    assert "not built yet" in refused.stderr
    assert [f.name for f in tmp_path.iterdir()] == ["study.yaml"]


def test_bad_rows_of_local_data_are_refused_before_any_store_exists(sweeper: Sweeper, tmp_path: Path) -> None:
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "chosen": "same", "rejected": "same"}]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    text = FORMULA.replace("trainer: formula\n", "").replace("embedded", "org/model") + "data: {path: pairs.jsonl}\n"
    (tmp_path / "study.yaml").write_text(text)
    refused = sweeper(tmp_path, "run", "study.yaml")
    assert refused.returncode == 2
    assert "2" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert sorted(f.name for f in tmp_path.iterdir()) == ["pairs.jsonl", "study.yaml"]


@pytest.mark.parametrize("command", ["status", "table", "export", "evaluate"])
def test_reading_a_study_never_run_makes_no_database(sweeper: Sweeper, tmp_path: Path, command: str) -> None:
    (tmp_path / "study.yaml").write_text(FORMULA)
    refused = sweeper(tmp_path, command, "study.yaml")
    assert refused.returncode == 2
    assert "sweeper run" in refused.stderr
    assert [f.name for f in tmp_path.iterdir()] == ["study.yaml"]


def test_an_option_that_makes_no_sense_exits_2(sweeper: Sweeper, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(FORMULA)
    assert sweeper(tmp_path, "run", "study.yaml", "--executor", "cluster").returncode == 2
    assert sweeper(tmp_path, "table", "study.yaml", "--format", "pdf").returncode == 2
    assert sweeper(tmp_path, "plan", "no_such_study").returncode == 2


@pytest.mark.parametrize("url", ["nonsense", "redis://here", "mssql+nodriver://here/x"])
def test_a_storage_that_cannot_be_is_refused_and_leaves_nothing(sweeper: Sweeper, tmp_path: Path, url: str) -> None:
    (tmp_path / "study.yaml").write_text(FORMULA)
    refused = sweeper(tmp_path, "run", "study.yaml", "--executor", "inline", "--storage", url)
    assert refused.returncode == 2
    assert "--storage" in refused.stderr
    assert "sqlite:///optuna.db" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert [f.name for f in tmp_path.iterdir()] == ["study.yaml"]


def test_a_database_that_cannot_be_opened_is_refused_without_a_traceback(sweeper: Sweeper, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(FORMULA)
    place = f"sqlite:///{tmp_path}/no/such/folder/optuna.db"
    refused = sweeper(tmp_path, "run", "study.yaml", "--executor", "inline", "--storage", place)
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr


def test_a_server_that_nothing_listens_at_is_named_at_once(
    sweeper: Sweeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    (tmp_path / "study.yaml").write_text(FORMULA)
    refused = sweeper(tmp_path, "table", "study.yaml")
    assert refused.returncode == 2
    assert "127.0.0.1:9" in refused.stderr
    assert "secret" not in refused.stderr


def test_a_setting_given_on_the_command_line_wins_over_the_file(sweeper: Sweeper, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(FORMULA)
    shown = sweeper(tmp_path, "plan", "study.yaml", "--set", "budget.trials=5").stdout
    assert "10 runs" in shown


def test_init_writes_a_study_that_plans(sweeper: Sweeper, tmp_path: Path) -> None:
    assert sweeper(tmp_path, "init", "mine.yaml").returncode == 0
    assert sweeper(tmp_path, "plan", "mine.yaml").returncode == 0
    own = sweeper(tmp_path, "init", "own.yaml", "--model", "org/model", "--dataset", "org/pairs")
    assert own.returncode == 0
    planned = sweeper(tmp_path, "plan", "own.yaml")
    assert planned.returncode == 0, planned.stderr
    again = sweeper(tmp_path, "init", "mine.yaml")
    assert again.returncode == 2
    assert "exists" in again.stderr


def test_status_counts_runs_by_stratum(sweeper: Sweeper, swept: Path) -> None:
    shown = sweeper(swept, "status", "study.yaml").stdout
    assert "sigmoid" in shown
    assert "4 runs ended" in shown
    assert "0 missing" in shown


@pytest.mark.parametrize("format", ["text", "markdown", "csv", "json", "html"])
def test_the_table_comes_in_every_format(sweeper: Sweeper, swept: Path, tmp_path: Path, format: str) -> None:
    printed = sweeper(swept, "table", "study.yaml", "--format", format).stdout
    assert "sigmoid" in printed
    sweeper(swept, "table", "study.yaml", "--format", format, "--output", str(tmp_path / "table.out"))
    assert (tmp_path / "table.out").read_text() == printed


def test_a_grid_of_two_knobs_replaces_the_table(sweeper: Sweeper, tmp_path: Path) -> None:
    two = FORMULA.replace("log: true}}", "log: true}, learning_rate: {values: [1.0e-6, 1.0e-5]}}")
    (tmp_path / "study.yaml").write_text(two)
    sweeper(tmp_path, "run", "study.yaml", "--executor", "inline")
    shown = sweeper(tmp_path, "table", "study.yaml", "--rows", "beta", "--columns", "learning_rate")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "beta \\ learning_rate" in shown.stdout
    unknown = sweeper(tmp_path, "table", "study.yaml", "--rows", "beta", "--columns", "tau")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "have: beta, learning_rate" in unknown.stderr


@pytest.mark.parametrize("options", [("--rows", "beta"), ("--columns", "beta"), ("--rows", "a", "--columns", "a")])
def test_a_grid_needs_two_different_knobs(sweeper: Sweeper, tmp_path: Path, options: tuple[str, ...]) -> None:
    (tmp_path / "study.yaml").write_text(FORMULA)
    refused = sweeper(tmp_path, "table", "study.yaml", *options)
    assert refused.returncode == 2
    assert "two different settings" in refused.stderr
    assert [f.name for f in tmp_path.iterdir()] == ["study.yaml"]


def test_the_table_is_an_artifact_of_the_sweeps_run(sweeper: Sweeper, swept: Path) -> None:
    (kept,) = (swept / "mlartifacts").rglob("table.csv")
    assert kept.read_text() == sweeper(swept, "table", "study.yaml", "--format", "csv").stdout


def test_doctor_names_every_package_and_the_devices(sweeper: Sweeper, tmp_path: Path) -> None:
    shown = sweeper(tmp_path, "doctor")
    assert shown.returncode == 0, shown.stdout
    for what in ("torch", "trl", "optuna", "mlflow", "devices", "disk"):
        assert what in shown.stdout


@pytest.mark.parametrize("command", ["plan", "run", "evaluate", "export"])
def test_foreign_code_is_named_before_anything_of_it_can_run(
    sweeper: Sweeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    seen: list[str] = []

    def reads(*_given: object, **_more: object) -> None:
        seen.append("read")
        raise SystemExit(0)

    for module in ("verbs.preparing", "verbs.sharing", "shared"):
        monkeypatch.setattr(f"sweeper.cli.{module}.warn_of_code", lambda _spec: seen.append("warned"))
    for first in (
        "sweeper.cli.verbs.preparing.look_at_data",
        "sweeper.cli.shared.look_at_data",
        "sweeper.recorded.contents.as_found",
    ):
        monkeypatch.setattr(first, reads)  # of what looks at files that the study names
    monkeypatch.setattr("sweeper.recorded.reading.answers_of", lambda *_: SimpleNamespace(notes=list))
    sweeper(tmp_path, command, "quickstart")
    assert seen == ["warned", "read"]


@pytest.mark.parametrize("options", [("a\nb.yaml",), ("a.yaml", "--model", "x\ny: 1"), ("a.yaml", "--data", "\u200b")])
def test_init_writes_no_text_of_several_lines(sweeper: Sweeper, tmp_path: Path, options: tuple[str, ...]) -> None:
    refused = sweeper(tmp_path, "init", *options)
    assert refused.returncode == 2
    assert "write it on one line" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_init_writes_names_of_all_scripts(sweeper: Sweeper, tmp_path: Path) -> None:
    assert sweeper(tmp_path, "init", "a.yaml", "--model", "ORG/M", "--data", "🎈 長.jsonl").returncode == 0
    assert yaml.safe_load((tmp_path / "a.yaml").read_text())["data"]["path"] == "🎈 長.jsonl"
