"""Runs that pause, are kept on disk and go on: the same numbers as if they had never stopped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from studies.records import Cause, RunConfig, RunResult
from sweeper.executors import Finished
from sweeper.measuring.remeasure import problem_of
from tests.trainers.pack_runs import config, distance, float64, train, weights
from tests.trainers.stopped_runs import StoppedWhile, stopped_while
from trainers.adapter_evaluator import AdapterEvaluator
from trainers.dpo import DPOTrainerWorker
from trainers.interface import Decision, Job, Placement
from trainers.job_list import train_all
from trainers.run_folder.results import STATE_FILE, read_result

STEPS, RUNG = 12, 6
RUNS = [
    config("sigmoid", at=(0.5,), max_steps=STEPS),
    config("ipo", at=(0.5,), max_steps=STEPS, beta=2.0, learning_rate=4e-3),
    config("nca_pair", at=(0.5,), max_steps=STEPS, seed=3, lora_r=2, gradient_accumulation_steps=2),
]


def to_rung(folder: Path, runs: list[RunConfig], together: int, step: int | None = RUNG) -> list[RunResult]:
    """Train the runs to a step."""
    place = Placement(together=together)
    return train_all(DPOTrainerWorker(), [Job(c, folder / c.key, placement=place, pause_at=step) for c in runs])


def measured(result: RunResult) -> dict[tuple[str, int], float]:
    """What the evaluations gave, without costs."""
    return {(m.name, m.step): m.value for m in result.measurements if m.error is not None}


def test_in_float64_a_run_that_paused_gives_the_numbers_of_one_that_did_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on in another worker, in another place of a pack of another size."""
    with float64(monkeypatch):
        whole = train(tmp_path / "whole", RUNS, together=3)
        paused = to_rung(tmp_path / "parts", RUNS, together=3)
        assert [r.cause for r in paused] == [Cause.PAUSED] * 3
        assert all((tmp_path / "parts" / run.key / STATE_FILE).exists() for run in RUNS)
        assert [read_result(tmp_path / "parts" / run.key) for run in RUNS] == paused
        order = [RUNS[2], RUNS[1], RUNS[0]]
        resumed = {r.key: r for r in to_rung(tmp_path / "parts", order, together=2, step=None)}
    for run, without in zip(RUNS, whole, strict=True):
        with_pause = resumed[run.key]
        assert with_pause.cause == without.cause == Cause.FINISHED
        assert distance(weights(tmp_path / "whole", run), weights(tmp_path / "parts", run)) < 1e-9
        assert measured(with_pause) == pytest.approx(measured(without), abs=1e-9)
        assert {step for _, step in measured(with_pause)} == {RUNG, STEPS}
        assert [step for step, _ in with_pause.curve] == [step for step, _ in without.curve]
        for (_, a), (_, b) in zip(with_pause.curve, without.curve, strict=True):
            assert a == pytest.approx(b, abs=1e-9)
        assert not (tmp_path / "parts" / run.key / STATE_FILE).exists()


def test_a_run_that_was_stopped_goes_on_from_its_last_step(tmp_path: Path) -> None:
    """At the rung itself it is stopped before it is measured there, and is measured when it is taken up again."""
    run = RUNS[0]
    (whole,) = train(tmp_path / "whole", [run], together=1)

    def stop(_key: str, step: int, _metrics: Mapping[str, float]) -> Decision:
        return Decision.STOP if step == RUNG else Decision.CONTINUE

    (stopped,) = train(tmp_path / "parts", [run], together=1, decide=stop)
    assert (stopped.cause, stopped.facts["steps"]) == (Cause.USER_STOP, RUNG)
    trained: list[int] = []

    def watch(_key: str, step: int, _metrics: Mapping[str, float]) -> Decision:
        trained.append(step)
        return Decision.CONTINUE

    (resumed,) = train(tmp_path / "parts", [run], together=1, decide=watch)
    assert trained == [7, 8, 9, 10, 11, 12]
    assert measured(resumed) == measured(whole)  # in batches of the same rows, so to the bit
    assert {step for _, step in measured(resumed)} == {RUNG, STEPS}


