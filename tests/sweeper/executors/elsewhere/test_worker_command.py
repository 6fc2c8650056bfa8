"""What `sweeper worker` refuses before it dials anybody."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from sweeper.cli.app import app

KEY = {"SWEEPER_KEY": "a key for tests alone", "SWEEPER_KEY_FILE": ""}


@pytest.mark.parametrize(
    ("words", "environment", "told"),
    [
        (["--connect", "here:4711"], {}, "no key: set SWEEPER_KEY to the sweep's, or SWEEPER_KEY_FILE"),
        (["--connect", "here:4711"], {"SWEEPER_KEY": "short"}, "has 5 characters, and needs 16"),
        (["--connect", "here"], KEY, "--connect here: needs HOST:PORT, such as 10.0.0.7:4711"),
        (["--connect", "here:x"], KEY, "'here:x' is no HOST:PORT"),
        (["--connect", ","], KEY, "needs HOST:PORT"),
        (["--connect", "here:4711", "--key-file", "nowhere.key"], {}, "nowhere.key: No such file"),
    ],
)
def test_what_cannot_work_is_refused_before_anybody_is_dialled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: list[str], environment: dict[str, str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("SWEEPER_KEY", "SWEEPER_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    done = CliRunner().invoke(app, ["worker", *words], env=environment)
    assert done.exit_code == 2, done.output
    assert told in " ".join(done.output.split())


def test_a_sweep_elsewhere_needs_to_know_how_many_workers_come() -> None:
    done = CliRunner().invoke(app, ["run", "quickstart", "--executor", "slurm"])
    assert done.exit_code == 2
    assert "say how many workers there are, with --workers or resources.workers" in " ".join(done.output.split())


def test_a_short_key_is_refused_before_anything_is_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["run", "quickstart", "--executor", "hosts", "--workers", "2"]
    done = CliRunner().invoke(app, words, env={"SWEEPER_KEY": "short"})
    assert done.exit_code == 2
    assert "SWEEPER_KEY: the key of the sweep has 5 characters, and needs 16" in " ".join(done.output.split())
    assert list(tmp_path.iterdir()) == []
