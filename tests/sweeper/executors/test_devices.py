"""Which GPU and how many threads each worker is given."""

from __future__ import annotations

import ctypes
import platform
import sys
from pathlib import Path
from typing import Any

import pytest

from sweeper.executors.process import devices
from sweeper.executors.process.devices import (
    THREAD_VARIABLES,
    default_workers,
    listed_gpus,
    visible_gpus,
    worker_environments,
)


@pytest.fixture(autouse=True)
def _no_device_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(devices, "_DRIVER", tmp_path / "driver")
    monkeypatch.setattr(devices, "_AMD_NODES", tmp_path / "nodes")
    monkeypatch.setattr(ctypes, "CDLL", _no_library)


def _no_library(name: str) -> Any:
    raise OSError(f"{name}: cannot open shared object file")


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


class Nvml:
    """NVIDIA's management library, with two cards, the first cut into two parts."""

    cards = ({"uuid": b"GPU-0a", "parts": [b"MIG-1b", b"MIG-1c"]}, {"uuid": b"GPU-2d", "parts": []})

    def __init__(self, _: str) -> None:
        self.handles = [card["uuid"] for card in self.cards] + [part for card in self.cards for part in card["parts"]]

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlShutdown(self) -> int:
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = len(self.cards)
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, handle: Any) -> int:
        handle._obj.value = 1 + self.handles.index(self.cards[index]["uuid"])
        return 0

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: ctypes.c_void_p, count: Any) -> int:
        count._obj.value = 7
        return 0

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: ctypes.c_void_p, index: int, part: Any) -> int:
        parts = self.cards[(handle.value or 0) - 1]["parts"]
        if index >= len(parts):
            return 6  # not found
        part._obj.value = 1 + self.handles.index(parts[index])
        return 0

    def nvmlDeviceGetUUID(self, handle: ctypes.c_void_p, text: Any, length: int) -> int:
        text.value = self.handles[(handle.value or 0) - 1]
        return 0


def test_without_the_drivers_tool_its_library_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(ctypes, "CDLL", Nvml)
    assert visible_gpus({}) == ["MIG-1b", "MIG-1c", "GPU-2d"]


def test_without_tool_and_library_the_kernel_module_tells(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for place, uuid in (("0000:65:00.0", "GPU-11-aa"), ("0000:ca:00.0", "GPU-22-bb")):
        file = tmp_path / "driver" / place / "information"
        file.parent.mkdir(parents=True)
        file.write_text(f"Model: \t\t NVIDIA H200\nIRQ:   \t\t 18\nGPU UUID: \t {uuid}\nDevice Minor: \t 0\n")
    assert visible_gpus({}) == ["GPU-11-aa", "GPU-22-bb"]


def test_amds_gpus_are_found_by_the_kernel_or_by_their_tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    tool = tmp_path / "rocm-smi"
    tool.write_text(
        "#!/bin/sh\necho 'GPU[0] : Device ID: 0x74a1'; echo 'GPU[0] : Device Rev: 0'; echo 'GPU[1] : 0x74'\n"
    )
    tool.chmod(0o755)
    assert visible_gpus({}) == ["0", "1"]
    for node, simds in enumerate((0, 0, 1216, 1216, 1216)):
        file = tmp_path / "nodes" / str(node) / "properties"
        file.parent.mkdir(parents=True)
        file.write_text(f"cpu_cores_count 64\nsimd_count {simds}\n")
    assert visible_gpus({}) == ["0", "1", "2"]


@pytest.mark.parametrize("variable", ["HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"])
def test_the_variable_that_names_gpus_is_the_one_that_gives_a_worker_its_own(variable: str) -> None:
    environment = {variable: "2,3"}
    gpus = visible_gpus(environment)
    assert gpus == ["2", "3"]
    made = worker_environments(None, gpus, 8, environment)
    assert [{name: e.get(name) for name in devices.GPU_VARIABLES if name in e} for e in made] == [
        {variable: "2"},
        {variable: "3"},
    ]
    assert visible_gpus({variable: ""}) == []


def test_a_worker_on_one_of_the_gpus_that_two_variables_name_sees_no_other() -> None:
    environment = {"HIP_VISIBLE_DEVICES": "0,1", "CUDA_VISIBLE_DEVICES": "0,1", "ROCR_VISIBLE_DEVICES": "4,5"}
    _, second = worker_environments(None, visible_gpus(environment), 8, environment)
    assert {name: second[name] for name in devices.GPU_VARIABLES} == {
        "HIP_VISIBLE_DEVICES": "1",
        "CUDA_VISIBLE_DEVICES": "1",
        "ROCR_VISIBLE_DEVICES": "4,5",
    }


def test_a_worker_shares_apples_gpu_with_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert default_workers([], 12) == len(worker_environments(None, [], 12, {})) == 1
    assert len(worker_environments(3, [], 12, {})) == 3
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert default_workers([], 12) == 12


def test_the_memory_of_the_smallest_card_that_can_be_used_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\ntest "$4" = 0,3 && printf "81559\\n24576\\n"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert devices.gpu_gib({"CUDA_VISIBLE_DEVICES": "0,3"}) == 24.0
    assert devices.gpu_gib({"CUDA_VISIBLE_DEVICES": ""}) is None
    assert devices.gpu_gib({"CUDA_VISIBLE_DEVICES": "MIG-1"}) is None


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
