"""K LoRA adapters over one frozen base model, applied in one pass; knows no loss, no data, no schedule.

In every forward the rows of the input fall into K equal groups, run 0 first; linear layer and adapter see them as
[K, rows, features], so that one batched product serves all adapters. Groups never touch: what one adapter makes of its
rows (NaN included) stays in them. Ranks and targets may differ: each adapter is padded to the largest rank with zeros
in both factors, which get zero gradients and stay zero.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from trainers.multi_lora.flat import Adapter, Geometry, Unpackable
from trainers.multi_lora.linear import PackedLinear, is_four_bit

_RANKS_OF: Final = {"cuda": 8}
"""What ranks are rounded up to on a device: tensor cores read numbers in half precision by eights."""


class PackedAdapters:
    """The adapters of a pack: `weights` and `gradients` [K, size], `scalings` [K, layers], and the model around them.

    `model` shares every tensor with the base it was made from and is called with K groups of rows. A backward pass
    adds to `gradients`; nothing else is trained.
    """

    def __init__(self, base: PreTrainedModel) -> None:
        self.model = twin(base)
        self.geometry = Geometry({}, 1, 0)
        parameter = next(base.parameters())
        self.device = parameter.device
        self.dtype = adapter_dtype(base)
        self._likes: list[Adapter] = []
        self._layers: dict[str, PackedLinear] = {}
        nothing = torch.empty(0, 0, dtype=self.dtype, device=self.device)
        self._lay_out([], self.geometry, nothing, nothing.clone())

    @property
    def count(self) -> int:
        """How many adapters there are."""
        return len(self._likes)

    def around(self, adapters: Sequence[Adapter]) -> Geometry:
        """The geometry once these are added."""
        geometry = Geometry.around(adapters, _RANKS_OF.get(self.device.type, 1))
        return self.geometry.joined(geometry) if self._likes else geometry

    def add(self, adapters: Sequence[Adapter]) -> None:
        """Append adapters. Whoever keeps vectors in the old geometry must move them (`Geometry.moved`)."""
        geometry = self.around(adapters)
        new = torch.stack([geometry.pack(adapter, self.dtype, self.device) for adapter in adapters])
        old = (self.weights, self.gradients)
        kept, half = (self.geometry.moved(t, geometry) if self._likes else new[:0] for t in old)
        weights, gradients = torch.cat([kept, new]), torch.cat([half, torch.zeros_like(new)])
        self._lay_out([*self._likes, *adapters], geometry, weights, gradients)

    def keep(self, slots: Sequence[int]) -> None:
        """Keep only these adapters, in this order."""
        likes = [self._likes[i] for i in slots]
        self._lay_out(likes, self.geometry, self.weights[list(slots)], self.gradients[list(slots)])

    def read(self, slot: int) -> Adapter:
        """A copy of one adapter as it is now."""
        return self.geometry.unpack(self.weights[slot], self._likes[slot])

    @contextmanager
    def off(self) -> Iterator[None]:
        """The model without adapters: the reference."""
        for layer in self._layers.values():
            layer.on = False
        try:
            yield
        finally:
            for layer in self._layers.values():
                layer.on = True

    @contextmanager
    def only(self, slots: Sequence[int]) -> Iterator[PackedAdapters]:
        """The pack as if it had only these adapters, for a pass without gradients."""
        if list(slots) == list(range(self.count)):
            yield self
            return
        likes, weights, gradients = self._likes, self.weights, self.gradients
        scalings = {name: layer.scaling for name, layer in self._layers.items()}
        try:
            self.keep(slots)
            yield self
        finally:
            self._point(likes, self.geometry, weights, gradients, scalings)

    def _lay_out(self, likes: Sequence[Adapter], geometry: Geometry, weights: Tensor, gradients: Tensor) -> None:
        """Point every layer at its part of the weights and of the gradients: all layers, or none where memory ends."""
        for name in geometry.sites:  # in their order: the first that cannot be is what a run is told
            if name not in self._layers:
                self._layers[name] = _inject(self.model, name)
        scalings = {
            name: torch.tensor(
                [like[name].scaling if name in like else 0.0 for like in likes], dtype=self.dtype, device=self.device
            )[:, None, None]
            for name in self._layers
        }
        self._point(likes, geometry, weights, gradients, scalings)

    def _point(
        self,
        likes: Sequence[Adapter],
        geometry: Geometry,
        weights: Tensor,
        gradients: Tensor,
        scalings: Mapping[str, Tensor],
    ) -> None:
        """See `_lay_out`; allocates nothing, so that it goes through whatever memory there is."""
        self._likes, self.geometry, self.weights, self.gradients = list(likes), geometry, weights, gradients
        for name, layer in self._layers.items():
            layer.scaling = scalings[name]
            layer.a, layer.b = geometry.factors(weights, name)
            layer.grad_a, layer.grad_b = geometry.factors(self.gradients, name)


def adapter_dtype(base: PreTrainedModel) -> torch.dtype:
    """In which precision stock trains adapters of this base: TRL's `DPOTrainer` halves those of a base in four bits,
    and PEFT (autocast_adapter_dtype) takes float32 for those of a base in half precision.
    """
    if getattr(base, "is_loaded_in_4bit", False):
        return torch.bfloat16
    return torch.float64 if next(base.parameters()).dtype is torch.float64 else torch.float32


def twin(base: PreTrainedModel) -> PreTrainedModel:
    """A second module tree over the same tensors: layers can be exchanged in it while the base stays as it is."""
    states = [module.quant_state for module in base.modules() if is_four_bit(module)]
    shared = {id(one): one for one in (*base.parameters(), *base.buffers(), *states)}
    twin: PreTrainedModel = copy.deepcopy(base, shared)
    twin.__dict__.pop("forward", None)  # a patched one, as TRL's, would still lead to the base
    return twin


def _inject(model: PreTrainedModel, name: str) -> PackedLinear:
    """Put a packed layer in the place of the linear layer `name`. Raises Unpackable where that is something else."""
    module = model.get_submodule(name)
    if type(module) not in (nn.Linear, Conv1D) and not is_four_bit(module):
        raise Unpackable(f"{name} is a {type(module).__name__}, not a plain linear layer")
    if math.prod(module.weight.shape) == 0:
        raise Unpackable(f"{name} has no weights in this process")
    packed = PackedLinear(module)
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, packed)
    return packed
