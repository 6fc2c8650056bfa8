"""When somebody can read the live page of ten thousand runs: by the clock, in Chromium.

    python -m tests.benchmarks.page_in_browser [--runs 10000] [--keep FOLDER]

Fills a store as `tests.benchmarks.live_page` does (or copies the one that it left in `--keep`), then starts
`sweeper ui STUDY` on it three times, the first time with the file out of the system's cache. `link`: until its link is
printed; then, as that is opened at once, `named`: until the page shows the study's name; `whole`: until it shows the
table. `again`: until the table is there in a second tab. The first opening is by a browser whose cache is empty, the
others find the page's scripts in it, as for somebody who comes back.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from playwright.sync_api import BrowserContext, sync_playwright

from tests.benchmarks.idle_page import STUDY, page_on, stores
from tests.benchmarks.ten_thousand import forget
from tests.dashboards.report.test_page_in_browser import CHROMIUM


def measure(folder: Path, browser: BrowserContext, what: str) -> None:
    """Start the page, open it, and print what took how long."""
    began = time.monotonic()
    with page_on(folder, 5198, STUDY) as (_, link):
        printed = time.monotonic()
        shown = browser.new_page()
        shown.goto(link)
        shown.get_by_text(STUDY).first.wait_for(timeout=120_000)
        named = time.monotonic()
        shown.get_by_text("Worked:").first.wait_for(timeout=120_000)
        whole = time.monotonic()
        second = browser.new_page()
        second.goto(link)
        second.get_by_text("Worked:").first.wait_for(timeout=120_000)
        again = time.monotonic()
        shown.close()
        second.close()
    load = " ".join(f"{one:.1f}" for one in os.getloadavg())
    print(  # noqa: T201
        f"{what:16} link {printed - began:5.2f} s, then named {named - printed:5.2f} s, "
        f"whole {whole - printed:5.2f} s; again {again - whole:5.2f} s (load {load})",
        flush=True,
    )


def main() -> None:
    """Measure in a folder that is removed afterwards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--keep", type=Path)
    asked = parser.parse_args()
    with stores(asked) as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            str(folder / "profile"), executable_path=CHROMIUM, args=["--no-sandbox"]
        )
        browser.new_page().goto("about:blank")  # what the browser itself does at first
        forget(folder / "mlflow.db")
        for what in ("file not cached", "cached", "cached, again"):
            measure(folder, browser, what)
        browser.close()


if __name__ == "__main__":
    main()
