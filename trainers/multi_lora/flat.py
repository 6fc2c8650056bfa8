"""LoRA adapters as tensors, and what a pack must know of the layers they lie on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor


class Unpackable(Exception):
    """This model or run cannot train in a pack; the message says why. It trains alone instead."""


class Lora(NamedTuple):
    """One adapted layer of one run: `a` [r, inputs], `b` [outputs, r], and the factor of their product."""

    a: Tensor
    b: Tensor
    scaling: float


Adapter = Mapping[str, Lora]


"""A whole adapter: layer name in the base model -> its factors."""


def read_adapter(policy: PeftModel) -> Adapter:
    """The adapter of a PEFT model, copied. Raises Unpackable for what is no plain LoRA on linear layers."""
    if set(policy.peft_config) != {"default"}:
        raise Unpackable(f"the model carries adapters {sorted(policy.peft_config)}, not one new one")
    found: dict[str, Lora] = {}
    for name, module in policy.get_base_model().named_modules():
        if not isinstance(module, LoraLayer):
            continue
        if module.lora_variant or module.lora_bias.get("default") or "default" not in module.lora_A:
            raise Unpackable(f"{name} is adapted by more than plain LoRA (DoRA, bias, embeddings)")
        a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
        found[name] = Lora(a.detach().clone(), b.detach().clone(), float(module.scaling["default"]))
    trained = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    if trained != sum(lora.a.numel() + lora.b.numel() for lora in found.values()):
        raise Unpackable("more than LoRA factors is trained (modules_to_save, trainable tokens)")
    return found


def write_adapter(policy: PeftModel, adapter: Adapter) -> None:
    """Put the factors into a PEFT model of the same shape, for `save_pretrained`."""
    modules = dict(policy.get_base_model().named_modules())
    with torch.no_grad():
        for name, lora in adapter.items():
            modules[name].lora_A["default"].weight.copy_(lora.a)
            modules[name].lora_B["default"].weight.copy_(lora.b)


@dataclass(frozen=True)
class Site:
    """An adapted layer and where its factors lie in a flat vector: a as [inputs, rank], then b as [rank, outputs]."""

    inputs: int
    outputs: int
    start: int


@dataclass(frozen=True)
class Geometry:
    """How the factors of one adapter lie in a vector of `size` numbers, at one rank for all layers."""

    sites: Mapping[str, Site]
    rank: int
    size: int

    @classmethod
    def around(cls, adapters: Sequence[Adapter], multiple: int = 1) -> Geometry:
        """The smallest geometry that holds all of `adapters`, its rank a multiple."""
        widths = {n: (lora.a.shape[1], lora.b.shape[0]) for adapter in adapters for n, lora in adapter.items()}
        rank = max(lora.a.shape[0] for adapter in adapters for lora in adapter.values())
        return cls.of(widths, -(-rank // multiple) * multiple)

    @classmethod
    def of(cls, widths: Mapping[str, tuple[int, int]], rank: int) -> Geometry:
        """The geometry of layers `name -> (inputs, outputs)` at one rank."""
        sites, start = {}, 0
        for name, (inputs, outputs) in widths.items():
            sites[name] = Site(inputs, outputs, start)
            start += rank * (inputs + outputs)
        return cls(sites, rank, start)

    def joined(self, other: Geometry) -> Geometry:
        """The smallest geometry that holds both."""
        widths = {n: (s.inputs, s.outputs) for g in (self, other) for n, s in g.sites.items()}
        rank = max(self.rank, other.rank)
        return self if rank == self.rank and len(widths) == len(self.sites) else Geometry.of(widths, rank)

    def factors(self, flat: Tensor, name: str) -> tuple[Tensor, Tensor]:
        """Views a [..., inputs, rank] and b [..., rank, outputs] of flat vectors [..., size]."""
        site, rank = self.sites[name], self.rank
        middle, end = site.start + rank * site.inputs, site.start + rank * (site.inputs + site.outputs)
        lead = flat.shape[:-1]
        a = flat[..., site.start : middle].view(*lead, site.inputs, rank)
        return a, flat[..., middle:end].view(*lead, rank, site.outputs)

    def moved(self, flat: Tensor, to: Geometry) -> Tensor:
        """Flat vectors [..., size] laid out in a geometry that holds this one, zeros where it is larger."""
        if to == self:
            return flat
        wide = flat.new_zeros((*flat.shape[:-1], to.size))
        for name in self.sites:
            for source, target in zip(self.factors(flat, name), to.factors(wide, name), strict=True):
                target[..., : source.shape[-2], : source.shape[-1]] = source
        return wide

    def pack(self, adapter: Adapter, dtype: torch.dtype, device: torch.device) -> Tensor:
        """An adapter as one vector [size], zeros where it is smaller."""
        flat = torch.zeros(self.size, dtype=dtype, device=device)
        for name, lora in adapter.items():
            a, b = self.factors(flat, name)
            a[:, : lora.a.shape[0]] = lora.a.T
            b[: lora.b.shape[1]] = lora.b.T
        return flat

    def unpack(self, flat: Tensor, like: Adapter) -> Adapter:
        """A vector [size] as an adapter with the layers, ranks and scalings of `like`, copied."""
        found = {}
        for name, lora in like.items():
            a, b = self.factors(flat, name)
            rank = lora.a.shape[0]
            found[name] = Lora(a[:, :rank].T.contiguous(), b[:rank].T.contiguous(), lora.scaling)
        return found
