"""Checks what a sweep needs on this machine: versions, devices, stores, disk; changes nothing."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable
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
from studies.text.redact import redact
from sweeper.search.storage import StorageError, check_apart, check_storage, storage_url

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
        *_packages(),
        _devices(),
        _disk(folder),
        *_stores(folder),
    )


def print_findings(findings: tuple[Finding, ...], console: Console) -> None:
    """Print a line for each check, with the remedy below where it fails."""
    for finding in findings:
        mark = "[green]ok[/green]    " if finding.good else "[red]not ok[/red]"
        # Lines stay whole: of an address that is broken in two no secret could be told any more.
        console.print(f"{mark} {finding.what}: {escape(redact(finding.found))}", soft_wrap=True)
        if finding.remedy:
            console.print(f"       {escape(redact(finding.remedy))}", soft_wrap=True)


def _packages() -> list[Finding]:
    """Check each declared dependency against what is installed."""
    findings = []
    for text in requires("dpo-sweeper") or []:
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
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
        listed = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return Finding("devices", f"no NVIDIA GPU, {cores} CPU cores: runs train on the CPU")
    return Finding("devices", f"{'; '.join(listed.splitlines())}; {cores} CPU cores")


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
