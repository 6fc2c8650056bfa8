"""Steers a sweep from another terminal: signals to the process that holds the lock, and the list of paused variants.

SIGUSR1: finish what runs and start nothing new. SIGTERM and SIGHUP: stop at the next step.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from studies.text.files import open_file, read_bytes, read_json, write_whole
from sweeper.folder.names import LOCK_FILE, PAUSED_FILE

_LONGEST_LOCK = 1000
# What a file system answers that knows no locks: Lustre without its option `flock`, NFS without its lock daemon.
_NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS})


class AlreadyRunning(Exception):
    """Another process runs this study."""


class NotHere(Exception):
    """The sweep cannot be reached from here: no process runs the study, or one on another machine does."""


@contextmanager
def lock(runs: Path) -> Iterator[bool]:
    """Hold the study for this process, and give whether it is held. The kernel releases it when the process ends,
    however it ends. On a file system that knows no locks nothing is held here, and the lease in Optuna's storage alone
    keeps a second sweep out.

    Raises AlreadyRunning, naming the process that holds it; OSError where the folder cannot be written.
    """
    runs.mkdir(parents=True, exist_ok=True)
    with open_file(runs / LOCK_FILE, os.O_RDWR | os.O_CREAT) as file:
        try:
            held = _lock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            process, host = holder(runs)
            where = f" on {host}" if host not in ("", socket.gethostname()) else ""
            raise AlreadyRunning(
                f"This study is being run already, by process {process or '?'}{where} (lock {file.name}). "
                "Wait for it, or stop it with `sweeper stop`."
            ) from None
        if held:
            file.seek(0)
            file.truncate()
            file.write(f"{os.getpid()} {socket.gethostname()}".encode())
            file.flush()
        yield held


def _lock(descriptor: int, how: int) -> bool:
    """Lock a file; False where its file system knows no locks. Raises BlockingIOError, and OSError."""
    try:
        fcntl.flock(descriptor, how)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def ask_to_stop(runs: Path, *, now: bool) -> int:
    """Signal the sweep that holds the lock to stop, and give its process id. Raises NotHere.

    Anybody who may write into the folder may write any process id into the lock: only a process of the user that does
    hold the lock, and handles the signal as every sweep does, is signalled.
    """
    process, host = holder(runs)
    if not is_held(runs) or not process.isdigit():
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
    """The paused variants."""
    with suppress(OSError, ValueError, TypeError):
        return frozenset(str(name) for name in read_json(runs / PAUSED_FILE))
    return frozenset()


def set_paused(runs: Path, variants: frozenset[str]) -> None:
    """Write the list of paused variants, which a running sweep reads within a second. Raises OSError."""
    runs.mkdir(parents=True, exist_ok=True)
    write_whole(runs / PAUSED_FILE, json.dumps(sorted(variants)))


def pause_problem(variant: str, hold: bool, variants: Collection[str], held: Collection[str]) -> str | None:
    """Why a variant of the study cannot be paused (`hold`) or resumed; `held` are paused. None where it can."""
    if variant not in variants and (hold or variant not in held):
        return f"{variant}: the study has no such variant; it has {', '.join(variants)}."
    if hold and not set(variants) - set(held) - {variant}:
        return f"{variant}: no other variant would be left to train; `sweeper stop` stops the sweep."
    return None


def holder(runs: Path) -> tuple[str, str]:
    """Process id and host name that the holder of the lock wrote, empty where there are none."""
    text = ""
    with suppress(OSError, ValueError):
        text = read_bytes(runs / LOCK_FILE, _LONGEST_LOCK).decode()
    process, _, host = text.strip().partition(" ")
    return process, host


def _not_a_sweep(process: int, lock_file: Path, number: signal.Signals) -> str | None:
    """Why a process must not be signalled, None where it is a sweep of this user that holds the lock."""
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
    """Whether the process has a descriptor of the lock's file and locks it."""
    with suppress(OSError):
        if os.path.samestat((process / "fd" / descriptor).stat(), lock_file):
            return "FLOCK" in (process / "fdinfo" / descriptor).read_text(encoding="utf-8")
    return False


def _not_named_a_sweep(process: int) -> str | None:
    """The same without /proc: by the owner and the command."""
    asked = ["ps", "-o", "uid=,command=", "-p", str(process)]
    try:
        owner, _, command = subprocess.run(asked, capture_output=True, text=True).stdout.strip().partition(" ")
    except OSError as error:
        return f"of which nothing can be found out ({error.strerror})"
    if owner != str(os.getuid()):
        return "which is of another user"
    return None if "sweeper" in command else "which is no sweep"


def machine() -> str:
    """An id shared by processes that see each other's process ids: host, boot and container."""
    found = [socket.gethostname()]
    with suppress(OSError):
        found.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        found.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(found)


def machine_digest() -> str:
    """A digest of it, for files that others may read."""
    return hashlib.sha256(machine().encode()).hexdigest()[:12]


def is_held(runs: Path) -> bool:
    """Whether a process has the study's lock, as far as this machine can tell."""
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
    """Keep other sweeps here from creating the same databases at the same time: both tools fail on that."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
