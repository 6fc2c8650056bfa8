"""Sweeps that are killed at random moments and run again until they are complete, and what must then hold."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import optuna
import psutil
from mlflow import MlflowClient

from dashboards.store.records import load_records
from studies.records import RunRecord, State
from tests.waiting import PATIENCE

HERE = Path(__file__).parent
STEP_SECONDS = 0.03
# When to kill, as seconds or as what is waited for: from the first import to the last write.
MOMENTS = ("start", "training", "writing")
VICTIMS = ("main", "worker", "all")
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Soak:
    """One sweep in `folder`, killed `kills` times. `done` counts what was killed, when and by which signal. `hosts`: so
    many come to the sweep's door with a worker each, are killed as well, and come again.
    """

    folder: Path
    study: str
    random: random.Random
    executor: tuple[str, ...] = ("--executor", "process", "--workers", "2")
    environment: Mapping[str, str] = field(default_factory=lambda: {"STEP_SECONDS": str(STEP_SECONDS)})
    done: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    hosts: int = 0
    _agents: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _seen: dict[int, psutil.Process] = field(default_factory=dict)

    def run(self, kills: int) -> None:
        """Kill so many times, then let the sweep come to its end."""
        main = self._start()
        while sum(self.done.values()) < kills:
            moment = self.random.choice(MOMENTS)
            if not self._wait(main, moment):
                assert main.returncode in (0, 1), f"a sweep ended with {main.returncode}: {self.output()}"
                if main.returncode == 0:
                    return
                main = self._start()
                continue
            self._kill(main, moment)
            if main.poll() is not None:
                main = self._start()
        for _ in range(10):
            if self._ended(main) == 0:
                return
            main = self._start()
        raise AssertionError(f"the sweep does not come to its end: {self.output()}")

    def output(self) -> str:
        """The end of what all processes of the sweep have printed."""
        return (self.folder / "output.log").read_text(errors="replace")[-3000:]

    def orphans(self) -> list[int]:
        """Processes of the sweep that do not go."""
        for agent in self._agents:
            agent.kill()
            agent.wait()
        _, alive = psutil.wait_procs(list(self._seen.values()), timeout=PATIENCE)
        return [process.pid for process in alive]

    def _start(self) -> subprocess.Popen[bytes]:
        self.starts += 1
        (self.folder / "study.yaml").write_text(self.study)
        return self._call("run", "study.yaml", *self.executor)

    def _call(self, *words: str) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([str(HERE), *filter(None, sys.path)])
        with (self.folder / "output.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "sweeper", *words],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment, "PYTHONPATH": path},
                start_new_session=True,
            )

    def _wait(self, main: subprocess.Popen[bytes], moment: str) -> bool:
        """Until the moment has come; False where the sweep ends before."""
        until = time.monotonic() + PATIENCE
        pause = self.random.uniform(0.0, 3.0 if moment == "start" else 1.0)
        results = self._results()
        while time.monotonic() < until:
            self._look(main)
            if main.poll() is not None:
                return False
            if moment == "writing" and self._writes():
                return True
            if moment == "start" or (moment == "training" and self._results() > results):
                break
            time.sleep(0.001 if moment == "writing" else 0.02)
        else:
            raise AssertionError(f"nothing moves: {self.output()}")
        time.sleep(pause)
        self._look(main)
        return main.poll() is None

    def _ended(self, main: subprocess.Popen[bytes]) -> int | None:
        """What the sweep ends with, None where it does not."""
        until = time.monotonic() + PATIENCE
        while main.poll() is None and time.monotonic() < until:
            self._look(main)  # which has hosts come again
            time.sleep(0.2)
        return main.returncode

    def _results(self) -> int:
        return len(list((self.folder / "runs").glob("*/*/result.json")))

    def _writes(self) -> bool:
        """Whether a result is being written or a transaction of MLflow's database is open."""
        open_result = next((self.folder / "runs").glob("*/*/.result.json.*"), None)
        return open_result is not None or (self.folder / "mlflow.db-journal").exists()

    def _look(self, main: subprocess.Popen[bytes]) -> list[psutil.Process]:
        """The workers there are now; every one is remembered. A host that is gone comes again."""
        self._agents = [agent for agent in self._agents if agent.poll() is None]
        told = re.findall(r"sweeper worker --connect (\S+) --key-file (\S+)", " ".join(self.output().split()))
        while told and len(self._agents) < self.hosts:
            self._agents.append(
                self._call("worker", "--connect", told[-1][0], "--key-file", told[-1][1], "--workers", "1")
            )
        workers: list[psutil.Process] = []
        for parent in (main, *self._agents):
            with suppress(psutil.NoSuchProcess):
                workers += psutil.Process(parent.pid).children(recursive=True)
        self._seen.update({process.pid: process for process in workers if process.pid not in self._seen})
        return workers

    def _kill(self, main: subprocess.Popen[bytes], moment: str) -> None:
        workers = self._look(main)
        hosts = ("host",) if self._agents else ()
        victim = self.random.choice((*VICTIMS, *hosts) if workers else ("main", *hosts))
        number = self.random.choice(SIGNALS)
        if victim == "host":
            self.random.choice(self._agents).send_signal(number)
        elif victim == "worker":
            with suppress(psutil.NoSuchProcess):
                self.random.choice(workers).send_signal(number)
        else:
            for process in workers if victim == "all" else []:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
            main.send_signal(number)
            main.wait(timeout=PATIENCE)
        self.done[f"{victim} by {number.name} at {moment}"] += 1


