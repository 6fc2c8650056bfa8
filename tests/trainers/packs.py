"""A small pack of LoRA adapters over one model, for tests and benchmarks of what is measured of packs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from trainers.multi_lora.adapters import PackedAdapters
from trainers.multi_lora.flat import Lora

Weights = dict[str, tuple[Tensor, Tensor]]
"""Of each linear layer the factors [in, rank] and [rank, out] of what is added to it."""


def lora_weights(model: PreTrainedModel, seed: int, std: float, rank: int = 2) -> Weights:
    """Random factors for all linear layers but the head, in the model's type; with `std` 0 they change nothing."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(weight: Tensor, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(weight.dtype)

    found = {}
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear | Conv1D) and name != "lm_head":
            weight = layer.weight.T if isinstance(layer, torch.nn.Linear) else layer.weight
            inputs, outputs = weight.shape
            found[name] = (drawn(weight, inputs, rank) * 0.3, drawn(weight, rank, outputs) * std)
    return found


def pack_of(model: PreTrainedModel, adapters: Sequence[Weights]) -> PackedAdapters:
    """The adapters over the model."""
    pack = PackedAdapters(model)
    pack.add([{name: Lora(a.T, b.T, 1.0) for name, (a, b) in adapter.items()} for adapter in adapters])
    return pack
