"""The quickstart on two nodes of a real Slurm, with both stores on a real PostgreSQL, while all of it breaks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from dashboards.store.records import load_records
from studies.records import State
from tests.services.postgres import Postgres, missing_postgres, running_postgres
from tests.services.slurm import Slurm
from tests.sweeper.same_sweeps import differences, trials
from tests.waiting import wait_until

# A worker on each node, as each has two GPUs; a run on its own, as a pack of other neighbours may round otherwise.
CLUSTER = ("resources.together=1", "resources.attempts=20", "resources.retry_after=0", "resources.address=127.0.0.1")
JOBS = "resources.slurm={partition: main, gres: 'gpu:2', cpus: 1}"


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    """A server with two databases without a table, of which the sweep makes its own."""
    if why := missing_postgres():
        pytest.skip(why)
    with running_postgres() as server:
        server.make("trials", "records")
        yield server


def begin(folder: Path, replicates: int, settings: Mapping[str, str], *options: str) -> subprocess.Popen[bytes]:
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **settings}
    own = ["--set", f"replicates={replicates}"]
    with (folder / "printed").open("wb") as printed:
        return subprocess.Popen(
            [sys.executable, "-m", "sweeper", "run", "quickstart", *own, *options],
            cwd=folder,
            env=environment,
            stdout=printed,
            stderr=subprocess.STDOUT,
        )


def results(folder: Path) -> int:
    return len(list(folder.glob("runs/quickstart/*/result.json")))


def why_workers_ended(folder: Path) -> list[str]:
    lines = map(json.loads, (folder / "runs" / "quickstart" / "events.jsonl").read_text().splitlines())
    return [line["why"] for line in lines if line["event"] == "worker" and line["state"] == "gone"]


def on_each_node(slurm: Slurm) -> dict[str, str]:
    """Node -> the job that runs on it."""
    told = slurm.call("squeue", "-h", "-t", "R", "-p", "main", "-o", "%N %A")
    return dict(tuple(line.split()) for line in told.splitlines())  # type: ignore[misc]


@pytest.mark.parametrize(
    ("replicates", "runs"),
    [pytest.param(2, 36, marks=pytest.mark.slow), pytest.param(8, 144, marks=pytest.mark.soak)],
)
def test_a_job_is_preempted_the_database_restarts_a_node_dies_and_nothing_is_lost(
    slurm: Slurm, postgres: Postgres, tmp_path: Path, replicates: int, runs: int
) -> None:
    alone, cluster = tmp_path / "alone", tmp_path / "cluster"
    files = {"OPTUNA_STORAGE": f"sqlite:///{alone}/optuna.db", "MLFLOW_TRACKING_URI": f"sqlite:///{alone}/mlflow.db"}
    one = begin(alone, replicates, files, "--set", "resources.together=1", "--workers", "1")
    assert one.wait() == 0, (alone / "printed").read_text()

    stores = {"OPTUNA_STORAGE": postgres.url("trials"), "MLFLOW_TRACKING_URI": postgres.url("records")}
    options = [word for key in (*CLUSTER, JOBS) for word in ("--set", key)]
    options += ["--executor", "slurm", "--workers", "2"]
    sweep = begin(cluster, replicates, {**stores, "SLURM_CONF": slurm.environment["SLURM_CONF"]}, *options)

    def until(done: int) -> None:
        def is_so() -> bool:
            return sweep.poll() is not None or (len(on_each_node(slurm)) == 2 and results(cluster) >= done)

        wait_until(is_so, lambda: (cluster / "printed").read_text())
        assert sweep.poll() is None, (cluster / "printed").read_text()

    killed = slurm.nodes[1]
    try:
        until(runs // 9)
        slurm.call("sbatch", "--partition=urgent", f"--nodelist={slurm.nodes[0]}", "--exclusive", "--wrap", "sleep 5")
        until(runs // 3)
        postgres.restart()
        until(runs // 2)
        slurm.kill_node(killed)
        assert sweep.wait() == 0, (cluster / "printed").read_text()
    finally:
        sweep.kill()
        if killed not in slurm._servers:
            slurm.start_node(killed)

    ended = why_workers_ended(cluster)
    assert any("preempted" in why or "told to go" in why for why in ended), ended
    assert any("connection has ended" in why or "lost its node" in why for why in ended), ended
    found, wanted = (load_records(url, "quickstart") for url in (postgres.url("records"), files["MLFLOW_TRACKING_URI"]))
    assert len(found) > 0.9 * runs, "a loss none of whose settings works is not judged"
    assert differences(found, wanted) == []
    assert trials(postgres.url("trials")) == trials(files["OPTUNA_STORAGE"])
    assert all(record.state is not State.RUNNING for record in found)
    assert postgres.query("records", "select count(*) from runs where status = 'RUNNING'") == [("0",)]
    assert not list(cluster.glob("runs/quickstart/mlflow-journal*"))
    wait_until(lambda: not slurm.call("squeue", "-h", "-t", "PD,R"), "jobs are left")
