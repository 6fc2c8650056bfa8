"""A Slurm of one's own for a test: controller and nodes on this machine, GPUs that are none, for any user.

Debian: `apt-get install slurmctld slurmd slurm-client munge`. Written for 22.05, built with several slurmd a host.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.services.processes import end, free_ports, short_folder, start, wait_for

PACKAGES = "apt-get install slurmctld slurmd slurm-client munge"
_PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "scontrol", "squeue")
# Slurm only looks whether these are character devices, to tell jobs which GPU is theirs.
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random")
# Limits are short, so that no test waits: 5 s of grace where a job is preempted, 10 s until a killed job is really
# gone, 10 s until a node that does not answer is down.
_SETTINGS = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_min_interval=50000,bf_interval=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
GresTypes=gpu
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdParameters=config_overrides
SlurmdTimeout=10
KillWait=10
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=5
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""
_NODE = "NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=4000 Gres=gpu:{gpus}\n"


def missing_slurm() -> str | None:
    """Why no Slurm can be started here; None where one can."""
    absent = [program for program in _PROGRAMS if _program(program) is None]
    return f"no {', '.join(absent)} on this machine: {PACKAGES}" if absent else None


@dataclass
class Slurm:
    """A cluster that runs. `environment`: what `sbatch` and the others must be called with to find it.

    Partitions: `main`, and `urgent`, whose jobs preempt those of `main`, which are requeued.
    """

    folder: Path
    nodes: Sequence[str]
    environment: Mapping[str, str]
    _servers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def call(self, *command: str) -> str:
        """What one of Slurm's commands prints. Raises CalledProcessError."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout.strip()

    def lose_node(self, node: str) -> None:
        """Kill a node's daemon, as where its machine is cut off: what it runs goes on, and nobody hears of it."""
        server = self._servers.pop(node)
        server.kill()
        server.wait()

    def kill_node(self, node: str) -> None:
        """Kill a node's daemon and all that it runs, as where its machine loses its power."""
        self.lose_node(node)
        trained = [psutil.Process(number) for number in _processes_of(self.folder, f"SLURMD_NODENAME={node}")]
        above = [parent for one in trained if (parent := one.parent()) and parent.name() == "slurmstepd"]
        for process in (*above, *trained):  # first those that would tell of it
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def start_node(self, node: str) -> None:
        """Start the daemon of a node."""
        self._start(node, "slurmd", "-D", "-N", node)

    def stop_controller(self) -> None:
        """End the controller: commands fail from then on, and running jobs do not notice."""
        end(self._servers.pop("slurmctld"), signal.SIGINT)

    def start_controller(self) -> None:
        """Start the controller, which knows the jobs of an earlier one."""
        self._start("slurmctld", "slurmctld", "-D")

    def wait_until_idle(self) -> None:
        """Wait until all nodes that run take jobs."""
        count = len(self._servers.keys() & set(self.nodes))
        wait_for(lambda: self._idle() == count, "Slurm", self.folder / "slurmctld.log", list(self._servers.values()))

    def _idle(self) -> int:
        try:
            told = self.call("sinfo", "-h", "-t", "idle", "-o", "%D")
        except subprocess.CalledProcessError:
            return 0
        return int(told or 0)

    def _start(self, name: str, program: str, *options: str) -> None:
        """Start one of the daemons in the foreground."""
        command = [_program(program) or program, *options]
        self._servers[name] = start(command, self.folder / f"{name}.log", self.environment)

    def _end(self) -> None:
        """End daemons and jobs, also those of nodes that were lost."""
        with suppress(subprocess.SubprocessError):
            self.call("scancel", "--batch", "--signal=KILL", "--user", getpass.getuser())
        for name, server in reversed(self._servers.items()):
            end(server, signal.SIGTERM if name == "munged" else signal.SIGINT)
        for process in _processes_of(self.folder):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


@contextmanager
def running_slurm(nodes: int = 2, gpus: int = 2) -> Iterator[Slurm]:
    """A cluster of so many nodes with so many GPUs each, up to four; ended with all its jobs. Raises NotStarted."""
    host = socket.gethostname().partition(".")[0]
    with short_folder("slurm-") as folder:
        names = [f"n{number + 1}" for number in range(nodes)]
        port, *ports = free_ports(nodes + 1)
        settings = _SETTINGS.format(host=host, port=port, user=getpass.getuser(), folder=folder)
        for name, own in zip(names, ports, strict=True):
            settings += _NODE.format(node=name, host=host, port=own, gpus=gpus)
        (folder / "slurm.conf").write_text(settings)
        devices = ",".join(_DEVICES[:gpus])
        (folder / "gres.conf").write_text(f"NodeName={','.join(names)} Name=gpu File={devices}\n")
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o400)
        (folder / "state").mkdir()
        cluster = Slurm(folder, names, {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")})
        try:
            _start_all(cluster)
            yield cluster
        finally:
            cluster._end()


def _start_all(cluster: Slurm) -> None:
    folder, key = cluster.folder, cluster.folder / "munge.key"
    places = {"key-file": key, "socket": folder / "munge.sock", "pid-file": folder / "munged.pid"}
    places |= {"log-file": folder / "munge.log", "seed-file": folder / "munge.seed"}
    options = [f"--{name}={place}" for name, place in places.items()]
    cluster._start("munged", "munged", "--foreground", "--force", "--num-threads=2", *options)
    wait_for((folder / "munge.sock").exists, "munged", folder / "munged.log", list(cluster._servers.values()))
    cluster.start_controller()
    for node in cluster.nodes:
        (folder / f"spool-{node}").mkdir()
        cluster.start_node(node)
    cluster.wait_until_idle()


def _program(name: str) -> str | None:
    """Where a program is; daemons lie where ordinary users do not look."""
    return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin")))


def _processes_of(folder: Path, *others: str) -> list[int]:
    """The processes that were started with the settings of this cluster: jobs, and what looks after them; those that
    have these other variables too.
    """
    mine = {text.encode() for text in (f"SLURM_CONF={folder / 'slurm.conf'}", *others)}
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            with suppress(OSError):
                if mine <= set((process / "environ").read_bytes().split(b"\0")):
                    found.append(int(process.name))
    return found
