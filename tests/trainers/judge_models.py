"""Tiny classifiers with random weights and the embedded world's tokenizer, as reward models for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
)

from trainers.world.paths import model_path


def save_classifier(folder: Path, kind: str = "llama", **changes: Any) -> Path:
    """Write a classifier of `kind` (llama, bert, or lm, which has no head of a classifier) into `folder`."""
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    given: dict[str, Any] = {**sizes, "num_attention_heads": 2, "max_position_embeddings": 64, **changes}
    torch.manual_seed(7)
    model: PreTrainedModel
    if kind == "bert":
        model = BertForSequenceClassification(BertConfig(**given))
    elif kind == "llama":
        model = LlamaForSequenceClassification(LlamaConfig(pad_token_id=tokenizer.pad_token_id, **given))
    else:
        model = LlamaForCausalLM(LlamaConfig(**given))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
