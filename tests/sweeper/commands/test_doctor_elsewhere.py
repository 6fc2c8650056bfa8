"""The doctor looks at what workers on other machines need, before anybody waits in a queue for them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from studies.schema.types import SlurmJobs
from sweeper.commands import doctor_elsewhere
from sweeper.commands.doctor import Finding
from sweeper.commands.doctor_elsewhere import Elsewhere, examine_elsewhere
from tests.services.slurm import Slurm, missing_slurm, running_slurm


def found(asked: Elsewhere, executor: str = "hosts") -> dict[str, Finding]:
    return {one.what: one for one in examine_elsewhere(executor, asked)}


def commands(folder: Path, monkeypatch: pytest.MonkeyPatch, **codes: str) -> None:
    """Put commands of Slurm into the way that do this."""
    for name in ("sbatch", "squeue", "scontrol", "scancel"):
        (folder / name).write_text(f"#!/bin/sh\n{codes.get(name, 'exit 0')}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_what_workers_elsewhere_need_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWEEPER_KEY", raising=False)
    told = found(Elsewhere(tmp_path / "runs", 32, "127.0.0.1"))
    assert {name: one.good for name, one in told.items()} == dict.fromkeys(
        ("workers", "shared folder", "address", "key"), True
    )
    assert "32 workers" in told["workers"].found
    assert "127.0.0.1, a free port" in told["address"].found
    assert "made by the first sweep" in told["key"].found
    assert not list(tmp_path.iterdir()), "it writes something"


@pytest.mark.parametrize(
    ("mount", "said", "advised"),
    [
        ("31 1 0:27 / {} rw - nfs4 server:/home rw", "on nfs4 (server:/home)", False),
        ("31 1 0:27 / {} rw - fuse.sshfs server:/home rw", "on fuse.sshfs", False),
        ("31 1 8:1 / {} rw - ext4 /dev/sda1 rw", "on ext4: a disk of this machine", True),
    ],
)
def test_a_disk_of_this_machine_is_no_shared_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mount: str, said: str, advised: bool
) -> None:
    (tmp_path / "mountinfo").write_text(f"1 0 8:1 / / rw - xfs /dev/sda1 rw\n{mount.format(tmp_path)}\n")
    monkeypatch.setattr(doctor_elsewhere, "_MOUNTS", tmp_path / "mountinfo")
    told = found(Elsewhere(tmp_path / "runs", 1))["shared folder"]
    assert said in told.found
    assert ("at the same path" in told.remedy) is advised


def test_a_database_in_a_file_on_a_shared_file_system_is_not_fine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mountinfo").write_text(f"31 1 0:27 / {tmp_path} rw - nfs4 server:/home rw\n")
    monkeypatch.setattr(doctor_elsewhere, "_MOUNTS", tmp_path / "mountinfo")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPTUNA_STORAGE", "postgresql+psycopg://somebody@nowhere/trials")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    told = found(Elsewhere(tmp_path / "runs", 1))
    assert "mlflow.db is SQLite on nfs4" in told["MLflow store"].found
    assert "PostgreSQL" in told["MLflow store"].remedy
    assert "Optuna storage" not in told


def test_what_would_keep_workers_away_is_said_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWEEPER_KEY", raising=False)
    key = tmp_path / "runs" / "logs" / "door.key"
    key.parent.mkdir(parents=True)
    key.write_text("k" * 32)
    key.chmod(0o644)
    with socket.create_server(("", 0)) as taken:
        told = found(Elsewhere(tmp_path / "runs", None, f"127.0.0.1:{taken.getsockname()[1]}"))
    assert not any(told[name].good for name in ("workers", "address", "key"))
    assert told["workers"].remedy == "--workers N, or resources.workers in the study"
    assert "Address already in use" in told["address"].found
    assert "chmod 600" in told["key"].remedy
    for address, wrong in (("here:x", "no HOST:PORT"), ("no-such-host.invalid", "nobody knows")):
        assert wrong in found(Elsewhere(tmp_path, 1, address))["address"].found


def test_a_machine_without_slurm_a_silent_controller_and_a_refusal_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    asked = Elsewhere(tmp_path / "runs", 1, "127.0.0.1")
    assert "no sbatch, squeue" in found(asked, "slurm")["Slurm"].found
    commands(tmp_path, monkeypatch, squeue="echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1")
    told = found(asked, "slurm")
    assert not told["Slurm"].good
    assert "Unable to contact slurm controller" in told["Slurm"].found
    assert "jobs" not in told
    commands(tmp_path, monkeypatch, sbatch="echo allocation failure: Invalid account >&2; exit 1")
    told = found(asked, "slurm")
    assert told["Slurm"].good
    assert "Slurm would not take them: allocation failure: Invalid account" in told["jobs"].found


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    if (why := missing_slurm()) is not None:
        pytest.skip(why)
    with running_slurm(nodes=1) as cluster:
        monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
        yield cluster


@pytest.mark.slow
def test_a_real_slurm_is_asked_and_given_nothing(slurm: Slurm, tmp_path: Path) -> None:
    def told(**jobs: object) -> dict[str, Finding]:
        asked = SlurmJobs.model_validate({"cpus": 1, **jobs})
        return found(Elsewhere(tmp_path, 1, "127.0.0.1", asked), "slurm")

    fine = told(partition="main", time="8h")
    assert fine["Slurm"].good
    assert "partition main" in fine["jobs"].found
    assert "partition" in told(partition="nowhere")["jobs"].found
    assert not told(gres="gpu:7")["jobs"].good
    assert slurm.call("squeue", "-h") == ""
    slurm.stop_controller()
    assert not told()["Slurm"].good
