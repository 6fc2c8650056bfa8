"""How often a sweep that writes finds its store locked by the live page, of ten thousand runs. Needs no model.

    python -m tests.benchmarks.lock_waits [--runs 10000] [--writes 600] [--keep FOLDER]

Fills a store as `tests.benchmarks.live_page` does (or copies the one that it left in `--keep`). A writer then commits
what a run in training tells, thirty times a second, by a connection that does not wait, so that every commit that finds
the store locked is counted, with how long it had to try again: alone, while a page reads all runs for the first time,
and while it watches and reads what the writer changes.
"""

from __future__ import annotations

import argparse
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from dashboards.live.reading.watcher import Watcher
from sweeper.commands.page.files import StudyFiles
from sweeper.commands.page.told import told
from tests.benchmarks.live_page import fill

EVERY_SECONDS = 1 / 30
LOOK_SECONDS = 0.0005  # between two tries
RUNS = 16  # in training


@dataclass(frozen=True)
class Waits:
    """Of so many commits, those that found the store locked, and for how many milliseconds in all and at most."""

    commits: int
    locked: int
    waited: float
    longest: float


def write(file: Path, commits: int, every: float = EVERY_SECONDS) -> Waits:
    """Commit what runs in training tell."""
    waits: list[float] = []
    with closing(sqlite3.connect(file, timeout=0, isolation_level=None)) as database:
        runs = [
            run for (run,) in database.execute("select run_uuid from runs order by start_time desc limit ?", (RUNS,))
        ]
        due = time.perf_counter()
        for n in range(commits):
            due += every
            time.sleep(max(due - time.perf_counter(), 0.0))
            waits.append(_committed(database, runs[n % RUNS], n))
    late = [1000 * wait for wait in waits if wait]
    return Waits(commits, len(late), sum(late), max(late, default=0.0))


def _committed(database: sqlite3.Connection, run: str, step: int) -> float:
    """Seconds for which a commit was kept from it by others; 0 where it was not."""
    began, locked = time.perf_counter(), False
    while True:
        try:
            if not database.in_transaction:
                database.execute("begin immediate")
                database.execute(
                    "update latest_metrics set value = value + 1e-6, step = ? where run_uuid = ? and key = 'loss'",
                    (step, run),
                )
                database.execute("update runs set end_time = ? where run_uuid = ?", (step, run))
            database.execute("commit")
            return time.perf_counter() - began if locked else 0.0
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            locked = True
            time.sleep(LOOK_SECONDS)


def watch(folder: Path, *, cold: bool) -> None:
    """Watch until somebody ends this process; says when it has read all."""
    watcher = Watcher(f"sqlite:///{folder / 'mlflow.db'}", folder, told(folder, StudyFiles(folder, None)))
    watcher.open("somebody")
    if cold:
        print("reading", flush=True)  # noqa: T201
    watcher.look()
    if not cold:
        print("read", flush=True)  # noqa: T201
    while True:
        time.sleep(1.0)
        watcher.look()
        files = [watcher._open, *(study._followed._open for study in watcher._studies.values())]
        print(sum(one.locked for one in files), "reads needed a lock", flush=True)  # noqa: T201


def main() -> None:
    """Measure in a folder that is removed afterwards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--writes", type=int, default=600)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--watch", type=Path)
    parser.add_argument("--cold", action="store_true")
    asked = parser.parse_args()
    if asked.watch:
        return watch(asked.watch, cold=asked.cold)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if asked.keep:
            shutil.copytree(
                asked.keep, folder, dirs_exist_ok=True
            )  # with the text of the study, or nothing is compared
        else:
            fill(folder, asked.runs)
        file = folder / "mlflow.db"
        print(f"{'alone':22} {write(file, asked.writes)}", flush=True)  # noqa: T201
        for name, more in (("while it reads all", ["--cold"]), ("while it watches", [])):
            command = [sys.executable, "-m", "tests.benchmarks.lock_waits", "--watch", str(folder), *more]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as page:
                assert page.stdout is not None
                page.stdout.readline()
                found = write(file, asked.writes)
                page.kill()
                said = page.stdout.read().decode().strip().splitlines()[-1:]
                print(f"{name:22} {found} {''.join(said)}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
