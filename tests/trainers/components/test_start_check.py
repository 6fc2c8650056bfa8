"""Policy and reference are the same model before the first step: what is further apart than rounding is told."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, LlamaConfig, PreTrainedModel

from studies.records import APART_FACT, Cause
from tests.trainers.tiny_models import LONG, SIZES, a_model, a_run, train
from trainers.components import start_check as start
from trainers.components import worker_cache as warm
from trainers.components.start_check import Gap, find_gap
from trainers.dpo import DPOTrainerWorker
from trainers.evaluation.evaluate import ReferenceNumbers
from trainers.interface import Decision
from trainers.job_list import JobList
from trainers.reference.store import ReferenceLogProbs

PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {},
    "autocast": {"bf16": True},
    "bfloat16": {"bf16": True, "dtype": "bfloat16"},
}
TOGETHER = pytest.mark.parametrize("together", [0, 4], ids=["alone", "in-a-pack"])
PRECISION = pytest.mark.parametrize(
    "precision", [pytest.param(name, marks=[pytest.mark.slow] * (name == "autocast")) for name in PRECISIONS]
)


@pytest.fixture
def llama(tmp_path: Path) -> str:
    return a_model(tmp_path / "model", LlamaConfig(**SIZES))


@pytest.fixture
def gpt2(tmp_path: Path) -> str:
    return a_model(tmp_path / "model", GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=256))


def changed_base(patch: pytest.MonkeyPatch, change: Callable[[PreTrainedModel], None]) -> None:
    load = warm.load_base

    def load_changed(*arguments: Any) -> Any:
        model, tokenizer = load(*arguments)
        change(model)
        return model, tokenizer

    patch.setattr(warm, "load_base", load_changed)


def reads_the_length_of_its_batch(model: PreTrainedModel) -> None:
    """Every embedding depends on how many tokens the batch has."""

    def shift(_module: Any, _given: Any, out: torch.Tensor) -> torch.Tensor:
        return out + torch.sin(torch.arange(out.shape[-1]) * float(out.shape[1])).to(out.dtype)

    model.get_input_embeddings().register_forward_hook(shift)


def reference_off_by(patch: pytest.MonkeyPatch, nats: float) -> None:
    """Training is told a reference that is so far from what the policy begins as."""
    known = warm.WorkerCache._log_probs

    def off(*arguments: Any) -> ReferenceLogProbs:
        found = known(*arguments)
        return ReferenceLogProbs(found.chosen + nats, found.rejected - nats)

    patch.setattr(warm.WorkerCache, "_log_probs", off)


def measured_against_another_model(patch: pytest.MonkeyPatch, nats: float) -> None:
    """As with an adapter that is there when the reference is measured, and gone when training begins."""
    known = warm.WorkerCache.numbers

    def off(*arguments: Any, **options: Any) -> ReferenceNumbers:
        numbers = known(*arguments, **options)
        return replace(numbers, held_out=numbers.held_out._replace(chosen=numbers.held_out.chosen + 2 * nats))

    patch.setattr(warm.WorkerCache, "numbers", off)


@TOGETHER
@PRECISION
def test_a_plain_base_begins_within_rounding(llama: str, tmp_path: Path, together: int, precision: str) -> None:
    (result,) = train(tmp_path, a_run(llama, tmp_path, LONG, **PRECISIONS[precision]), together=together)
    assert result.cause is Cause.FINISHED, result.message
    assert result.curve[0][1]["loss"] == pytest.approx(math.log(2), abs=1e-3 if precision == "float32" else 5e-2)


@pytest.mark.parametrize(
    "settings",
    [
        {"disable_dropout": False},
        {"use_dora": True, "bf16": True},
        {"use_peft": False},
        {"use_peft": False, "sync_ref_model": True, "bf16": True},
        {"use_peft": False, "precompute_ref_log_probs": True},
        {"loss_type": ["sft"]},
        {"loss_type": ["sigmoid", "ipo"], "ld_alpha": 0.5},
        {"f_divergence_type": "js_divergence"},
        {"gradient_accumulation_steps": 2},
        {"max_length": 16, "truncation_mode": "keep_end"},
    ],
    ids=lambda settings: ",".join(map(str, settings)),
)
@TOGETHER
def test_what_stock_trains_is_not_refused(gpt2: str, tmp_path: Path, settings: dict[str, Any], together: int) -> None:
    (result,) = train(
        tmp_path,
        a_run(gpt2, tmp_path, LONG, **{"lora_target_modules": ["c_attn", "c_proj"]} | settings),
        together=together,
    )
    assert result.cause is Cause.FINISHED, result.message


@TOGETHER
@PRECISION
def test_a_base_with_other_numbers_in_another_batch_is_refused(
    llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int, precision: str
) -> None:
    changed_base(monkeypatch, reads_the_length_of_its_batch)
    (result,) = train(tmp_path, a_run(llama, tmp_path, LONG, **PRECISIONS[precision]), together=together)
    assert result.cause is Cause.REFUSED, result.curve
    assert "the same model before the first step" in result.message
    assert result.adapter is None


@TOGETHER
@PRECISION
def test_training_against_another_reference_is_refused(
    llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int, precision: str
) -> None:
    reference_off_by(monkeypatch, 2.0)
    (result,) = train(tmp_path, a_run(llama, tmp_path, **PRECISIONS[precision]), together=together)
    assert result.cause is Cause.REFUSED, result.message
    assert "in training they are 2 nats" in result.message


@TOGETHER
@PRECISION
def test_measuring_against_another_reference_is_refused(
    llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int, precision: str
) -> None:
    measured_against_another_model(monkeypatch, 2.0)
    (result,) = train(tmp_path, a_run(llama, tmp_path, **PRECISIONS[precision]), together=together)
    assert result.cause is Cause.REFUSED, result.message
    assert "in measuring they are 2 nats" in result.message


@TOGETHER
def test_a_gap_beyond_rounding_is_a_fact_of_the_run(
    llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    reference_off_by(monkeypatch, 2e-4)
    (result,) = train(tmp_path, a_run(llama, tmp_path), together=together)
    assert result.cause is Cause.FINISHED, result.message
    assert "nats a row" in str(result.facts[f"{APART_FACT}.training"])


def test_a_run_that_goes_on_keeps_the_fact_and_is_not_held_against_it_again(
    llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = a_run(llama, tmp_path)
    with monkeypatch.context() as patch:
        reference_off_by(patch, 2e-4)
        (paused,) = train(tmp_path, run, pause_at=2)
    assert paused.cause is Cause.PAUSED, paused.message
    reference_off_by(monkeypatch, 2.0)
    (result,) = train(tmp_path, run)
    assert result.cause is Cause.FINISHED, result.message
    assert result.facts[f"{APART_FACT}.training"] == paused.facts[f"{APART_FACT}.training"]


@TOGETHER
def test_the_reference_is_read_again_only_where_it_matters(
    llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    monkeypatch.setattr(start, "rounding", lambda *_, **__: pytest.fail("read again"))
    (result,) = train(tmp_path, a_run(llama, tmp_path), together=together)
    assert result.cause is Cause.FINISHED


@pytest.mark.parametrize(
    ("nats", "read_again", "found"),
    [
        (1e-6, 1.0, None),
        (3e-4, 1.0, None),
        (3e-4, 1e-4, "fact"),
        (1e-3, 0.0, "refused"),
        (1.0, 1.0, "refused"),  # two readings that differ by so much are not rounding
        (math.nan, 1.0, None),
        (math.inf, 1.0, None),
    ],
)
def test_a_gap_is_held_against_what_rounding_does(nats: float, read_again: float, found: str | None) -> None:
    gap = find_gap("training", nats, 100.0, torch.float32, lambda: read_again)
    assert found == (None if gap is None else "refused" if gap.is_far else "fact")
    assert gap is None or isinstance(gap, Gap)


def test_a_run_that_was_stopped_before_its_first_step_is_looked_at_when_it_goes_on(
    llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = a_run(llama, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(JobList, "decision", lambda *_: Decision.STOP)
        patch.setattr(DPOTrainerWorker, "_look", lambda *_: None)  # not before it is ready
        (stopped,) = train(tmp_path, run)
    assert (stopped.cause, stopped.facts["steps"]) == (Cause.USER_STOP, 0)
    reference_off_by(monkeypatch, 2.0)
    (result,) = train(tmp_path, run)
    assert result.cause is Cause.REFUSED, result.message
