"""Out of memory by the kernel's own limits: told as that, tried again with less, and the sweep goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient

from dashboards.store.records import load_records
from studies.records import Cause, State
from tests.soak.kills import HERE
from tests.waiting import PATIENCE

pytestmark = pytest.mark.slow

# A run takes as many MiB a row as `lora_r` says, for 8 rows: 160, 640 or 1280 MiB.
STUDY = """
study: hungry
trainer: soak_trainers:Hungry
base:
  {model_name_or_path: embedded, use_peft: true, max_steps: 6, learning_rate: 1.0e-5,
   per_device_train_batch_size: 8, lora_r: 20}
variants:
  sigmoid: {}
  ipo: {base: {lora_r: 80}}
  aot: {base: {lora_r: 80}}
  hinge: {base: {lora_r: 160}}
space: {beta: {low: 0.01, high: 1.0, log: true}}
budget: {trials: 1}
resources: {env: [ADDRESS_SPACE_MIB]}
objective: {metric: ranking_gain}
"""
# With 500 MiB to take: sigmoid fits, ipo does with half a micro-batch, aot may not be cut, hinge is too big by far.
EXPECTED = {
    ("sigmoid", State.COMPLETE, Cause.FINISHED),
    ("ipo", State.COMPLETE, Cause.FINISHED),
    ("aot", State.PRUNED, Cause.OUT_OF_HOST_MEMORY),
    ("hinge", State.PRUNED, Cause.OUT_OF_HOST_MEMORY),
}
AGAIN = "out_of_host_memory: tried again with half the micro-batch and twice the accumulation"
MEBIBYTE = 2**20


def check(folder: Path, environment: dict[str, str], group: Path | None = None) -> None:
    (folder / "study.yaml").write_text(STUDY)
    path = os.pathsep.join([str(HERE), *filter(None, sys.path)])
    process = subprocess.Popen(
        [sys.executable, "-m", "sweeper", "run", "study.yaml", "--workers", "1"],
        cwd=folder,
        env={**os.environ, **environment, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=None if group is None else lambda: (group / "cgroup.procs").write_text(str(os.getpid())),
    )
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    uri = f"sqlite:///{folder}/mlflow.db"
    assert {(r.variant, r.state, r.cause) for r in load_records(uri, "hungry")} == EXPECTED, output
    client = MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name("hungry").experiment_id])
    replaced = {r.data.tags["variant"]: r.data.tags["superseded"] for r in runs if "superseded" in r.data.tags}
    assert replaced == {"ipo": AGAIN, "hinge": AGAIN}


def test_a_run_over_the_limit_of_its_process_is_tried_again_smaller(tmp_path: Path) -> None:
    check(tmp_path, {"ADDRESS_SPACE_MIB": "500"})


@contextmanager
def memory_group(limit: int) -> Iterator[Path]:
    """A control group whose processes the kernel kills when they take more than `limit` bytes together."""
    name = f"sweeper-test-{os.getpid()}"
    root = Path("/sys/fs/cgroup")
    v1 = (root / "memory" / "memory.limit_in_bytes").exists()
    group = (root / "memory" if v1 else root) / name
    try:
        group.mkdir()
        (group / ("memory.limit_in_bytes" if v1 else "memory.max")).write_text(str(limit))
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        yield group
    finally:
        group.rmdir()


def test_a_worker_that_the_kernel_kills_for_want_of_memory_is_told_from_one_that_somebody_killed(
    tmp_path: Path,
) -> None:
    needs = 850 * MEBIBYTE  # about 350 are for the sweep itself; the biggest process dies first
    with memory_group(needs) as group:
        check(tmp_path, {}, group)
