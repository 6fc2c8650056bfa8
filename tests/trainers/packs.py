"""A small pack of LoRA adapters over one model, for tests and benchmarks of what is measured of packs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

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


class HookedPack:
    """Adapters that are added by hooks to the layers' outputs. `close` takes them off the model again."""

    def __init__(self, model: PreTrainedModel, adapters: Sequence[Weights]) -> None:
        self.model, self.count, self._on = model, len(adapters), True
        self._handles = [
            model.get_submodule(name).register_forward_hook(
                self._hook(*(torch.stack([adapter[name][i] for adapter in adapters]) for i in (0, 1)))
            )
            for name in adapters[0]
        ]

    def _hook(self, first: Tensor, second: Tensor) -> Any:
        def add(_: torch.nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
            if not self._on:
                return output
            grouped = inputs[0].reshape(self.count, -1, inputs[0].shape[-1])
            added = output.reshape(self.count, -1, output.shape[-1]).baddbmm(torch.bmm(grouped, first), second)
            return added.view_as(output)

        return add

    @contextmanager
    def off(self) -> Iterator[None]:
        self._on = False
        try:
            yield
        finally:
            self._on = True

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()
