"""What the live page takes of a core beside ten thousand runs: unwatched, watched, and watched while a sweep writes.

    python -m tests.benchmarks.idle_page [--runs 10000] [--seconds 60] [--commits 30] [--keep FOLDER]

Fills a store as `tests.benchmarks.live_page` does (or copies the one that it left in `--keep`), starts `sweeper ui` on
it, waits until all is read, and reads the processor time of that process from /proc: while nobody has a page open,
while Chromium has that of the study open at its figures, and the same while a writer commits what runs in training
tell, `--commits` a second, which is counted as in `tests.benchmarks.lock_waits`.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.benchmarks.live_page import fill
from tests.benchmarks.lock_waits import write
from tests.dashboards.report.test_page_in_browser import CHROMIUM

STUDY = "ten-thousand"
QUIET = 0.5  # seconds of a processor in five, below which all is read and shown


def used(process: int) -> float:
    """Seconds of a processor that a process has taken, without its children."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def page_on(folder: Path, port: int, *words: str) -> Iterator[tuple[int, str]]:
    """The process of `sweeper ui` on the stores of a folder, and its link."""
    command = [sys.executable, "-m", "sweeper", "ui", *words, "--port", str(port)]
    page = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    assert page.stdout is not None
    try:
        yield page.pid, next(found[0] for line in page.stdout if (found := re.search(r"http://\S+\?t=\S+", line)))
    finally:
        page.terminate()
        page.wait()


@contextmanager
def stores(asked: argparse.Namespace) -> Iterator[Path]:
    """A folder with the store that is asked for, removed afterwards: a copy of `--keep`, or one of `--runs` runs."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if asked.keep:
            shutil.copytree(asked.keep, folder, dirs_exist_ok=True)  # with what its runs keep: the text of the study
        else:
            fill(folder, asked.runs)
        yield folder


def settle(process: int) -> None:
    """Wait until a process has done what it does at first."""
    quiet = 0
    while quiet < 2:
        before = used(process)
        time.sleep(5.0)
        quiet = quiet + 1 if used(process) - before < QUIET else 0


def tell(what: str, process: int, seconds: float, began: tuple[float, float]) -> None:
    """Print the share of a core since `began`: when, and what was used until then."""
    at, before = began
    share = 100.0 * (used(process) - before) / (time.monotonic() - at)
    load = " ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"{what:32} {share:5.2f} % of a core over {seconds:.0f} s (load {load})", flush=True)  # noqa: T201


def measure(folder: Path, seconds: float, commits: float) -> None:
    """Start the page and print what it takes."""
    with page_on(folder, 5199) as (process, link), sync_playwright() as playwright:
        settle(process)
        began = time.monotonic(), used(process)
        time.sleep(seconds)
        tell("unwatched", process, seconds, began)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = browser.new_page()
        shown.goto(link)
        shown.goto(f"{link.partition('/?')[0]}/study/{STUDY}")
        shown.get_by_text("Worked:").first.wait_for(timeout=120_000)
        shown.get_by_role("tab", name="figures").click()
        shown.get_by_text("A dot a finished run").wait_for(timeout=120_000)
        settle(process)
        began = time.monotonic(), used(process)
        shown.wait_for_timeout(1000 * seconds)
        tell("one viewer", process, seconds, began)
        began = time.monotonic(), used(process)
        waits = write(folder / "mlflow.db", int(seconds * commits), 1 / commits)
        tell("one viewer, a sweep that writes", process, seconds, began)
        print(waits, flush=True)  # noqa: T201
        browser.close()


def main() -> None:
    """Measure in a folder that is removed afterwards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--commits", type=float, default=30.0)
    parser.add_argument("--keep", type=Path)
    asked = parser.parse_args()
    with stores(asked) as folder:
        measure(folder, asked.seconds, asked.commits)


if __name__ == "__main__":
    main()
