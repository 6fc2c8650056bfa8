"""Teams of workers on other machines, which come in by a door that listens."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from studies.schema.types import SlurmJobs
from studies.text.files import read_bytes, write_whole
from studies.text.plural import so_many
from sweeper.executors.door.door import Door
from sweeper.executors.door.greeting import PACKAGES, Welcome, versions_of
from sweeper.executors.door.network import KEY_FILE_VARIABLE, make_key, own_addresses, split_address
from sweeper.executors.door.shared import leave_mark
from sweeper.executors.elsewhere.hosts import Hosts
from sweeper.executors.elsewhere.slurm import Slurm
from sweeper.executors.process.devices import GPU_VARIABLES, THREAD_VARIABLES, handed_on
from sweeper.executors.process.handle import Starter
from sweeper.executors.process.team import Team

KEY_FILE: Final = "door.key"
PORT_FILE: Final = "door.port"
_MOST_BYTES: Final = 16


@dataclass(frozen=True)
class Gate:
    """A door that listens: the addresses that lead to it, the file of its key, and what it tells who comes."""

    door: Door
    addresses: str
    key_file: Path
    welcome: Welcome


def open_gate(trainer: str, logs: Path, address: str | None) -> Gate:
    """Let workers come from other machines that share the folder `logs`. Raises OSError."""
    host, port = split_address(address) if address else ("", None)
    logs = logs.absolute()
    key_file = logs / KEY_FILE
    door = Door(make_key(key_file), versions_of(PACKAGES))
    try:
        found = _listen(door, host, port, logs / PORT_FILE)
        name, holds = leave_mark(logs)
    except BaseException:
        door.close()
        raise
    addresses = ",".join(f"{one}:{found}" for one in ([host] if host else own_addresses()))
    welcome = Welcome(trainer=trainer, folder=str(logs), file=name, holds=holds, start=os.getcwd())
    return Gate(door, addresses, key_file, welcome)


def _listen(door: Door, host: str, port: int | None, last: Path) -> int:
    """Open the door at this port, else at the one that the study's last door had, where it is free: hosts dial it for
    a while, as between two doors of a sweep, or where it is killed and run again. Raises OSError.
    """
    if port is not None:
        return door.listen(host, port)
    try:
        found = door.listen(host, int(read_bytes(last, _MOST_BYTES)))
    except (OSError, ValueError, OverflowError):
        found = door.listen(host, 0)
    write_whole(last, str(found))
    return found


def slurm_team(
    trainer: str,
    workers: int | None,
    log_folder: Path,
    env: Collection[str],
    *,
    jobs: SlurmJobs,
    study: str,
    address: str | None,
) -> Team:
    """Workers that are jobs of a cluster, all of them on one line in its queue. Raises OSError, and ValueError where
    their number is not given.
    """
    count, gate = wanted(workers), open_gate(trainer, log_folder, address)
    own = {name: str(jobs.cpus) for name in THREAD_VARIABLES}
    environment = {**_for_cluster(os.environ, env), **own, KEY_FILE_VARIABLE: str(gate.key_file)}
    launcher = Slurm(jobs, study, gate.addresses)
    starters = [
        Starter(f"worker-{i}", gate.welcome, environment, log_folder.absolute(), launcher, jobs.python)
        for i in range(count)
    ]
    places = {starter.name: starter.name for starter in starters}
    return Team(starters, places, gate.door, close=launcher.close)


def wanted(workers: int | None) -> int:
    """The number of workers, which nobody but the user knows. Raises ValueError where it is not given."""
    if workers is None or workers < 1:
        raise ValueError("say how many workers there are elsewhere, with --workers or resources.workers")
    return workers


def _for_cluster(environment: Mapping[str, str], env: Collection[str]) -> dict[str, str]:
    """What a job gets of this environment. Not what is about this machine, nor about the job that the sweep itself may
    be, whose limits `sbatch` would take for those of the new one.
    """
    kept = handed_on(environment, env)
    return {
        name: value
        for name, value in kept.items()
        if name not in (*GPU_VARIABLES, *THREAD_VARIABLES, "TMPDIR", "TMP", "TEMP", "PWD")
        and (not name.startswith("SLURM_") or name == "SLURM_CONF")
    }


def hosts_team(
    trainer: str,
    workers: int | None,
    log_folder: Path,
    env: Collection[str],
    *,
    address: str | None,
    say: Callable[[str], None],
) -> Team:
    """Workers on hosts that come by themselves; says how. What their environment is, they know. Raises OSError, and
    ValueError where the number of workers is not given.
    """
    count = wanted(workers)
    gate, hosts = open_gate(trainer, log_folder, address), Hosts()
    starters = [Starter(f"worker-{i}", gate.welcome, {}, log_folder.absolute(), hosts) for i in range(count)]
    gate.door.expect("", gate.welcome)
    say(
        f"Waiting for {so_many(count, 'worker')}. On each machine: sweeper worker --connect {gate.addresses} "
        f"--key-file {shlex.quote(str(gate.key_file))}"
    )
    return Team(starters, {starter.name: starter.name for starter in starters}, gate.door, hosts, hosts.close)
