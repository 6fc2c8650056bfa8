"""Checks what a sweep needs on this machine: versions, devices, stores, disk; changes nothing."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import ClassVar

from packaging.requirements import Requirement
from rich.console import Console
from rich.markup import escape

from dashboards.store.addresses import sqlite_file
from dashboards.store.connection import StoreError, check_store, store_uri
from dashboards.store.databases import shown
from studies.text.plural import so_many
from studies.text.redact import redact
from sweeper.executors.process.devices import of_gpu, usable_cores, visible_gpus, worker_environments
from sweeper.search.storage import StorageError, check_apart, check_storage, storage_url

_ROOT = Path(__file__).parents[2]
_TORCH = "trainers.models.accelerator"
_TORCH_SECONDS = 120
"""For torch to be loaded and to find its devices, on a slow disk too."""
FREE_GIB = 2.0  # below this a sweep's checkpoints and databases are at risk


@dataclass(frozen=True)
class Finding:
    """A check: what it is of, what was found, whether a sweep can run with it, and the remedy if not."""

    what: str
    found: str
    good: bool = True
    remedy: str = ""


@dataclass(frozen=True)
class DoctorDocument:
    """Whether a sweep can run in this folder, and every check."""

    schema: ClassVar[str] = "doctor/1"
    good: bool
    findings: tuple[Finding, ...]


def examine(folder: Path) -> tuple[Finding, ...]:
    """Check everything that a sweep in `folder` depends on."""
    return (
        Finding("python", platform.python_version()),
        *_told("packages", _packages),
        *_told("devices", lambda: [_devices()]),
        *_told("disk", lambda: [_disk(folder)]),
        *_told("stores", lambda: _stores(folder)),
    )


def _told(what: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    """What a check finds; what it meets where it cannot be made is a finding too."""
    try:
        return check()
    except Exception as error:
        return [
            Finding(what, f"cannot be checked: {type(error).__name__}: {error}", False, "mend that, then ask again")
        ]


def print_findings(findings: tuple[Finding, ...], console: Console) -> None:
    """Print a line for each check, with the remedy below where it fails."""
    for finding in findings:
        mark = "[green]ok[/green]    " if finding.good else "[red]not ok[/red]"
        # Lines stay whole: of an address that is broken in two no secret could be told any more.
        console.print(f"{mark} {finding.what}: {escape(redact(finding.found))}", soft_wrap=True)
        if finding.remedy:
            console.print(f"       {escape(redact(finding.remedy))}", soft_wrap=True)


def _declared() -> list[str]:
    """What the project needs: as installed, or as written beside a checkout that is not."""
    with suppress(PackageNotFoundError):
        return requires("dpo-sweeper") or []
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return list(project["dependencies"])


def _packages() -> list[Finding]:
    """Check each declared dependency against what is installed."""
    findings = []
    for text in _declared():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            findings.append(Finding(requirement.name, "not installed", False, f"pip install '{text}'"))
            continue
        good = requirement.specifier.contains(installed, prereleases=True)
        remedy = "" if good else f"pip install '{text}'"
        findings.append(Finding(requirement.name, installed, good, remedy))
    return findings


def _devices() -> Finding:
    """The GPUs as torch uses them in a worker's environment: it alone knows whether it was built for them and gets on
    with their driver.
    """
    gpus, cores = visible_gpus(os.environ), usable_cores()
    (environment, *_) = worker_environments(1, gpus, cores, os.environ)
    modules = os.pathsep.join(path for path in sys.path if path)
    environment |= {"PYTHONPATH": modules, **(of_gpu(",".join(gpus), os.environ) if gpus else {})}
    command = [sys.executable, "-P", "-W", "ignore::FutureWarning", "-m", _TORCH]
    try:
        told = subprocess.run(
            command, capture_output=True, text=True, timeout=_TORCH_SECONDS, check=False, env=environment
        )
        answer = json.loads(told.stdout.splitlines()[-1]) if told.returncode == 0 and told.stdout else None
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        return Finding("devices", f"torch cannot be asked: {error}", False, f"python -m {_TORCH} says more")
    last = (told.stderr.strip().splitlines() or [""])[-1].strip()
    if answer is None:
        return Finding("devices", f"torch cannot be loaded: {last or told.returncode}", False, "install torch again")
    if gpus and not answer["devices"]:
        return _unused(len(gpus), answer["torch"], answer["built_for"], last)
    if not answer["devices"]:
        return Finding("devices", f"no GPU, {cores} CPU cores: runs train on the CPU")
    return Finding("devices", f"{'; '.join(answer['devices'])}; {cores} CPU cores")


def _unused(gpus: int, torch: str, built_for: str | None, why: str) -> Finding:
    """There are GPUs, and torch finds none."""
    reason = f" ({why})" if built_for and why else ""
    found = f"{so_many(gpus, 'GPU')}, of which torch {torch} can use none{reason}: runs would train on the CPU"
    remedy = "install a torch that is built for this GPU: https://pytorch.org/get-started"
    if built_for:
        older = f"install a torch for an older one than {built_for}"
        remedy = f"update the driver, or {older}: https://pytorch.org/get-started"
    return Finding("devices", found, False, remedy)


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free / 2**30
    good = free >= FREE_GIB
    return Finding("disk", f"{free:.1f} GiB free in {folder}", good, "" if good else f"free at least {FREE_GIB:g} GiB")


def _stores(folder: Path) -> list[Finding]:
    """Check both stores; nothing is written to them."""
    uri, storage = store_uri(None, folder), storage_url(None, folder)
    findings = [
        _store("stores", uri, lambda: check_apart(storage, uri)),
        _store("MLflow store", uri, lambda: check_store(uri, write=True)),
        _store("Optuna storage", storage, lambda: check_storage(storage)),
    ]
    if findings[0].good:
        del findings[0]
    if sqlite_file(uri) is not None and (folder / "mlruns").exists():
        remedy = "Plain `mlflow ui` here shows ./mlruns instead; use `sweeper ui`, or move that folder away."
        findings.append(Finding("mlruns", "an old MLflow file store lies in this folder", True, remedy))
    if not os.access(folder, os.W_OK):
        findings.append(Finding("folder", f"{folder} cannot be written", False, "run in a folder of your own"))
    return findings


def _store(what: str, url: str, check: Callable[[], bool | None]) -> Finding:
    """Check a store: it is there, not there yet, or unusable."""
    try:
        there = check()
    except (StoreError, StorageError) as error:
        return Finding(what, f"{shown(url)} cannot be used", False, str(error))
    return Finding(what, shown(url) + ("" if there else " (made by the first sweep)"))
