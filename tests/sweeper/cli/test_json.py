"""What commands answer with `--json`: JSON alone on standard output, of the documented types, for mistakes too."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from studies.records import Failure
from studies.text.as_json import as_json, plain
from sweeper.documents.registry import DOCUMENTS

Sweeper = Callable[..., Any]
FORMULA = """
study: small
trainer: formula
base: {model_name_or_path: embedded, use_peft: true, lora_r: 8, max_steps: 6, learning_rate: 1.0e-5}
variants: {sigmoid: {}, ipo: {}}
space: {beta: {low: 0.01, high: 1.0, log: true}, learning_rate: {values: [1.0e-6, 1.0e-5]}}
budget: {trials: 2}
objective: {metric: ranking_gain}
"""


def lines(text: str) -> list[dict[str, Any]]:
    """Every line as strict JSON."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def only(text: str) -> dict[str, Any]:
    (found,) = lines(text)
    return found


def check(document: dict[str, Any]) -> None:
    """The object has the fields of its type, at every depth, in their order, and no others."""
    fields = {name: value for name, value in document.items() if name != "schema"}
    assert next(iter(document)) == "schema"
    again = plain(TypeAdapter(DOCUMENTS[document["schema"]]).validate_python(fields))
    assert json.dumps(again) == json.dumps(fields)


@pytest.fixture
def swept(sweeper: Sweeper, tmp_path: Path) -> Path:
    (tmp_path / "study.yaml").write_text(FORMULA)
    assert sweeper(tmp_path, "run", "study.yaml", "--executor", "inline").returncode == 0
    return tmp_path


COMMANDS = {
    "plan study.yaml": "plan/1",
    "plan quickstart": "plan/1",
    "status study.yaml": "status/1",
    "status study.yaml --failed": "status/1",
    "table study.yaml": "table/1",
    "table study.yaml --rows beta --columns learning_rate": "grids/1",
    "doctor": "doctor/1",
}


@pytest.mark.usefixtures("torch_is_asked_once")
def test_every_command_answers_with_one_object_of_its_type(sweeper: Sweeper, swept: Path) -> None:
    for command, schema in COMMANDS.items():
        ended = sweeper(swept, *command.split(), "--json")
        found = only(ended.stdout)
        assert (ended.returncode, found["schema"]) == (0, schema), ended.stderr
        check(found)


def test_a_sweep_writes_its_events_and_then_its_answer(sweeper: Sweeper, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(FORMULA)
    ended = sweeper(tmp_path, "run", "study.yaml", "--executor", "inline", "--json")
    *events, answer = lines(ended.stdout)
    kept = lines((tmp_path / "runs/small/events.jsonl").read_text())
    assert [{"schema": "event/1", **event} for event in kept] == events
    check(answer)
    assert (answer["schema"], answer["whole"], answer["trained"], answer["again"]) == ("run/1", True, 4, None)
    table = only(sweeper(tmp_path, "table", "study.yaml", "--json").stdout)
    assert [one["answer"] for one in answer["answers"]] == table["answers"]
    assert "4 runs trained" in ended.stderr


def test_the_format_json_is_the_same_object_with_the_numbers_of_the_table(sweeper: Sweeper, swept: Path) -> None:
    printed = sweeper(swept, "table", "study.yaml", "--format", "json").stdout
    found = only(sweeper(swept, "table", "study.yaml", "--json", "--output", "table.json").stdout)
    assert json.loads(printed) == found
    assert (swept / "table.json").read_text() == printed
    csv = sweeper(swept, "table", "study.yaml", "--format", "csv").stdout
    assert all(str(row["best"]["estimate"]["value"]) in csv for row in found["rows"])


def test_a_wrong_study_file_gives_every_mistake_in_parts(sweeper: Sweeper, tmp_path: Path) -> None:
    wrong = FORMULA.replace("ipo: {}", "ippo: {base: {beta: -1}}").replace("trials: 2", "trails: 2, trials: 0")
    (tmp_path / "study.yaml").write_text(wrong)
    for command in ("plan", "run", "status", "table", "export"):
        refused = sweeper(tmp_path, command, "study.yaml", "--json", "--set", "sampler=sobl")
        found = only(refused.stdout)
        assert (refused.returncode, refused.stderr) == (2, "")
        check(found)
        parts = {one["key"]: one for one in found["problems"]}
        assert parts["budget.trials"]["value"] == 0
        assert parts["budget.trials"]["rule"] == "must be at least 1"
        assert "trials" in parts["budget.trails"]["remedy"]
        assert parts["sampler"]["value"] == "sobl"
        assert parts["variants.ippo"]["message"].startswith("study.yaml: variants.ippo: ")


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["plan", "--json"], "STUDY"),
        (["plan", "s.yaml", "--no-such-option", "--json"], "--no-such-option"),
        (["run", "s.yaml", "--workers", "0", "--json"], "--workers"),
        (["plan", "s.yaml", "--json", "--set"], "--set"),
        (["no-such-command", "--json"], None),
        (["plan", "no-such-study", "--json"], "STUDY"),
        (["run", "s.yaml", "--executor", "nobody", "--json"], "--executor"),
        (["table", "s.yaml", "--json", "--format", "pdf"], "--format"),
        (["table", "s.yaml", "--json", "--format", "html"], "--format"),
    ],
)
def test_a_mistake_in_the_words_of_a_command_is_json_too(
    sweeper: Sweeper, tmp_path: Path, words: list[str], key: str | None
) -> None:
    (tmp_path / "s.yaml").write_text(FORMULA)
    refused = sweeper(tmp_path, *words)
    found = only(refused.stdout)
    check(found)
    assert (refused.returncode, found["schema"], found["problems"][0]["key"]) == (2, "error/1", key)
    assert found["problems"][0]["message"]
    assert [f.name for f in tmp_path.iterdir()] == ["s.yaml"]


