"""Finds out why a process ended, from its exit code and the kernel's count of OOM kills."""

from __future__ import annotations

import re
import signal
from contextlib import suppress
from pathlib import Path

from studies.records import Cause

_CGROUPS = Path("/sys/fs/cgroup")


def oom_counter(process: int) -> Path | None:
    """The file that counts the OOM kills in the memory cgroup of a process.

    `memory.events` of cgroup v2 or `memory.oom_control` of v1 (kernel, Documentation/admin-guide/cgroup-v2.rst); the
    machine's own count where there is none, as in the root group; None where the system has neither.
    """
    found = [place / name for place, name in _places(process)]
    return next((file for file in [*found, Path("/proc/vmstat")] if oom_kills(file) is not None), None)


def oom_kills(counter: Path | None) -> int | None:
    """The count in the file; None where there is none."""
    if counter is None:
        return None
    with suppress(OSError):
        match = re.search(r"^oom_kill (\d+)$", counter.read_text(encoding="utf-8"), re.MULTILINE)
        return int(match[1]) if match else None
    return None


def _places(process: int) -> list[tuple[Path, str]]:
    places = []
    with suppress(OSError):
        for line in Path(f"/proc/{process}/cgroup").read_text(encoding="utf-8").splitlines():
            hierarchy, controllers, path = line.split(":", 2)
            if hierarchy == "0":
                places.append((_CGROUPS / path.lstrip("/"), "memory.events"))
            elif "memory" in controllers.split(","):
                places.append((_CGROUPS / "memory" / path.lstrip("/"), "memory.oom_control"))
    return places


def why_it_ended(code: int, oom_kills_before: int | None, oom_kills_after: int | None) -> tuple[Cause, str]:
    """The cause and the reason, in words, for the end of a worker with runs in training: by its exit code and the
    kernel's counts of OOM kills before and after (None where it does not count).
    """
    if code >= 0:
        return Cause.WORKER_LOST, f"the worker exited with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    if -code == signal.SIGTERM:
        return Cause.PREEMPTED, "the worker was told to go by SIGTERM"
    if -code == signal.SIGALRM:  # which the worker sets itself, see `sweeper.executors.process.worker`
        return Cause.PREEMPTED, "the worker was told to go by SIGTERM and did not come to the end of a step in time"
    if -code == signal.SIGKILL and (oom_kills_after or 0) > (oom_kills_before or 0):
        return Cause.OUT_OF_HOST_MEMORY, "out of memory: the kernel killed the worker"
    unknown = " (by hand, or out of memory on a system that does not say so)" if -code == signal.SIGKILL else ""
    return Cause.WORKER_LOST, f"the worker was killed by {name}{unknown}"
