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
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

# A layer is small up to this ratio of its weights to those of its adapter, with so many rows a rank at least.
_SMALL = 8


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
    def around(cls, adapters: Sequence[Adapter]) -> Geometry:
        """The smallest geometry that holds all of `adapters`."""
        widths = {n: (lora.a.shape[1], lora.b.shape[0]) for adapter in adapters for n, lora in adapter.items()}
        rank = max(lora.a.shape[0] for adapter in adapters for lora in adapter.values())
        return cls.of(widths, rank)

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


class PackedAdapters:
    """The adapters of a pack: `weights` and `gradients` [K, size], `scalings` [K, layers], and the model around them.

    `model` shares every tensor with the base it was made from and is called with K groups of rows. A backward pass
    adds to `gradients`; nothing else is trained.
    """

    def __init__(self, base: PreTrainedModel) -> None:
        self.model = _twin(base)
        self.geometry = Geometry({}, 1, 0)
        parameter = next(base.parameters())
        self.device = parameter.device
        # As PEFT does (autocast_adapter_dtype): adapters of a half-precision base are trained in float32.
        self.dtype = torch.float64 if parameter.dtype is torch.float64 else torch.float32
        self._likes: list[Adapter] = []
        self._layers: dict[str, PackedLinear] = {}
        self._lay_out(self.geometry, torch.empty(0, 0, dtype=self.dtype, device=self.device))

    @property
    def count(self) -> int:
        """How many adapters there are."""
        return len(self._likes)

    def add(self, adapters: Sequence[Adapter]) -> None:
        """Append adapters. Whoever keeps vectors in the old geometry must move them (`Geometry.moved`)."""
        geometry = self.geometry.joined(Geometry.around(adapters)) if self._likes else Geometry.around(adapters)
        new = torch.stack([geometry.pack(adapter, self.dtype, self.device) for adapter in adapters])
        old = (self.weights, self.gradients)
        kept, half = (self.geometry.moved(t, geometry) if self._likes else new[:0] for t in old)
        self._likes = [*self._likes, *adapters]
        self._lay_out(geometry, torch.cat([kept, new]), torch.cat([half, torch.zeros_like(new)]))

    def keep(self, slots: Sequence[int]) -> None:
        """Keep only these adapters, in this order."""
        self._likes = [self._likes[i] for i in slots]
        self._lay_out(self.geometry, self.weights[list(slots)], self.gradients[list(slots)])

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
        try:
            self.keep(slots)
            yield self
        finally:
            self._likes = likes
            self._lay_out(self.geometry, weights, gradients)

    def _lay_out(self, geometry: Geometry, weights: Tensor, gradients: Tensor | None = None) -> None:
        """Point every layer at its part of the weights and of the gradients (None: zeros)."""
        for name in geometry.sites.keys() - self._layers.keys():
            self._layers[name] = _inject(self.model, name)
        self.geometry, self.weights = geometry, weights
        self.gradients = torch.zeros_like(weights) if gradients is None else gradients
        for name, layer in self._layers.items():
            scalings = [like[name].scaling if name in like else 0.0 for like in self._likes]
            layer.scaling = torch.tensor(scalings, dtype=self.dtype, device=self.device)[:, None, None]
            layer.a, layer.b = geometry.factors(weights, name)
            layer.grad_a, layer.grad_b = geometry.factors(self.gradients, name)


class PackedLinear(nn.Module):
    """A frozen linear layer with K adapters; takes [K * rows, ..., inputs], or [K, ..., inputs]."""

    a: Tensor
    b: Tensor
    grad_a: Tensor
    grad_b: Tensor
    scaling: Tensor

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base_layer = base
        self.on = True
        # The factors are no autograd leaves; this makes autograd keep the way from the output to here.
        self._trained = torch.zeros((), requires_grad=True)

    def forward(self, x: Tensor) -> Tensor:
        if not self.on:
            return self.base_layer(x)  # type: ignore[no-any-return]
        count = len(self.a)
        if x.shape[0] % count:
            raise Unpackable(f"a layer mixes the rows of {count} runs: it got an input of shape {tuple(x.shape)}")
        weight: Tensor = self.base_layer.weight  # type: ignore[assignment]
        bias: Tensor | None = self.base_layer.bias  # type: ignore[assignment]
        if isinstance(self.base_layer, Conv1D):
            weight = weight.T
        grouped = x.reshape(count, -1, x.shape[-1])
        a, scaled = self.a, self.b * self.scaling  # the factor costs a pass over b instead of one over the output
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            grouped, weight, a, scaled = grouped.to(dtype), weight.to(dtype), a.to(dtype), scaled.to(dtype)
            bias = None if bias is None else bias.to(dtype)
        if self._is_small(grouped, weight, a):
            y: Tensor = _SmallLinearWithAdapters.apply(  # type: ignore[no-untyped-call]
                grouped, weight, bias, a, scaled, self.scaling, self.grad_a, self.grad_b, self._trained
            )
            return y.view(*x.shape[:-1], y.shape[-1])
        with torch.autocast(x.device.type, enabled=False):
            y = _LinearWithAdapters.apply(  # type: ignore[no-untyped-call]
                grouped, weight, bias, a, scaled, self.scaling, self.grad_a, self.grad_b, self._trained
            )
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    def _is_small(x: Tensor, weight: Tensor, a: Tensor) -> bool:
        """Whether the whole layer costs less with each adapter added to a weight of its own. Not in half precision,
        where the sum would lose most of the adapter.
        """
        outputs, inputs = weight.shape
        rank = a.shape[2]
        return (
            x.device.type == "cpu"
            and x.dtype is weight.dtype is a.dtype
            and x.dtype in (torch.float32, torch.float64)
            and inputs * outputs <= _SMALL * rank * (inputs + outputs)
            and x.shape[1] >= _SMALL * rank
        )


