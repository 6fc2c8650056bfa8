"""The formula trainer has the shape of a real one, and results are kept whole."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from studies.records import METRICS, Cause, DataConfig, EvaluationConfig, RunConfig, RunResult
from trainers.formula import SHAPES, FormulaTrainer
from trainers.interface import Decision, Job, load_trainer
from trainers.job_list import train_all
from trainers.run_folder.results import read_result, write_result


def config(
    settings: Mapping[str, Any] | None = None,
    *,
    block: int = 0,
    seed: int = 0,
    label_flip: float = 0.0,
    evaluation: EvaluationConfig | None = None,
) -> RunConfig:
    return RunConfig(
        study="study",
        variant="variant",
        scenario="clean",
        trial=0,
        block=block,
        seed=seed,
        trainer="formula",
        settings={"loss_type": "sigmoid", "beta": 0.1, "learning_rate": 1e-5, **(settings or {})},
        knobs={},
        data=DataConfig(label_flip=label_flip),
        evaluation=evaluation or EvaluationConfig(),
    )


def go_on(key: str, step: int, metrics: Mapping[str, float]) -> Decision:
    return Decision.CONTINUE


@pytest.fixture
def train(tmp_path: Path) -> Any:
    def train_one(run: RunConfig, report: Any = go_on) -> RunResult:
        (result,) = train_all(FormulaTrainer(), [Job(run, tmp_path / run.key)], report)
        return result

    return train_one


def gain(result: RunResult) -> float:
    return result.final()["ranking_gain"].value


def mean_gain(train: Any, settings: Mapping[str, Any], label_flip: float = 0.0) -> float:
    """Over 12 seeds, so that noise (0.0015 then) cannot decide; the block's part is the same everywhere."""
    return sum(gain(train(config(settings, seed=s, label_flip=label_flip))) for s in range(12)) / 12


def test_the_same_config_gives_the_same_result_and_it_is_the_one_that_is_kept(train: Any, tmp_path: Path) -> None:
    run = config()
    first = train(run)
    assert first == train(run)
    assert first == read_result(tmp_path / run.key)
    assert (first.key, first.cause) == (run.key, Cause.FINISHED)


def test_at_its_optimum_a_loss_has_its_peak_up_to_noise(train: Any) -> None:
    gains = [gain(train(config(block=b, seed=b))) for b in range(100)]
    mean = sum(gains) / 100
    spread = math.sqrt(sum((g - mean) ** 2 for g in gains) / 99)
    assert mean == pytest.approx(0.20, abs=4 * 0.0112 / 10)
    assert spread == pytest.approx(0.0112, rel=0.3)  # of .010 for the block and .005 for the seed


@pytest.mark.parametrize("loss", list(SHAPES))
def test_quality_falls_away_from_the_optimum_of_each_loss(train: Any, loss: str) -> None:
    shape = SHAPES[loss]
    best = {"loss_type": loss, "beta": shape.beta, "learning_rate": shape.learning_rate}
    at_best = mean_gain(train, best)
    for worse in (
        {"beta": shape.beta * 10},
        {"beta": shape.beta / 10},
        {"learning_rate": shape.learning_rate * 10},
        {"learning_rate": shape.learning_rate / 10},
    ):
        assert mean_gain(train, {**best, **worse}) < at_best - 0.02


def test_flipped_labels_cost_quality_and_smoothing_of_that_size_is_best(train: Any) -> None:
    clean = mean_gain(train, {})
    at_smoothing = {s: mean_gain(train, {"label_smoothing": s}, label_flip=0.2) for s in (0.0, 0.2, 0.4)}
    assert at_smoothing[0.2] < clean - 0.05
    assert at_smoothing[0.2] > max(at_smoothing[0.0], at_smoothing[0.4])


def test_a_block_moves_all_settings_alike_and_a_seed_each_on_its_own(train: Any) -> None:
    def difference(block: int, beta: float) -> float:
        return gain(train(config({"beta": beta}, block=block))) - gain(train(config({"beta": beta}, block=0)))

    blocks = range(1, 40)
    first, second = ([difference(block, beta) for block in blocks] for beta in (0.1, 0.2))
    gaps = [abs(a - b) for a, b in zip(first, second, strict=True)]
    assert sum(gaps) / len(gaps) < sum(map(abs, first)) / len(first)
    assert min(gaps) > 0


def test_a_mixture_lies_between_its_losses_and_has_one_of_them_at_a_corner(train: Any) -> None:
    at = {"beta": 0.3, "learning_rate": 5e-6}
    pure = {loss: mean_gain(train, {"loss_type": loss, **at}) for loss in ("sigmoid", "sft")}
    mixed = mean_gain(train, {"loss_type": ["sigmoid", "sft"], "loss_weights": [0.5, 0.5], **at})
    corner = mean_gain(train, {"loss_type": ["sigmoid", "sft"], "loss_weights": [0.0, 2.0], **at})
    assert pure["sft"] < mixed < pure["sigmoid"]
    assert corner == pytest.approx(pure["sft"], abs=0.006)


