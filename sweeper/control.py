"""How another terminal steers a sweep: signals to the process that holds the lock, and the list of paused variants.

SIGUSR1 says finish what runs and start nothing new, SIGTERM and SIGHUP say stop at the next step. Knows no sweep.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from studies.foreign_files import open_file, read_bytes, read_json, write_whole

LOCK_FILE = "sweep.lock"
_LONGEST_LOCK = 1000
PAUSED_FILE = "paused.json"


class AlreadyRunning(Exception):
    """Another process runs this study."""


class NotHere(Exception):
    """The sweep cannot be reached from here: nobody runs the study, or another machine does."""


@contextmanager
def lock(runs: Path) -> Iterator[None]:
    """Hold the study for this process. The kernel lets go when the process ends, however it ends.

    Raises AlreadyRunning, naming the process that holds it; OSError where the folder cannot be written.
    """
    runs.mkdir(parents=True, exist_ok=True)
    with open_file(runs / LOCK_FILE, os.O_RDWR | os.O_CREAT) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            process, host = _holder(runs)
            where = f" on {host}" if host not in ("", socket.gethostname()) else ""
            raise AlreadyRunning(
                f"This study is being run already, by process {process or '?'}{where} (lock {file.name}). "
                "Wait for it, or stop it with `sweeper stop`."
            ) from None
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()} {socket.gethostname()}".encode())
        file.flush()
        yield


def ask_to_stop(runs: Path, *, now: bool) -> int:
    """Tell the sweep that holds the lock to stop, and give its process id. Raises NotHere."""
    process, host = _holder(runs)
    if not _is_held(runs) or not process.isdigit():
        raise NotHere("Nobody runs this study now.")
    if host not in ("", socket.gethostname()):
        raise NotHere(f"Process {process} on the machine {host} runs this study: stop it there.")
    with suppress(ProcessLookupError):
        os.kill(int(process), signal.SIGTERM if now else signal.SIGUSR1)
    return int(process)


def paused(runs: Path) -> frozenset[str]:
    """The variants that are not asked for now."""
    with suppress(OSError, ValueError, TypeError):
        return frozenset(str(name) for name in read_json(runs / PAUSED_FILE))
    return frozenset()


def set_paused(runs: Path, variants: frozenset[str]) -> None:
    """Keep the list of paused variants; a sweep that runs heeds it within a second. Raises OSError."""
    runs.mkdir(parents=True, exist_ok=True)
    write_whole(runs / PAUSED_FILE, json.dumps(sorted(variants)))


def _holder(runs: Path) -> tuple[str, str]:
    """Process id and host name as the holder of the lock wrote them, empty where it did not."""
    text = ""
    with suppress(OSError, ValueError):
        text = read_bytes(runs / LOCK_FILE, _LONGEST_LOCK).decode()
    process, _, host = text.strip().partition(" ")
    return process, host


def _is_held(runs: Path) -> bool:
    try:
        with open_file(runs / LOCK_FILE, os.O_RDONLY) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