def problems(folder: Path, study: str, runs: int, orphans: list[int]) -> list[str]:
    """What does not hold of a complete sweep, in words: nothing lost, nothing twice, nothing left open."""
    uri = f"sqlite:///{folder}/mlflow.db"
    records = load_records(uri, study)
    found = [f"processes {orphans} are left"] if orphans else []
    places = Counter((r.variant, r.scenario, r.trial, r.block, r.seed) for r in records)
    found += [f"{place} is there {n} times" for place, n in places.items() if n != 1]
    if len(places) != runs:
        found.append(f"{len(places)} runs instead of {runs}")
    client = MlflowClient(tracking_uri=uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == study]
    for run in client.search_runs([experiment.experiment_id], max_results=5000):
        if run.info.status in ("RUNNING", "SCHEDULED"):
            found.append(f"MLflow run {run.info.run_name} is {run.info.status}")
    return found + _disagreements(folder, study, records)


def _disagreements(folder: Path, study: str, records: list[RunRecord]) -> list[str]:
    """Where Optuna says something else of a trial than MLflow of its runs."""
    url = f"sqlite:///{folder}/optuna.db"
    found = []
    told = {}
    for name in (name for name in optuna.get_all_study_names(url) if name.startswith(f"{study}/")):
        for trial in optuna.load_study(study_name=name, storage=url).trials:
            told[(name.split("/")[1], trial.number)] = trial
    recorded: dict[tuple[str, int], list[RunRecord]] = {}
    for record in records:
        recorded.setdefault((record.variant, record.trial), []).append(record)
    for place, trial in told.items():
        runs = recorded.pop(place, [])
        states = {run.state for run in runs}
        if trial.state.name in ("RUNNING", "WAITING"):
            found.append(f"Optuna trial {place} is {trial.state.name}")
        elif states != ({State(trial.state.name)} if trial.state.name != "FAIL" else states & {State.FAIL}):
            found.append(f"trial {place} is {trial.state.name} in Optuna and {sorted(map(str, states))} in MLflow")
        elif trial.value is not None:
            mean = sum(run.metrics["ranking_gain"] for run in runs) / len(runs)
            if abs(trial.value - mean) > 1e-9:
                found.append(f"trial {place} has {trial.value} in Optuna and {mean} in MLflow")
    return found + [f"Optuna knows no trial {place}" for place in recorded]
