"""Runs that train alone and are killed or stopped go on from their last checkpoint with the same numbers."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from studies.records import Cause, RunConfig, RunResult
from tests.trainers.pack_runs import config, distance, float64
from trainers.dpo import DPOTrainerWorker
from trainers.interface import Decision, Doing, Job, News, Placement
from trainers.job_list import JobList
from trainers.run_folder.progress import Progress
from trainers.run_folder.results import CHECKPOINTS, COMPLETE, read_result
from trainers.trl_loop.checkpoints import Keeper, KeptDPOTrainer

STEPS = 10
FULL = {"use_peft": False, "learning_rate": 1e-4, "max_steps": STEPS, "at": (0.3,)}
LORA = {"max_steps": STEPS, "at": (0.3,)}
RUN = config("sigmoid", **FULL)
_MOVING = {"sync_ref_model": True, "ref_model_sync_steps": 2}
RUNS = {
    # 64 rows in micro-batches of 4, 6 to a step: no epoch ends with a whole step
    "accumulated, moving reference": config("ipo", gradient_accumulation_steps=6, beta=1.0, **_MOVING, **FULL),
    "epochs": config("sigmoid", num_train_epochs=2.0, rows=20, logging_steps=2, **{**FULL, "max_steps": -1}),
    "dropout, dora": config("robust", use_dora=True, lora_dropout=0.2, disable_dropout=False, **LORA),
}


class AtStep(JobList):
    """Does something after so many steps of this attempt."""

    def __init__(self, job: Job, step: int, act: Callable[[], Decision]) -> None:
        super().__init__([job])
        self._left, self._act = step, act
        self._measures = False

    def tell(self, news: News) -> None:
        self._measures = isinstance(news, Doing) and news.what != ""

    def decision(self, key: str) -> Decision:
        if self._measures:  # between two passes, where no step ends
            return Decision.CONTINUE
        self._left -= 1
        return self._act() if self._left == 0 else Decision.CONTINUE


class Killed(BaseException):
    """Ends a worker in the middle."""


def kill() -> Decision:
    raise Killed


def stop() -> Decision:
    return Decision.STOP


def kill_process() -> Decision:
    os.kill(os.getpid(), signal.SIGKILL)
    return Decision.CONTINUE


def train(folder: Path, run: RunConfig, step: int = 0, act: Callable[[], Decision] = stop) -> RunResult:
    """Train the run, with a checkpoint after every step; `act` after `step` steps of this attempt."""
    desk = AtStep(Job(run, folder / run.key, placement=Placement(together=0)), step, act)
    DPOTrainerWorker(keep_every=0.0).train(desk.waiting.pop(), desk)
    return desk.results[run.key]


def weights(folder: Path, run: RunConfig) -> dict[str, Tensor]:
    (file,) = (folder / run.key / "adapter").glob("*.safetensors")
    return dict(load_file(file))


def kept(folder: Path, run: RunConfig) -> list[str]:
    return sorted(path.name for path in (folder / run.key / CHECKPOINTS).iterdir())


def numbers(result: RunResult) -> dict[tuple[str, int], float]:
    cost = {"train_seconds", "evaluation_seconds", "steps_per_second", "tokens_per_second", "peak_memory"}
    return {(m.name, m.step): m.value for m in result.measurements if m.name not in cost}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunResult]:
    """Full fine-tuning that nothing interrupts, and its folder: trained once for all tests."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(folder, RUN)


Whole = tuple[Path, RunResult]


def assert_same(
    folder: Path, run: RunConfig, resumed: RunResult, whole: RunResult, within: float = 0.0, of: Path | None = None
) -> None:
    """The resumed run is the uninterrupted one, and nothing of its checkpoints is left. `of`: where that one lies."""
    assert resumed.cause is whole.cause is Cause.FINISHED
    assert distance(weights(of or folder / "whole", run), weights(folder / "parts", run)) <= within
    assert numbers(resumed) == pytest.approx(numbers(whole), rel=0, abs=within)
    assert [step for step, _ in resumed.curve] == [step for step, _ in whole.curve]
    for (_, a), (_, b) in zip(resumed.curve, whole.curve, strict=True):
        assert a == pytest.approx(b, rel=0, abs=within)
    assert resumed.facts == whole.facts
    assert {m.name: m.step for m in resumed.measurements} == {m.name: m.step for m in whole.measurements}
    assert {path.name for path in (folder / "parts" / run.key).iterdir()} == {"result.json", "adapter"}


def assert_as_whole(folder: Path, resumed: RunResult, whole: Whole) -> None:
    assert_same(folder, RUN, resumed, whole[1], of=whole[0])


