"""How another terminal steers a sweep: signals to the process that holds the lock, and the list of paused variants.

SIGUSR1 says finish what runs and start nothing new, SIGTERM and SIGHUP say stop at the next step. Knows no sweep.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from studies.text.files import open_file, read_bytes, read_json, write_whole
from sweeper.folder.names import LOCK_FILE, PAUSED_FILE

_LONGEST_LOCK = 1000


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
    """Tell the sweep that holds the lock to stop, and give its process id. Raises NotHere.

    Whoever may write into the folder may write any process into the lock: only the user's own is told that does hold
    it, and that has said what it does on such a signal, as every sweep has.
    """
    process, host = _holder(runs)
    if not _is_held(runs) or not process.isdigit():
        raise NotHere("Nobody runs this study now.")
    if host not in ("", socket.gethostname()):
        raise NotHere(f"Process {process} on the machine {host} runs this study: stop it there.")
    number = signal.SIGTERM if now else signal.SIGUSR1
    problem = _not_a_sweep(int(process), runs / LOCK_FILE, number)
    if problem is not None:
        raise NotHere(f"{runs / LOCK_FILE} names process {process}, {problem}. Nothing was stopped.")
    with suppress(ProcessLookupError):
        os.kill(int(process), number)
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


def _not_a_sweep(process: int, lock_file: Path, number: signal.Signals) -> str | None:
    """Why a process is not to be sent a signal, None where it is a sweep of this user that holds the lock."""
    place = Path(f"/proc/{process}")
    if not Path("/proc/self/fdinfo").exists():
        return _not_named_a_sweep(process)
    try:
        if place.stat().st_uid != os.getuid():
            return "which is of another user"
        held = lock_file.stat()
        if not any(_holds(place, descriptor.name, held) for descriptor in (place / "fd").iterdir()):
            return "which does not hold it"
        status = (place / "status").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return f"of which nothing can be found out ({error.strerror})"
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", status, re.MULTILINE)
    if caught is None or not int(caught[1], 16) >> (number - 1) & 1:
        return f"which does not wait for {number.name}: it is no sweep, or one that has just begun"
    return None


def _holds(process: Path, descriptor: str, lock_file: os.stat_result) -> bool:
    """Whether a descriptor of a process is of the lock's file and locks it."""
    with suppress(OSError):
        if os.path.samestat((process / "fd" / descriptor).stat(), lock_file):
            return "FLOCK" in (process / "fdinfo" / descriptor).read_text(encoding="utf-8")
    return False


def _not_named_a_sweep(process: int) -> str | None:
    """The same where there is no /proc: by the owner and the command."""
    asked = ["ps", "-o", "uid=,command=", "-p", str(process)]
    try:
        owner, _, command = subprocess.run(asked, capture_output=True, text=True).stdout.strip().partition(" ")
    except OSError as error:
        return f"of which nothing can be found out ({error.strerror})"
    if owner != str(os.getuid()):
        return "which is of another user"
    return None if "sweeper" in command else "which is no sweep"


def _is_held(runs: Path) -> bool:
    try:
        with open_file(runs / LOCK_FILE, os.O_RDONLY) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Keep other sweeps in this folder from making the same databases at the same time, on which both tools fail."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
