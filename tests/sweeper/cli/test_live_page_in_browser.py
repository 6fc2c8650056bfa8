"""The live page in a real browser: a sweep that a terminal started is followed to its answer, steered and killed.

No name is resolved in this browser: the page must work without a network. It may complain of nothing.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.dashboards.report.test_page_in_browser import CHROMIUM
from tests.sweeper.slow_study import STUDY, TRAINERS
from tests.waiting import PATIENCE, wait_until

pytest.importorskip("nicegui", reason="the page's library is not installed (extra `ui`)")
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (extra `dev`)")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]

TINY = """
study: tiny
question: Which loss is best, <img src=x onerror="document.title='hacked'">?
base: {model_name_or_path: embedded, use_peft: true, lora_r: 8, lora_alpha: 16, max_steps: 20,
       per_device_train_batch_size: 16}
data: {path: embedded, rows: 512}
baseline: sigmoid
variants: {sigmoid: {}, ipo: {}, hinge: {}}
space: {beta: {low: 0.05, high: 1.0, log: true}, learning_rate: {low: 5.0e-4, high: 2.0e-3, log: true}}
replicates: 3
evaluate: {prompts: 48, pairs: 32, max_new_tokens: 32, at: [0.5, 1.0]}
objective: {metric: gold, direction: maximize}
budget: {trials: 2}
"""
ANSWER_SECONDS = 5  # in which the sweep answers, and the page says so
DEAD_SECONDS = 10  # in which the page says that a sweep is gone


class Terminal:
    """Commands in a folder, as somebody types them; what still runs at the end is killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._env = {
            **os.environ,
            "PYTHONPATH": f"{TRAINERS}:{os.environ.get('PYTHONPATH', '')}",
            "STEP_SECONDS": "0.3",
        }
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *words: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        started = subprocess.Popen(
            [sys.executable, "-m", "sweeper", *words],
            cwd=self.folder, env={**self._env, **(env or {})}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, start_new_session=True,
        )  # fmt: skip
        self._started.append(started)
        return started

    def say(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "sweeper", *words], cwd=self.folder, env=self._env, capture_output=True, text=True
        )
        return done.stdout

    def page(self) -> tuple[subprocess.Popen[str], str]:
        """The live page and its link."""
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        started = self.start("ui", "study.yaml", "--port", str(port))
        assert started.stdout is not None
        (link,) = re.findall(r"http\S+", started.stdout.readline())
        return started, link

    def end(self) -> None:
        for started in self._started:
            with suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
            started.wait()


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    made = Terminal(tmp_path)
    yield made
    with suppress(OSError):
        beat = json.loads((tmp_path / "runs" / "small" / "events.jsonl").read_text().splitlines()[-1])
        os.killpg(beat.get("process", 0) or os.getpid() + 10**6, signal.SIGKILL)
    made.end()


@pytest.fixture
def complaints() -> list[str]:
    """What the console of the browser says."""
    return []


@pytest.fixture
def browser(complaints: list[str]) -> Iterator[Any]:
    """A browser without a network."""
    with playwright.sync_playwright() as started:
        made = started.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
        )
        context = made.new_context(viewport={"width": 1100, "height": 900})
        context.set_default_timeout(PATIENCE / 5 * 1000)
        context.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        context.on("weberror", lambda error: complaints.append(str(error.error)))
        yield context
        made.close()


def opened(browser: Any, link: str) -> Any:
    page = browser.new_page()
    answered = listening(link)
    assert answered
    page.goto(link)
    page.get_by_role("tab", name="answer").wait_for()
    return page


def listening(link: str) -> bool:
    place = re.findall(r"//([^:/]+):(\d+)", link)[0]

    def answers() -> bool:
        with suppress(OSError):
            socket.create_connection((place[0], int(place[1])), timeout=1).close()
            return True
        return False

    wait_until(answers, "the page never answers")
    return True


def tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def rows(page: Any) -> list[Sequence[str]]:
    """The rows of the first table that is seen, by loss."""
    cells = page.locator(".q-table tbody").first.locator("tr").all()
    return sorted(row.locator("td").all_inner_texts() for row in cells)


