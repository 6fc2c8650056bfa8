"""The page in a real browser without a network: it renders, asks for nothing, and has nothing to complain of."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from dashboards.report.page import render_report
from tests.dashboards.reports import report_of
from tests.waiting import PATIENCE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--virtual-time-budget=5000",
)
NO_NETWORK = "--host-resolver-rules=MAP * ~NOTFOUND"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.slow
def test_the_page_renders_without_a_network(tmp_path: Path) -> None:
    page, picture = tmp_path / "report.html", tmp_path / "page.png"
    page.write_text(render_report(report_of()), encoding="utf-8")
    options = [*OPTIONS, NO_NETWORK, f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr"]
    assert CHROMIUM is not None
    shot = subprocess.run(
        [CHROMIUM, *options, "--window-size=1200,2400", f"--screenshot={picture}", page.as_uri()],
        capture_output=True, text=True, timeout=PATIENCE, check=True,
    )  # fmt: skip
    assert re.findall(r".*CONSOLE.*", shot.stderr) == []
    assert struct.unpack(">II", picture.read_bytes()[16:24]) == (1200, 2400)
    assert picture.stat().st_size > 100_000  # a blank one of this size takes 10 kB
    # As the browser has it once loaded: figures are pictures with a size, not text.
    dom = subprocess.run(
        [CHROMIUM, *options, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=PATIENCE, check=True
    ).stdout
    assert dom.count('<svg role="img"') == report_of_pictures()


def report_of_pictures() -> int:
    """How many figures the page has."""
    from dashboards.figures.figure import Figure

    return sum(isinstance(figure, Figure) for _, figure in report_of().figures)
