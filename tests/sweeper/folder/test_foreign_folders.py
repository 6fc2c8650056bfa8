"""Whatever somebody has put where a sweep keeps its runs: nobody's files are lost, changed or sent on, and the sweep
ends.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from mlflow import MlflowClient

from dashboards.store.records import load_records
from tests.waiting import PATIENCE

Sweeper = Callable[..., Any]
STUDY = """
study: small
trainer: formula
base: {model_name_or_path: embedded, use_peft: true, lora_r: 8, max_steps: 4}
variants: {ipo: {}}
space: {beta: {low: 0.01, high: 1.0, log: true}}
budget: {trials: 2}
objective: {metric: ranking_gain}
"""
RUN = ("run", "study.yaml", "--executor", "inline")
NOBODYS = "0123456789ab"


@pytest.fixture
def folder(tmp_path: Path, empty_mlflow: Path) -> Path:
    """A working folder, and beside it one of other work."""
    place = tmp_path / "sweeps"
    place.mkdir()
    (place / "study.yaml").write_text(STUDY)
    shutil.copyfile(empty_mlflow, place / "mlflow.db")
    work = tmp_path / "work"
    for name in ("state.safetensors", "checkpoints/w.bin", "adapter/adapter_model.safetensors", "a.txt"):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(f"precious {name}")
    return place


def contents(place: Path) -> dict[str, bytes]:
    return {str(p.relative_to(place)): p.read_bytes() for p in sorted(place.rglob("*")) if p.is_file()}


def keys(runs: Path) -> list[str]:
    return sorted(path.parent.name for path in runs.glob("*/result.json"))


def without_stores(folder: Path) -> Path:
    """The working folder moved and without its stores, so that what is done is found out from the run folders."""
    again = folder.with_name("again")
    again.mkdir()
    for name in ("study.yaml", "runs"):
        (folder / name).rename(again / name)
    return again


def slow(case: Any) -> Any:
    """One case more of the same kind, which plain tests leave out."""
    return pytest.param(case, marks=pytest.mark.slow)


@contextmanager
def in_time(seconds: float = PATIENCE) -> Iterator[None]:
    """Raise TimeoutError in what waits for ever, as somebody does who opens a pipe that nobody writes to."""

    def give_up(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    ("how", "command"),
    [
        *((how, RUN) for how in ("folder", "link", "hidden file", "file")),
        ("folder", ("plan", "study.yaml")),
        ("link", ("pause", "study.yaml", "ipo")),
    ],
)
def test_a_folder_of_other_work_is_refused_before_anything_is_made(
    sweeper: Sweeper, folder: Path, how: str, command: tuple[str, ...]
) -> None:
    runs, work = folder / "runs", folder.parent / "work"
    runs.mkdir()
    if how == "folder":
        shutil.copytree(work, runs / "small" / "mine")
    elif how == "link":
        (runs / "small").symlink_to(work)
    elif how == "file":
        (runs / "small").write_text("mine")
    else:
        (runs / "small").mkdir()
        (runs / "small" / ".mine").write_text("mine")
    before = contents(folder.parent)
    refused = sweeper(folder, *command)
    assert refused.returncode == 2, refused.stdout
    assert str(runs / "small") in refused.stderr
    assert "output.folder" in refused.stderr
    assert contents(folder.parent) == before


def test_a_link_to_the_runs_of_another_sweep_is_no_folder_of_this_one(sweeper: Sweeper, folder: Path) -> None:
    """What bears a sweep's mark is still not this study's where a link leads to it."""
    assert sweeper(folder, *RUN).returncode == 0
    others = folder.parent / "others"
    (folder / "runs" / "small").rename(others)
    (folder / "runs" / "small").symlink_to(others)
    before = contents(others)
    refused = sweeper(folder, *RUN, "--set", "budget.trials=3")
    assert refused.returncode == 2, refused.stdout
    assert f"{folder / 'runs' / 'small'} is no real folder" in refused.stderr
    assert contents(others) == before


def test_a_link_in_place_of_runs_and_an_empty_folder_are_taken(sweeper: Sweeper, folder: Path) -> None:
    elsewhere = folder.parent / "large disk"
    (elsewhere / "small").mkdir(parents=True)
    (folder / "runs").symlink_to(elsewhere)
    ended = sweeper(folder, *RUN)
    assert ended.returncode == 0, ended.stderr
    assert len(keys(elsewhere / "small")) == 2


def test_what_a_pause_and_an_unfinished_pilot_leave_is_no_other_work(sweeper: Sweeper, folder: Path) -> None:
    (folder / "study.yaml").write_text(STUDY.replace("{ipo: {}}", "{ipo: {}, hinge: {}}"))
    sweeper(folder, "pause", "study.yaml", "ipo")
    assert sweeper(folder, "resume", "study.yaml", "ipo").returncode == 0
    assert sweeper(folder, *RUN).returncode == 0
    other = folder.with_name("piloted")
    (other / "runs" / "small" / "logs").mkdir(parents=True)
    (other / "runs" / "small" / "logs" / "worker-0.log").touch()
    (other / "study.yaml").write_text(STUDY)
    assert sweeper(other, *RUN).returncode == 0


def test_other_work_beside_the_runs_is_left_when_a_sweep_begins_goes_on_and_ends(
    sweeper: Sweeper, folder: Path
) -> None:
    runs, work = folder / "runs" / "small", folder.parent / "work"
    (folder / "study.yaml").write_text(STUDY.replace("{ipo: {}}", "{ipo: {}, hinge: {}}"))
    assert sweeper(folder, *RUN).returncode == 0
    for name in ("mine", NOBODYS, "verify", "probe-0-ipo", "pilot-x"):
        shutil.copytree(work, runs / name)
        (runs / name / ".result.json.abc").write_text("mine")
    (runs / "ba9876543210").symlink_to(work)
    (work / ".result.json.abc").write_text("mine")
    (runs / NOBODYS / ".result.json.abc").unlink()  # in a folder that might be a run's it is a killed writer's
    before = {name: contents(runs / name) for name in ("mine", NOBODYS, "verify", "probe-0-ipo", "pilot-x")}
    more = ("--set", "budget.trials=3", "--verify", "1")
    ended = sweeper(folder, *RUN, *more)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert {name: contents(runs / name) for name in before} == before
    assert contents(work) == contents(runs / "mine")


@pytest.mark.parametrize(
    "name",
    ["sweep.lock", "study.json", *map(slow, ("spent.json", "paused.json", "pilot.json", "mlflow-journal.jsonl"))],
)
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_link_or_pipe_in_place_of_a_file_of_the_study_is_refused_by_name(
    sweeper: Sweeper, folder: Path, name: str, kind: str
) -> None:
    runs, work = folder / "runs" / "small", folder.parent / "work"
    sweeper(folder, *RUN)
    (runs / name).unlink(missing_ok=True)
    if kind == "link":
        (runs / name).symlink_to(work / "a.txt")
    else:
        os.mkfifo(runs / name)
    with in_time():
        ended = sweeper(folder, *RUN, "--set", "budget.trials=3")
    assert ended.returncode == 2, ended.stdout
    assert str(runs / name) in ended.stderr
    assert "Traceback" not in ended.stderr
    assert (work / "a.txt").read_text() == "precious a.txt"
    with in_time():
        assert sweeper(folder, "status", "study.yaml").returncode == 0


def test_a_log_with_a_second_name_is_refused_by_name(sweeper: Sweeper, folder: Path) -> None:
    log, work = folder / "runs" / "small" / "logs" / "worker-0.log", folder.parent / "work"
    log.parent.mkdir(parents=True)
    os.link(work / "a.txt", log)
    refused = sweeper(folder, "run", "study.yaml", "--workers", "1")
    assert refused.returncode == 2
    assert f"{log} has another name elsewhere" in refused.stderr
    assert (work / "a.txt").read_text() == "precious a.txt"


@pytest.mark.parametrize("name", ["logs", "logs/worker-0.log", "reference"])
def test_a_link_in_place_of_a_folder_or_log_of_the_study_is_refused_by_name(
    sweeper: Sweeper, folder: Path, name: str
) -> None:
    runs, work = folder / "runs" / "small", folder.parent / "work"
    sweeper(folder, *RUN)
    (runs / name).parent.mkdir(exist_ok=True)
    (runs / name).symlink_to(work / "a.txt" if name.endswith("log") else work)
    before = contents(work)
    refused = sweeper(folder, "run", "study.yaml", "--workers", "1", "--set", "budget.trials=3")
    assert refused.returncode == 2
    assert str(runs / name) in refused.stderr
    assert contents(work) == before


@pytest.mark.parametrize(
    "name", ["", "result.json", *map(slow, ("adapter", "checkpoints", "state.safetensors", ".result.json.abc"))]
)
def test_a_run_is_trained_where_a_link_stood_and_what_that_led_to_stays(
    sweeper: Sweeper, folder: Path, name: str
) -> None:
    sweeper(folder, *RUN)
    folder = without_stores(folder)
    runs, work = folder / "runs" / "small", folder.parent / "work"
    for key in keys(runs):
        shutil.rmtree(runs / key)
        (runs / key / name).parent.mkdir(exist_ok=True)
        (runs / key / name).symlink_to(work if name in ("", "adapter", "checkpoints") else work / "a.txt")
    before = contents(work)
    ended = sweeper(folder, *RUN)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert contents(work) == before
    assert {(r.state.value) for r in load_records(f"sqlite:///{folder}/mlflow.db", "small")} == {"COMPLETE"}
    assert all((runs / key).is_dir() and not (runs / key).is_symlink() for key in keys(runs))
    assert len([key for key in keys(runs) if ".aside-" not in key]) == 2


def _pipe(result: Path, other: Path) -> None:
    result.unlink()
    os.mkfifo(result)


def _huge(result: Path, other: Path) -> None:
    with result.open("r+b") as file:
        file.truncate(1 << 30)


def _better(result: Path, other: Path) -> None:
    text = re.sub(r'"value": [^,\n]+', '"value": 9e9', other.read_text())
    assert json.loads(text)["key"] == other.parent.name
    result.write_text(text)


def _folder(result: Path, other: Path) -> None:
    result.unlink()
    result.mkdir()


SPOIL: dict[str, Callable[[Path, Path], object]] = {
    "pipe": _pipe,
    "nested": lambda result, other: result.write_text("[" * 100_000),
    "huge": _huge,
    "another-runs": _better,
    "no-result": lambda result, other: result.write_text("[]"),
    "folder": _folder,
}


@pytest.mark.parametrize(
    "spoil", [what if name in ("pipe", "another-runs") else slow(what) for name, what in SPOIL.items()], ids=SPOIL
)
def test_a_result_that_is_none_of_this_run_is_named_and_the_run_trained_again(
    sweeper: Sweeper, folder: Path, empty_mlflow: Path, spoil: Callable[[Path, Path], object]
) -> None:
    sweeper(folder, *RUN)
    then = sweeper(folder, "table", "study.yaml", "--format", "csv").stdout
    folder = without_stores(folder)
    shutil.copyfile(empty_mlflow, folder / "mlflow.db")
    runs = folder / "runs" / "small"
    first, second = (runs / key / "result.json" for key in keys(runs))
    spoil(first, second)
    with in_time():
        ended = sweeper(folder, *RUN)
    assert ended.returncode == 0, ended.stderr
    assert first.parent.name in ended.stdout
    assert "1 run trained, 1 was there already" in ended.stdout
    assert sweeper(folder, "table", "study.yaml", "--format", "csv").stdout == then


def _odd_files(adapter: Path, work: Path) -> None:
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "id_rsa").write_text("precious")
    (adapter / "README.md").symlink_to(work / "a.txt")
    os.link(work / "a.txt", adapter / "config.json")
    (adapter / "deep").symlink_to(work)


@pytest.mark.parametrize(
    ("put", "attached"),
    [(_odd_files, {"adapter_config.json"}), (lambda adapter, work: adapter.symlink_to(work / "adapter"), set())],
    ids=["odd files", "link"],
)
def test_only_what_a_trainer_writes_is_attached_to_mlflow(
    sweeper: Sweeper, folder: Path, put: Callable[[Path, Path], object], attached: set[str]
) -> None:
    (folder / "study.yaml").write_text(STUDY.replace("trials: 2", "trials: 1"))
    sweeper(folder, *RUN)
    folder = without_stores(folder)
    runs, work = folder / "runs" / "small", folder.parent / "work"
    (key,) = keys(runs)  # of the best trial, which is the only one
    put(runs / key / "adapter", work)
    ended = sweeper(folder, *RUN)
    assert ended.returncode == 0, ended.stderr
    assert {path.name for path in (folder / "mlartifacts").rglob("*/artifacts/adapter/*")} == attached
    assert "Not attached to MLflow" in ended.stdout


def _journal(folder: Path, *lines: Any) -> Path:
    file = folder / "runs" / "small" / "mlflow-journal.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    file.write_text("".join(f"{text}\n" for text in texts))
    return file


def test_lines_of_a_journal_that_no_sweep_has_written_are_set_aside(sweeper: Sweeper, folder: Path) -> None:
    sweeper(folder, *RUN)
    uri, work = f"sqlite:///{folder}/mlflow.db", folder.parent / "work"
    client = MlflowClient(tracking_uri=uri)
    other = client.create_run(client.create_experiment("other")).info.run_id
    own = load_records(uri, "small")[0].run_id
    said = {"time": 1, "run": own}
    lines: list[Any] = [
        [1],
        {"run": 5},
        5,
        "[" * 100_000,
        {"do": "curve", **said},
        {"do": "curve", **said, "curve": [["loss", "no number", 1]]},
        {"do": "supersede", "time": 1, "run": other, "reason": "x"},
        {"do": "adopt", "time": 1, "run": other, "tags": {"mine": "no"}},
        {"do": "files", **said, "files": {"../../../../out.txt": "x"}},
        {"do": "adapter", **said, "folder": str(work / "adapter")},
        {"do": "adapter", **said, "key": "../../../work"},
        {"do": "close", **said, "status": "SCHEDULED"},
    ]
    journal = _journal(folder, *lines)
    ended = sweeper(folder, *RUN)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert not journal.exists()
    aside = journal.with_suffix(".refused.jsonl").read_text().splitlines()
    assert len(aside) == len(lines)
    assert sweeper(folder, *RUN).returncode == 0
    assert client.get_run(other).data.tags.keys() & {"superseded", "mine"} == set()
    assert not list(folder.parent.rglob("out.txt"))
    assert not list((folder / "mlartifacts").rglob("adapter_model*")) if (folder / "mlartifacts").exists() else True


def test_stop_signals_no_process_but_a_sweep(sweeper: Sweeper, folder: Path) -> None:
    runs = folder / "runs" / "small"
    runs.mkdir(parents=True)
    lock = runs / "sweep.lock"
    lock.touch()
    bystander = subprocess.Popen(["sleep", "600"])
    handles = (
        "import signal, time\nfor n in (signal.SIGUSR1, signal.SIGTERM): signal.signal(n, lambda *_: exit(3))\n"
        "print(flush=True)\ntime.sleep(600)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", handles], stdout=subprocess.PIPE
    )  # it handles both, and is no sweep
    assert other.stdout is not None
    other.stdout.readline()
    holder = subprocess.Popen(["flock", "--no-fork", str(lock), "sleep", "600"])
    try:
        time.sleep(1)
        for process in (bystander, holder, other):
            lock.write_text(f"{process.pid} ")
            for options in ((), ("--now",)):
                refused = sweeper(folder, "stop", "study.yaml", *options)
                assert refused.returncode == 2, refused.stdout
                assert f"process {process.pid}" in refused.stderr
            assert process.poll() is None
    finally:
        for process in (bystander, holder, other):
            process.kill()


def other_modes(folder: Path, umask: int) -> dict[str, str]:
    """What has another mode than the umask gives, of all that lies there beside what was put there."""
    found = {path: stat.S_IMODE(path.lstat().st_mode) for path in folder.rglob("*")}
    return {
        str(path.relative_to(folder)): oct(mode)
        for path, mode in found.items()
        if path not in (folder / "study.yaml", folder / "mlflow.db")
        and mode != ((0o777 if path.is_dir() else 0o666) & ~umask)
    }


def test_all_that_a_sweep_makes_has_the_mode_of_the_users_umask(sweeper: Sweeper, folder: Path) -> None:
    before = os.umask(0o027)
    try:
        assert sweeper(folder, *RUN, "--set", "budget.trials=1").returncode == 0
    finally:
        os.umask(before)
    assert len(keys(folder / "runs" / "small")) == 1
    assert other_modes(folder, 0o027) == {}


@pytest.mark.slow
@pytest.mark.parametrize("umask", [0o027, 0o000])
def test_and_so_has_all_that_its_workers_make(folder: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        command = [sys.executable, "-m", "sweeper", "run", "study.yaml", "--workers", "1"]
        path = os.pathsep.join(filter(None, sys.path))
        ended = subprocess.run(
            command, cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stderr
    finally:
        os.umask(before)
    assert other_modes(folder, umask) == {}


@pytest.mark.parametrize("mark", ["pipe", "{}", "[]"])
def test_readers_are_not_held_up_by_what_stands_in_place_of_a_mark(sweeper: Sweeper, folder: Path, mark: str) -> None:
    assert sweeper(folder, *RUN).returncode == 0
    file = folder / "runs" / "small" / "study.json"
    file.unlink()
    if mark == "pipe":
        os.mkfifo(file)
    else:
        file.write_text(mark)
    ended = sweeper(folder, "table", "study.yaml")
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("command", [("plan", "study.yaml"), RUN])
@pytest.mark.parametrize("of", ["data.path", "base.model_name_or_path"])
def test_runs_are_kept_in_no_folder_that_they_read(
    sweeper: Sweeper, folder: Path, command: tuple[str, ...], of: str
) -> None:
    (folder / "mine").mkdir()
    before = contents(folder)
    refused = sweeper(folder, *command, "--set", f"{of}=mine", "--set", "output.folder=mine/runs")
    assert refused.returncode == 2
    assert f"output.folder: 'mine/runs': the runs would lie in mine, which {of} reads" in refused.stderr
    assert contents(folder) == before
    assert not list((folder / "mine").iterdir())
