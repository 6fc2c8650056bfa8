"""What a real terminal, or a pipe, gets of a sweep whose trainer, study and words are hostile."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from studies.text.visible import visible

ROOT = Path(__file__).parents[3]
STUDY = {
    "study": "small",
    "question": "asked \u200dleft",
    "trainer": "hostile_trainers:Hostile",
    "base": {"model_name_or_path": "m", "max_steps": 4},
    "data": {"path": "somewhere/data"},
    "variants": {"sigmoid": {}, "ipo": {}},
    "space": {"beta": {"values": [0.1, 0.2]}},
    "resources": {"attempts": 1},
    "objective": {"metric": "ranking_gain"},
}
COMMAND = [sys.executable, "-P", "-c", "from sweeper.cli.app import main; main()"]
# All that rich writes itself: styles, the cursor, lines that it writes anew.
RICH = re.compile(r"\x1b\[[0-9;]*m|\x1b\[1A|\x1b\[2K|\x1b\[\?25[hl]|\r")


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "MLFLOW_TRACKING_URI")}
    return (
        kept | {"PYTHONPATH": f"{ROOT}:{Path(__file__).parents[1]}", "TERM": "xterm-256color", "COLUMNS": "80"} | more
    )


def in_pipe(folder: Path, *arguments: str) -> str:
    ended = subprocess.run([*COMMAND, *arguments], cwd=folder, env=environment(), capture_output=True)
    return (ended.stdout + ended.stderr).decode()


def on_terminal(folder: Path, *arguments: str) -> str:
    """What a terminal of 80 columns is sent."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    process = subprocess.Popen(
        [*COMMAND, *arguments], cwd=folder, env=environment(), stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    sent = bytearray()
    try:
        while piece := os.read(ours, 65536):
            sent += piece
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    process.wait()
    return sent.decode()


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> tuple[Path, str]:
    """The folder of a sweep on a terminal, whose trainer runs in the same process, and what the terminal was sent."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "study.yaml").write_text(json.dumps(STUDY))
    shutil.copyfile(empty_mlflow, folder / "mlflow.db")
    return folder, on_terminal(folder, "run", "study.yaml", "--executor", "inline")


def acting(text: str) -> set[str]:
    """The characters of a text that act on a terminal, with what is around them."""
    return {text[max(0, i - 20) : i + 20] for i, c in enumerate(text) if visible(c) != c}


def test_on_a_terminal_only_rich_acts(swept: tuple[Path, str]) -> None:
    _, sent = swept
    for said in ("printed", "without an end", "logged", "warned"):
        assert rf"{said} \x1b]52;c;ZWNobw==\x07" in re.sub(r"\s*\r\n", " ", sent), said
    assert acting(RICH.sub("", sent)) == set()
    for mine in ("\x1b[31mRED", "\x1b[1A\x1b[2KGONE", "evil.example\x1b", "\rOVER"):
        assert mine not in sent


def test_on_a_terminal_progress_is_written_anew_in_its_place(swept: tuple[Path, str]) -> None:
    _, sent = swept
    assert "\x1b[?25l" in sent  # the cursor is hidden
    assert "\x1b[?25h" in sent
    assert re.search(r"\r\x1b\[2K(\x1b\[1A\x1b\[2K)*\x1b\[1msmall\x1b\[0m", sent)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("plan",), ("status", "--failed"), ("run", "--executor", "inline")])
def test_nor_does_more_act_later(swept: tuple[Path, str], arguments: tuple[str, ...]) -> None:
    folder, _ = swept
    command, *options = arguments
    assert acting(RICH.sub("", on_terminal(folder, command, "study.yaml", *options))) == set()


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("plan",), ("status",), ("table",), ("table", "--format", "markdown")])
def test_in_a_pipe_nothing_acts(swept: tuple[Path, str], arguments: tuple[str, ...]) -> None:
    folder, _ = swept
    command, *options = arguments
    assert acting(in_pipe(folder, command, "study.yaml", *options)) == set()


def test_messages_of_runs_are_shown_escaped(swept: tuple[Path, str]) -> None:
    folder, _ = swept
    told = in_pipe(folder, "status", "study.yaml", "--failed")
    assert acting(told) == set()
    assert r"raised \x1b]52;c;ZWNobw==\x07\x1b]0;title\x07\x1b[31mRED" in " ".join(told.split())


def test_the_table_as_json_is_json_with_the_same_values(swept: tuple[Path, str]) -> None:
    folder, _ = swept
    ended = subprocess.run(
        [*COMMAND, "table", "study.yaml", "--format", "json"], cwd=folder, env=environment(), capture_output=True
    )
    assert len(json.loads(ended.stdout)["rows"]) == 2


@pytest.mark.slow
def test_what_a_worker_writes_to_its_log_is_escaped(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(json.dumps(STUDY | {"variants": {"sigmoid": {}}}))
    in_pipe(tmp_path, "run", "study.yaml", "--workers", "1")
    (log,) = (tmp_path / "runs" / "small" / "logs").glob("*.log")
    assert r"printed \x1b]52" in log.read_text()
    assert acting(log.read_text()) == set()


@pytest.mark.parametrize(
    "word", ["--\x1b[31mx\u202e", pytest.param("\x1b]0;t\x07\x9b31m\u202e", marks=pytest.mark.slow)]
)
def test_words_of_the_command_come_back_escaped(tmp_path: Path, word: str) -> None:
    for arguments in ((word,), ("plan", "quickstart", word)):
        sent = on_terminal(tmp_path, *arguments)
        assert acting(RICH.sub("", sent)) == set(), arguments
        assert "\x1b[31mx" not in sent


@pytest.mark.slow
def test_help_has_its_colours_on_a_terminal_and_none_in_a_pipe(tmp_path: Path) -> None:
    assert "\x1b[1" in on_terminal(tmp_path, "run", "--help")
    assert acting(in_pipe(tmp_path, "run", "--help")) == set()
