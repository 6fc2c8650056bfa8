"""Real runs through TRL on the embedded world, a few steps each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import AutoTokenizer
from trl import DPOConfig, DPOTrainer

from studies.records import Cause, DataConfig, EvaluationConfig, Measurement, RunConfig, RunResult
from tests.trainers.pack_runs import PINNED, assert_rounding, distance, float64
from trainers.components.outcome import outcome_of
from trainers.data.pairs import load_pairs
from trainers.dpo import DPOTrainerWorker, load_adapter
from trainers.evaluation.evaluate import ReferenceNumbers, evaluate, reference_numbers
from trainers.interface import Decision, Job, Placement
from trainers.job_list import train_all
from trainers.run_folder.results import read_result
from trainers.world.paths import model_path

STEPS = 6
SETTINGS = {
    **PINNED,
    "model_name_or_path": "embedded",
    "use_peft": True,
    "lora_r": 4,
    "lora_alpha": 8,
    "lora_target_modules": "all-linear",
    "loss_type": ["sigmoid"],
    "beta": 0.3,
    "learning_rate": 1e-3,
    "max_steps": STEPS,
    "per_device_train_batch_size": 8,
    "lr_scheduler_type": "constant",
}
DATA = DataConfig(rows=64, eval_rows=32)


def config(*, seed: int = 0, block: int = 0, at: tuple[float, ...] = (1.0,), **settings: Any) -> RunConfig:
    return RunConfig(
        study="s",
        variant="v",
        scenario="clean",
        trial=0,
        block=block,
        seed=seed,
        settings={**SETTINGS, **settings},
        knobs={},
        data=DATA,
        evaluation=EvaluationConfig(at=at, prompts=32, max_new_tokens=32),
    )


def go_on(_key: str, _step: int, _metrics: object) -> Decision:
    return Decision.CONTINUE


@pytest.fixture(scope="module")
def worker() -> DPOTrainerWorker:
    return DPOTrainerWorker()


def train(worker: DPOTrainerWorker, folder: Path, run: RunConfig) -> RunResult:
    return train_all(worker, [Job(run, folder)])[0]


def numbers(result: RunResult) -> dict[str, float]:
    """Everything measured but time and memory."""
    timed = {"train_seconds", "evaluation_seconds", "steps_per_second", "tokens_per_second", "peak_memory"}
    return {f"{m.name}@{m.step}": m.value for m in result.measurements if m.name not in timed}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "adapter" / "adapter_model.safetensors"))


def assert_same_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    """To the bit: the same code on batches of the same shape."""
    assert distance(a, b) == 0.0


def test_a_run_gives_the_same_numbers_whatever_its_worker_trained_before(
    worker: DPOTrainerWorker, tmp_path: Path
) -> None:
    first = train(worker, tmp_path / "first", config())
    train(worker, tmp_path / "other", config(loss_type=["ipo"], beta=1.0, lora_r=8, seed=3, block=1))
    train(worker, tmp_path / "checkpointed", config(gradient_checkpointing=True))
    again = train(worker, tmp_path / "again", config())
    fresh = train(DPOTrainerWorker(), tmp_path / "fresh", config())
    assert numbers(first) == numbers(again) == numbers(fresh)
    assert first.curve == again.curve == fresh.curve
    assert_same_weights(weights(tmp_path / "first"), weights(tmp_path / "again"))
    assert_same_weights(weights(tmp_path / "first"), weights(tmp_path / "fresh"))


@pytest.mark.usefixtures("names_of_datasets")
def test_precomputed_reference_log_probs_of_one_run_do_not_reach_the_next(
    worker: DPOTrainerWorker, tmp_path: Path
) -> None:
    """They depend on ld_alpha, which TRL's own cache leaves out of its key."""
    train(worker, tmp_path / "first", config(precompute_ref_log_probs=True))
    warm = train(worker, tmp_path / "warm", config(precompute_ref_log_probs=True, ld_alpha=0.3))
    fresh = train(DPOTrainerWorker(), tmp_path / "fresh", config(precompute_ref_log_probs=True, ld_alpha=0.3))
    plain = train(DPOTrainerWorker(), tmp_path / "plain", config(ld_alpha=0.3))
    assert numbers(warm) == numbers(fresh) == numbers(plain)
    assert warm.curve == fresh.curve == plain.curve


