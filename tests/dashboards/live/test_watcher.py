"""What the page knows stays true: one study that cannot be read hides no other, and nothing stays that has passed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from dashboards.live.page.overview import goes_on, studies_of, trains_elsewhere, who
from dashboards.live.page.parts import lateness
from dashboards.live.page.steer import pausable
from dashboards.live.ports import Event, Sweep, Told
from dashboards.live.reading.study import FollowedStudy
from dashboards.live.reading.watcher import Watcher
from dashboards.live.views import Glance, Seen
from dashboards.report.progress import StatusCounts, StratumCounts
from dashboards.store.connection import StoreError

RUNNING = Sweep("one", "running", "", "", "here", 1, True, "train")
STARTED: Event = {"sweep": "one", "at": 10.0, "event": "run_started", "key": "a", "worker": "w", "variant": "ipo"}
BEAT: Event = {"sweep": "one", "at": 14.0, "event": "heartbeat"}


@dataclass
class Sweeps:
    """What the page is told: run folders, events and sweeps, which a test changes."""

    folders: dict[str, Path] = field(default_factory=dict)
    sweeps: dict[Path, Sweep | Exception] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    def told(self) -> Told:
        def new() -> Sequence[Event]:
            found, self.events = self.events, []
            return found

        def sweep(runs: Path) -> Sweep | None:
            found = self.sweeps.get(runs)
            if isinstance(found, Exception):
                raise found
            return found

        def nobody(*_: Any) -> Any:
            raise AssertionError

        return Told(
            folders=lambda: dict(self.folders),
            follow=lambda _: new,
            sweep=sweep,
            paused=lambda _: frozenset(),
            among=nobody,
            file=lambda name: f"{name}.yaml",
        )


@pytest.fixture
def sweeps(tmp_path: Path) -> Sweeps:
    return Sweeps({"bad": tmp_path / "bad", "good": tmp_path / "good"}, {tmp_path / "good": RUNNING})


def watcher(sweeps: Sweeps, folder: Path) -> Watcher:
    return Watcher(f"sqlite:///{folder / 'mlflow.db'}", folder, sweeps.told())


def glances(found: Watcher) -> Mapping[str, Glance]:
    found.look()
    return {one.name: one for one in found.seen.studies}


def test_a_study_that_cannot_be_read_is_told_and_hides_no_other(sweeps: Sweeps, tmp_path: Path) -> None:
    sweeps.sweeps[tmp_path / "bad"] = OverflowError("int too large")
    page = watcher(sweeps, tmp_path)
    seen = glances(page)
    assert seen["bad"].problem == "The page cannot read on: OverflowError: int too large"
    assert (seen["good"].state, seen["good"].problem) == ("running", "")
    sweeps.sweeps[tmp_path / "bad"] = RUNNING
    assert glances(page)["bad"].problem == ""


def test_a_look_that_fails_ends_no_watching_and_is_told(
    sweeps: Sweeps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dashboards.live.reading.watcher.ALONE_SECONDS", 0.01)
    page = watcher(sweeps, tmp_path)
    looks = []

    def look() -> None:
        looks.append(1)
        raise ValueError("no such thing")

    monkeypatch.setattr(page, "look", look)
    page.start()
    until = time.monotonic() + 20
    while len(looks) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    page.stop()
    assert len(looks) >= 3
    now = page.looked_at
    assert lateness(page, now) == "The page cannot read on: ValueError: no such thing"
    at = time.strftime("%H:%M", time.localtime(now))
    assert lateness(page, now + 61).endswith(f"Not looked at since {at}.")


def test_without_its_run_folder_nothing_is_said_to_run(sweeps: Sweeps, tmp_path: Path) -> None:
    study = FollowedStudy("good", f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path, sweeps.told())
    sweeps.events = [STARTED]
    study.listen(tmp_path / "good")
    assert (study.glance.state, len(study.glance.happening.training)) == ("running", 1)
    study.listen(None)
    assert (study.glance.state, study.glance.sweep, study.glance.happening.training) == ("unknown", None, ())


def test_what_a_dead_sweep_trained_ended_when_it_was_last_heard_of(sweeps: Sweeps, tmp_path: Path) -> None:
    study = FollowedStudy("good", f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path, sweeps.told())
    sweeps.events = [STARTED, BEAT]
    study.listen(tmp_path / "good")
    assert [span.end for span in study.glance.happening.spans] == [None]
    sweeps.sweeps[tmp_path / "good"] = replace(RUNNING, state="dead")
    study.listen(tmp_path / "good")
    assert [span.end for span in study.glance.happening.spans] == [14.0]
    assert study.glance.happening.training == ()
    sweeps.sweeps[tmp_path / "good"] = RUNNING  # on another machine, and silent for a while
    study.listen(tmp_path / "good")
    assert [span.end for span in study.glance.happening.spans] == [None]


def test_a_store_that_answers_again_is_no_problem_any_more(
    sweeps: Sweeps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = FollowedStudy("good", f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path, sweeps.told())
    monkeypatch.setattr(study, "_compare", lambda: None)

    def locked(_: object) -> bool:
        raise StoreError("the store is locked")

    monkeypatch.setattr(study._followed, "look", locked)
    study.read(lambda: None)
    assert "locked" in study.glance.problem
    monkeypatch.setattr(study._followed, "look", lambda _: False)
    study.read(lambda: None)
    assert study.glance.problem == ""


def test_a_look_that_takes_long_is_not_taken_again_at_once(
    sweeps: Sweeps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = FollowedStudy("good", f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path, sweeps.told())
    monkeypatch.setattr(study, "_compare", lambda: None)
    now, looks = [100.0], list[float]()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def look(_: object) -> bool:
        looks.append(now[0])
        now[0] += 0.25
        return False

    monkeypatch.setattr(study._followed, "look", look)
    for _ in range(9):
        study.read(lambda: None)
        now[0] += 1.0
    assert looks == [100.0, 104.25, 108.5]


def test_what_may_train_elsewhere_is_started_by_nobody_here() -> None:
    counts = StatusCounts(9, 3, 6, None, None, (StratumCounts("ipo", "clean", 3, 0, 0, 0, 2, 9),), {}, {})
    glance = Glance("far", "", "unknown", None, frozenset(), None, 3, "sweeper run far.yaml", counts=counts)
    assert trains_elsewhere(glance)
    assert not goes_on(glance)
    assert goes_on(replace(glance, state="dead"))


def test_a_tracking_server_is_seldom_asked_for_all_its_runs(
    sweeps: Sweeps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def listed(uri: str, _read: object) -> list[str]:
        asked.append(uri)
        return []

    monkeypatch.setattr("dashboards.live.reading.watcher.stored_studies", listed)
    monkeypatch.setattr("dashboards.live.reading.watcher.LIST_SECONDS", 0.0)
    sweeps.sweeps.clear()
    page = Watcher("http://elsewhere:5000", tmp_path, sweeps.told())
    for _ in range(3):
        page.look()
    assert len(asked) == 1
    sweeps.sweeps[tmp_path / "good"] = RUNNING  # and the server does not know it yet
    page.look()
    page.look()
    assert len(asked) >= 2


def test_cards_are_not_drawn_anew_because_studies_have_another_order() -> None:
    one, two = (Glance(name, "", "ended", None, frozenset(), None, 3, "") for name in ("one", "two"))
    assert studies_of(Seen(1, 0.0, (one, two))) == studies_of(Seen(2, 1.0, (two, one), "the store is locked"))
    assert studies_of(Seen(1, 0.0, (one, two))) != studies_of(Seen(2, 1.0, (one,)))


def test_who_trains_a_study_is_told_with_where_and_else_when_it_was_last_changed() -> None:
    glance = Glance("mine", "", "unknown", None, frozenset(), time.time(), 3, "")
    assert who(replace(glance, changed=None)) == ""
    assert who(glance).startswith("last change ")
    assert who(replace(glance, owner="ann@gpu4", folder="/home/ann")).endswith(", of ann@gpu4 in /home/ann")
    running = replace(glance, state="running", sweep=replace(RUNNING, said="running: process 1"))
    assert who(running) == "running: process 1 (on here)"
    assert who(replace(running, owner="ann@gpu4", folder="/home/ann")) == (
        "running: process 1 (of ann@gpu4 in /home/ann)"
    )


def test_of_a_study_with_nothing_left_to_train_only_what_is_paused_has_a_button() -> None:
    strata = tuple(StratumCounts(name, "clean", 3, 0, 0, 0, 0, 3) for name in ("ipo", "hinge"))
    whole = StatusCounts(6, 6, 0, None, None, strata, {}, {})
    glance = Glance("mine", "", "ended", None, frozenset(), None, 6, "", counts=whole)
    assert pausable(glance) == ()
    assert pausable(replace(glance, paused=frozenset({"hinge"}))) == ("hinge",)
    for trains in (replace(glance, state="running"), replace(glance, counts=replace(whole, missing=1))):
        assert pausable(trains) == ("ipo", "hinge")
