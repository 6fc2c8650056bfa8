"""A base that is an adapter is the model with the adapter in it, for the policy and for the reference."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from studies.records import Cause
from tests.trainers.small_runs import a_small_model, configs_on, train_on
from trainers.export_files import write_export
from trainers.models.bases import UnusableModel
from trainers.models.merged import load_model
from trainers.models.random_numbers import random_numbers, same_numbers

LLAMA = LlamaConfig(
    vocab_size=259, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, eos_token_id=256
)
IDS = torch.arange(3, 40)[None]


@pytest.fixture(params=["alone", "beside"])
def adapter(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with an adapter that changes what its model says, alone or beside its model."""
    base = a_small_model(tmp_path / "base", LLAMA)
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    torch.manual_seed(1)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(tmp_path / "sft")
    if request.param == "beside":
        shutil.copytree(base, tmp_path / "sft", dirs_exist_ok=True)
    return tmp_path / "sft"


def test_it_says_what_the_adapter_says_on_its_model(adapter: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(adapter.parent / "base")
    plain = base(IDS).logits
    told = PeftModel.from_pretrained(base, str(adapter)).eval()(IDS).logits
    merged = load_model(str(adapter), None, {"dtype": "float32"}).eval()
    assert (told - plain).abs().max() > 0.05
    torch.testing.assert_close(merged(IDS).logits, told, rtol=0, atol=1e-5)
    assert merged.config.name_or_path == str(adapter)
    assert all(parameter.requires_grad for parameter in merged.parameters())


def test_merging_draws_no_random_number_so_that_the_export_draws_the_same_adapter(adapter: Path) -> None:
    torch.manual_seed(7)
    AutoModelForCausalLM.from_pretrained(adapter.parent / "base")  # as the merged model is loaded
    then = random_numbers()
    torch.manual_seed(7)
    load_model(str(adapter), None, {"dtype": "float32"})
    assert same_numbers(random_numbers(), then)


@pytest.mark.parametrize("how", ["in a pack", "alone", "full fine-tuning"])
def test_a_policy_that_has_learned_nothing_is_its_reference(adapter: Path, tmp_path: Path, how: str) -> None:
    full = {"use_peft": None, "lora_r": None} if how == "full fine-tuning" else {}
    (result,) = train_on(adapter, tmp_path / "runs", int(how == "in a pack"), learning_rate=1e-12, **full)
    assert result.cause is Cause.FINISHED, result.message
    assert str(result.facts["merged"]).startswith(f"{adapter} is an adapter (lora) on ")
    assert abs(result.final()["margin"].value) < 1e-4
    assert result.curve[0][1]["loss"] == pytest.approx(0.6931, abs=1e-4)


def test_an_adapter_of_an_adapter_lies_on_both(adapter: Path, tmp_path: Path) -> None:
    config = LoraConfig(r=2, target_modules=["o_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    policy = get_peft_model(load_model(str(adapter), None, {"dtype": "float32"}), config).eval()
    policy.save_pretrained(tmp_path / "second")
    again = load_model(str(tmp_path / "second"), None, {"dtype": "float32"}).eval()
    torch.testing.assert_close(again(IDS).logits, policy(IDS).logits, rtol=0, atol=1e-5)


def test_an_adapter_of_another_model_is_refused_and_not_offered_to_be_merged(adapter: Path, tmp_path: Path) -> None:
    if (adapter / "config.json").exists():
        pytest.skip("its model lies beside it")
    other = a_small_model(tmp_path / "other", GPT2Config(vocab_size=259, n_embd=16, n_layer=1, n_head=2))
    written = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(written | {"base_model_name_or_path": str(other)}))
    with pytest.raises(UnusableModel, match="write the one that it was trained on as base_model_name") as refused:
        load_model(str(adapter), None, {"dtype": "float32"})
    assert "merge_and_unload" not in str(refused.value)


def test_an_adapter_that_diverged_is_told_so(adapter: Path) -> None:
    factors = load_file(adapter / "adapter_model.safetensors")
    next(iter(factors.values())).fill_(float("nan"))
    save_file(factors, adapter / "adapter_model.safetensors")
    with pytest.raises(UnusableModel, match="its factors hold what is no number"):
        load_model(str(adapter), None, {"dtype": "float32"})


def test_an_adapter_with_factors_for_layers_that_its_model_lacks_is_refused(adapter: Path) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"target_modules": ["q_proj"]}))
    with pytest.raises(UnusableModel, match="does not fit it"):
        load_model(str(adapter), None, {"dtype": "float32"})


def test_export_writes_it_merged_so_that_plain_trl_starts_from_the_same(adapter: Path, tmp_path: Path) -> None:
    (config,) = configs_on(adapter, tmp_path / "runs")
    named, _ = write_export(config, tmp_path / "best-data", tmp_path / "best-model")
    assert named == str(tmp_path / "best-model")
    assert not (tmp_path / "best-model" / "adapter_config.json").exists()
    exported = AutoModelForCausalLM.from_pretrained(named).eval()
    merged = load_model(str(adapter), None, {"dtype": "float32"}).eval()
    torch.testing.assert_close(exported(IDS).logits, merged(IDS).logits, rtol=0, atol=0)


def test_export_of_full_fine_tuning_names_a_model_that_plain_trl_can_save(tmp_path: Path) -> None:
    model = a_small_model(tmp_path / "model", LLAMA)
    (model / "generation_config.json").write_text(json.dumps({"do_sample": False, "temperature": 0.6}))
    for changes, named in (({"use_peft": None, "lora_r": None}, tmp_path / "best-model"), ({}, model)):
        (config,) = configs_on(model, tmp_path / "runs", **changes)
        assert write_export(config, tmp_path / "best-data", tmp_path / "best-model")[0] == str(named)
        shutil.rmtree(tmp_path / "saved", ignore_errors=True)
        if not changes:
            continue
        AutoModelForCausalLM.from_pretrained(named).save_pretrained(tmp_path / "saved")
        assert (tmp_path / "best-model" / "model.safetensors").is_symlink()
        shutil.rmtree(tmp_path / "best-model")
