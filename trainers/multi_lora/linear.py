"""Linear layers with the adapters of a pack."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from trainers.multi_lora.flat import Unpackable

# A layer is small up to this ratio of its weights to those of its adapter, with so many rows a rank at least.
SMALL = 8


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
        if is_four_bit(self.base_layer):
            return self._beside(x)
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
            y: Tensor = SmallLinearWithAdapters.apply(  # type: ignore[no-untyped-call]
                grouped, weight, bias, a, scaled, self.scaling, self.grad_a, self.grad_b, self._trained
            )
            return y.view(*x.shape[:-1], y.shape[-1])
        with torch.autocast(x.device.type, enabled=False):
            y = LinearWithAdapters.apply(  # type: ignore[no-untyped-call]
                grouped, weight, bias, a, scaled, self.scaling, self.grad_a, self.grad_b, self._trained
            )
        return y.view(*x.shape[:-1], y.shape[-1])

    def _beside(self, x: Tensor) -> Tensor:
        """What a layer of four-bit weights gives, by its own code both ways, plus the adapters' part. As PEFT adds it:
        computed in the adapter's precision, or that of autocast.
        """
        y: Tensor = self.base_layer(x)
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.a.dtype
        grouped = x.reshape(len(self.a), -1, x.shape[-1]).to(dtype)
        a, scaled = self.a.to(dtype), (self.b * self.scaling).to(dtype)
        with torch.autocast(device, enabled=False):
            more: Tensor = Adapters.apply(  # type: ignore[no-untyped-call]
                grouped, a, scaled, self.scaling, self.grad_a, self.grad_b, self._trained
            )
        return y + more.view(y.shape).to(y.dtype)

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
            and inputs * outputs <= SMALL * rank * (inputs + outputs)
            and x.shape[1] >= SMALL * rank
        )


def is_four_bit(layer: nn.Module) -> bool:
    """Whether it is bitsandbytes' layer of four-bit weights, told without importing that package."""
    return type(layer).__name__ == "Linear4bit" and type(layer).__module__.startswith("bitsandbytes.")


def keep_layout(model: torch.nn.Module) -> None:
    """Keep bitsandbytes from laying four-bit weights out anew at the first evaluation on a CPU with bf16 instructions:
    in that layout, which stays, nothing has a gradient (`Linear4bit.forward`, 0.50).
    """
    layers: list[Any] = [layer for layer in model.modules() if is_four_bit(layer)]
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False


class Adapters(torch.autograd.Function):
    """(x a) b over K groups alone, beside a layer that has code of its own; see `LinearWithAdapters`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        a: Tensor,
        scaled: Tensor,
        scaling: Tensor,
        grad_a: Tensor,
        grad_b: Tensor,
        trained: Tensor,
    ) -> Tensor:
        inner = torch.bmm(a.mT, x.mT)
        ctx.save_for_backward(x, a, scaled, inner)
        ctx.scaling, ctx.grad_a, ctx.grad_b = scaling, grad_a, grad_b
        return torch.bmm(inner.mT, scaled)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, a, scaled, inner = ctx.saved_tensors
        d_inner = torch.bmm(scaled, dy.mT)
        ctx.grad_b.add_(torch.bmm(inner, dy).to(ctx.grad_b.dtype) * ctx.scaling)
        ctx.grad_a.add_(torch.bmm(d_inner, x).mT)
        dx = torch.bmm(d_inner.mT, a.mT) if ctx.needs_input_grad[0] else None
        return dx, None, None, None, None, None, None


class SmallLinearWithAdapters(torch.autograd.Function):
    """x (W' + a b) + bias over K groups: `LinearWithAdapters` for layers so small that products of rank r cost more.

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


class LinearWithAdapters(torch.autograd.Function):
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
