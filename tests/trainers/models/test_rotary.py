"""Models whose angles depend on the longest row of a batch train as stock TRL does and are measured row by row."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
)

from studies.records import ALONE_FACT, PRECOMPUTE, Cause
from tests.trainers.tiny_models import LONG, SIZES, a_model, a_run, losses, stock, train
from trainers.data.tokens import TokenIds
from trainers.dpo import DPOTrainerWorker
from trainers.evaluation.pair_scores import pair_log_probs
from trainers.evaluation.policies import Policies
from trainers.evaluation.sampling import sample
from trainers.interface import Decision, Job, Placement
from trainers.job_list import train_all
from trainers.models.rotary import begin_anew, couples_rows

ORIGINAL = 32
THETA = {"rope_theta": 10000.0}
LONGROPE = {
    **THETA,
    "rope_type": "longrope",
    "short_factor": [1.0] * 4,
    "long_factor": [4.0, 4.0, 8.0, 8.0],
    "original_max_position_embeddings": ORIGINAL,
}
DYNAMIC = {**THETA, "rope_type": "dynamic", "factor": 4.0}


def gemma() -> PretrainedConfig:
    layers = ["sliding_attention", "full_attention"]
    ropes = {"sliding_attention": {**THETA, "rope_type": "default"}, "full_attention": LONGROPE}
    return Gemma3TextConfig(**SIZES, head_dim=8, layer_types=layers, rope_parameters=ropes, sliding_window=512)


COUPLED: dict[str, Callable[[], PretrainedConfig]] = {
    "phi3-longrope": lambda: Phi3Config(
        **{**SIZES, "num_key_value_heads": 4},
        rope_parameters=LONGROPE,
        original_max_position_embeddings=ORIGINAL,
        max_position_embeddings=512,
        pad_token_id=0,
    ),
    "qwen2-longrope": lambda: Qwen2Config(**SIZES, rope_parameters=LONGROPE, max_position_embeddings=512),
    "llama-dynamic": lambda: LlamaConfig(**SIZES, rope_parameters=DYNAMIC, max_position_embeddings=ORIGINAL),
    "mistral-dynamic": lambda: MistralConfig(**SIZES, rope_parameters=DYNAMIC, max_position_embeddings=ORIGINAL),
    "gemma3-longrope-in-some-layers": gemma,
}
STATIC: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": ORIGINAL},
    "llama3": {
        "rope_type": "llama3",
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": ORIGINAL,
    },
}


ALIKE = ("qwen2-longrope", "mistral-dynamic")
"""Their positions are made as those of another family are."""


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] * (name in ALIKE)) for name in COUPLED])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if "in-some-layers" in request.param and Version(transformers.__version__) < Version("5.23"):
        pytest.skip("transformers 5.17 ends in an UnboundLocalError of its own, and 5.23 does not")
    return a_model(tmp_path / "model", COUPLED[request.param]())


@pytest.mark.parametrize("together", [0, 4])
def test_training_begins_where_policy_and_reference_are_one_and_goes_on_as_stock(
    model: str, tmp_path: Path, together: int
) -> None:
    run = a_run(model, tmp_path, LONG)
    plain = stock(tmp_path, run)
    (result,) = train(tmp_path, run, together=together)
    assert result.cause is Cause.FINISHED, result.message
    assert losses(result)[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses(result) == pytest.approx(plain.losses, abs=1e-6)
    assert "longest row" in str(result.facts[ALONE_FACT])


def test_a_run_has_the_numbers_that_it_has_in_a_worker_of_its_own(tmp_path: Path) -> None:
    model = a_model(tmp_path / "model", COUPLED["llama-dynamic"]())
    runs = [a_run(model, tmp_path, LONG, seed=seed) for seed in (0, 1)]
    alone = [train(tmp_path / run.key, run)[0] for run in runs]
    after = train(tmp_path / "both", *runs)
    assert [losses(result) for result in after] == [losses(result) for result in alone]
    assert [result.final() for result in after] == [
        {**result.final(), **{name: after[i].final()[name] for name in COSTS}} for i, result in enumerate(alone)
    ]


def test_a_stopped_run_goes_on_with_the_longest_row_that_it_had_read(tmp_path: Path) -> None:
    model = a_model(tmp_path / "model", COUPLED["llama-dynamic"]())
    rows = [{**row, "chosen": " yes" * (30 if i % 3 else 12)} for i, row in enumerate(LONG)]
    run = a_run(model, tmp_path, rows, max_steps=6, per_device_train_batch_size=1, seed=1)
    (whole,) = train(tmp_path / "whole", run)
    job = Job(run, tmp_path / "stopped", placement=Placement(together=0))
    (stopped,) = train_all(
        DPOTrainerWorker(), [job], lambda _key, step, _: Decision.STOP if step == 3 else Decision.CONTINUE
    )
    assert stopped.cause is Cause.USER_STOP
    (result,) = train_all(DPOTrainerWorker(), [job])
    assert losses(result) == losses(whole)


COSTS = ("steps_per_second", "tokens_per_second", "peak_memory", "train_seconds", "evaluation_seconds")


def test_a_micro_batch_is_not_cut_where_its_parts_would_have_other_numbers(model: str, tmp_path: Path) -> None:
    run = a_run(model, tmp_path, LONG)
    plain = stock(tmp_path, run)
    (result,) = train(tmp_path, run, together=0, split=2)
    assert losses(result) == pytest.approx(plain.losses, abs=1e-6)
    assert "split" not in result.facts


def test_a_reference_that_depends_on_the_batch_is_not_computed_before_it(tmp_path: Path) -> None:
    model = a_model(tmp_path / "model", COUPLED["qwen2-longrope"]())
    run = a_run(model, tmp_path, LONG, use_peft=False, precompute_ref_log_probs=True)
    (result,) = train(tmp_path, run)
    assert losses(result)[0] == pytest.approx(math.log(2), abs=1e-6)
    assert result.facts[PRECOMPUTE] is False


def test_short_rows_of_a_model_for_long_ones_share_a_pass(tmp_path: Path) -> None:
    model = a_model(tmp_path / "model", COUPLED["phi3-longrope"]())
    run = a_run(model, tmp_path, LONG, max_length=ORIGINAL)
    plain = stock(tmp_path, run)
    (result,) = train(tmp_path, run)
    assert losses(result) == pytest.approx(plain.losses, abs=1e-5)
    assert ALONE_FACT not in result.facts


def test_the_log_probs_of_a_pair_do_not_depend_on_the_pairs_beside_it(model: str) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(model)
    short, long = TokenIds([5, 6, 7], [8, 9], [10, 11, 12]), TokenIds([5, 6, 7], [9] * 60, [8] * 4)
    alone, beside = (
        pair_log_probs(Policies(loaded), [pairs], batch_size=8)[0] for pairs in ([short], [short, long, long])
    )
    for a, b in zip(alone, beside, strict=True):
        assert b[:1] == pytest.approx(a, abs=1e-4)


def test_the_log_probs_of_a_pair_are_those_of_each_row_read_alone(model: str) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(model)
    pairs = [TokenIds([5, 6, 7], [8, 9] * n, [10, 11, 12]) for n in (1, 10, 20, 40)]
    found = pair_log_probs(Policies(loaded), [pairs], batch_size=16)[0]
    for i, pair in enumerate(pairs):
        begin_anew(loaded)
        ids = torch.tensor([[*pair.prompt, *pair.chosen]])
        with torch.no_grad():
            log_probs = loaded(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        assert found[0][i] == pytest.approx(float(log_probs[len(pair.prompt) - 1 :].sum()), abs=1e-3)


def test_a_sample_does_not_depend_on_the_samples_beside_it(model: str) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(model)
    drawn = [
        sample(Policies(loaded), [prompts], end_ids={256}, max_new_tokens=24, seed=1, batch_size=8)[0]
        for prompts in ([[5, 6, 7]], [[5, 6, 7], [8] * 50])
    ]
    assert drawn[0].completions[0] == drawn[1].completions[0]


def test_measuring_leaves_what_the_model_remembers(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(a_model(tmp_path / "model", COUPLED["llama-dynamic"]()))
    with torch.no_grad():
        model(input_ids=torch.ones(1, 60, dtype=torch.long))
    rotary = model.model.rotary_emb
    before = (rotary.inv_freq.clone(), int(rotary.max_seq_len_cached))
    pair_log_probs(Policies(model), [[TokenIds([5], [6], [7, 8])]], batch_size=2)
    assert int(rotary.max_seq_len_cached) == before[1] == 60
    assert torch.equal(rotary.inv_freq, before[0])
    begin_anew(model)
    assert torch.equal(rotary.inv_freq, rotary.original_inv_freq)
    assert rotary.max_seq_len_cached == ORIGINAL


@pytest.mark.parametrize("kind", list(STATIC))
def test_angles_that_no_row_changes_keep_the_pack(kind: str) -> None:
    config = LlamaConfig(**SIZES, vocab_size=9, rope_parameters={**THETA, **STATIC[kind]}, max_position_embeddings=128)
    assert not couples_rows(AutoModelForCausalLM.from_config(config), None)


def test_angles_change_only_beyond_the_length_that_the_model_was_made_for(model: str) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(model)
    assert couples_rows(loaded, None)
    assert couples_rows(loaded, ORIGINAL + 1)
    assert not couples_rows(loaded, ORIGINAL)