@pytest.mark.parametrize("store", ["mlflow.db", "optuna.db"])
def test_a_store_that_cannot_be_read_is_json_too(sweeper: Sweeper, tmp_path: Path, store: str) -> None:
    (tmp_path / "study.yaml").write_text(FORMULA)
    (tmp_path / store).write_text("no database")
    refused = sweeper(tmp_path, "run", "study.yaml", "--executor", "inline", "--json")
    found = only(refused.stdout)
    assert (refused.returncode, found["schema"]) == (2, "error/1")
    assert store in found["problems"][0]["message"]


def test_a_store_that_is_not_there_is_json_too(sweeper: Sweeper, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(FORMULA)
    for command in ("status", "table", "export"):
        refused = sweeper(tmp_path, command, "study.yaml", "--json")
        assert (refused.returncode, only(refused.stdout)["schema"]) == (2, "error/1")


def test_finished_runs_are_left_behind_only_where_yes_says_so(sweeper: Sweeper, swept: Path) -> None:
    refused = sweeper(swept, "run", "study.yaml", "--executor", "inline", "--json", "--set", "base.max_steps=7")
    assert (refused.returncode, only(refused.stdout)["schema"]) == (2, "error/1")


def test_numbers_are_whole_and_what_is_none_is_null() -> None:
    text = as_json("x/1", {"a": 0.1 + 0.2, "b": float("nan"), "c": (float("inf"),), "d": {2, 1}, "e": Failure.DRIFTED})
    assert text == '{"schema": "x/1", "a": 0.30000000000000004, "b": null, "c": [null], "d": [1, 2], "e": "drifted"}'


def test_text_of_any_script_and_controls_are_ascii() -> None:
    assert as_json("x/1", {"a": "é\x1b[31m\u202e\ud800"}).isascii()


def test_no_secret_is_told(sweeper: Sweeper, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(FORMULA)
    for words in (["--set", "base.hub_token=correct-horse-9"], ["--set", "hub_token=correct-horse-9"]):
        ended = sweeper(tmp_path, "plan", "study.yaml", "--json", *words)
        only(ended.stdout)
        assert "correct-horse-9" not in ended.stdout + ended.stderr


@pytest.mark.slow
def test_two_calls_give_the_same_text(sweeper: Sweeper, swept: Path) -> None:
    command = [sys.executable, "-m", "sweeper", "table", "study.yaml", "--json"]
    texts = {
        subprocess.run(
            command, cwd=swept, capture_output=True, env={**os.environ, "PYTHONHASHSEED": seed}, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1


@pytest.mark.slow
def test_a_reader_that_is_gone_does_not_stop_the_sweep(tmp_path: Path, empty_mlflow: Path) -> None:
    shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db")
    (tmp_path / "study.yaml").write_text(FORMULA)
    command = [sys.executable, "-m", "sweeper", "run", "study.yaml", "--executor", "inline", "--json"]
    reader, writer = os.pipe()
    process = subprocess.Popen(command, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    os.close(reader)
    said = process.communicate()[1]
    assert "Traceback" not in said
    assert "4 runs trained" in said