def test_a_sweep_is_followed_live_to_its_answer_with_the_numbers_of_the_table(
    terminal: Terminal, browser: Any, complaints: list[str]
) -> None:
    (terminal.folder / "study.yaml").write_text(TINY)
    _, link = terminal.page()
    page = opened(browser, link)
    page.get_by_text("No study tiny is known yet").wait_for()
    sweep = terminal.start("run", "study.yaml", "--workers", "1")
    page.get_by_text("running", exact=True).wait_for()  # without a reload
    page.get_by_text(re.compile(r"\d+ of 27 runs, \d+ in training")).wait_for()
    tab(page, "steer")
    page.get_by_role("button", name="pause hinge").click()
    page.get_by_role("button", name="resume hinge").wait_for()
    assert json.loads((terminal.folder / "runs" / "tiny" / "paused.json").read_text()) == ["hinge"]
    page.get_by_role("cell", name="sweeper pause study.yaml hinge").wait_for()
    page.get_by_role("button", name="resume hinge").click()
    page.get_by_role("button", name="pause hinge").wait_for()
    tab(page, "answer")
    page.get_by_text("finished", exact=True).wait_for(timeout=PATIENCE * 1000)
    assert sweep.wait(PATIENCE) == 0
    said = json.loads(terminal.say("table", "study.yaml", "--format", "json"))
    answer = " ".join(said["answers"][0]["sentences"]).replace("`", "")
    page.get_by_text(answer, exact=True).wait_for()
    written = [re.split(r"  +", line.strip()) for line in terminal.say("table", "study.yaml").splitlines()]
    variants = {"sigmoid", "ipo", "hinge"}
    expected = sorted(cells for cells in written if cells[0] in variants and len(cells) > 3)
    shown = rows(page)
    assert len(shown) == len(expected) == 3
    for seen, printed in zip(shown, expected, strict=True):
        assert set(printed) <= set(seen)
    worked = {loss["variant"]: f"{loss['worked']}/{loss['tried']}" for loss in said["tuned"][0]["losses"]}
    assert {row[0]: next(cell for cell in row if "/" in cell) for row in shown} == worked
    assert page.get_by_text("<img src=x onerror=").first.is_visible()  # as text
    assert page.locator("img[src=x]").count() == 0
    tab(page, "figures")
    page.get_by_text("A dot a finished run").wait_for()
    wait_until(lambda: page.locator("canvas").count() >= 3, "there are no figures")
    tab(page, "samples")
    page.get_by_label("run", exact=True).click()
    page.get_by_role("option").first.click()
    page.get_by_text("before, true reward").first.wait_for()
    page.set_viewport_size({"width": 390, "height": 800})
    page.emulate_media(color_scheme="dark")
    for name in ("answer", "figures", "runs", "samples", "steer"):
        tab(page, name)
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390, f"{name} is {wide} pixels wide"
    page.get_by_text("Nothing is missing.").wait_for()
    assert page.get_by_role("button", name="go on").count() == 0
    assert page.title() == "tiny - sweeper"
    assert complaints == []


def test_mlflow_stands_behind_the_same_door(terminal: Terminal, browser: Any) -> None:
    (terminal.folder / "study.yaml").write_text(STUDY.replace("soak_trainers:Slow", "formula"))
    terminal.say("run", "study.yaml", "--executor", "inline")
    _, link = terminal.page()
    page = opened(browser, link)
    with browser.expect_page() as new:
        page.get_by_role("link", name="runs in MLflow").click()
    mlflow = new.value
    wait_until(lambda: "Group by" in mlflow.inner_text("body"), lambda: mlflow.inner_text("body"))
    assert "/mlflow/#/experiments/" in mlflow.url
    answer = browser.request.post(f"{mlflow.url.partition('/mlflow')[0]}/mlflow/ajax-api/3.0/mlflow/assistant/message")
    assert answer.status == 404
    stranger = browser.browser.new_context()
    assert stranger.request.get(f"{mlflow.url.partition('#')[0]}").status == 403


