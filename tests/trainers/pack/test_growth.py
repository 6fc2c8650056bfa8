"""How many runs train together is found out by runs in training, and out of memory is no end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from studies.records import ALONE_FACT, Cause, RunConfig, RunResult
from tests.trainers.pack_runs import config, distance, float64, train, weights
from trainers.components.start_check import measured_gaps
from trainers.dpo import DPOTrainerWorker
from trainers.interface import Job, Placement, Sized
from trainers.job_list import JobList
from trainers.multi_lora.flat import Unpackable
from trainers.pack import growth
from trainers.pack.engine import Engine
from trainers.pack.growth import Growth
from trainers.reference.log_probs import WORK_AT_ONCE

OPEN = Placement(together=32, begin=0)


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What memory there is, in MiB, and what a pack of so many runs takes."""
    about: dict[str, Any] = {"limit": None, "peak": 500.0}
    monkeypatch.setattr(growth, "memory_limit", lambda _: about["limit"])
    monkeypatch.setattr(growth, "taken_memory", lambda: about["peak"])
    return about


def grown(found: Growth, seconds: dict[int, float], passes: int = 400) -> list[int]:
    """The sizes that a pack goes through that always finds runs, where a pass of n runs takes n x seconds[n]."""
    sizes: list[int] = []
    size = 0
    for _ in range(passes):
        if size < found.target:
            found.admitted(found.target - size, 0.1, 10)
        size = found.target
        sizes += [size] if sizes[-1:] != [size] else []
        found.passed(size, size * seconds[size], size * 100, 500.0)
    return sizes


def test_a_pack_takes_in_as_many_again_while_the_time_a_run_falls() -> None:
    found = Growth(OPEN)
    assert grown(found, {1: 0.030, 2: 0.025, 4: 0.020, 8: 0.020}) == [1, 2, 4, 8, 4]
    sizing = found.sizing()
    assert sizing is not None
    assert sizing.best is not None
    assert sizing.chosen.together == 4
    assert sizing.best.seconds == pytest.approx(0.020)
    assert "8 together are no faster" in sizing.reason


def test_the_first_run_for_which_everything_is_loaded_does_not_make_the_second_slow() -> None:
    found = Growth(OPEN)
    found.admitted(1, 60.0, 10)
    found.admitted(1, 2.0, 10)
    found.keep_to(1)
    sizing = found.sizing()
    assert sizing is not None
    assert sizing.setup_seconds == 2.0


def test_one_unlucky_reading_does_not_keep_a_pack_at_one_run() -> None:
    assert grown(Growth(OPEN), {1: 0.030, 2: 0.032, 4: 0.020, 8: 0.020}) == [1, 2, 4, 8, 4]
    assert grown(Growth(OPEN), {1: 0.030, 2: 0.032, 4: 0.030, 8: 0.020}) == [1, 2, 4, 1]


def test_a_larger_pack_is_tried_again_once_as_many_new_runs_were_admitted() -> None:
    found = Growth(Placement(together=32, begin=4))
    assert grown(found, {4: 0.020}, passes=30) == [4]
    assert [found.admitted(2, 0.1, 10), found.target, found.admitted(2, 0.1, 10), found.target] == [False, 4, True, 8]
    assert grown(found, {4: 0.020, 8: 0.015, 16: 0.015}) == [8, 16, 8]


def test_it_grows_no_further_than_memory_is_foreseen_to_do(memory: dict[str, Any]) -> None:
    memory["limit"] = 1900.0
    found = Growth(OPEN)
    found.admitted(1, 0.1, 10)
    for size in (1, 2, 4):
        for _ in range(30):
            found.passed(size, 0.02, 100 * size, 500.0 + 200.0 * size)
    assert (found.target, found.is_open) == (4, False)
    sizing = found.sizing()
    assert sizing is not None
    assert sizing.reason == "8 together would pass 1900 MiB"


