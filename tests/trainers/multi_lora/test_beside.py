"""Adapters beside a layer that has code of its own, as one of four-bit weights: as autograd has it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainers.multi_lora.linear import Adapters, PackedLinear


def test_adapters_beside_a_layer_have_the_gradients_of_autograd() -> None:
    torch.manual_seed(0)
    shapes = (2, 5, 4), (2, 4, 3), (2, 3, 6)
    x, a, b = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    scaling = torch.tensor([[[2.0]], [[0.5]]], dtype=torch.float64)
    grad_a, grad_b = torch.zeros_like(a), torch.zeros_like(b)
    wanted = torch.autograd.grad(((x @ a) @ (b * scaling)).square().sum(), (x, a, b))
    nothing = torch.zeros((), requires_grad=True)
    y: Tensor = Adapters.apply(x, a.detach(), (b * scaling).detach(), scaling, grad_a, grad_b, nothing)  # type: ignore
    (dx,) = torch.autograd.grad(y.square().sum(), (x,))
    for ours, autograds in zip((dx, grad_a, grad_b), wanted, strict=True):
        torch.testing.assert_close(ours, autograds)


class Linear4bit(nn.Module):
    """As bitsandbytes' layer is taken: it has weights that nobody looks at, and is called."""

    def __init__(self) -> None:
        super().__init__()
        self.packed = torch.randn(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.packed)


Linear4bit.__module__ = "bitsandbytes.nn.modules"


def test_a_layer_in_four_bits_is_called_and_its_adapters_are_added_for_each_run() -> None:
    torch.manual_seed(0)
    base = Linear4bit()
    layer = PackedLinear(base)
    layer.a, layer.b = torch.randn(2, 4, 3).bfloat16(), torch.randn(2, 3, 6).bfloat16()
    layer.scaling = torch.tensor([[[2.0]], [[0.5]]]).bfloat16()
    layer.grad_a, layer.grad_b = torch.zeros_like(layer.a), torch.zeros_like(layer.b)
    x = torch.randn(2, 5, 4)
    wanted = base(x) + ((x.bfloat16() @ layer.a) @ (layer.b * layer.scaling)).float()
    torch.testing.assert_close(layer(x), wanted, rtol=2e-2, atol=2e-2)
    layer.on = False
    assert torch.equal(layer(x), base(x))
