"""Whether the kernel killed a process for want of memory, as far as it tells; knows no workers and no runs (Linux)."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def oom_counter(process: int) -> Path | None:
    """The file that counts the processes of this one's memory cgroup which the kernel has killed for want of memory.

    `memory.events` of cgroup v2 or `memory.oom_control` of v1 (kernel, Documentation/admin-guide/cgroup-v2.rst); the
    machine's own count where there is none, as in the root group; None where the system tells nothing.
    """
    found = [place / name for place, name in _places(process)]
    return next((file for file in [*found, Path("/proc/vmstat")] if oom_kills(file) is not None), None)


def oom_kills(counter: Path | None) -> int | None:
    """The count that stands in the file; None where there is none."""
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