def test_a_sweep_is_stopped_and_resumed_and_its_death_is_told_and_so_is_not_the_pages(
    terminal: Terminal, browser: Any, complaints: list[str]
) -> None:
    (terminal.folder / "study.yaml").write_text(STUDY)
    sweep = terminal.start("run", "study.yaml", "--workers", "2")
    started, link = terminal.page()
    page = opened(browser, link)
    page.get_by_text(re.compile(r"\d+ of 20 runs, 2 in training")).wait_for()
    tab(page, "steer")
    page.get_by_role("button", name="stop now").click()
    page.get_by_role("button", name="yes").click()
    page.get_by_role("cell", name="each run stops at its next step").wait_for()
    page.get_by_role("cell", name="sweeper stop study.yaml --now").wait_for()
    assert sweep.wait(PATIENCE) == 1
    page.get_by_text("sweeper run study.yaml", exact=True).wait_for()
    page.get_by_role("button", name="go on").click()
    page.get_by_role("button", name="yes").click()
    page.get_by_text(re.compile(r"Sweep [0-9a-f]{12} of small runs as process")).first.wait_for()
    page.get_by_text("running", exact=True).wait_for()
    beat = next(
        json.loads(line)
        for line in reversed((terminal.folder / "runs" / "small" / "events.jsonl").read_text().splitlines())
        if '"heartbeat"' in line
    )
    os.kill(beat["process"], signal.SIGKILL)
    killed = time.monotonic()
    page.get_by_text("The sweep is gone. Finished runs are kept; this goes on with it:").wait_for()
    assert time.monotonic() - killed < DEAD_SECONDS
    page.get_by_text("sweeper run study.yaml", exact=True).wait_for()
    again = terminal.start("run", "study.yaml", "--workers", "2")
    page.get_by_text("running", exact=True).wait_for()
    assert complaints == []
    os.killpg(started.pid, signal.SIGKILL)  # the page
    assert again.wait(PATIENCE) == 0


def test_a_variant_is_cloned_as_the_next_version_of_the_file(terminal: Terminal, browser: Any) -> None:
    (terminal.folder / "study.yaml").write_text(TINY.replace("study: tiny", "study: tiny  # mine"))
    quick = terminal.folder / "study.yaml"
    quick.write_text(quick.read_text().replace("question:", "trainer: formula\nquestion:"))
    terminal.say("run", "study.yaml", "--executor", "inline")
    before = quick.read_text()
    _, link = terminal.page()
    page = opened(browser, link)
    tab(page, "steer")
    page.get_by_label("value").fill("0.5")
    page.get_by_role("button", name="show the change").click()
    page.get_by_role("button", name="write study.yaml").click()
    page.get_by_role("cell", name="study.yaml is the next version").wait_for()
    page.get_by_role("button", name="write study.yaml").wait_for(state="hidden")
    assert (terminal.folder / "study.yaml.v1").read_text() == before
    assert "sigmoid_2" in quick.read_text()
    terminal.say("run", "study.yaml", "--executor", "inline")
    tab(page, "answer")
    page.get_by_role("cell", name="sigmoid_2 (sigmoid)").wait_for()


def test_a_running_sweep_goes_on_with_a_clone_that_the_page_wrote_and_the_table_shows_it(
    terminal: Terminal, browser: Any, complaints: list[str]
) -> None:
    (terminal.folder / "study.yaml").write_text(STUDY.replace("trials: 10", "trials: 4"))
    sweep = terminal.start("run", "study.yaml", "--workers", "2", env={"STEP_SECONDS": "1"})
    _, link = terminal.page()
    page = opened(browser, link)
    page.get_by_text(re.compile(r"\d+ of 8 runs, 2 in training")).wait_for()
    tab(page, "steer")
    page.get_by_label("value").fill("0.5")
    page.get_by_role("button", name="show the change").click()
    page.get_by_text(re.compile(r"\+variants: .*sigmoid_2")).wait_for()
    asked = time.monotonic()
    page.get_by_role("button", name="write study.yaml").click()
    page.get_by_role("cell", name=re.compile("Takes it: once the runs in training have ended")).wait_for()
    assert time.monotonic() - asked < ANSWER_SECONDS
    page.get_by_role("cell", name="edit study.yaml, then sweeper take study.yaml").wait_for()
    page.get_by_text(re.compile(r"\d+ of 9 runs, \d+ in training")).wait_for()  # of a fixed beta it has one trial
    page.get_by_label("up to").click()
    page.get_by_role("option", name="trials of each variant").click()
    page.get_by_label("how many").fill("5")
    page.get_by_role("button", name="change the file").click()
    page.get_by_role("button", name="write study.yaml").click()
    page.get_by_role("cell", name=re.compile(r"with 2 further runs")).wait_for()
    page.get_by_text(re.compile(r"\d+ of 11 runs, \d+ in training")).wait_for()
    assert sweep.wait(PATIENCE) == 0
    assert [path.name for path in sorted(terminal.folder.glob("study.yaml.v*"))] == ["study.yaml.v1", "study.yaml.v2"]
    tab(page, "answer")
    page.get_by_text("finished", exact=True).wait_for()
    page.get_by_role("cell", name="sigmoid_2 (sigmoid)").wait_for()
    table = terminal.say("table", "study.yaml")
    for row in rows(page):
        assert row[0] in table
    assert "0 missing" in terminal.say("plan", "study.yaml")
    assert complaints == []


