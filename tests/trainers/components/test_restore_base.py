"""A base is given back as it was, whatever an adapter had put around its layers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoModelForCausalLM, MixtralConfig

from trainers.components.restore_base import take_back, tensors_of


def test_experts_with_two_wrappers_around_them_are_themselves_again() -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = MixtralConfig(vocab_size=32, num_hidden_layers=1, num_local_experts=2, **sizes)
    base = AutoModelForCausalLM.from_config(config)
    before = tensors_of(base)
    dropped: list[bool] = []
    get_peft_model(base, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    cache: Any = SimpleNamespace(drop_base=lambda: dropped.append(True))
    take_back(base, before, cache)
    assert not dropped
    assert not any(isinstance(module, BaseTunerLayer) for module in base.modules())
    assert "base_layer" not in dict(base.model.layers[0].mlp.experts.named_children())
