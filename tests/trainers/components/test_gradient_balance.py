"""A mixture whose weights are shares of the gradient: measured before training, kept, and then plain TRL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from studies.records import NORM_FACT, WEIGHT_FACT, Cause, RunConfig, RunResult
from tests.trainers.pack.test_pause import RUNG, to_rung
from tests.trainers.pack_runs import apart, config, distance, float64, plain_training, scored_beside, train, weights
from tests.trainers.trl_loop import test_checkpoints as alone
from trainers.components import gradient_balance as balance
from trainers.components.gradient_balance import balanced_weights


def balanced(*losses: str, **settings: Any) -> RunConfig:
    """A run whose weights are shares of the gradient."""
    return config(*losses, **settings).model_copy(update={"balance": "gradient"})


def found(run: RunConfig, result: RunResult, fact: str = WEIGHT_FACT) -> list[float]:
    """What the result tells of every loss of the run."""
    return [float(str(result.facts[f"{fact}{loss}"])) for loss in run.settings["loss_type"]]


def as_trained(run: RunConfig, given: list[float]) -> RunConfig:
    """The run as plain TRL would be told to repeat it."""
    return run.model_copy(update={"balance": None, "settings": {**run.settings, "loss_weights": given}})


STEPS = {"max_steps": 8}  # weights that are off show at the first step
RUNS = (
    balanced("sigmoid", "ipo", loss_weights=[0.7, 0.3], beta=0.1, **STEPS),
    balanced(
        *("ipo", "sigmoid", "sft"),
        loss_weights=[1.0, 2.0, 1.0],
        seed=1,
        block=1,
        gradient_accumulation_steps=2,
        **STEPS,
    ),
    balanced("sigmoid", "sppo_hard", lora_r=8, label_flip=0.25, **STEPS),  # no weights: equal shares
)


@pytest.mark.parametrize("together", [4, pytest.param(0, marks=pytest.mark.slow)])
def test_in_float64_a_balanced_run_is_a_plain_dpo_trainer_with_the_weights_that_it_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    """In a pack with others, and by TRL's own loop: measuring has moved no random number and left no gradient."""
    scored_beside(monkeypatch)
    with float64(monkeypatch):
        results = train(tmp_path / "ours", [config("hinge", **STEPS), *RUNS], together)[1:]
        assert [r.facts.get("together") for r in results] == [together or None] * 3
        for run, result in zip(RUNS, results, strict=True):
            assert result.cause in (Cause.FINISHED, Cause.COLLAPSED), result.message
            stock = plain_training(tmp_path / "stock", as_trained(run, found(run, result)))
            assert distance(weights(tmp_path / "ours", run), stock) < 1e-9, run.settings["loss_type"]


def test_by_trls_own_loop_dropout_drops_what_it_would_without_the_measurement(tmp_path: Path) -> None:
    run = balanced("sigmoid", "ipo", lora_dropout=0.2, disable_dropout=False, max_steps=6)
    (result,) = train(tmp_path / "ours", [run], together=0)
    assert "together" not in result.facts
    again = as_trained(run, found(run, result))
    train(tmp_path / "again", [again], together=0)
    assert distance(weights(tmp_path / "ours", run), weights(tmp_path / "again", again)) == 0.0


