"""The README says what is true: its study loads, its commands exist, every command is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from studies.spec import arms, load_study, shipped_studies
from sweeper.cli.app import app

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_its_study_file_loads_and_plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "mine.yaml").write_text(text)
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    spec = load_study("mine.yaml")
    assert list(arms(spec)) == ["sigmoid", "ipo", "robust", "even", "mix", "today"]


def test_every_command_it_shows_exists_with_its_options() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    shown = re.findall(r"^ {4}sweeper (\w+)(.*)$", README, re.MULTILINE)
    assert len(shown) >= 8
    for name, rest in shown:
        options = {option for parameter in commands[name].params for option in parameter.opts}
        assert set(re.findall(r"(?<=\s)--[\w-]+", rest.partition("#")[0])) <= options


def test_every_command_is_named_in_it() -> None:
    for name in get_command(app).commands:  # type: ignore[attr-defined]
        assert f"sweeper {name}" in README, name


def test_every_shipped_study_is_named_in_it() -> None:
    for name in shipped_studies():
        assert f"`{name}`" in README or f"sweeper run {name}" in README, name