def test_failed_runs_are_tried_again_and_more_trials_asked_for_from_the_page(terminal: Terminal, browser: Any) -> None:
    broken = terminal.folder / "broken"
    broken.touch()
    study = STUDY.replace("soak_trainers:Slow", "soak_trainers:Broken").replace("trials: 10", "trials: 3")
    (terminal.folder / "study.yaml").write_text(
        study.replace("env: [STEP_SECONDS]", "env: [STEP_SECONDS, BROKEN], attempts: 1")
    )
    sweep = terminal.start("run", "study.yaml", "--workers", "2", env={"BROKEN": str(broken), "STEP_SECONDS": "1"})
    _, link = terminal.page()
    page = opened(browser, link)
    told = re.compile(r"could not be trained \(ipo \d\): .* infrastructure \(a device, a disk or the network")
    page.get_by_text(told).wait_for()
    broken.unlink()
    tab(page, "steer")
    page.get_by_role("button", name=re.compile(r"retry \d infrastructure")).click()
    page.get_by_role("cell", name=re.compile("trained again once all others have ended")).wait_for()
    page.get_by_label("how many").fill("4")
    page.get_by_role("button", name="extend this sweep").click()
    page.get_by_role("cell", name=re.compile("up to 4 trials of each variant are trained")).wait_for()
    assert sweep.wait(PATIENCE) == 0
    page.get_by_text("8 of 8 runs").wait_for()


def test_the_keyboard_alone_reaches_every_act_and_sees_where_it_is(
    terminal: Terminal, browser: Any, complaints: list[str]
) -> None:
    (terminal.folder / "study.yaml").write_text(STUDY)
    sweep = terminal.start("run", "study.yaml", "--workers", "2")
    _, link = terminal.page()
    page = opened(browser, link)
    page.get_by_text(re.compile(r"\d+ of 20 runs, 2 in training")).wait_for()
    assert reached(page, "answer") == ["sweeper", "MLflow", "small", "runs in MLflow", "answer"], "as they stand"
    for _ in range(4):
        page.keyboard.press("ArrowRight")  # as in every list of tabs
    page.keyboard.press("Enter")
    page.get_by_role("button", name="pause ipo").wait_for()
    page.get_by_text("judging runs in MLflow").wait_for(state="hidden")  # of the answer, which slides away
    seen = reached(page, "pause ipo")
    assert seen[:2] == ["stop when the runs in training end", "stop now"]
    page.keyboard.press("Space")
    page.get_by_role("button", name="resume ipo").wait_for()
    page.get_by_role("button", name="stop now").focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="yes").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="yes").wait_for(state="hidden")
    assert sweep.poll() is None
    assert page.get_by_role("cell", name="sweeper stop study.yaml --now").count() == 0
    page.get_by_role("button", name="stop now").focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="yes").wait_for()
    page.wait_for_function("() => document.activeElement.closest('.q-dialog')")  # once it has come up
    reached(page, "yes")
    page.keyboard.press("Space")
    assert sweep.wait(PATIENCE) == 1
    assert complaints == []


def reached(page: Any, name: str) -> list[str]:
    """What the tabulator comes by on its way to something; the eye sees each, and none holds it."""
    seen: list[str] = []
    for _ in range(60):
        page.keyboard.press("Tab")
        told = page.evaluate(
            "() => { const it = document.activeElement, style = getComputedStyle(it);"
            "return [(it.innerText || it.ariaLabel || '').split('\\n').pop(), style.outlineStyle, style.boxShadow] }"
        )
        seen.append(told[0])
        assert told[1:] != ["none", "none"], f"nobody sees that {told[0]} has the focus"
        if told[0] == name:
            return seen
    raise AssertionError(f"{name} is not reached: {seen}")
