"""Which GPU and how many threads each worker is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeper.executors.process.devices import THREAD_VARIABLES, listed_gpus, visible_gpus, worker_environments


@pytest.mark.parametrize(
    ("value", "gpus"),
    [
        ("0,1", ["0", "1"]),
        ("GPU-aa, MIG-bb", ["GPU-aa", "MIG-bb"]),
        ("", []),
        ("-1", []),
        ("2,-1,3", ["2"]),
    ],
)
def test_cuda_visible_devices_decides_as_cuda_reads_it(value: str, gpus: list[str]) -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": value}) == gpus


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus({}) == []


@pytest.mark.parametrize(
    ("script", "gpus"),
    [
        ("echo 'GPU 0: NVIDIA H200 (UUID: GPU-12ab-34)'", ["GPU-12ab-34"]),
        ("echo 'Failed to initialize NVML (UUID: GPU-1)'; exit 9", []),
        ("echo 'No devices were found'", []),
    ],
)
def test_the_driver_is_asked_where_the_environment_does_not_say(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, gpus: list[str]
) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus({}) == gpus


def test_a_card_cut_into_parts_counts_as_its_parts() -> None:
    listing = (
        "GPU 0: NVIDIA A100 (UUID: GPU-0a)\n"
        "  MIG 3g.20gb     Device  0: (UUID: MIG-1b)\n"
        "  MIG 3g.20gb     Device  1: (UUID: MIG-GPU-0a/2/0)\n"
        "GPU 1: NVIDIA A100 (UUID: GPU-2c)\n"
    )
    assert listed_gpus(listing) == ["MIG-1b", "MIG-GPU-0a/2/0", "GPU-2c"]


@pytest.mark.parametrize(
    ("workers", "gpus", "devices"),
    [
        (None, ["0", "1", "2"], ["0", "1", "2"]),
        (2, ["0", "1", "2"], ["0", "1"]),
        (3, ["0", "1"], ["0", "1", "0"]),
        (None, [], [None] * 8),
        (2, [], [None, None]),
    ],
)
def test_there_is_one_worker_per_gpu_or_per_core_unless_said(
    workers: int | None, gpus: list[str], devices: list[str | None]
) -> None:
    environments = worker_environments(workers, gpus, 8, {})
    assert [environment.get("CUDA_VISIBLE_DEVICES") for environment in environments] == devices


@pytest.mark.parametrize(
    ("workers", "asked", "threads"),
    [(1, None, "8"), (3, None, "2"), (20, None, "1"), (2, "1", "1"), (2, "64", "4"), (2, "many", "4"), (2, "0", "4")],
)
def test_a_worker_has_its_share_of_the_cores_and_no_more_than_the_user_set(
    workers: int, asked: str | None, threads: str
) -> None:
    environment = {"OMP_NUM_THREADS": asked} if asked is not None else {}
    made = worker_environments(workers, [], 8, environment)
    assert {e[name] for e in made for name in THREAD_VARIABLES} == {threads}


def test_a_limit_of_one_library_is_not_one_of_the_others() -> None:
    (made,) = worker_environments(1, [], 8, {"RAYON_NUM_THREADS": "2", "OMP_NUM_THREADS": "4"})
    assert (made["RAYON_NUM_THREADS"], made["OMP_NUM_THREADS"], made["MKL_NUM_THREADS"]) == ("2", "4", "4")


NEEDED = (
    *("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "HF_HOME", "HF_TOKEN", "TRANSFORMERS_CACHE", "CUDA_HOME"),
    *("TOKENIZERS_PARALLELISM", "NCCL_DEBUG", "TORCH_HOME", "TORCHINDUCTOR_CACHE_DIR", "PYTORCH_CUDA_ALLOC_CONF"),
    *("KMP_AFFINITY", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "XDG_CACHE_HOME", "https_proxy", "NO_PROXY", "SSL_CERT_FILE"),
    *("PYTHONHASHSEED", "SLURM_JOB_ID", "CC", "ROCR_VISIBLE_DEVICES"),
)
STAYS = (
    *("PGPASSWORD", "MYSQL_PWD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "DB_PASS"),
    *("MLFLOW_S3_ENDPOINT_URL", "OPTUNA_STORAGE", "GITHUB_TOKEN", "OPENAI_API_KEY", "SSH_AUTH_SOCK", "SLURM_JWT"),
    "AZURE_STORAGE_CONNECTION_STRING",
)


def test_workers_get_what_training_reads_of_the_environment_and_nothing_else() -> None:
    (made,) = worker_environments(1, [], 1, dict.fromkeys([*NEEDED, *STAYS], "x"))
    assert made.keys() == {*NEEDED, *THREAD_VARIABLES}


def test_workers_get_the_variables_that_are_named() -> None:
    (made,) = worker_environments(1, [], 1, dict.fromkeys(STAYS, "x"), ["OPENAI_API_KEY", "UNSET"])
    assert made.keys() == {"OPENAI_API_KEY", *THREAD_VARIABLES}
