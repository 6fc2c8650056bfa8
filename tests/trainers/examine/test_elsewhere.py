"""Which folders are taken for a model from elsewhere beside a study, and why others are refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

from tests.trainers.models.test_odd_models import SPECIAL, a_tokenizer
from tests.trainers.small_runs import a_small_model
from trainers.examine import elsewhere
from trainers.examine.elsewhere import Elsewhere, look_at_elsewhere
from trainers.models.bases import UnusableModel
from trainers.models.merged import with_adapter

LLAMA = LlamaConfig(
    vocab_size=259, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, eos_token_id=256
)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an adapter on the model in the folder beside it, and the tokenizer that `trl dpo` saves too."""
    monkeypatch.setattr(elsewhere, "asked_aside", lambda _module, request: elsewhere._answer(request))
    base = a_small_model(tmp_path / "base", LLAMA)
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    torch.manual_seed(1)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(tmp_path / "mine")
    a_tokenizer(SPECIAL).save_pretrained(tmp_path / "mine")
    return tmp_path / "mine"


def looked(folder: Path, base: str = "base", *, is_adapter: bool = True, **settings: Any) -> Elsewhere:
    asked = {"model_name_or_path": str(folder.parent / base), **settings}
    return look_at_elsewhere(str(folder), asked, is_adapter=is_adapter)


def changed(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_the_same_contents_are_the_same_under_another_name_and_others_are_not(mine: Path) -> None:
    first = looked(mine)
    shutil.copytree(mine, mine.with_name("copy"))
    assert looked(mine.with_name("copy")) == Elsewhere(str(mine.with_name("copy")), "copy", first.content)
    (mine / "README.md").write_text("of no matter")
    assert looked(mine).content == first.content
    weights = mine / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert looked(mine).content != first.content


def test_an_adapter_on_a_copy_of_the_base_is_on_the_base(mine: Path) -> None:
    shutil.copytree(mine.parent / "base", mine.parent / "copy-of-base")
    assert looked(mine, "copy-of-base").name == "mine"


def test_an_adapter_of_another_base_is_refused(mine: Path) -> None:
    a_small_model(mine.parent / "other", LlamaConfig(**{**LLAMA.to_dict(), "hidden_size": 32}))
    with pytest.raises(UnusableModel, match=r"it is an adapter on \S+base, and the study's base is \S+other: take"):
        looked(mine, "other")


def test_a_folder_without_an_adapter_or_without_weights_is_refused(mine: Path) -> None:
    with pytest.raises(UnusableModel, match="it is a whole model: --model"):
        looked(mine.parent / "base")
    with pytest.raises(UnusableModel, match="it is an adapter: --adapter"):
        looked(mine, is_adapter=False)
    with pytest.raises(UnusableModel, match="there is no such folder here"):
        looked(mine.parent / "nowhere")
    (mine.parent / "empty").mkdir()
    with pytest.raises(UnusableModel, match=r"no config\.json"):
        looked(mine.parent / "empty", is_adapter=False)
    (mine / "checkpoint-7").mkdir()
    for file in mine.glob("adapter*"):
        file.rename(mine / "checkpoint-7" / file.name)
    with pytest.raises(UnusableModel, match=r"no adapter_config.json; \S+checkpoint-7 has one"):
        looked(mine)
    (mine / "checkpoint-7" / "adapter_model.safetensors").unlink()
    with pytest.raises(UnusableModel, match=r"no adapter_model.safetensors"):
        looked(mine / "checkpoint-7", "../base")


def test_code_that_lies_with_a_model_is_refused_even_where_the_study_trusts_its_own(mine: Path) -> None:
    whole = mine.parent / "whole"
    shutil.copytree(mine.parent / "base", whole)
    changed(whole / "config.json", auto_map={"AutoModelForCausalLM": "evil.Model"})
    with pytest.raises(UnusableModel, match=r"config.json names Python code that lies with it \(auto_map\)"):
        looked(whole, is_adapter=False, trust_remote_code=True)
    changed(mine / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tokenizer", None]})
    with pytest.raises(UnusableModel, match=r"tokenizer_config.json names Python code"):
        looked(mine)


def test_a_whole_model_is_taken_with_the_base_s_tokens_and_refused_with_others(mine: Path) -> None:
    whole = mine.parent / "whole"
    shutil.copytree(mine.parent / "base", whole)
    assert looked(whole, is_adapter=False).name == "whole"
    changed(whole / "config.json", vocab_size=300)
    with pytest.raises(UnusableModel, match="it has 300 tokens and the study's base 259"):
        looked(whole, is_adapter=False)


def test_another_tokenizer_is_refused(mine: Path) -> None:
    ending = a_tokenizer(SPECIAL)
    ending.eos_token = "<s>"
    ending.save_pretrained(mine)
    with pytest.raises(UnusableModel, match=re.escape("answers end with '<s>' and '</s>'")):
        looked(mine)
    other = a_tokenizer(SPECIAL)
    other.add_tokens(["<new>"])
    other.save_pretrained(mine)
    with pytest.raises(UnusableModel, match="1 token differs, such as '<new>': 259 and None"):
        looked(mine)
    templated = a_tokenizer(SPECIAL)
    templated.chat_template = "{{ messages }}"
    templated.save_pretrained(mine)
    with pytest.raises(UnusableModel, match="its chat template is another"):
        looked(mine)


@pytest.mark.slow
def test_tokenizers_are_compared_in_a_process_that_loads_no_torch(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert looked(mine).name == "mine"


def test_an_adapter_whose_names_do_not_fit_is_refused_and_not_left_out(mine: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(mine.parent / "base")
    assert with_adapter(base, mine).active_adapters
    changed(mine / "adapter_config.json", target_modules=["q_proj"])
    base = AutoModelForCausalLM.from_pretrained(mine.parent / "base")
    with pytest.raises(UnusableModel, match=r"v_proj\.lora_A\.weight has no place in it"):
        with_adapter(base, mine)
