"""One sweep in which runs end in every way, and all that speaks of its failures: the same runs and the same counts."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from dashboards.store.records import load_records
from studies.records import Cause, Measurement, RunConfig, RunResult
from trainers import formula

Sweeper = Callable[..., Any]
STUDY = """
study: ends
trainer: formula
base: {model_name_or_path: embedded, use_peft: true, lora_r: 8, max_steps: 6, learning_rate: 1.0e-5}
variants: {sigmoid: {}, ipo: {}, robust: {base: {label_smoothing: 0.1}}, hinge: {}}
sampler: grid
space: {beta: {values: [0.1, 0.3]}}
runs: {blocks: [0, 1]}
objective: {metric: ranking_gain}
"""
TOLD = "3 runs of 2 configs failed (2 collapsed, 1 drifted), 5 runs could not be trained (4 refused, 1 infrastructure)"


def ended_otherwise(config: RunConfig, result: RunResult) -> RunResult:
    """ipo: one config collapses on both blocks, with samples of another length on one, the other drifts on one block;
    robust: all refused; hinge: a run is stopped and a run meets a full disk.
    """
    match (config.variant, config.knobs["beta"], config.block):
        case ("ipo", 0.1, block):
            long = Measurement("length_ratio", 2.7 if block else 1.0, step=6)
            return changed(result, Cause.COLLAPSED, "the samples repeat themselves", long)
        case ("ipo", 0.3, 1):
            return changed(result, Cause.FINISHED, "", Measurement("length_ratio", 0.31, step=6))
        case ("robust", _, block):
            return changed(result, Cause.REFUSED, f"the chat template refuses row {block} of pairs.jsonl")
        case ("hinge", 0.1, 0):
            return changed(result, Cause.TIME_LIMIT, "its time of 60 s was over")
        case ("hinge", 0.3, 1):
            raise OSError("no space left on device")
    return result


def changed(result: RunResult, cause: Cause, message: str, *measured: Measurement) -> RunResult:
    kept = [m for m in result.measurements if m.name not in {one.name for one in measured}]
    return result.model_copy(update={"cause": cause, "message": message, "measurements": (*kept, *measured)})


@pytest.fixture
def ends(sweeper: Sweeper, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """`ends("status", "--failed")`: a command on the study, of which `run` and `retry` train inline."""
    (tmp_path / "study.yaml").write_text(STUDY + "resources: {attempts: 1}\n")
    shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db")
    plain = formula._hand_in
    monkeypatch.setattr(
        formula, "_hand_in", lambda job, result, desk: plain(job, ended_otherwise(job.config, result), desk)
    )

    def call(command: str, *arguments: str) -> Any:
        inline = ("--executor", "inline") if command in ("run", "retry") else ()
        return sweeper(tmp_path, command, "study.yaml", *arguments, *inline)

    return call


def test_everything_that_speaks_of_failures_counts_the_same_runs(ends: Callable[..., Any], tmp_path: Path) -> None:
    done = ends("run")
    assert done.returncode == 1, "something could not be trained"
    assert f"11 runs trained, 0 were there already; {TOLD}: sweeper status study.yaml --failed\n" in done.stdout
    assert re.search("^[0-9]+ runs? trained, [0-9]+ were there already", done.stdout, re.MULTILINE)
    live = TOLD.replace(" of 2 configs failed", " failed by their settings")
    assert done.stdout.count("collapsed: its samples are empty or repeat themselves") == 1, "of the first alone"
    assert done.stdout.count("drifted: its samples are half or twice as long as the untrained model's") == 1
    assert f"16/16 runs, 0 in training, {live}, best" in done.stdout, "the last line of progress"

    status = ends("status").stdout
    assert TOLD in status
    assert "stopped: 1 time_limit" in status
    counts = {row[0]: row[1:] for line in status.splitlines() if len(row := line.split()) == 7 and row[1].isdigit()}
    rows = {name: list(map(int, found)) for name, found in counts.items()}
    assert rows["ipo"] == [1, 3, 0, 0, 0, 4], "complete, failed, stopped, untrained, training, planned"
    assert rows["hinge"] == [2, 0, 1, 1, 0, 4]
    assert rows["robust"] == [0, 0, 0, 4, 0, 4]
    assert ends("status", "--failed").stdout.endswith(f"\n11 of 16 planned runs have ended.\n{TOLD}.\n")

    table = json.loads(ends("table", "--format", "json").stdout)["rows"]
    failed = {row["variant"]: (row["failures"]["k"], row["later"][0]) for row in table}
    failed = {variant: of for variant, of in failed.items() if any(of)}
    assert failed == {"ipo": (1, 2)}, "configs whose first draw failed, and other draws that did: 3 runs"
    assert sum(row["lost"] + row["refused"] for row in table) == 5
    assert sum(row["stopped"] for row in table) == 1

    assert ends("report").returncode == 0
    assert f"16 runs, 7 of them complete; {TOLD}" in (tmp_path / "report.html").read_text()

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("ends").experiment_id], "tags.kind = 'run'")
    shown = Counter((run.info.status, run.data.tags.get("failure")) for run in runs)
    assert shown == {
        ("FINISHED", None): 7, ("KILLED", None): 1, ("FAILED", "collapsed"): 2, ("FAILED", "drifted"): 1,
        ("FAILED", "refused"): 4, ("FAILED", "infrastructure"): 1,
    }  # fmt: skip

    again = ends("run")
    assert again.returncode == 1
    assert f"0 runs trained, 11 were there already; {TOLD}" in again.stdout


def test_failures_are_listed_by_what_they_have_in_common_and_every_run_is_named(ends: Callable[..., Any]) -> None:
    ends("run")
    lines = ends("status", "--failed").stdout.splitlines()
    assert [line for line in lines if line.endswith("):")] == [
        "2 runs failed (2 collapsed):",
        "1 run failed (1 drifted):",
        "4 runs could not be trained (4 refused):",
        "1 run could not be trained (1 infrastructure):",
    ]
    named = [line.strip() for line in lines if " in clean: " in line]
    assert named == [
        "ipo in clean: trial 0; blocks 0-1; seed 0",
        "ipo in clean: trial 1; block 1; seed 0",
        "robust in clean: trials 0-1; blocks 0-1; seed 0",
        "hinge in clean: trial 1; block 1; seed 0",
    ]
    assert "    samples 0.31 times as long as the reference's" in lines
    assert "    such as: the chat template refuses row 0 of pairs.jsonl" in lines
    assert max(map(len, lines[:-1])) <= 80
    assert len(lines) < 25


@pytest.mark.slow
def test_retry_trains_what_is_listed_and_leaves_the_rest_told(ends: Callable[..., Any], tmp_path: Path) -> None:
    ends("run")
    some = ends("retry", "--cause", "drifted")
    assert "Training 1 run again." in some.stdout
    assert f"{TOLD}: sweeper status study.yaml --failed" in some.stdout, "the drifted one drifted again"
    assert some.returncode == 1
    everything = ends("retry")
    assert "Training 8 runs again." in everything.stdout
    assert TOLD in everything.stdout
    causes = Counter(r.cause for r in load_records(f"sqlite:///{tmp_path}/mlflow.db", "ends"))
    assert causes == {
        Cause.FINISHED: 8, Cause.COLLAPSED: 2, Cause.REFUSED: 4, Cause.INFRASTRUCTURE: 1, Cause.TIME_LIMIT: 1,
    }  # fmt: skip
