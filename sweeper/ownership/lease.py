"""Who runs a study now: a lease in Optuna's storage that its holder renews, so that nobody else runs it meanwhile.

A lease is dead where its holder ran on this machine and is gone, or where it was not renewed for `DEAD_SECONDS` while
somebody watched: two machines' clocks are never compared. Takes any store that swaps a text in one step; knows no
Optuna.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from studies.text.redact import redact
from sweeper.folder.control import AlreadyRunning, machine
from sweeper.ownership.owner import user
from sweeper.search.ledger import FREE, Ledger
from sweeper.search.storage import StorageError

BEAT_SECONDS = 5.0  # how often a holder renews its lease
DEAD_SECONDS = 30.0  # watched for so long without being renewed, a lease is dead
LOOK_SECONDS = 0.5  # how often who watches looks
SILENT_SECONDS = 2.0  # a longer wait says what it waits for


class LeaseLost(RuntimeError):
    """Another sweep has taken the study over, so that this one must write no more."""


@dataclass(frozen=True)
class Holder:
    """A process that runs a study. `machine` tells kernels and containers apart whose hosts have one name; `began`
    tells processes apart whose ids are one; `at` is seconds since 1970 by its own clock, when it renewed the lease for
    the `beat`-th time.
    """

    token: str
    user: str
    host: str
    machine: str
    process: int
    began: str
    folder: str
    beat: int
    at: float

    def beats(self) -> Holder:
        """The same, heard of now."""
        return replace(self, beat=self.beat + 1, at=time.time())

    def written(self) -> str:
        """As it is kept."""
        return json.dumps(asdict(self))


def this_process(folder: Path) -> Holder:
    """This process as the holder of a lease, for a sweep in `folder`."""
    process = os.getpid()
    named = (uuid.uuid4().hex, user(), socket.gethostname(), machine(), process, _began(process) or "")
    return Holder(*named, folder=redact(str(folder)), beat=0, at=time.time())


def watch(ledger: Ledger, say: Callable[[str], None]) -> str:
    """The study's lease as it is written once it is known to be free or dead. Raises AlreadyRunning while it is alive,
    and StorageError where it cannot be read.
    """
    first = last = ledger.read().lease
    start, told = time.monotonic(), False
    while True:
        holder = _holder(last)
        if holder is None:
            return last
        elsewhere = holder.machine != machine()
        if last != first or (not elsewhere and _lives(holder)):
            raise AlreadyRunning(_refusal(holder, ledger.study, 0.0 if elsewhere else time.time() - holder.at))
        if not elsewhere or time.monotonic() - start > DEAD_SECONDS:
            return last
        if not told and time.monotonic() - start > SILENT_SECONDS:
            told = True
            say(
                f"Process {holder.process} of {holder.user} on {holder.host} ({holder.folder}) has this study and has "
                f"not been heard of for {SILENT_SECONDS:g} s; it is taken over once that is {DEAD_SECONDS:g} s."
            )
        time.sleep(LOOK_SECONDS)
        last = ledger.read().lease


@contextmanager
def hold(ledger: Ledger, folder: Path, dead: str, say: Callable[[str], None]) -> Iterator[Lease]:
    """Hold the study's lease.

    `dead`: a lease that `watch` gave. Of two that take it at once, the one that comes second watches the other. Renewed
    by a thread, since the main one is busy for minutes: with training in this process, with a report.
    Raises AlreadyRunning and StorageError.
    """
    own = this_process(folder)
    while not ledger.swap_lease(dead, own.written()):
        dead = watch(ledger, say)
    lease, over = Lease(ledger, own), threading.Event()
    thread = threading.Thread(target=lease.renew_until, args=(over,), name="lease", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        over.set()
        thread.join(timeout=BEAT_SECONDS)  # where the database hangs, the lease is dead with this process
        lease.give_up()


class Lease:
    """The lease of a study that this process holds, or held."""

    def __init__(self, ledger: Ledger, holder: Holder) -> None:
        self._ledger, self._holder = ledger, holder
        self._written, self._lost = holder.written(), False
        self._one = threading.Lock()

    def check(self) -> None:
        """Raise LeaseLost where it is known to be lost."""
        if self._lost:
            raise LeaseLost(
                f"Another sweep has taken the study {self._ledger.study!r} over, since this one had not been heard of "
                f"for {DEAD_SECONDS:g} s (was this machine suspended?)."
            )

    def renew(self) -> None:
        """Renew it now: for who comes back from an outage. Raises LeaseLost, and StorageError where that cannot be."""
        with self._one:
            self._holder = self._holder.beats()
            if self._ledger.swap_lease(self._written, self._holder.written()):
                self._written = self._holder.written()
            else:
                found = self._ledger.read().lease
                holder = _holder(found)
                if holder is None or holder.token != self._holder.token:
                    self._lost = True
                else:  # an earlier renewal was taken, and the connection broke before that was said
                    self._written = found
        self.check()

    def renew_until(self, over: threading.Event) -> None:
        """Renew it every few seconds, until `over` is set or it is lost."""
        while not self._lost and not over.wait(BEAT_SECONDS):
            with suppress(StorageError, LeaseLost):  # the sweep itself says so
                self.renew()

    def give_up(self) -> None:
        """Let others have it, where the database takes that."""
        with suppress(StorageError):
            self._ledger.swap_lease(self._written, FREE)


def _refusal(holder: Holder, study: str, age: float) -> str:
    heard = f"{age:.0f} s ago" if age >= 1.0 else "just now"
    return (
        f"This study is being run already, by process {holder.process} of {holder.user} on {holder.host} in "
        f"{holder.folder}, heard of {heard}. Wait for it, or stop it there with `sweeper stop {study}`; if it dies, "
        f"this command takes over after at most {DEAD_SECONDS:g} s."
    )


def _holder(text: str) -> Holder | None:
    """Whom a lease names; None for one that nobody holds, or that is no lease."""
    with suppress(ValueError, TypeError):
        return Holder(**json.loads(text))
    return None


def _lives(holder: Holder) -> bool:
    """Whether a process of this machine is still there."""
    return _began(holder.process) == holder.began


def _began(process: int) -> str | None:
    """What tells a process from a later one of the same id (its start, in the kernel's ticks), None where there is
    none. Outside of Linux all that is known is that there is one.
    """
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        return "" if _answers(process) else None
    state, *rest = stat.rpartition(")")[2].split()  # the name before it may hold anything
    return None if state in "ZX" else rest[18]


def _answers(process: int) -> bool:
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True