def test_a_size_that_did_not_fit_is_not_tried_again() -> None:
    found = Growth(OPEN)
    grown(found, {1: 0.030, 2: 0.020, 4: 0.020}, passes=20)
    assert (found.best, found.target) == (2, 4)
    found.halve(4)
    assert grown(found, {2: 0.020}) == [2]


def test_where_runs_are_missing_it_tells_what_it_knows_and_goes_on_once_they_come() -> None:
    found = Growth(OPEN)
    assert not found.short()
    grown(found, {1: 0.030, 2: 0.020, 4: 0.020}, passes=20)
    assert (found.best, found.target, found.sizing()) == (2, 4, None)
    assert [found.short(), found.short()] == [True, False]
    sizing = found.sizing()
    assert sizing is not None
    assert (sizing.chosen.together, sizing.reason) == (2, "too few runs were left to try 4 together")
    assert grown(found, {2: 0.020, 4: 0.010, 8: 0.010}) == [4, 8, 4]


def test_a_placement_that_says_how_many_is_kept_to() -> None:
    found = Growth(Placement(together=3))
    assert grown(found, {3: 0.1}) == [3]
    assert found.sizing() is None


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many runs went through each pass."""
    seen: list[int] = []
    plain = Engine.accumulate

    def counted(self: Engine, work: Any, precision: Any) -> Any:
        seen.append(len(work))
        return plain(self, work, precision)

    monkeypatch.setattr(Engine, "accumulate", counted)
    return seen


def drain(
    worker: DPOTrainerWorker, folder: Path, runs: list[RunConfig], place: Placement
) -> tuple[JobList, list[RunResult]]:
    """Train the runs, and the desk that saw it."""
    desk = JobList([Job(run, folder / run.key, placement=place) for run in runs])
    while desk.waiting:
        worker.train(desk.waiting.pop(0), desk)
    return desk, [desk.results[run.key] for run in runs]


def test_a_pack_that_grows_takes_no_pass_that_trains_nothing_and_its_runs_have_the_numbers_of_any_other(
    tmp_path: Path, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "_WORTH_IT", 10.0)  # whatever this machine does meanwhile, a larger pack is better
    steps = (30, 25, 30, 12, 30, 20, 18, 30)
    runs = [config("sigmoid", max_steps=n, beta=0.1 + 0.1 * i) for i, n in enumerate(steps)]
    with float64(monkeypatch):
        desk, results = drain(DPOTrainerWorker(), tmp_path / "grown", runs, OPEN)
        assert [r.cause for r in results] == [Cause.FINISHED] * len(runs)
        assert passes[0] == 1
        assert max(passes) >= 4
        assert sum(passes) == sum(steps)
        train(tmp_path / "alone", runs[:5:3], together=1)
    for run in runs[:5:3]:  # the one that began alone, and a short one that came later
        assert distance(weights(tmp_path / "grown", run), weights(tmp_path / "alone", run)) < 1e-9
    sizes = [news.together for news in desk.news if isinstance(news, Sized)]
    assert sizes[:3] == [1, 2, 4] or sizes[:2] == [1, 2]


def test_what_a_worker_found_holds_for_its_next_packs(
    tmp_path: Path, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "_WORTH_IT", 10.0)
    worker = DPOTrainerWorker()
    runs = [config("sigmoid", max_steps=20, beta=0.1 + 0.1 * i) for i in range(4)]
    drain(worker, tmp_path / "one", runs[:2], OPEN)
    assert (passes[0], max(passes)) == (1, 2)
    passes.clear()
    drain(worker, tmp_path / "two", runs[2:], OPEN)
    assert passes[0] == 2


@pytest.mark.parametrize(
    ("place", "losses"),
    [
        (OPEN, ("sigmoid",)),
        pytest.param(OPEN, ("aot",), marks=pytest.mark.slow),
        pytest.param(Placement(), ("sigmoid",), marks=pytest.mark.slow),
        (Placement(), ("aot",)),
    ],
)
def test_a_run_that_does_not_fit_is_taken_in_parts_then_with_checkpointing_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, losses: tuple[str, ...], place: Placement
) -> None:
    """Memory runs out in the third step, and from there all passes over more than two pairs without checkpointing."""
    runs = [config(*losses, max_steps=8, beta=0.1 * (i + 1)) for i in range(2)]
    plain, seen = Engine.accumulate, [0]

    def limited(self: Engine, work: Any, precision: Any) -> Any:
        seen[0] += 1
        rows = sum(one.micro.rows for one in work)
        if seen[0] > 2 and rows > 4 and not self._checkpointing:
            raise torch.OutOfMemoryError("no room")
        return plain(self, work, precision)

    with float64(monkeypatch):
        train(tmp_path / "whole", runs, together=1)
        with monkeypatch.context() as scarce:
            scarce.setattr(Engine, "accumulate", limited)
            desk, results = drain(DPOTrainerWorker(), tmp_path / "scarce", runs, place)
    assert [(r.cause, r.facts["steps"]) for r in results] == [(Cause.FINISHED, 8)] * 2
    assert [r.facts.get("split") for r in results] == ([2, 2] if losses == ("sigmoid",) else [None, None])
    for run, result in zip(runs, results, strict=True):
        assert distance(weights(tmp_path / "whole", run), weights(tmp_path / "scarce", run)) < 1e-9
        assert [step for step, _ in result.curve] == list(range(1, 9))
    assert isinstance(desk, JobList)


def test_a_run_that_fits_in_no_way_is_out_of_memory_and_the_next_one_does_not_try_them_all_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[int, bool]] = []

    def full(self: Engine, work: Any, _: Any) -> Any:
        tried.append((work[0].micro.rows, self._checkpointing))
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(Engine, "accumulate", full)
    runs = [config("sigmoid", max_steps=4, beta=0.1 * (i + 1)) for i in range(2)]
    _, results = drain(DPOTrainerWorker(), tmp_path, runs, OPEN)
    assert [r.cause for r in results] == [Cause.OUT_OF_GPU_MEMORY] * 2
    assert tried == [(8, False), (4, False), (2, False), (2, True), (2, True)]


def test_a_worker_says_what_takes_long_before_a_run_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WORK_AT_ONCE, "cpu", 1.0)  # a pair at a time, as for a large model
    monkeypatch.setattr("trainers.reference.log_probs._SAY_SECONDS", 0.0)
    desk, _ = drain(DPOTrainerWorker(), tmp_path, [config("sigmoid", max_steps=2)], OPEN)
    said = [news.what for news in desk.news if not isinstance(news, Sized)]
    assert said[:2] == ["loading the model", ""]
    assert {"reading the data", "measuring the untrained model", "reference log-probs: 2 answers"} <= {*said}
    assert said[-1] == "training 1 together, to see what a run takes then" or said[-1] == ""


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("no room"),
        pytest.param(Unpackable("it passes the window"), marks=pytest.mark.slow),
        pytest.param(IndexError("out of range"), marks=pytest.mark.slow),
    ],
)
def test_runs_of_a_pack_that_cannot_take_in_more_come_to_their_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(growth, "_WORTH_IT", 10.0)
    plain, seen = measured_gaps, [0]

    def fails_once(*given: Any) -> Any:
        seen[0] += 1
        if seen[0] == 2:
            raise error
        return plain(*given)

    monkeypatch.setattr("trainers.pack.admission.measured_gaps", fails_once)
    runs = [config("sigmoid", max_steps=24, beta=0.1 * (i + 1)) for i in range(3)]
    _, results = drain(DPOTrainerWorker(), tmp_path, runs, OPEN)
    assert seen[0] >= 2
    assert [(r.cause, r.facts["steps"]) for r in results] == [(Cause.FINISHED, 24)] * 3
    alone = [str(error) in str(r.facts.get(ALONE_FACT)) for r in results]
    assert alone == ([False] * 3 if isinstance(error, torch.OutOfMemoryError) else [True, True, False])
