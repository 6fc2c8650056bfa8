"""Types of the API are seen from outside: a program that uses it passes `mypy --strict`, a wrong one does not."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
WRONG = """
import sweeper
study = sweeper.load("quickstart")
study.run(on_interrupt="ignore")
study.answer().use.upper()
study.anser()
"""


@pytest.mark.slow
def test_a_program_that_uses_the_api_passes_mypy_and_a_wrong_one_does_not(tmp_path: Path) -> None:
    (tmp_path / "right.py").write_text((Path(__file__).parent / "typed_example.py").read_text())
    (tmp_path / "wrong.py").write_text(WRONG)
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--follow-imports", "silent"]
    command += ["--ignore-missing-imports", "--explicit-package-bases", "right.py", "wrong.py"]
    said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True).stdout
    wrong = [line.split()[-1] for line in said.splitlines() if line.startswith("wrong.py")]
    assert wrong == ["[arg-type]", "[union-attr]", "[attr-defined]"], said
    assert "right.py" not in said


@pytest.mark.parametrize("room", ["studies", "trainers", "dashboards", "sweeper"])
def test_every_room_says_that_it_is_typed(room: str) -> None:
    assert (ROOT / room / "py.typed").is_file()
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert "py.typed" in packaged[room]
