"""The page in a real browser without a network: it renders, asks for nothing, and has nothing to complain of."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
from html import escape, unescape
from pathlib import Path

import pytest

from dashboards.report.page import render_report
from tests.dashboards.generated import pool
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


SIZES = {"a screen": (1280, 800), "a phone": (390, 844)}
LONG = "a_loss_whose_name_is_as_long_as_names_get"
# What of the first screen reaches out of the page, or out of its own box, and how far down its picture goes.
MEASURE = """
const page = document.querySelector("iframe").contentDocument, wide = page.documentElement.clientWidth;
const out = [...page.querySelectorAll("header *, #answer *")].filter(e => !e.closest("svg")
  && (e.getBoundingClientRect().right > wide + 0.5 || (e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0)));
document.title = JSON.stringify({wide, scroll: page.documentElement.scrollWidth, out: out.map(e => e.outerHTML),
  picture: page.querySelector("#answer svg").getBoundingClientRect().bottom});
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_nothing_of_the_first_screen_is_cut_off_and_the_page_never_scrolls_sideways(size: str, tmp_path: Path) -> None:
    width, height = SIZES[size]
    names = {"sigmoid": 0.0, "ipo": 0.3, "hinge": -0.1, "robust": -0.2, "bco_pair": 0.1, LONG: -0.4}
    page = render_report(report_of(pool(names, configs=6, confirm=range(20, 26))))
    frame = f'<iframe style="border:0" width="{width}" height="{height}" srcdoc="{escape(page)}"></iframe>'
    (tmp_path / "frame.html").write_text(
        f"{frame}<script>addEventListener('load', () => {{{MEASURE}}})</script>", encoding="utf-8"
    )
    assert CHROMIUM is not None
    dom = subprocess.run(
        [CHROMIUM, *OPTIONS, NO_NETWORK, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,1000",
         "--dump-dom", (tmp_path / "frame.html").as_uri()],
        capture_output=True, text=True, timeout=PATIENCE, check=True,
    ).stdout  # fmt: skip
    told = re.search(r"<title>(.*?)</title>", dom)
    assert told is not None
    found = json.loads(unescape(told[1]))
    assert (found["wide"], found["scroll"]) == (width, width)
    assert found["out"] == []
    assert size == "a phone" or found["picture"] < height


def report_of_pictures() -> int:
    """How many figures the page has."""
    from dashboards.figures.figure import Figure

    report = report_of()
    return sum(isinstance(figure, Figure) for figure in [*report.gains.values(), *(f for _, f in report.figures)])