class _SmallLinearWithAdapters(torch.autograd.Function):
    """x (W' + a b) + bias over K groups: `_LinearWithAdapters` for layers so small that products of rank r cost more.

    Thin products pass over the activations once each. Where the layer itself is thin, those that add the adapter's part
    cost more than a weight for each run (tests/benchmarks/small_layers.py).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        scaled: Tensor,
        scaling: Tensor,
        grad_a: Tensor,
        grad_b: Tensor,
        trained: Tensor,
    ) -> Tensor:
        whole = torch.baddbmm(weight.T.expand(len(a), -1, -1), a, scaled)
        ctx.save_for_backward(x, whole, a, scaled)
        ctx.scaling, ctx.grad_a, ctx.grad_b = scaling, grad_a, grad_b
        return torch.bmm(x, whole) if bias is None else torch.baddbmm(bias, x, whole)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, whole, a, scaled = ctx.saved_tensors
        ctx.grad_a.add_(torch.bmm(torch.bmm(scaled, dy.mT), x).mT)
        ctx.grad_b.add_(torch.bmm(torch.bmm(a.mT, x.mT), dy) * ctx.scaling)
        dx = torch.bmm(dy, whole.mT) if ctx.needs_input_grad[0] else None
        return dx, None, None, None, None, None, None, None, None


class _LinearWithAdapters(torch.autograd.Function):
    """x W' + bias + (x a) b over K groups, with the factors' gradients added where they belong.

    One function, so that the adapter's part is added inside of the products (baddbmm) both ways, instead of in passes
    of its own over activations. The factors' gradients are not autograd's: adding them to the flat vector directly
    saves one copy of each, and what a run's gradient does never depends on another's. All that has the rank for a side
    is computed and kept as [rank, rows]: products with so few columns take a CPU several times as long as with so few
    rows.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        scaled: Tensor,
        scaling: Tensor,
        grad_a: Tensor,
        grad_b: Tensor,
        trained: Tensor,
    ) -> Tensor:
        y = functional.linear(x, weight, bias)
        mixed = x.dtype is not a.dtype  # a half-precision base without autocast: PEFT adds in the adapter's precision
        inner = torch.bmm(a.mT, x.to(a.dtype).mT)
        y = (y + torch.bmm(inner.mT, scaled)).to(y.dtype) if mixed else y.baddbmm_(inner.mT, scaled)
        ctx.save_for_backward(x, weight, a, scaled, inner)
        ctx.scaling, ctx.grad_a, ctx.grad_b = scaling, grad_a, grad_b
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, weight, a, scaled, inner = ctx.saved_tensors
        wide = dy.to(a.dtype)
        d_inner = torch.bmm(scaled, wide.mT)
        ctx.grad_b.add_(torch.bmm(inner, wide).to(ctx.grad_b.dtype) * ctx.scaling)
        ctx.grad_a.add_(torch.bmm(d_inner, x.to(a.dtype)).mT)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = dy @ weight
            thin = d_inner.mT
            dx = dx.baddbmm_(thin, a.mT) if dx.dtype is a.dtype else (dx + torch.bmm(thin, a.mT)).to(dx.dtype)
        return dx, None, None, None, None, None, None, None, None


def _twin(base: PreTrainedModel) -> PreTrainedModel:
    """A second module tree over the same tensors: layers can be exchanged in it while the base stays as it is."""
    shared = {id(tensor): tensor for tensor in (*base.parameters(), *base.buffers())}
    twin: PreTrainedModel = copy.deepcopy(base, shared)
    twin.__dict__.pop("forward", None)  # a patched one, as TRL's, would still lead to the base
    return twin


def _inject(model: PreTrainedModel, name: str) -> PackedLinear:
    """Put a packed layer in the place of the linear layer `name`. Raises Unpackable where that is something else."""
    module = model.get_submodule(name)
    if type(module) not in (nn.Linear, Conv1D):
        raise Unpackable(f"{name} is a {type(module).__name__}, not a plain linear layer")
    if math.prod(module.weight.shape) == 0:
        raise Unpackable(f"{name} has no weights in this process")
    packed = PackedLinear(module)
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, packed)
    return packed
