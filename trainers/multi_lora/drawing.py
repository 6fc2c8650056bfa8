"""Draws the adapter that PEFT would put into a base, without putting it in. Knows no trainer and no seed."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import Tensor, nn

from trainers.multi_lora.flat import Adapter, Lora


class _Layer(NamedTuple):
    """An adapted layer. PEFT rounds factors to `through`, the type of the base's weights, before they get `dtype`."""

    inputs: int
    rank: int
    outputs: int
    scaling: float
    through: torch.dtype
    dtype: torch.dtype
    device: torch.device

    def draw(self) -> Lora:
        """As `LoraLayer.update_layer` does: two `nn.Linear` are made, which draw, and then drawn again or set to 0."""
        a, b = torch.empty(self.rank, self.inputs), torch.empty(self.outputs, self.rank)
        for factor in (a, b, a):
            nn.init.kaiming_uniform_(factor, a=math.sqrt(5))
        return Lora(self._placed(a), self._placed(b.zero_()), self.scaling)

    def _placed(self, factor: Tensor) -> Tensor:
        return factor.to(self.through).to(self.device, self.dtype)


@dataclass(frozen=True)
class Drawing:
    """How PEFT draws adapters of a configuration for one base: `asked` is it as it was asked for, `injected` as
    injecting left it.
    """

    asked: PeftConfig
    injected: PeftConfig
    layers: Mapping[str, _Layer]

    @classmethod
    def of(cls, asked: PeftConfig, policy: PeftModel, adapter: Adapter) -> Drawing:
        """Of what PEFT has injected, if it draws plainly: `redraws` says whether it does."""
        base, layers = policy.get_base_model(), {}
        for name, lora in adapter.items():
            weights = next(base.get_submodule(name).get_base_layer().parameters(), None)
            # A layer of buffers alone, as of GPTQ and AWQ, has nothing to round through, nor has one of whole numbers.
            through = weights.dtype if weights is not None and weights.is_floating_point() else lora.a.dtype
            shape = (lora.a.shape[1], lora.a.shape[0], lora.b.shape[0])
            layers[name] = _Layer(*shape, lora.scaling, through, lora.a.dtype, lora.a.device)
        return cls(asked, copy.deepcopy(policy.peft_config["default"]), layers)

    def draw(self) -> Iterator[tuple[str, Lora]]:
        """The layers of an adapter, one after the other, with the random numbers that come next."""
        return ((name, layer.draw()) for name, layer in self.layers.items())

    def redraws(self, adapter: Adapter) -> bool:
        """Whether it draws this adapter, to the bit, with the random numbers that come next."""
        return all(_same(lora, adapter[name]) for name, lora in self.draw())

    @property
    def empty_config(self) -> PeftConfig:
        """A configuration with which PEFT makes a model without an adapted layer."""
        return LoraConfig(task_type=self.asked.task_type, target_modules=DUMMY_TARGET_MODULES)


def _same(one: Lora, other: Lora) -> bool:
    return all(x.dtype is y.dtype and torch.equal(x, y) for x, y in zip(one[:2], other[:2], strict=True))