@pytest.mark.parametrize("fixed", [True, False], ids=["stored", "as it trains"])
def test_a_run_is_what_a_plain_dpo_trainer_gives(
    worker: DPOTrainerWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fixed: bool
) -> None:
    """Bit for bit where the reference is scored beside the policy; up to rounding where it is stored, as it was scored
    in batches of other rows.
    """
    if not fixed:
        for module in ("trl_loop.train", "pack.member"):  # so that it trains alone, and TRL scores the reference itself
            monkeypatch.setattr(f"trainers.{module}.is_fixed", lambda *_, **__: False)
    train(worker, tmp_path / "ours", config(block=2, seed=5, max_steps=20, learning_rate=3e-3))
    stock = plain_adapter(tmp_path / "stock")
    if fixed:
        with float64(monkeypatch):
            exact = plain_adapter(tmp_path / "exact", model_init_kwargs={"dtype": torch.float64})
        assert_rounding(weights(tmp_path / "ours"), stock, exact)
    else:
        assert_same_weights(weights(tmp_path / "ours"), stock)


def plain_adapter(folder: Path, **more: Any) -> dict[str, torch.Tensor]:
    """What TRL gives for the run above, written down anew, with more settings.

    In so many steps of that size even a beta that is 1% off shows.
    """
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    plain = DPOTrainer(
        model=str(model_path()),
        args=DPOConfig(
            output_dir=str(folder),
            beta=0.3,
            learning_rate=3e-3,
            max_steps=20,
            per_device_train_batch_size=8,
            lr_scheduler_type="constant",
            seed=5,
            report_to="none",
            save_strategy="no",
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            **more,
        ),
        train_dataset=datasets.Dataset.from_list([dict(r) for r in load_pairs(DATA, 2, tokenizer).train]),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            task_type="CAUSAL_LM", r=4, lora_alpha=8, lora_dropout=0.05, target_modules="all-linear"
        ),
    )
    plain.train()
    plain.model.save_pretrained(folder / "adapter")
    return weights(folder)


@pytest.fixture(scope="module")
def rounding(tmp_path_factory: pytest.TempPathFactory) -> float:
    """How far a log-prob of a held-out answer in float32 is from exact arithmetic on this machine, in nats, at most."""
    folder = tmp_path_factory.mktemp("rounding")
    narrow = reference_of(config(), folder / "float32").held_out
    with pytest.MonkeyPatch.context() as patch, float64(patch):
        wide = reference_of(config(), folder / "float64").held_out
    return max(abs(a - b).max() for a, b in ((narrow.chosen, wide.chosen), (narrow.rejected, wide.rejected)))


def reference_of(run: RunConfig, folder: Path) -> ReferenceNumbers:
    """The untrained model's numbers that the run is measured against."""
    worker = DPOTrainerWorker()
    train(worker, folder, run)
    (found,) = worker._cache._numbers._values.values()
    return found


@pytest.mark.parametrize("bf16", [False, True])
def test_an_untrained_adapter_shows_no_shift_in_any_precision(
    worker: DPOTrainerWorker, tmp_path: Path, rounding: float, bf16: bool
) -> None:
    """None but float32's rounding, in bf16 too: the reference is read as the policy is, which rounds the same."""
    still = train(worker, tmp_path, config(learning_rate=0.0, max_steps=1, bf16=bf16)).final()
    for name in ("margin", "chosen_shift", "rejected_shift", "kl"):
        assert abs(still[name].value) <= 3 * rounding, name
    assert (still["ranking_gain"].value, still["accuracy"].value) == (0.0, 0.5)


