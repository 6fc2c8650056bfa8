"""Whatever is killed at whatever moment: run again, a sweep ends as if nothing had been."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from dashboards.store.records import load_records
from studies.records import METRICS
from tests.services.processes import free_ports
from tests.soak.kills import HERE, Soak, problems

STUDY = """
study: killed
trainer: soak_trainers:Slow
base: {model_name_or_path: embedded, use_peft: true, lora_r: 8, max_steps: 8, learning_rate: 2.0e-3}
variants: {sigmoid: {}, ipo: {}, robust: {base: {label_smoothing: 0.1}}}
space: {beta: {low: 0.01, high: 1.0, log: true}}
runs: {seeds: [0, 1]}
budget: {trials: 4}
objective: {metric: ranking_gain}
resources: {attempts: 100, retry_after: 0, env: [STEP_SECONDS]}
"""
RUNS = 24  # of STUDY; those of ipo diverge
REAL = """
study: killed
trainer: soak_trainers:Kept
base:
  {model_name_or_path: embedded, use_peft: true, lora_r: 4, lora_target_modules: all-linear, max_steps: 40,
   per_device_train_batch_size: 4, learning_rate: 1.0e-3, lora_dropout: 0.0}
data: {path: embedded, rows: 64, eval_rows: 16}
evaluate: {prompts: 4, max_new_tokens: 8}
variants: {sigmoid: {}, ipo: {}}
space: {beta: {low: 0.1, high: 1.0, log: true}}
budget: {trials: 2}
objective: {metric: ranking_gain}
resources: {attempts: 100, retry_after: 0, together: 2, env: [STEP_SECONDS]}
"""
FULL = (  # trains alone, by TRL's own loop
    REAL.replace("use_peft: true, lora_r: 4, lora_target_modules: all-linear", "use_peft: false")
    .replace(", lora_dropout: 0.0", "")
    .replace("1.0e-3", "1.0e-4")
)
# What the machine's speed or its memory decides, and not the study.
MEASURED = ("steps_per_second", "tokens_per_second", "peak_memory", "train_seconds", "evaluation_seconds")


def call(folder: Path, *arguments: str) -> str:
    path = os.pathsep.join([str(HERE), *filter(None, sys.path)])
    command = [sys.executable, "-m", "sweeper", *arguments]
    environment = {**os.environ, "PYTHONPATH": path, "STEP_SECONDS": "0"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout


def comparable(folder: Path) -> dict[tuple[object, ...], float]:
    """Every comparable number of every run that the machine's speed and memory have no part in."""
    return {
        (r.variant, r.trial, r.block, r.seed, name): value
        for r in load_records(f"sqlite:///{folder}/mlflow.db", "killed")
        for name, value in r.metrics.items()
        if name in METRICS and METRICS[name].comparable and name not in MEASURED
    }


def apart(a: dict[tuple[object, ...], float], b: dict[tuple[object, ...], float]) -> float:
    """The largest difference of two sweeps' numbers, relative to their size where that is above 1."""
    assert a.keys() == b.keys()
    return max(abs(a[place] - b[place]) / max(1.0, abs(b[place])) for place in a)


def unkilled(folder: Path, study: str, *options: str) -> str:
    """The table of the sweep when nobody kills it."""
    folder.mkdir()
    (folder / "study.yaml").write_text(study)
    call(folder, "run", "study.yaml", "--executor", "inline", *options)
    return told(folder)


def told(folder: Path) -> str:
    """The table, but for how long more runs would take, which the machine's load decides."""
    return re.sub(r"about \d+ \w+", "about so long", call(folder, "table", "study.yaml"))


def killed(folder: Path, study: str, runs: int, seed: int, kills: int, *, hosts: int = 0) -> tuple[Soak, str]:
    """A sweep with so many kills, which must come to its end with nothing wrong; its table."""
    folder.mkdir()
    soak = Soak(folder, study, random.Random(seed))
    if hosts:
        (port,) = free_ports(1)
        at_its_door = ("--set", f"resources.address=127.0.0.1:{port}")
        soak = replace(soak, executor=("--executor", "hosts", "--workers", str(hosts), *at_its_door), hosts=hosts)
    soak.run(kills)
    wrong = problems(folder, "killed", runs, soak.orphans())
    assert not wrong, f"after {dict(soak.done)} with seed {seed}: {wrong}\n{soak.output()}"
    return soak, told(folder)


@pytest.mark.slow
@pytest.mark.parametrize("hosts", [0, 2], ids=["here", "through-the-door"])
def test_some_kills_leave_no_trace(tmp_path: Path, hosts: int) -> None:
    wanted = unkilled(tmp_path / "unkilled", STUDY)
    left, seed = 8, 0
    while left > 0:  # on a fast machine a sweep comes to its end before it is killed so often
        soak, table = killed(tmp_path / f"killed-{seed}", STUDY, RUNS, seed=seed, kills=left, hosts=hosts)
        assert table == wanted
        left, seed = left - sum(soak.done.values()), seed + 1


@pytest.mark.soak
@pytest.mark.parametrize("hosts", [0, 2], ids=["here", "through-the-door"])
def test_200_kills_leave_no_trace(tmp_path: Path, hosts: int) -> None:
    wanted = unkilled(tmp_path / "unkilled", STUDY)
    done: Counter[str] = Counter()
    starts = sweeps = 0
    while sum(done.values()) < 200:
        folder = tmp_path / f"killed-{sweeps}"
        soak, table = killed(folder, STUDY, RUNS, seed=100 + sweeps, kills=10, hosts=hosts)
        assert table == wanted
        done, starts, sweeps = done + soak.done, starts + soak.starts, sweeps + 1
    print(f"{sum(done.values())} kills in {sweeps} sweeps, {starts} starts: {dict(sorted(done.items()))}")  # noqa: T201


@pytest.mark.soak
@pytest.mark.parametrize("study", [REAL, FULL], ids=["packed", "alone"])
def test_20_kills_of_real_training_leave_no_trace(tmp_path: Path, study: str) -> None:
    """What trains alone is the same; in a pack, where a kill gives a run other neighbours, a product of another shape
    may round otherwise, but no more than it does between packs of other sizes that nobody kills, with room.
    """
    unkilled(tmp_path / "unkilled", study)
    wanted = comparable(tmp_path / "unkilled")
    own = 0.0
    for together in (1, 4) if study == REAL else ():
        unkilled(tmp_path / f"of-{together}", study, "--set", f"resources.together={together}")
        own = max(own, apart(comparable(tmp_path / f"of-{together}"), wanted))
    done: Counter[str] = Counter()
    worst = 0.0
    for seed in range(10):
        if sum(done.values()) >= 20:
            break
        folder = tmp_path / f"killed-{seed}"
        soak, _ = killed(folder, study, 4, seed=seed, kills=7)
        done += soak.done
        worst = max(worst, apart(comparable(folder), wanted))
        states = [path for name in ("state*", "checkpoints") for path in (folder / "runs").glob(f"*/*/{name}")]
        assert not states, "a complete sweep keeps nothing to go on from"
    assert worst <= 3 * own
    assert sum(done.values()) >= 20
    print(f"{sum(done.values())} kills of real training, {worst:.2g} apart: {dict(sorted(done.items()))}")  # noqa: T201
