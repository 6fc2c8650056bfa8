"""The doctor asks torch what it can use, and what cannot be checked is a finding and no traceback."""

from __future__ import annotations

import json
import shutil
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from sweeper.commands import doctor
from sweeper.commands.doctor import Finding, examine


@pytest.fixture
def torch_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """`torch_says(answer, error="", code=0)`: what the process that loads torch prints."""

    def play(answer: object, error: str = "", code: int = 0) -> None:
        python = tmp_path / "python"
        said = "" if answer is None else f"echo '{json.dumps(answer)}'"
        python.write_text(f"#!/bin/sh\n{said}\necho '{error}' >&2\nexit {code}\n")
        python.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(python))

    return play


def devices(folder: Path) -> Finding:
    (found,) = [finding for finding in examine(folder) if finding.what == "devices"]
    return found


def test_a_gpu_that_torch_can_use_is_named_as_torch_names_it(torch_says: Any, tmp_path: Path) -> None:
    torch_says({"torch": "2.11", "built_for": "CUDA 12.8", "devices": ["NVIDIA H200, 140 GiB"]})
    found = devices(tmp_path)
    assert found.good
    assert "H200" in found.found


@pytest.mark.parametrize(
    ("built", "error", "remedy"),
    [
        (None, "", "built for this GPU"),
        ("CUDA 13.0", "The NVIDIA driver on your system is too old", "update the driver"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_not_fine(
    torch_says: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: str | None, error: str, remedy: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    torch_says({"torch": "2.13.0", "built_for": built, "devices": []}, error)
    found = devices(tmp_path)
    assert not found.good
    assert "2 GPUs" in found.found
    assert error in found.found
    assert remedy in found.remedy


@pytest.mark.parametrize("answer", [None, "no such thing"])
def test_a_torch_that_cannot_be_loaded_is_a_finding(torch_says: Any, tmp_path: Path, answer: object) -> None:
    torch_says(answer, "ImportError: libcudart.so.12: cannot open shared object file", code=1)
    found = devices(tmp_path)
    assert not found.good
    assert "libcudart" in found.found


def test_a_checkout_that_is_not_installed_is_examined_too(
    torch_says: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_installed(_: str) -> Any:
        raise PackageNotFoundError("dpo-sweeper")

    monkeypatch.setattr(doctor, "requires", not_installed)
    torch_says({"torch": "2.13.0", "built_for": None, "devices": []})
    found = {finding.what: finding for finding in examine(tmp_path)}
    assert found["trl"].good
    assert found["devices"].found.startswith("no GPU")


def test_what_a_check_meets_is_told(torch_says: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> Any:
        raise OSError("the disk is gone")

    torch_says({"torch": "2.13.0", "built_for": None, "devices": []})
    monkeypatch.setattr(shutil, "disk_usage", broken)
    (disk,) = [finding for finding in examine(tmp_path) if finding.what == "disk"]
    assert not disk.good
    assert "the disk is gone" in disk.found