def singly(folder: Path, run: RunConfig, weights: list[list[float]], **settings: Any) -> list[list[float]]:
    """The gradient norms that training logs, step by step, of the run with other weights."""
    runs = [as_trained(run, only) for only in weights]
    runs = [one.model_copy(update={"settings": {**one.settings, **settings}}) for one in runs]
    return [[values["grad_norm"] for _, values in r.curve] for r in train(folder, runs, len(runs))]


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(
            balanced("sigmoid", "ipo", loss_weights=[0.7, 0.3], beta=0.1, per_device_train_batch_size=64, max_steps=1),
            marks=pytest.mark.slow,
        ),
        balanced("ipo", "sigmoid", "sft", loss_weights=[1.0, 2.0, 1.0], gradient_accumulation_steps=16, max_steps=1),
        pytest.param(
            balanced(
                *("sigmoid", "sppo_hard"), per_device_train_batch_size=32, gradient_accumulation_steps=2, max_steps=1
            ),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["two", "three, accumulated", "equal shares"],
)
def test_at_the_first_step_each_loss_has_its_share_of_the_gradient_and_all_have_the_size_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: RunConfig
) -> None:
    """Where that step has as many pairs as are measured: by the loss with its weight and the others at 0."""
    losses = run.settings["loss_type"]
    with float64(monkeypatch):
        (result,) = train(tmp_path / "balanced", [run], 1)
        given = found(run, result)
        single = [[w if k == i else 0.0 for k, w in enumerate(given)] for i in range(len(losses))]
        single.append([1.0] + [0.0] * (len(losses) - 1))
        *norms, first = (steps[0] for steps in singly(tmp_path / "single", run, single))
    shares = run.settings.get("loss_weights") or [1.0] * len(losses)
    assert [norm / sum(norms) for norm in norms] == pytest.approx([s / sum(shares) for s in shares], rel=1e-9)
    assert sum(norms) == pytest.approx(first, rel=1e-9)


@pytest.mark.slow
def test_of_small_batches_the_first_64_pairs_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the steps of a training that moves nothing have them; here 8 steps of 8 pairs, in two micro-batches each."""
    run = balanced("sigmoid", "ipo", gradient_accumulation_steps=2, max_steps=10, rows=128)
    standing = {"learning_rate": 0.0, "lr_scheduler_type": "constant"}
    with float64(monkeypatch):
        (result,) = train(tmp_path / "balanced", [run], 1)
        still = singly(tmp_path / "single", run, [[1.0, 0.0], [0.0, 1.0]], **standing)
    assert [sum(norms[:8]) / 8 for norms in still] == pytest.approx(found(run, result, NORM_FACT), rel=1e-9)
    assert found(run, result)[1] == pytest.approx(0.5 * sum(still[0][:8]) / sum(still[1][:8]), rel=1e-9)


def test_weights_as_written_are_left_as_they_are(tmp_path: Path) -> None:
    (result,) = train(tmp_path, [config("sigmoid", "ipo", loss_weights=[0.7, 0.3], max_steps=1)], together=1)
    assert not any(name.startswith((NORM_FACT, WEIGHT_FACT)) for name in result.facts)


@pytest.mark.slow
def test_what_memory_asks_for_changes_no_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of micro-batches, gradient checkpointing; and where parts would change a loss, they are not taken."""
    kinds = {"ipo": balanced("sigmoid", "ipo", max_steps=1), "aot": balanced("sigmoid", "aot", max_steps=1, beta=2.0)}
    with float64(monkeypatch):
        for run in kinds.values():
            (whole,) = train(tmp_path / "whole", [run], 1)
            for name, together, placement in [
                ("parts", 1, {"split": 2, "checkpointing": True}),
                ("alone in parts", 0, {"split": 2}),
                ("alone", 0, {}),
            ]:
                (other,) = train(tmp_path / name, [run], together, **placement)
                assert found(run, other) == pytest.approx(found(run, whole), rel=1e-9), name


# ---- a run that goes on -------------------------------------------------------------------------------------------


TO_RUNG = {"max_steps": 8, "at": (RUNG / 8,)}
ALONE = {"max_steps": 6, "at": (0.5,)}  # killed in the fourth step


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """An entry for every time that gradients are measured; each time they come out larger than they are."""
    times: list[int] = []
    plain = balance.gradient_norms

    def drifting(*arguments: Any, **options: Any) -> tuple[float, ...]:
        times.append(len(times))
        first, *others = plain(*arguments, **options)
        return (first, *(norm * (1 + times[-1]) for norm in others))

    monkeypatch.setattr(balance, "gradient_norms", drifting)
    return times


