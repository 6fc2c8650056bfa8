"""Checks what workers on other machines need: a cluster that takes their jobs, a folder that they see, a way back here,
a key. Changes nothing, submits nothing.
"""

from __future__ import annotations

import os
import shutil
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dashboards.store.addresses import sqlite_file
from dashboards.store.connection import store_uri
from studies.schema.types import SlurmJobs
from studies.text.plural import so_many
from sweeper.commands.doctor import Finding
from sweeper.executors.door.network import (
    KEY_FILE_VARIABLE,
    KEY_VARIABLE,
    key_in,
    own_addresses,
    split_address,
)
from sweeper.executors.elsewhere.slurm import COMMANDS, refusal, silence
from sweeper.executors.elsewhere.team import KEY_FILE
from sweeper.folder.names import LOGS
from sweeper.search.storage import storage_url

if TYPE_CHECKING:
    from studies.spec import StudySpec

_NETWORKED: Final = frozenset(
    {"nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "panfs", "wekafs", "afs", "9p", "virtiofs"}
)
_MOUNTS: Final = Path("/proc/self/mountinfo")


@dataclass(frozen=True)
class Elsewhere:
    """What is asked of workers on other machines, as a study says. `runs`: the folder that they must see."""

    runs: Path
    workers: int | None = None
    address: str | None = None
    jobs: SlurmJobs = field(default_factory=SlurmJobs)

    @classmethod
    def of(cls, spec: StudySpec, folder: Path, workers: int | None) -> Elsewhere:
        """`workers`: as the user says."""
        known = spec.resources
        runs = folder / spec.output.folder / spec.study
        return cls(runs, workers or known.workers, known.address, known.slurm or SlurmJobs())


def examine_elsewhere(executor: str, asked: Elsewhere) -> tuple[Finding, ...]:
    """Check what workers of this executor need."""
    own = _slurm(asked.jobs) if executor == "slurm" else []
    here = [_workers(asked.workers), _folder(asked.runs), *_databases(Path.cwd()), _address(asked.address)]
    return (*here, _key(asked.runs), *own)


def _workers(count: int | None) -> Finding:
    if count:
        return Finding("workers", f"{so_many(count, 'worker')} elsewhere")
    return Finding("workers", "nobody says how many there are", False, "--workers N, or resources.workers in the study")


def _folder(runs: Path) -> Finding:
    """On what the folder of the runs lies; whether other machines mount it at this path too, they alone can say."""
    kind, source = _mount(runs)
    if _is_shared(kind):
        return Finding("shared folder", f"{runs} on {kind} ({source})")
    return Finding(
        "shared folder",
        f"{runs} on {kind or 'a file system of no known kind'}: a disk of this machine, as far as it can be told",
        True,
        "Workers must see it at the same path: run the sweep in a folder on the cluster's file system, unless this "
        "machine exports its own. A worker that does not see it is refused, and both sides say so.",
    )


def _databases(folder: Path) -> list[Finding]:
    """The stores that are files on a file system of several machines, which damages what two of them write."""
    found = []
    for what, url in (("MLflow store", store_uri(None, folder)), ("Optuna storage", storage_url(None, folder))):
        file = sqlite_file(url)
        kind = "" if file is None else _mount(file)[0]
        if _is_shared(kind):
            remedy = "keep it on a disk of this machine, or on a PostgreSQL server: see sweeper/stores.md"
            found.append(Finding(what, f"{file} is SQLite on {kind}, which bears one machine alone", False, remedy))
    return found


def _is_shared(kind: str) -> bool:
    return kind in _NETWORKED or kind.startswith("fuse.")


def _mount(folder: Path) -> tuple[str, str]:
    """The kind of the file system that a folder lies on, or will, and what it is mounted from (proc(5), mountinfo)."""
    place, found, kind, source = os.path.realpath(folder), "", "", ""
    with suppress(OSError):
        for line in _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines():
            before, _, after = line.partition(" - ")
            point = before.split()[4].replace("\\040", " ")
            if len(point) >= len(found) and Path(place).is_relative_to(point):
                found, (kind, source) = point, after.split()[:2]
    return kind, source


def _address(address: str | None) -> Finding:
    """Where workers are told to connect to, and whether the port is free."""
    try:
        host, port = split_address(address) if address else ("", None)
        for *_, found in socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM) if host else ():
            host = host if host == found[0] else f"{host} ({found[0]})"
            break
        if port is not None:
            socket.create_server(("", port)).close()
    except ValueError as error:
        return Finding("address", str(error), False, "correct resources.address")
    except socket.gaierror:
        return Finding("address", f"nobody knows {host}", False, "name another in resources.address")
    except OSError as error:
        return Finding("address", f"port {port}: {error.strerror}", False, "another port in resources.address")
    told = [host] if host else own_addresses()
    if not host and told == ["127.0.0.1"]:
        remedy = "name the address at which workers reach this machine: resources: {address: HOST}"
        return Finding("address", "this machine knows no address of its own but 127.0.0.1", False, remedy)
    at = f"port {port}" if port else "a free port"
    return Finding("address", f"workers connect to {', '.join(told)}, {at}, which must be open to them")


def _key(runs: Path) -> Finding:
    """The key, which keeps strangers out."""
    file = runs / LOGS / KEY_FILE
    try:
        if KEY_VARIABLE in os.environ:
            key_in({KEY_VARIABLE: os.environ[KEY_VARIABLE]})
            return Finding("key", f"that of {KEY_VARIABLE}")
        key_in({KEY_FILE_VARIABLE: str(file)})
    except FileNotFoundError:
        return Finding("key", f"{file} (made by the first sweep, for you alone)")
    except OSError as error:
        return Finding("key", f"{file}: {error.strerror}", False, f"chmod 600 {file}, or remove it")
    except ValueError as error:
        return Finding("key", str(error), False, f"a longer one in {KEY_VARIABLE}, or remove {file}")
    return Finding("key", str(file))


def _slurm(jobs: SlurmJobs) -> list[Finding]:
    """Whether Slurm answers, and would take the job of a worker."""
    absent = [command for command in COMMANDS if shutil.which(command) is None]
    if absent:
        found = f"no {', '.join(absent)} on this machine"
        return [Finding("Slurm", found, False, "run the sweep where Slurm's commands are, as on a login node")]
    wrong = silence()
    if wrong:
        remedy = "ask again once the controller is back; `scontrol ping` says which one it is"
        return [Finding("Slurm", f"does not answer: {wrong}", False, remedy)]
    wrong = refusal(jobs)
    if wrong:
        remedy = "correct resources.slurm; `sinfo` lists partitions, `sacctmgr show assoc user=$USER` accounts"
        return [Finding("Slurm", "answers"), Finding("jobs", f"Slurm would not take them: {wrong}", False, remedy)]
    asked = ", ".join(f"{name} {value}" for name, value in jobs.model_dump(exclude_defaults=True).items() if value)
    return [Finding("Slurm", "answers"), Finding("jobs", f"Slurm would take them ({asked or 'as by default'})")]