@pytest.mark.parametrize("together", [1, 0])
@pytest.mark.parametrize("what", ["measuring the untrained model", "reference log-probs"])
def test_a_run_that_is_stopped_as_it_is_made_ready_is_handed_in_at_once_and_begins_anew(
    what: str, together: int, tmp_path: Path
) -> None:
    run = RUNS[0]
    stopped = stopped_while(what, tmp_path, [run], together)[run.key]
    assert (stopped.cause, stopped.message) == (Cause.USER_STOP, "stopped as it was made ready")
    assert (stopped.measurements, stopped.curve) == ((), ())
    (again,) = train(tmp_path, [run], together=together)
    assert again.cause is Cause.FINISHED


@pytest.mark.parametrize(
    ("together", "time", "at"), [(1, 1, RUNG), (1, 2, STEPS), (0, 1, RUNG)], ids=["half-way", "at the end", "by TRL"]
)
def test_an_evaluation_is_cut_where_its_run_is_stopped_and_made_whole_when_it_goes_on(
    together: int, time: int, at: int, tmp_path: Path
) -> None:
    run = RUNS[0]
    (whole,) = train(tmp_path / "whole", [run], together=together)
    stopped = stopped_while("measuring 1 run", tmp_path / "parts", [run], together, time)[run.key]
    assert (stopped.cause, stopped.facts["steps"]) == (Cause.USER_STOP, at)
    assert stopped.message == f"stopped as it was measured after step {at}"
    assert {step for _, step in measured(stopped)} == {RUNG, STEPS} - {STEPS, at}
    trained: list[int] = []

    def watch(_key: str, step: int, _metrics: Mapping[str, float]) -> Decision:
        trained.append(step)
        return Decision.CONTINUE

    (resumed,) = train(tmp_path / "parts", [run], together=together, decide=watch)
    assert trained == list(range(at + 1, STEPS + 1))
    assert measured(resumed) == measured(whole)


def test_runs_that_go_on_are_measured_to_the_end_beside_one_that_is_stopped(tmp_path: Path) -> None:
    first, second = RUNS[:2]
    ended = stopped_while("measuring 2 runs", tmp_path, [first, second], 2, of=lambda key: key == first.key)
    assert (ended[first.key].cause, ended[second.key].cause) == (Cause.USER_STOP, Cause.FINISHED)
    assert {step for _, step in measured(ended[second.key])} == {RUNG, STEPS}


def test_measuring_a_finished_run_again_is_cut_where_it_is_stopped(tmp_path: Path) -> None:
    run = RUNS[0]
    train(tmp_path, [run], together=1)
    queue = StoppedWhile([], "", time=0)
    AdapterEvaluator().train(Job(run, tmp_path / run.key), queue)
    stopped = queue.results[run.key]
    assert (stopped.cause, stopped.measurements, queue.asked) == (Cause.USER_STOP, (), 1)
    assert problem_of(Finished(run.key, stopped)) == "stopped"


def test_a_state_that_is_at_the_rung_already_is_handed_in_without_training(tmp_path: Path) -> None:
    """So it is after a kill between the state and the result."""
    run = RUNS[0]
    (paused,) = to_rung(tmp_path, [run], together=1)
    state = (tmp_path / run.key / STATE_FILE).stat().st_size
    (tmp_path / run.key / "result.json").unlink()
    (again,) = to_rung(tmp_path, [run], together=1)
    assert (again.cause, measured(again), again.curve) == (Cause.PAUSED, measured(paused), paused.curve)
    assert (tmp_path / run.key / STATE_FILE).stat().st_size == pytest.approx(state, rel=0.01)


def test_a_damaged_state_is_told_and_the_run_starts_anew(tmp_path: Path) -> None:
    run = RUNS[0]
    to_rung(tmp_path, [run], together=1)
    file = tmp_path / run.key / STATE_FILE
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.warns(UserWarning, match="not what was written"):
        (result,) = to_rung(tmp_path, [run], together=1, step=None)
    (whole,) = train(tmp_path / "whole", [run], together=1)
    assert measured(result) == measured(whole)  # in batches of the same rows, so to the bit