def test_a_run_that_paused_at_a_rung_goes_on_with_the_weights_that_it_had(tmp_path: Path, measured: list[int]) -> None:
    """Even if they came out otherwise now."""
    run = balanced("sigmoid", "ipo", **TO_RUNG)
    paused, whole = (to_rung(tmp_path / name, [run], 1, step)[0] for name, step in [("parts", RUNG), ("whole", None)])
    assert measured == [0, 1]
    measured.append(2)
    (resumed,) = to_rung(tmp_path / "parts", [run], 1, None)
    assert measured == [0, 1, 2]
    assert found(run, resumed) == found(run, paused) != found(run, whole)
    assert found(run, resumed, NORM_FACT) == found(run, paused, NORM_FACT)


@pytest.mark.slow
def test_in_float64_a_paused_and_a_killed_run_give_the_numbers_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = balanced("sigmoid", "ipo", **TO_RUNG, gradient_accumulation_steps=2)
    solo = balanced("sigmoid", "ipo", **ALONE)
    with float64(monkeypatch):
        to_rung(tmp_path / "whole", [packed], 1, None)
        to_rung(tmp_path / "parts", [packed], 1)
        to_rung(tmp_path / "parts", [packed], 1, None)
        assert apart(weights(tmp_path / "whole", packed), weights(tmp_path / "parts", packed)) < 1e-9
        whole = alone.train(tmp_path / "whole", solo)
        with pytest.raises(alone.Killed):
            alone.train(tmp_path / "parts", solo, 4, alone.kill)
        resumed = alone.train(tmp_path / "parts", solo)
    alone.assert_same(tmp_path, solo, resumed, whole, within=1e-9)


@pytest.mark.slow
def test_a_killed_run_of_trls_own_loop_goes_on_with_the_weights_that_it_had(
    tmp_path: Path, measured: list[int]
) -> None:
    run = balanced("sigmoid", "ipo", **ALONE)
    whole = alone.train(tmp_path / "whole", run)
    with pytest.raises(alone.Killed):
        alone.train(tmp_path / "parts", run, 4, alone.kill)
    resumed = alone.train(tmp_path / "parts", run)
    assert measured == [0, 1]
    assert found(run, resumed)[1] == pytest.approx(found(run, whole)[1] / 2)


# ---- where there are no weights -----------------------------------------------------------------------------------


@pytest.mark.parametrize("together", [2, 0])
def test_a_loss_without_a_gradient_is_refused_and_the_others_train(tmp_path: Path, together: int) -> None:
    nothing = balanced("sft", "sigmoid", beta=0.0, max_steps=2)
    refused, other = train(tmp_path, [nothing, config("sigmoid", max_steps=2)], together)
    assert refused.cause is Cause.REFUSED
    assert "that of sigmoid has norm 0" in refused.message
    assert other.cause is Cause.FINISHED


@pytest.mark.parametrize(
    ("shares", "norms", "said"),
    [
        ((-0.5, 1.5), (1.0, 1.0), "0 or more"),
        ((0.0, 0.0), (1.0, 1.0), "above 0"),
        ((0.5, 0.5), (1.0, float("inf")), "ipo has norm inf"),
    ],
)
def test_shares_and_norms_from_which_no_weights_follow(
    shares: tuple[float, ...], norms: tuple[float, ...], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        balanced_weights(("sigmoid", "ipo"), shares, norms)


def test_all_of_the_gradient_for_one_loss_is_that_loss_in_the_size_of_the_first() -> None:
    losses, norms = ("sigmoid", "ipo"), (0.07, 1.3)
    assert balanced_weights(losses, (1.0, 0.0), norms) == (1.0, 0.0)
    assert balanced_weights(losses, (0.0, 1.0), norms) == pytest.approx((0.0, 0.07 / 1.3))
