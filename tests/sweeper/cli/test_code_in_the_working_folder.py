"""Python files and settings of libraries that lie in the working folder: none is run or read."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError
from urllib.request import urlopen

import psutil
import pytest

from dashboards.live.doors.mlflow_command import server_command, server_environment, socket_command
from sweeper.executors.door.door import Door
from sweeper.executors.door.greeting import Welcome
from sweeper.executors.process.handle import Starter
from sweeper.executors.process.local import Local

# Modules that the command, MLflow's and uvicorn's processes import; some of them only where they are found.
NAMES = "mlflow flask yaml uvicorn fastapi typer click numpy torch transformers sitecustomize kernels wandb dotenv"
TRACE = "import os, pathlib; pathlib.Path({file!r}).open('a').write(f'{{__name__}} in {{os.getpid()}}\\n')\n"


@pytest.fixture
def hostile(tmp_path: Path, empty_mlflow: Path) -> Path:
    """A working folder full of Python files, each of which leaves a line in the file `RAN` where it is run."""
    shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db")
    for name in NAMES.split():
        (tmp_path / f"{name}.py").write_text(TRACE.format(file=str(tmp_path / "RAN")))
    return tmp_path


def ran(folder: Path) -> str:
    file = folder / "RAN"
    return file.read_text() if file.exists() else ""


LOOKS = """
import json, sys
from importlib.util import find_spec
print(json.dumps([found.origin if (found := find_spec(name)) else None for name in sys.argv[1:]]))
"""


@pytest.mark.parametrize("command", [server_command("127.0.0.1", 5000), socket_command("/x/mlflow", "mlflow")])
@pytest.mark.parametrize("of", ["the process", "what it starts"])
def test_mlflows_pages_find_no_module_in_the_working_folder(hostile: Path, command: list[str], of: str) -> None:
    """The Python of these commands, and one that it starts, is asked where modules lie, in place of running MLflow."""
    python = command[: command.index("-m")] if of == "the process" else command[:1]
    environment = {**os.environ, **(server_environment("sqlite:///x") if of == "what it starts" else {})}
    asked = subprocess.run([*python, "-c", LOOKS, *NAMES.split()], cwd=hostile, env=environment, capture_output=True)
    found = json.loads(asked.stdout)
    assert any(found)
    assert not [place for place in found if place and Path(place).is_relative_to(hostile)]
    assert ran(hostile) == ""


def test_mlflows_pages_have_one_worker_no_jobs_and_no_folder_of_modules_of_ours() -> None:
    for command in (server_command("127.0.0.1", 5000), socket_command("/x/mlflow", "mlflow")):
        assert command[command.index("--workers") + 1] == "1"
        words = shlex.split(command[command.index("--uvicorn-opts") + 1])
        (folder,) = (word.removeprefix("--app-dir=") for word in words if word.startswith("--app-dir="))
        assert Path(folder) == Path(os.__file__).parent
    assert server_environment("sqlite:///x")["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"


@pytest.mark.slow
def test_the_ui_runs_none_of_them_in_one_worker_and_ends_whole(hostile: Path) -> None:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "sweeper", "ui", "--mlflow", "--port", str(port)]
    server = subprocess.Popen(
        command, cwd=hostile, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        assert ask(f"http://127.0.0.1:{port}/health") == b"OK"
        assert b"<html" in ask(f"http://127.0.0.1:{port}/")
        family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
        assert len(family) == 2, [" ".join(one.cmdline()) for one in family]  # MLflow's command and its server
        os.kill(server.pid, signal.SIGTERM)
        _, alive = psutil.wait_procs(family, timeout=20)
        assert alive == []
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    assert ran(hostile) == ""


def test_the_page_is_a_process_of_its_own_that_runs_none_of_them(hostile: Path) -> None:
    """Asked for its help in the place of serving, as whoever stands in for `os.execv` may have it."""
    code = "import os, subprocess, sys\n"
    code += "os.execv = lambda program, words: sys.exit(subprocess.run([*words, '--help']).returncode)\n"
    code += "sys.argv = ['sweeper', 'ui', '--port', '0']\nfrom sweeper.cli import main\nmain()\n"
    ended = subprocess.run([sys.executable, "-P", "-c", code], cwd=hostile, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert "Serve the live page" in ended.stdout
    assert ran(hostile) == ""


def ask(address: str) -> bytes:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urlopen(address, timeout=5) as answer:
                return bytes(answer.read())
        except (URLError, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def test_the_command_as_a_module_runs_none_of_them(hostile: Path) -> None:
    command = [sys.executable, "-m", "sweeper", "plan", "quickstart"]
    assert subprocess.run(command, cwd=hostile, stdout=subprocess.DEVNULL).returncode == 0
    assert ran(hostile) == ""


def test_a_worker_and_what_it_starts_look_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, str]] = []

    def popen(_command: list[str], *, env: dict[str, str], **_more: object) -> SimpleNamespace:
        started.append(env)
        return SimpleNamespace(pid=os.getpid())

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.setattr("subprocess.Popen", popen)
    door = Door(b"a key for tests alone")
    Starter("worker-0", Welcome(trainer="formula"), {}, tmp_path, Local()).start(door)
    door.close()
    (environment,) = started
    assert environment["PYTHONSAFEPATH"] == "1"
    assert str(tmp_path) not in environment["PYTHONPATH"].split(os.pathsep)


@pytest.mark.parametrize("text", [b"text.usetex: True\nfont.size: 77\n", b"\xff\xfe"])
def test_figures_are_drawn_by_no_settings_of_the_working_folder(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "matplotlibrc").write_bytes(text)
    code = (
        "from dashboards.figures.figure import drawing, svg_of\nimport matplotlib\n"
        "assert not matplotlib.rcParams['text.usetex'] and matplotlib.rcParams['font.size'] != 77\n"
        "with drawing(1, 1) as canvas: canvas.text(0, 0, 'a'); svg_of(canvas, 'x')"
    )
    subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, check=True)
