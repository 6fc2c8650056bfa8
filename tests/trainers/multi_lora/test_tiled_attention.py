"""Attention in tiles is PyTorch's attention, and rows go to their places and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from trainers.multi_lora.attention.tiled_attention import tiled_attention
from trainers.multi_lora.rows import RowLayout, Rows, make_places


def states(rows: int, length: int, heads: int, seed: int) -> Tensor:
    """Random states [rows, length, heads, 6] that want gradients."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, length, heads, 6, generator=generator, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("length", [1, 16, 31, 33, 130])
@pytest.mark.parametrize("heads", [(4, 4), (6, 2)])
def test_tiles_give_the_attention_and_gradients_of_pytorch(length: int, heads: tuple[int, int]) -> None:
    q, k, v = states(3, length, heads[0], 0), states(3, length, heads[1], 1), states(3, length, heads[1], 2)
    ours = tiled_attention(q, k, v, 0.3)
    wide = [t.transpose(1, 2).repeat_interleave(heads[0] // t.shape[2], dim=1) for t in (q, k, v)]
    theirs = functional.scaled_dot_product_attention(wide[0], wide[1], wide[2], is_causal=True, scale=0.3).transpose(
        1, 2
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    slope = states(3, length, heads[0], 3).detach()
    for a, b in zip(*(torch.autograd.grad(out, (q, k, v), slope) for out in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_a_row_that_is_no_number_leaves_the_others_alone() -> None:
    q, k, v = (states(3, 50, 2, seed) for seed in range(3))
    whole = tiled_attention(q, k, v, 1.0)
    broken = q.detach().clone()
    broken[1] = float("nan")
    found = tiled_attention(broken, k, v, 1.0)
    assert found[1].isnan().all()
    assert torch.equal(found[[0, 2]], whole[[0, 2]])


# Two rows that begin with the tokens 0 and 1, a third row of its own, and two tokens of padding.
ROWS = Rows(
    tokens=np.array([[0, 1, 2, 3], [0, 1, 4, 0], [5, 0, 0, 0]]),
    lengths=np.array([4, 3, 1]),
    row=np.array([0, 0, 0, 0, 1, 2, 0, 0]),
    place=np.array([0, 1, 2, 3, 2, 0, 0, 0]),
)


@pytest.mark.parametrize("by_length", [False, True])
def test_tokens_come_back_from_their_places(by_length: bool) -> None:
    laid = make_places(ROWS, by_length=by_length)
    places = RowLayout(laid.blocks, *map(torch.from_numpy, laid.arrays))
    tokens = torch.arange(1.0, 9.0)[:, None]
    there = tokens[places.gather]
    assert sum(rows * length for rows, length in places.blocks) == len(there)
    assert torch.equal(there[places.scatter][:6], tokens[:6])
    assert places.real.tolist() == [True] * 6 + [False] * 2
    again, second = places.again
    assert again.tolist() == [0, 1]  # the second row begins with them too
    assert torch.equal(there[second], tokens[again])
    assert not set(second.tolist()) & set(places.scatter.tolist())
