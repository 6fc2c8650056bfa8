"""What was trained is kept, with the numbers that there are, whatever goes wrong afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, GPT2Config, MambaConfig

from studies.records import Cause, RunResult
from tests.trainers.models.test_merged import LLAMA
from tests.trainers.small_runs import a_small_model, configs_on, train_on
from trainers.dpo import DPOTrainerWorker
from trainers.interface import Job, Placement
from trainers.job_list import train_all
from trainers.run_folder.results import keep_result, read_result

GREEDY = {"do_sample": False, "temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.1, "eos_token_id": 256}


def test_a_model_whose_generation_config_lets_nothing_be_saved_is_saved_greedy_as_before(tmp_path: Path) -> None:
    model = a_small_model(tmp_path / "model", LLAMA)
    (model / "generation_config.json").write_text(json.dumps(GREEDY))
    (result,) = train_on(model, tmp_path / "runs", 0, use_peft=None, lora_r=None)
    assert result.cause is Cause.FINISHED, result.message
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "runs" / "run-0" / "adapter").generation_config
    assert not saved.do_sample
    assert saved.repetition_penalty == 1.1


@pytest.mark.parametrize("together", [0, 2], ids=["alone", "in a pack"])
def test_numbers_are_kept_where_the_adapter_cannot_be_written(
    tmp_path: Path, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("peft.PeftModel.save_pretrained", full)
    monkeypatch.setattr("trainers.pack.pack.save_adapter", full)
    (result,) = train_on(a_small_model(tmp_path / "model", LLAMA), tmp_path / "runs", together)
    assert result.cause is Cause.FINISHED, result.message
    assert {"margin", "kl"} <= set(result.final())
    assert "No space left on device" in str(result.facts["unsaved"])
    assert result.adapter is None
    assert not (tmp_path / "runs" / "run-0" / "adapter").exists()


@pytest.mark.parametrize("together", [0, 2], ids=["alone", "in a pack"])
def test_a_result_that_cannot_be_written_is_handed_in(
    tmp_path: Path, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainers.run_folder.results.write_result", full)
    (result,) = train_on(a_small_model(tmp_path / "model", LLAMA), tmp_path / "runs", together)
    assert result.cause is Cause.FINISHED, result.message
    assert "result.json" in str(result.facts["unsaved"])
    assert read_result(tmp_path / "runs" / "run-0") is None


def test_all_that_was_not_kept_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainers.run_folder.results.write_result", full)
    result = RunResult(key="k", cause=Cause.FINISHED, facts={"unsaved": "the adapter"})
    told = keep_result(tmp_path, result).facts["unsaved"]
    assert told == "the adapter; result.json: [Errno 28] No space left on device"


@pytest.mark.parametrize("together", [0, 2], ids=["alone", "in a pack"])
def test_a_run_that_cannot_be_measured_at_its_end_keeps_its_adapter_and_is_refused(
    tmp_path: Path, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise IndexError("index out of range in self")

    monkeypatch.setattr("trainers.pack.pack.evaluate_all", broken)
    monkeypatch.setattr("trainers.trl_loop.train.evaluate", broken)
    results = train_on(a_small_model(tmp_path / "model", LLAMA), tmp_path / "runs", together, runs=2)
    for result in results:
        assert result.cause is Cause.REFUSED
        assert "cannot be measured after step 2: IndexError: index out of range in self" in result.message
        assert len(result.curve) == 2
        assert result.adapter == "adapter"


def test_a_checkpoint_that_cannot_be_written_costs_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise ValueError("The generation config instance is invalid")

    monkeypatch.setattr("transformers.Trainer._save_checkpoint", refuse)
    (config,) = configs_on(a_small_model(tmp_path / "model", LLAMA), tmp_path / "runs")
    job = Job(config, tmp_path / "runs" / "run-0", placement=Placement(together=0))
    (result,) = train_all(DPOTrainerWorker(keep_every=0.0), [job])
    assert result.cause is Cause.FINISHED, result.message


@pytest.mark.parametrize("together", [0, 1], ids=["alone", "in a pack"])
def test_positions_that_samples_would_pass_are_told_before_anything_is_trained(tmp_path: Path, together: int) -> None:
    model = a_small_model(
        tmp_path / "model", GPT2Config(vocab_size=259, n_embd=16, n_layer=1, n_head=2, n_positions=24)
    )
    (result,) = train_on(model, tmp_path / "runs", together, max_new_tokens=40)
    assert result.cause is Cause.REFUSED
    assert "has positions for 24 tokens" in result.message
    assert "--set evaluate.max_new_tokens=22" in result.message
    assert result.facts == {"unusable": "model"}
    (result,) = train_on(model, tmp_path / "again", together, max_new_tokens=22)
    assert result.cause is Cause.FINISHED, result.message


def test_pairs_beyond_the_positions_are_told_with_the_length_that_fits(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=259, n_embd=16, n_layer=1, n_head=2, n_positions=8)
    (result,) = train_on(a_small_model(tmp_path / "model", config), tmp_path / "runs", 0, max_new_tokens=4)
    assert result.cause is Cause.REFUSED
    assert "--set data.max_length=8" in result.message


@pytest.mark.parametrize("together", [0, 2], ids=["alone", "together"])
def test_a_model_without_keys_and_values_is_trained_alone_and_measured(tmp_path: Path, together: int) -> None:
    config = MambaConfig(vocab_size=259, hidden_size=16, num_hidden_layers=1, state_size=4, pad_token_id=257)
    targets = {"lora_target_modules": ["in_proj", "x_proj"]}
    (result,) = train_on(
        a_small_model(tmp_path / "model", config), tmp_path / "runs", together, learning_rate=1e-12, **targets
    )
    assert result.cause is Cause.FINISHED, result.message
    assert abs(result.final()["margin"].value) < 1e-4
    assert abs(result.final()["kl"].value) < 1e-4


@pytest.mark.parametrize("together", [0, 2], ids=["alone", "in a pack"])
@pytest.mark.parametrize(
    ("settings", "told", "of"),
    [
        ({"lr_scheduler_kwargs": {"a": "b"}}, "base.lr_scheduler_kwargs: ", "schedule"),
        ({"optim": "sgd", "optim_args": "a"}, "base.optim_args: ", "optimizer"),
        ({"lora_target_modules": ["nowhere"]}, "base.lora_target_modules: ", "adapter"),
        ({"bf16": True, "fp16": True}, "bf16", "settings"),
    ],
    ids=["schedule", "optimizer", "adapter", "precision"],
)
def test_a_setting_that_refuses_every_run_is_told_by_its_key_with_what_the_refusal_hangs_on(
    tmp_path: Path, together: int, settings: dict[str, Any], told: str, of: str
) -> None:
    (result,) = train_on(a_small_model(tmp_path / "model", LLAMA), tmp_path / "runs", together, **settings)
    assert result.cause is Cause.REFUSED, result.message
    assert told in result.message
    assert result.facts["unusable"] == of


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_damaged_files_of_a_model_are_refused_and_named(tmp_path: Path, name: str) -> None:
    model = a_small_model(tmp_path / "model", LLAMA)
    (model / name).write_bytes((model / name).read_bytes()[:40])
    (result,) = train_on(model, tmp_path / "runs", 1)
    assert result.cause is Cause.REFUSED
    assert str(model) in result.message
    assert result.facts == {"unusable": "model"}
