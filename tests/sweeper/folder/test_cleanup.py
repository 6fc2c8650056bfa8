"""What killed processes have left behind is removed, and what can still be gone on from is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from studies.records import Cause, RunResult
from sweeper.folder.cleanup import remove_half_written, remove_states
from tests.sweeper.conftest import Sweeper
from trainers.run_folder.results import CHECKPOINTS, EARLIER_FILE, STATE_FILE, write_result

KEY = "0123456789ab"
WRITER = """
import os, sys
from pathlib import Path
from studies.records import Cause, RunResult
from trainers.run_folder.results import write_result
os.fsync = lambda _: (print("writing", flush=True), sys.stdin.read())
write_result(Path(sys.argv[1]), RunResult(key="key", cause=Cause.FINISHED))
"""


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_a_killed_writer_left_is_removed_and_the_earlier_result_stays(tmp_path: Path) -> None:
    run = tmp_path / KEY
    write_result(run, RunResult(key=KEY, cause=Cause.USER_STOP))
    command = [sys.executable, "-c", WRITER, str(run)]
    writer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert writer.stdout.readline() == b"writing\n"
    writer.kill()
    writer.wait()
    assert len(names(run)) == 2, "the killed one left its temporary file"
    (run / f".{STATE_FILE}.4711").touch()
    (run / STATE_FILE).touch()
    remove_half_written(tmp_path)
    assert names(run) == {"result.json", STATE_FILE}


def test_states_go_and_results_and_adapters_stay(tmp_path: Path) -> None:
    run = tmp_path / KEY
    (run / CHECKPOINTS / "checkpoint-3").mkdir(parents=True)
    (run / "adapter").mkdir()
    for name in (STATE_FILE, EARLIER_FILE):
        (run / name).touch()
    write_result(run, RunResult(key=KEY, cause=Cause.FINISHED))
    (tmp_path / "pilot.json").touch()
    remove_states(tmp_path)
    assert names(run) == {"result.json", "adapter"}
    assert names(tmp_path) == {KEY, "pilot.json"}


STUDY = """
study: small
trainer: formula
base: {model_name_or_path: embedded, use_peft: true, lora_r: 8, max_steps: 10, learning_rate: 1.0e-5}
variants: {sigmoid: {}}
space: {beta: {low: 0.01, high: 1.0, log: true}}
budget: {trials: 2}
objective: {metric: ranking_gain}
"""


def test_a_sweep_removes_half_written_files_at_its_start_and_states_at_its_complete_end(
    sweeper: Sweeper, tmp_path: Path
) -> None:
    """States of runs that an edit of the study has left behind stay until the edited study is complete."""
    (tmp_path / "study.yaml").write_text(STUDY)
    run = ("run", "study.yaml", "--executor", "inline")
    # More than fits into a second on any machine.
    stop = ("--set", "budget.wall_clock=1s", "--set", "budget.trials=1000")
    assert sweeper(tmp_path, *run, *stop).returncode == 1, "stopped before its end"
    left = tmp_path / "runs" / "small" / KEY
    write_result(left, RunResult(key=KEY, cause=Cause.PAUSED))
    for name in (".result.json.abc", STATE_FILE):
        (left / name).touch()
    assert sweeper(tmp_path, *run, *stop).returncode == 1
    assert names(left) == {STATE_FILE, "result.json"}
    assert sweeper(tmp_path, *run).returncode == 0
    assert names(left) == {"result.json"}
