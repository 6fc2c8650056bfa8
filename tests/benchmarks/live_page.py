"""How long the live page takes to know a store of ten thousand runs, and what that costs. Needs no model, no browser.

    python -m tests.benchmarks.live_page [--runs 10000] [--keep FOLDER]

Fills a store as `tests.benchmarks.ten_thousand` does (or takes the one that it left in `--keep`), then, each in a new
process: the time until the page has something to read of it, until all is read and compared, with the file out of the
system's cache and in it; and in that process the time of a look at nothing new. `of a processor`: without the waits for
other programs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from dashboards.live.reading.watcher import Watcher
from dashboards.live.views import Seen
from sweeper.commands.page.files import StudyFiles
from sweeper.commands.page.told import told
from tests.benchmarks.ten_thousand import MORE, Store, forget, generated, study_text, trials_for

LOOKS = 11


def fill(folder: Path, runs: int) -> None:
    """Leave a store with all runs but the last ones, which are kept for later."""
    text = study_text(trials_for(runs))
    store = Store(folder, text)
    store.fill(generated(store.spec)[:-MORE])


def cold(folder: Path) -> dict[str, float]:
    """What a page that is started now knows when, in seconds."""
    os.chdir(folder)
    began = time.perf_counter()
    watcher = Watcher(f"sqlite:///{folder / 'mlflow.db'}", folder, told(folder, StudyFiles(folder, None)))
    watcher.open("somebody")
    took: list[float] = []

    def look() -> None:  # in one thread, as the page does
        for _ in range(LOOKS):
            began, used = time.perf_counter(), time.process_time()
            watcher.look()
            took.extend((time.perf_counter() - began, time.process_time() - used))

    reading = threading.Thread(target=look)
    reading.start()
    while not _named(watcher.seen):
        time.sleep(0.005)
    first = time.perf_counter() - began
    reading.join()
    (study,) = watcher.seen.studies
    assert study.answer is not None, study.problem
    whole, processor, *idle = took
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "first": first,
        "whole": whole,
        "of a processor": processor,
        "a look at nothing new": statistics.median(idle[::2]),
        "MiB": used.ru_maxrss / 1024,
    }


def _named(seen: Seen) -> bool:
    return any(study.runs for study in seen.studies)


def main() -> None:
    """Measure in a folder that is removed afterwards, or in one that is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--cold", type=Path, help="measure once in this process")
    asked = parser.parse_args()
    if asked.cold:
        print(json.dumps(cold(asked.cold)))  # noqa: T201
        return
    folder = (asked.keep or Path(tempfile.mkdtemp())).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if not (folder / "mlflow.db").exists():
            fill(folder, asked.runs)
        for name in ("file not cached", "again", "again"):
            if name == "file not cached":
                forget(folder / "mlflow.db")
            command = [sys.executable, "-m", "tests.benchmarks.live_page", "--cold", str(folder)]
            began = time.perf_counter()
            found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
            with_start = time.perf_counter() - began
            told_ = ", ".join(f"{what} {value:.3g}" for what, value in found.items())
            print(f"{name:18} {told_}; process {with_start:.1f} s", flush=True)  # noqa: T201
    finally:
        if asked.keep is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