@pytest.mark.parametrize(
    "name", ["epochs", *(pytest.param(name, marks=pytest.mark.slow) for name in RUNS if name != "epochs")]
)
def test_in_float64_a_killed_run_gives_the_numbers_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Killed twice: between two points of its curve, and later, in its second epoch where it has one."""
    run = RUNS[name]
    with float64(monkeypatch):
        whole = train(tmp_path / "whole", run)
        with pytest.raises(Killed):
            train(tmp_path / "parts", run, 4, kill)
        assert kept(tmp_path / "parts", run) == ["checkpoint-2", "checkpoint-3"]
        with pytest.raises(Killed):
            train(tmp_path / "parts", run, 5, kill)
        assert kept(tmp_path / "parts", run) == ["checkpoint-6", "checkpoint-7"]
        torch.rand(5)  # another process would be somewhere else in its random numbers
        resumed = train(tmp_path / "parts", run)
    assert_same(tmp_path, run, resumed, whole, within=1e-9)


def _train_and_die(folder: Path, run: RunConfig) -> None:
    train(folder, run, 6, kill_process)


@pytest.mark.slow
def test_a_process_killed_by_sigkill_costs_a_step_and_no_number(tmp_path: Path, whole: Whole) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_train_and_die, args=(tmp_path / "parts", RUN))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert kept(tmp_path / "parts", RUN) == ["checkpoint-4", "checkpoint-5"]
    assert_as_whole(tmp_path, train(tmp_path / "parts", RUN), whole)


def test_a_stopped_run_is_kept_at_its_step_and_measured_there_when_it_goes_on(tmp_path: Path, whole: Whole) -> None:
    ended = train(tmp_path / "parts", RUN, 3, stop)
    assert (ended.cause, ended.facts["steps"], numbers(ended)) == (Cause.USER_STOP, 3, {})
    assert read_result(tmp_path / "parts" / RUN.key) == ended
    assert_as_whole(tmp_path, train(tmp_path / "parts", RUN), whole)


def test_a_run_at_its_last_step_comes_to_its_end(tmp_path: Path) -> None:
    assert train(tmp_path, RUN, STEPS, stop).cause is Cause.FINISHED


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the run was stopped at its sixth step, to be copied."""
    folder = tmp_path_factory.mktemp("stopped")
    train(folder, RUN, 6, stop)
    return folder


def damage(checkpoint: Path, name: str) -> None:
    content = bytearray((checkpoint / name).read_bytes())
    content[len(content) // 2] ^= 1
    (checkpoint / name).write_bytes(content)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "rng_state.pth", COMPLETE])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, name: str, stopped: Path, whole: Whole
) -> None:
    shutil.copytree(stopped, tmp_path / "parts")
    newest = tmp_path / "parts" / RUN.key / CHECKPOINTS / "checkpoint-6"
    if name == COMPLETE:
        (newest / name).write_text("{")
    else:
        damage(newest, name)
    with pytest.warns(UserWarning, match="checkpoint-6 is not usable and was removed"):
        resumed = train(tmp_path / "parts", RUN)
    assert_as_whole(tmp_path, resumed, whole)


def test_without_a_whole_checkpoint_a_run_starts_anew(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, stopped: Path, whole: Whole
) -> None:
    shutil.copytree(stopped, tmp_path / "parts")
    folder = tmp_path / "parts" / RUN.key / CHECKPOINTS
    (folder / "checkpoint-6" / COMPLETE).unlink()  # killed while it was written, which is no damage
    about = json.loads((folder / "checkpoint-5" / COMPLETE).read_text())
    (folder / "checkpoint-5" / COMPLETE).write_text(json.dumps({**about, "key": "another"}))
    resumed = train(tmp_path / "parts", RUN)
    said = [str(w.message) for w in recwarn if "checkpoint-" in str(w.message)]
    assert len(said) == 1
    assert "it belongs to run another" in said[0]
    assert_as_whole(tmp_path, resumed, whole)


def test_a_checkpoint_that_cannot_be_written_costs_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Whole
) -> None:

    def full(*_: object) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file data.pkl")

    monkeypatch.setattr(KeptDPOTrainer, "_save_optimizer_and_scheduler", full)
    assert_as_whole(tmp_path, train(tmp_path / "parts", RUN), whole)


def test_a_run_that_diverges_or_is_refused_leaves_no_checkpoint(tmp_path: Path) -> None:
    for run, cause in (
        (config("sigmoid", **{**FULL, "learning_rate": 1e30}), Cause.NON_FINITE),
        (config("sigmoid", optim="none of these", **FULL), Cause.REFUSED),
    ):
        assert train(tmp_path, run).cause is cause
        assert {path.name for path in (tmp_path / run.key).iterdir()} == {"result.json"}


def test_writing_takes_a_twentieth_of_the_time_at_most(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A model that takes a minute to write is kept every twenty minutes, not every three."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    keeper = Keeper("key", lambda _step: Progress(0), None, every=180.0)

    class At:
        output_dir, global_step, max_steps, sync_ref_model, should_save = str(tmp_path), 1, 9, False, False

    def due(at: float) -> bool:
        clock[0], state = at, At()
        keeper.on_step_end(state, state, state)
        return state.should_save

    assert not due(100.0)
    assert due(181.0)
    clock[0] = 241.0
    keeper.on_save(At, At, At)
    assert not due(1440.0)
    assert due(1442.0)
