"""What lies on the Hub: the commit of a study's first run is kept, and nobody is asked more than is needed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from studies.design.identity import questions
from studies.records import COMMIT
from studies.schema.contents import DATED, Source
from studies.spec import StudySpec, arms, load_study, resolve_run
from sweeper.recorded.contents import as_found, as_recorded
from sweeper.tracking.tracker import Tracker

FIRST, SECOND = "1" * 40, "2" * 40
STUDY = """
study: hub
base: {model_name_or_path: org/model, use_peft: true, max_steps: 4}
data: {path: org/pairs}
variants: {sigmoid: {}}
"""


class Hub:
    """A server that answers as the Hub does when it is asked for a repository, and counts how often it is."""

    def __init__(self) -> None:
        self.commit, self.asked = FIRST, list[str]()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.asked.append(self.path)
                kind = "datasets" if "/datasets/" in self.path else "models"
                about = json.dumps({"id": f"org/{kind}", "sha": hub.commit, "siblings": [], "tags": []})
                found = "/api/" in self.path
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(about.encode() if found else b"{}")

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Answer no more; may be called again."""
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    served = Hub()
    constants = "huggingface_hub.constants"
    monkeypatch.setattr(f"{constants}.ENDPOINT", served.url)
    monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(tmp_path / "cache"))
    yield served
    served.close()


@pytest.fixture
def spec(tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch) -> StudySpec:
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db")
    (tmp_path / "study.yaml").write_text(STUDY)
    return load_study("study.yaml")


def run(spec: StudySpec, said: list[str], *, refresh: bool = False) -> StudySpec:
    """What a sweep does with contents: find them, and keep them with the study."""
    found = as_found(spec, arms(spec), said.append, refresh=refresh)
    Tracker(None, Path.cwd()).open_study(found, STUDY, questions(found, arms(found)))
    return found


def test_runs_train_the_commit_of_the_studys_first_run_until_it_is_refreshed(hub: Hub, spec: StudySpec) -> None:
    said: list[str] = []
    first = run(spec, said)
    config = resolve_run(first, arms(first)["sigmoid"], "clean", trial=0, knobs={}, block=0, seed=0)
    assert (config.settings["model_revision"], config.data.revision) == (FIRST, FIRST)
    assert said == []
    hub.commit = SECOND
    second = run(spec, said)
    assert second.contents == first.contents == as_recorded(spec)[0].contents
    assert len(said) == 2
    assert "The Hub's model org/model has moved on to 222222222222; this study stays with 111111111111." in said[1]
    third = run(spec, said, refresh=True)
    assert set(third.contents.values()) == {f"commit:{SECOND}"}
    assert questions(third, arms(third)) != questions(first, arms(first))


def test_a_plan_asks_nobody(hub: Hub, spec: StudySpec) -> None:
    as_found(spec, arms(spec), print, reach=False)
    assert hub.asked == []


def test_a_first_run_asks_once_for_each_repository_and_each_file_of_a_template(hub: Hub, spec: StudySpec) -> None:
    run(spec, [])
    assert sorted(path.partition("?")[0] for path in hub.asked) == [
        "/api/datasets/org/pairs",
        "/api/models/org/model",
        f"/org/model/resolve/{FIRST}/chat_template.jinja",
        f"/org/model/resolve/{FIRST}/tokenizer_config.json",
    ]


def test_a_hub_that_does_not_answer_leaves_the_commit_unknown_and_keeps_nobody_waiting(
    hub: Hub, spec: StudySpec
) -> None:
    hub.close()
    assert as_found(spec, arms(spec), print).contents == {}


FORMULA = STUDY.replace("base:", "trainer: formula\nbase:") + "space: {beta: {values: [0.1, 0.3]}}\nsampler: grid\n"


def commits(monkeypatch: pytest.MonkeyPatch, content: str | None) -> None:
    """What everybody learns of sources on the Hub."""

    def found(source: Source, kept: str | None, *_: Any) -> str | None:
        return None if source.what == DATED else kept or content

    monkeypatch.setattr("sweeper.recorded.contents._content", found)


def test_runs_of_a_first_sweep_without_the_hub_are_taken_over_once_when_the_commit_is_known(
    sweeper: Any, tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db")
    (tmp_path / "study.yaml").write_text(FORMULA)
    arguments = ("run", "study.yaml", "--executor", "inline")
    commits(monkeypatch, None)
    assert "2 runs trained" in sweeper(tmp_path, *arguments).stdout
    commits(monkeypatch, f"{COMMIT}{FIRST}")
    refused = sweeper(tmp_path, *arguments, "--strict")
    assert refused.returncode == 2
    assert "2 finished runs would be left behind: they did not record what data org/pairs" in refused.stderr
    second = sweeper(tmp_path, *arguments)
    assert "0 runs trained, 2 were there already" in second.stdout
    assert "2 runs are taken over. What data org/pairs and model org/model" in second.stdout
    assert "held was not recorded then, and is taken to be the same" in second.stdout
    third = sweeper(tmp_path, *arguments)
    assert "0 runs trained, 2 were there already" in third.stdout
    assert "taken over" not in third.stdout
    assert sweeper(tmp_path, "table", "study.yaml", "--format", "csv").stdout.count("\n") > 1
