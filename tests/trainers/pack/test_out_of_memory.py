"""Where memory runs out, it is given back first, nothing is done by half, and no base is there twice."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from studies.records import Cause
from tests.trainers.pack_runs import config, distance, float64, train, weights
from trainers.components import start_check, worker_cache
from trainers.dpo import DPOTrainerWorker
from trainers.interface import Job, Placement
from trainers.pack import admission, growth, member, stock_setup
from trainers.pack.engine import Engine
from trainers.pack.pack import Pack

NO_ROOM = "CUDA out of memory"


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Any]]:
    """The bases that were loaded."""
    found: list[weakref.ref[Any]] = []
    plain = worker_cache.load_base

    def counted(*arguments: Any) -> Any:
        model, tokenizer = plain(*arguments)
        found.append(weakref.ref(model))
        return model, tokenizer

    monkeypatch.setattr(worker_cache, "load_base", counted)
    return found


def nth(call: int, plain: Callable[..., Any], fail: Callable[[], object]) -> Callable[..., Any]:
    """`plain`, which fails at its call number `call`."""
    seen = [0]

    def limited(*given: Any, **named: Any) -> Any:
        seen[0] += 1
        if seen[0] == call:
            fail()
        return plain(*given, **named)

    return limited


def no_room() -> None:
    raise torch.OutOfMemoryError(NO_ROOM)


class Graph:
    """Stands for what a pass has computed and autograd keeps."""


@pytest.mark.parametrize("together", [4, 1])
def test_what_a_pass_has_computed_is_let_go_of_before_anything_else_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    graphs: list[weakref.ref[Graph]] = []
    held: list[bool] = []

    def runs_out() -> None:
        graph = Graph()
        graphs.append(weakref.ref(graph))
        no_room()

    def seen(plain: Callable[..., Any]) -> Callable[..., Any]:
        def looked(*given: Any) -> Any:
            held.extend([graph() is not None for graph in graphs])
            return plain(*given)

        return looked

    monkeypatch.setattr(Engine, "accumulate", nth(3, Engine.accumulate, runs_out))
    monkeypatch.setattr(Pack, "take_out", seen(Pack.take_out))
    monkeypatch.setattr(Pack, "keep_state", seen(Pack.keep_state))
    runs = [config("sigmoid", max_steps=4, beta=0.1 * (i + 1)) for i in range(together)]
    results = train(tmp_path, runs, together=together)
    assert [r.cause for r in results] == [Cause.FINISHED] * together
    assert held
    assert not any(held)


def test_memory_that_runs_out_while_a_pack_is_made_smaller_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "accumulate", nth(3, Engine.accumulate, no_room))
    monkeypatch.setattr(Engine, "keep", nth(1, Engine.keep, no_room))
    runs = [config("sigmoid", max_steps=4, beta=0.1 * (i + 1)) for i in range(4)]
    results = train(tmp_path, runs, together=4)
    assert [(r.cause, r.facts["steps"]) for r in results] == [(Cause.FINISHED, 4)] * 4


@pytest.mark.parametrize(
    ("steps", "operation"),
    [
        ((8, 8), "lerp"),
        pytest.param((8, 8), "where", marks=pytest.mark.slow),
        pytest.param((8, 16), "lerp", marks=pytest.mark.slow),
        ((8, 16), "where"),
    ],
)
def test_a_step_that_finds_no_memory_is_not_half_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, steps: tuple[int, int]
) -> None:
    """In its second and third optimizer step, of all runs at once or of one of two, memory runs out at each place."""
    runs = [
        config("sigmoid", max_steps=n // 2, gradient_accumulation_steps=16 // n, beta=0.1 * (i + 1))
        for i, n in enumerate(steps)
    ]
    plain_step, plain = Engine.step, getattr(torch, operation)
    calls = [0]

    def step(self: Engine, *given: Any) -> Any:
        calls[0] += 1
        with monkeypatch.context() as inside:
            if calls[0] in (2, 4):
                # the last call of it in the step: as much as can be is done by then
                last = 2 if operation == "where" else 1
                inside.setattr(torch, operation, nth(last, plain, no_room))
            return plain_step(self, *given)

    with float64(monkeypatch):
        train(tmp_path / "whole", runs, together=2)
        with monkeypatch.context() as scarce:
            scarce.setattr(Engine, "step", step)
            results = train(tmp_path / "scarce", runs, together=2)
    assert [r.cause for r in results] == [Cause.FINISHED] * 2
    for run in runs:
        assert distance(weights(tmp_path / "whole", run), weights(tmp_path / "scarce", run)) < 1e-9


def test_a_point_of_the_curve_counts_no_micro_batch_that_was_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [config("sigmoid", max_steps=4, gradient_accumulation_steps=3, beta=0.1 * (i + 1)) for i in range(2)]
    with float64(monkeypatch):
        whole = train(tmp_path / "whole", runs, together=2)
        with monkeypatch.context() as scarce:
            scarce.setattr(Engine, "accumulate", nth(6, Engine.accumulate, no_room))  # the third part of a step
            again = train(tmp_path / "scarce", runs, together=2)
    for before, after in zip(whole, again, strict=True):
        for (step, point), (same, other) in zip(before.curve, after.curve, strict=True):
            assert step == same
            if step == 1:  # the policy is the reference still, so that rounding says which answer is preferred
                point, other = ({n: v for n, v in p.items() if n != "reward_accuracy"} for p in (point, other))
            assert point == pytest.approx(other, abs=1e-9)
        told = [r.final()["tokens_per_second"].value / r.final()["steps_per_second"].value for r in (before, after)]
        assert told[0] == pytest.approx(told[1])


@pytest.mark.parametrize("place", ["numbers", "laid_out"])
def test_a_run_that_cannot_be_made_ready_beside_others_waits_and_no_base_is_loaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loaded: list[weakref.ref[Any]], place: str
) -> None:
    monkeypatch.setattr(growth, "_WORTH_IT", 10.0)
    cache = worker_cache.WorkerCache
    monkeypatch.setattr(cache, place, nth(3, getattr(cache, place), no_room))
    runs = [config("sigmoid", max_steps=6, beta=0.1 * (i + 1)) for i in range(4)]
    results = train(tmp_path, runs, together=4)
    assert [(r.cause, r.facts["together"]) for r in results] == [(Cause.FINISHED, 2)] * 4
    assert len(loaded) == 1


def test_runs_that_cannot_be_taken_in_beside_others_wait_and_are_looked_at_before_their_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "_WORTH_IT", 10.0)
    noted: list[str] = []
    plain = member.Member.note

    def note(self: member.Member, gap: Any) -> None:
        noted.append(f"{self.key} at {self.step}")
        plain(self, gap)

    monkeypatch.setattr(member.Member, "note", note)
    monkeypatch.setattr(admission, "measured_gaps", nth(2, start_check.measured_gaps, no_room))
    runs = [config("sigmoid", max_steps=24, beta=0.1 * (i + 1)) for i in range(3)]
    results = train(tmp_path, runs, together=8, begin=0)
    assert [(r.cause, r.facts["together"], r.facts["steps"]) for r in results] == [(Cause.FINISHED, 1, 24)] * 3
    assert sorted(noted) == sorted(f"{run.key} at 0" for run in runs for _ in range(2))


def test_a_base_is_the_same_after_a_run_that_failed_with_half_an_adapter_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loaded: list[weakref.ref[Any]]
) -> None:
    runs = [config("sigmoid", max_steps=4, beta=0.1 * (i + 1)) for i in range(2)]

    def refuse() -> None:
        raise ValueError("TRL refuses this")

    with float64(monkeypatch):
        train(tmp_path / "plain", runs[1:], together=2)
        loaded.clear()
        with monkeypatch.context() as once:
            once.setattr(member, "prepare", nth(1, stock_setup.prepare, refuse))
            results = train(tmp_path / "after", runs, together=2)
    assert [r.cause for r in results] == [Cause.REFUSED, Cause.FINISHED]
    assert distance(weights(tmp_path / "plain", runs[1]), weights(tmp_path / "after", runs[1])) < 1e-9


def test_a_worker_that_forgets_keeps_no_base_that_nobody_uses(tmp_path: Path, loaded: list[weakref.ref[Any]]) -> None:
    worker = DPOTrainerWorker()
    job = Job(config("sigmoid", max_steps=4), tmp_path, placement=Placement())
    pack = worker.empty_pack(job)
    worker.forget()
    worker.empty_pack(job)
    assert len(loaded) == 1
    del pack
    worker.forget()
    assert loaded[0]() is None
