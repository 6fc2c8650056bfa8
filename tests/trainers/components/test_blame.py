"""Facts about what is said where PEFT refuses the settings of an adapter."""

from __future__ import annotations

from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from trainers.components.blame import in_words_of_study


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"target_modules": ["foo", "bar"]}, "base.lora_target_modules: Target modules {"),
        ({"target_modules": "q_proj"}, "base.lora_target_modules: Target modules q_proj not found"),
        ({"target_modules": ["q_proj"], "r": 0}, "base.lora_r: `r` should be a positive integer"),
        ({"target_modules": ["input_layernorm"]}, "base.lora_target_modules: Target module LlamaRMSNorm"),
    ],
)
def test_a_refusal_of_peft_names_the_key_of_the_study(settings: dict[str, Any], told: str) -> None:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=8, **sizes))
    with pytest.raises((ValueError, TypeError)) as caught:
        get_peft_model(model, LoraConfig(**settings))
    assert in_words_of_study(caught.value, {}).startswith(told)


def test_what_others_raise_stays_as_it_is() -> None:
    with pytest.raises(ValueError, match="mine") as caught:
        raise ValueError("target_modules are mine")
    assert in_words_of_study(caught.value, {}) == "target_modules are mine"