def test_some_losses_diverge_at_a_large_learning_rate_half_way(train: Any) -> None:
    reports: list[tuple[int, float]] = []

    def report(key: str, step: int, metrics: Mapping[str, float]) -> Decision:
        reports.append((step, metrics["loss"]))
        return Decision.CONTINUE

    result = train(config({"loss_type": "ipo", "learning_rate": 2e-3, "max_steps": 10}), report)
    assert result.cause is Cause.NON_FINITE
    assert "step 6" in result.message
    assert result.measurements == ()
    assert [step for step, _ in result.curve] == [1, 2, 3, 4, 5, 6]
    assert [math.isnan(loss) for _, loss in reports] == [False] * 5 + [True]
    assert train(config({"loss_type": "sigmoid", "learning_rate": 2e-3})).cause is Cause.FINISHED


def test_a_diverged_run_reads_back_with_its_curve(train: Any, tmp_path: Path) -> None:
    run = config({"loss_type": "ipo", "learning_rate": 2e-3, "max_steps": 10})
    train(run)
    kept = read_result(tmp_path / run.key)
    assert kept is not None
    assert math.isnan(kept.curve[-1][1]["loss"])


def test_a_stopped_run_ends_at_that_step_as_stopped_by_the_user(train: Any) -> None:
    def stop_at_three(key: str, step: int, metrics: Mapping[str, float]) -> Decision:
        return Decision.STOP if step == 3 else Decision.CONTINUE

    result = train(config(), stop_at_three)
    assert result.cause is Cause.USER_STOP
    assert len(result.curve) == 3
    assert result.measurements == ()


@pytest.mark.parametrize(("max_steps", "reported"), [(5, 5), (1, 1), (-1, 12), (None, 12)])
def test_max_steps_is_the_number_of_reported_steps(train: Any, max_steps: int | None, reported: int) -> None:
    settings = {} if max_steps is None else {"max_steps": max_steps}
    steps: list[int] = []

    def report(key: str, step: int, metrics: Mapping[str, float]) -> Decision:
        steps.append(step)
        return Decision.CONTINUE

    result = train(config(settings), report)
    assert steps == list(range(1, reported + 1))
    assert [step for step, _ in result.curve] == steps


def test_the_run_is_measured_at_the_asked_shares_and_at_the_end(train: Any) -> None:
    result = train(config({"max_steps": 10}, evaluation=EvaluationConfig(at=(0.5,))))
    steps = [m.step for m in result.measurements if m.name == "kl"]
    assert steps == [5, 10]
    halfway, end = [m.value for m in result.measurements if m.name == "kl"]
    assert 0 < halfway < end


def test_every_number_has_a_name_that_readers_know(train: Any) -> None:
    result = train(config())
    names = {m.name for m in result.measurements} | {name for _, metrics in result.curve for name in metrics}
    assert names <= METRICS.keys()
    # What it leaves out needs data (how long the answers are), single answers, or is TRL's own evaluation.
    assert METRICS.keys() - names == {"length_baseline", "sign_accuracy", "eval_loss", "win_rate", "lc_win_rate"}


def test_the_names_of_trainers_load_and_so_does_a_class_of_ones_own() -> None:
    assert isinstance(load_trainer("formula"), FormulaTrainer)
    assert isinstance(load_trainer("trainers.formula:FormulaTrainer"), FormulaTrainer)
    with pytest.raises(KeyError):
        load_trainer("formulas")


def test_a_missing_or_damaged_result_reads_as_none(tmp_path: Path) -> None:
    assert read_result(tmp_path) is None
    path = write_result(tmp_path, RunResult(key="k", cause=Cause.FINISHED))
    whole = path.read_text()
    for damaged in (whole[: len(whole) // 2], "", "[]", '{"key": "k"}', '{"key": "k", "cause": "none of ours"}'):
        path.write_text(damaged)
        assert read_result(tmp_path) is None
    path.write_bytes(b"\xff\xfe\x00")
    assert read_result(tmp_path) is None


def test_a_result_replaces_the_earlier_one_and_leaves_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    write_result(folder, RunResult(key="k", cause=Cause.INFRASTRUCTURE))
    write_result(folder, RunResult(key="k", cause=Cause.FINISHED))
    kept = read_result(folder)
    assert kept is not None
    assert kept.cause is Cause.FINISHED
    assert [file.name for file in folder.iterdir()] == ["result.json"]


def test_a_result_that_cannot_be_kept_leaves_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_result(tmp_path, RunResult(key="k", cause=Cause.FINISHED))

    def full(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_result(tmp_path, RunResult(key="other", cause=Cause.FINISHED))
    kept = read_result(tmp_path)
    assert kept is not None
    assert kept.key == "k"
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]
