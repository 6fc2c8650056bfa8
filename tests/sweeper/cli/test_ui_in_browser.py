"""The address that `sweeper ui --mlflow` prints, opened in a real browser: the study's runs, grouped by variant."""

from __future__ import annotations

import html
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tests.dashboards.report.test_page_in_browser import CHROMIUM, OPTIONS

Sweeper = Callable[..., Any]
STUDY = """
study: small
trainer: formula
base: {model_name_or_path: embedded, use_peft: true, lora_r: 8, max_steps: 6, learning_rate: 1.0e-5}
variants: {sigmoid: {}, ipo: {}, token_level: {loss_type: [hinge]}}
space: {beta: {low: 0.01, high: 1.0, log: true}}
budget: {trials: 2}
objective: {metric: ranking_gain}
"""


@pytest.fixture
def printed(sweeper: Sweeper, tmp_path: Path, empty_mlflow: Path) -> Iterator[str]:
    """The address of the study's runs as `sweeper ui` prints it, with its server on the way up."""
    (tmp_path / "study.yaml").write_text(STUDY)
    shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db")
    assert sweeper(tmp_path, "run", "study.yaml", "--executor", "inline").returncode == 0
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "sweeper", "ui", "--mlflow", "--port", str(port)],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        (address,) = re.findall(r"^  small: (.*)$", process.stdout.readline() + process.stdout.readline(), re.MULTILINE)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


@pytest.mark.slow
def test_the_address_is_printed_whole(printed: str) -> None:
    query = "workflowType=machine_learning&viewStateShareKey=byvariant"
    assert re.fullmatch(rf"http://127\.0\.0\.1:\d+/#/experiments/\d+/runs\?{re.escape(query)}", printed)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.slow
def test_the_address_shows_the_runs_by_variant(printed: str, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    wait_for(printed.partition("#")[0])
    dom = subprocess.run(
        [CHROMIUM, *OPTIONS, "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--window-size=1400,900",
         f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=30000", "--dump-dom", printed],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    shown = html.unescape(re.sub(r"<[^>]*>", " ", dom))
    assert "Group by: variant" in shown
    assert set(re.findall(r"Group: (\w+)", shown)) == {"sigmoid", "ipo", "token_level"}
    assert {"sigmoid t0 b0 s0", "sigmoid t1 b0 s0", "token_level t1 b0 s0"} <= set(
        re.findall(r"\w+ t\d b0 s0", shown)
    )  # the groups are open


def wait_for(address: str) -> None:
    """Until the server answers, or for ten minutes."""
    for _ in range(1200):
        with suppress(URLError, OSError), urlopen(address):
            return
        time.sleep(0.5)