def test_an_evaluation_in_the_middle_changes_nothing(worker: DPOTrainerWorker, tmp_path: Path) -> None:
    train(worker, tmp_path / "once", config())
    twice = train(worker, tmp_path / "twice", config(at=(0.5, 1.0)))
    assert {m.step for m in twice.measurements if m.name == "margin"} == {STEPS // 2, STEPS}
    assert_same_weights(weights(tmp_path / "once"), weights(tmp_path / "twice"))


def test_a_run_whose_last_batch_is_dropped_is_evaluated_at_its_end(worker: DPOTrainerWorker, tmp_path: Path) -> None:
    short = config(max_steps=-1, num_train_epochs=1, per_device_train_batch_size=24, dataloader_drop_last=True)
    assert {m.step for m in train(worker, tmp_path, short).measurements if m.name == "margin"} == {2}


def test_in_float64_an_evaluation_can_be_repeated_on_a_finished_run_without_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = config()
    with float64(monkeypatch):
        result = train(DPOTrainerWorker(), tmp_path / "run", run)
        policy, tokenizer = load_adapter(run, tmp_path / "run" / "adapter")
        pairs = load_pairs(run.data, run.block, tokenizer)
        with policy.disable_adapter():
            reference = reference_numbers(policy, tokenizer, pairs, run.evaluation)
        repeated = {m.name: m.value for m in evaluate(policy, tokenizer, pairs, run.evaluation, reference).measurements}
    final = {m.name: m.value for m in result.final().values()}
    assert repeated == pytest.approx({name: final[name] for name in repeated}, abs=1e-9)


def test_a_nan_loss_is_seen_at_once_and_is_a_result(worker: DPOTrainerWorker, tmp_path: Path) -> None:
    """Robust DPO at smoothing 0.5 divides zero by zero; with Hugging Face's NaN filter it would log a loss of 0."""
    result = train(worker, tmp_path, config(loss_type=["robust"], label_smoothing=0.5))
    assert result.cause is Cause.NON_FINITE
    assert result.message == "loss, grad_norm not finite at step 1"
    assert not (tmp_path / "adapter").exists()
    assert read_result(tmp_path) == result


def test_what_trl_refuses_is_a_result_with_its_words_and_the_next_run_is_untouched(
    worker: DPOTrainerWorker, tmp_path: Path
) -> None:
    before = numbers(train(worker, tmp_path / "before", config()))
    refused = train(worker, tmp_path / "refused", config(loss_type=["aot"], use_weighting=True))
    assert refused.cause is Cause.REFUSED
    assert "aot" in refused.message
    assert numbers(train(worker, tmp_path / "after", config())) == before


def test_data_with_no_row_left_is_refused_with_its_count(worker: DPOTrainerWorker, tmp_path: Path) -> None:
    short = config().model_copy(update={"data": DATA.model_copy(update={"max_completion_length": 1})})
    refused = train(worker, tmp_path, short)
    assert refused.cause is Cause.REFUSED
    assert "max_completion_length" in refused.message


def test_a_run_that_is_told_to_stop_ends_at_its_next_step(worker: DPOTrainerWorker, tmp_path: Path) -> None:
    jobs = [Job(config(), tmp_path)]
    (result,) = train_all(worker, jobs, lambda _k, step, _m: Decision.STOP if step >= 2 else Decision.CONTINUE)
    assert result.cause is Cause.USER_STOP
    assert result.curve[-1][0] == 2


def test_full_fine_tuning_leaves_nothing_behind(worker: DPOTrainerWorker, tmp_path: Path) -> None:
    whole = train(worker, tmp_path / "full", config(use_peft=False))
    assert whole.cause is Cause.FINISHED
    assert whole.final()["margin"].value != 0.0
    assert "kl" in whole.final()
    assert numbers(train(worker, tmp_path / "after", config())) == numbers(
        train(DPOTrainerWorker(), tmp_path / "fresh", config())
    )


def test_the_folder_of_a_run_holds_its_result_and_a_peft_adapter_only(worker: DPOTrainerWorker, tmp_path: Path) -> None:
    result = train(worker, tmp_path, config())
    assert {f.name for f in tmp_path.iterdir()} == {"result.json", "adapter"}
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == 4
    assert read_result(tmp_path) == result


def test_a_pack_and_a_run_alone_show_the_same_prompts_before_and_after(
    worker: DPOTrainerWorker, tmp_path: Path
) -> None:
    run = config(at=(0.5, 1.0), learning_rate=5e-3)
    alone = train_all(worker, [Job(run, tmp_path / "alone", placement=Placement(together=0))])[0]
    packed = train_all(worker, [Job(run, tmp_path / "pack", placement=Placement(together=2))])[0]
    assert len(alone.samples) == len(packed.samples) == 4
    assert [(s.prompt, s.before, s.gold_before) for s in alone.samples] == [
        (s.prompt, s.before, s.gold_before) for s in packed.samples
    ]
    assert all(s.gold_before is not None and s.gold_after is not None for s in packed.samples)
    assert [s.after for s in packed.samples] != [s.before for s in packed.samples]
    assert read_result(tmp_path / "pack") == packed


def measured(**values: float) -> list[Measurement]:
    return [Measurement(name, value, error=0.01) for name, value in values.items()]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> ReferenceNumbers:
    return reference_of(config(), tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({"length_ratio": 1.0, "accuracy": 0.7, "margin": 1.0, "gold": 1.0}, Cause.FINISHED),
        ({"length_ratio": 0.1, "accuracy": 0.86, "margin": 1.0, "gold": 1.0}, Cause.COLLAPSED),
        ({"length_ratio": 1.0, "entropy": 0.01, "accuracy": 0.86, "margin": 1.0, "gold": 1.0}, Cause.COLLAPSED),
        ({"length_ratio": 1.0, "accuracy": 0.06, "margin": -1.0, "gold": -9.0}, Cause.INVERTED),
        ({"length_ratio": 1.0, "accuracy": 0.3, "margin": -1.0, "gold": 1.0}, Cause.FINISHED),
        ({"length_ratio": 1.0, "accuracy": 0.3, "margin": -1.0, "ranking_gain": -0.2}, Cause.INVERTED),
    ],
)
def test_collapse_and_inversion_are_judged_by_more_than_accuracy(
    values: dict[str, float], cause: Cause, reference: ReferenceNumbers
) -> None:
    assert outcome_of(measured(**values), reference)[0] is cause
