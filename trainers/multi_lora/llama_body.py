"""The body of a Llama with adapters on a CPU, forward and backward; knows no loss, no data and no schedule.

The same numbers as the model's own code up to rounding, in fewer passes over memory: rows go to their places in
attention and back in one copy each way, queries and keys turn in one pass, and residuals and gradients that meet are
added inside of products. For layers so small that a weight for each run costs little beside the states of its tokens.
`fits` says which models it understands; all others go through their own code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.activations import SiLUActivation
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaMLP,
    LlamaModel,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)

from trainers.multi_lora.attention.tiled_attention import LONGEST, attend, attend_back
from trainers.multi_lora.linear import PackedLinear
from trainers.multi_lora.rows import RowLayout

_SMALL: Final = 2**15
"""Weights of a linear layer up to which every run gets its own, its adapter added, kept from forward to backward."""


def fits(model: PreTrainedModel, length: int) -> bool:
    """Whether `hidden_states` computes what the body of `model` does for rows of so many tokens, and in less time."""
    body = model.base_model
    weight = next(model.parameters())
    return (
        type(body) is LlamaModel
        and weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and length <= LONGEST
        and type(body.rotary_emb) is LlamaRotaryEmbedding
        and type(body.norm) is LlamaRMSNorm
        and all(_is_understood(layer) for layer in body.layers)
        and all(parameter.dtype is weight.dtype for parameter in body.parameters())
        and not any(m._forward_hooks or m._forward_pre_hooks for m in (body, body.norm, *body.layers.modules()))
    )


def _is_understood(layer: Any) -> bool:
    """Whether the layer is exactly a Llama's, without biases or dropout, and small."""
    if type(layer) is not LlamaDecoderLayer or type(layer.self_attn) is not LlamaAttention:
        return False
    own, mlp = layer.self_attn, layer.mlp
    if type(mlp) is not LlamaMLP or type(mlp.act_fn) is not SiLUActivation or (own.training and own.attention_dropout):
        return False
    if not type(layer.input_layernorm) is type(layer.post_attention_layernorm) is LlamaRMSNorm:
        return False
    linears = (own.q_proj, own.k_proj, own.v_proj, own.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    for linear in linears:
        base = linear.base_layer if isinstance(linear, PackedLinear) else linear
        if type(base) is not nn.Linear or base.bias is not None or base.weight.numel() > _SMALL:
            return False
    return True


def hidden_states(body: LlamaModel, tokens: Tensor, positions: Tensor, places: RowLayout, source: Tensor) -> Tensor:
    """What the body gives [M, width] for the tokens `source` [M] of all tokens [K, N], flattened."""
    x = body.embed_tokens(tokens).detach()
    attention = body.layers[0].self_attn
    heads = (body.config.num_attention_heads, body.config.num_key_value_heads, attention.head_dim)
    cos, sin = body.rotary_emb(x, position_ids=positions)
    turn = _turn(cos, sin, heads, attention.scaling)
    ways = TokenMap.of(places, heads)
    trained = torch.zeros((), requires_grad=True)  # makes autograd keep the way to the first layer
    for layer in body.layers[: body.config.num_hidden_layers]:
        if layer.gradient_checkpointing and layer.training:
            x = checkpoint(_layer, layer, x, turn, ways, trained, use_reentrant=False, preserve_rng_state=False)
        else:
            x = _layer(layer, x, turn, ways, trained)
    x = x.flatten(0, 1).index_select(0, source)
    return functional.rms_norm(x, (x.shape[1],), body.norm.weight.detach(), body.norm.variance_epsilon)


def _layer(layer: Any, x: Tensor, turn: Tensor, ways: TokenMap, trained: Tensor) -> Tensor:
    """One layer's states [K, N, width] from those of the layer before."""
    own, mlp, count = layer.self_attn, layer.mlp, len(x)
    turning = [Linear.of(module, count, own.head_dim) for module in (own.q_proj, own.k_proj)]
    linears = (*turning, *(Linear.of(module, count) for module in (own.v_proj, own.o_proj)))
    x = Attention.apply(x, layer.input_layernorm, linears, turn, ways, trained)  # type: ignore[no-untyped-call]
    linears = tuple(Linear.of(module, count) for module in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
    return Gated.apply(x, layer.post_attention_layernorm, linears)  # type: ignore[no-untyped-call, no-any-return]


# ---- linear layers and norms --------------------------------------------------------------------------------------


class Factors(NamedTuple):
    """A linear layer's adapters [K, inputs, rank] and [K, rank, outputs], scaled, and where their gradients go."""

    a: Tensor
    scaled: Tensor
    module: PackedLinear


@dataclass(frozen=True)
class Linear:
    """A linear layer in one pass: the weight [K, inputs, outputs] of each run, its adapter added. Outputs of heads of
    size `turning` lie as pairs that turn together; where it is 0, as they are.
    """

    weight: Tensor
    turning: int
    factors: Factors | None = None

    @classmethod
    def of(cls, module: nn.Module, count: int, turning: int = 0) -> Linear:
        """Of a plain linear layer, or one with adapters."""
        plain: Any = module.base_layer if isinstance(module, PackedLinear) else module
        weight = _as_pairs(plain.weight.detach().T, turning).expand(count, -1, -1)
        if not isinstance(module, PackedLinear) or not module.on:
            return cls(weight, turning)
        scaled = _as_pairs(module.b * module.scaling, turning)
        whole = torch.baddbmm(weight.mT, scaled.mT, module.a.mT).mT  # as the base's weights lie, to copy them faster
        return cls(whole, turning, Factors(module.a, scaled, module))


def add_gradients(linears: Sequence[Linear], x: Tensor, dys: Sequence[Tensor]) -> None:
    """Of the factors of layers with the same inputs [K, N, inputs], from gradients of their outputs [K, N, outputs]."""
    adapted = [(one.factors, one.turning, dy) for one, dy in zip(linears, dys, strict=True) if one.factors]
    if not adapted:
        return
    # What has the rank for a side is one product for all layers: so few rows leave a CPU half idle.
    inner = torch.bmm(torch.cat([factors.a for factors, _, _ in adapted], dim=2).mT, x.mT)
    d_inner = torch.empty_like(inner)
    rank = inner.shape[1] // len(adapted)
    thin, d_thin = torch.split(inner, rank, dim=1), torch.split(d_inner, rank, dim=1)
    for i, (factors, turning, dy) in enumerate(adapted):
        torch.bmm(factors.scaled, dy.mT, out=d_thin[i])
        grad_b = _as_halves(torch.bmm(thin[i], dy), turning)
        factors.module.grad_b.addcmul_(grad_b, factors.module.scaling)
    grads_a = torch.split(torch.bmm(d_inner, x), rank, dim=1)
    for (factors, _, _), grad_a in zip(adapted, grads_a, strict=True):
        factors.module.grad_a.add_(grad_a.mT)


def _as_pairs(outputs: Tensor, size: int) -> Tensor:
    """Outputs [..., heads size], in each head one of the first half, one of the second, and so on."""
    return outputs.view(*outputs.shape[:-1], -1, 2, size // 2).mT.flatten(-3) if size else outputs


def _as_halves(outputs: Tensor, size: int) -> Tensor:
    """What `_as_pairs` made pairs of."""
    return outputs.view(*outputs.shape[:-1], -1, size // 2, 2).mT.flatten(-3) if size else outputs


def norm(x: Tensor, layer: LlamaRMSNorm) -> tuple[Tensor, Tensor]:
    """x [..., width] over the root of its mean square, times the layer's weight; and each token's factor [..., 1].

    In the model's own steps, so that it rounds as the model does: the states of all layers begin here. (But for a
    float64 model, whose own norms are in float32.)
    """
    factor = x.pow(2).mean(-1, keepdim=True).add_(layer.variance_epsilon).rsqrt_()
    return (x * factor).mul_(layer.weight.detach()), factor


def norm_back(
    d_normed: Tensor, x: Tensor, normed: Tensor, factor: Tensor, layer: LlamaRMSNorm, beside: Tensor
) -> Tensor:
    """The gradient of x from that of `normed`, which is overwritten, plus one that came `beside` the norm."""
    slope = (d_normed * normed).sum(-1, keepdim=True).mul_(factor).mul_(factor).div_(-x.shape[-1])
    return torch.addcmul(beside, d_normed.mul_(layer.weight.detach()), factor).addcmul_(x, slope)


# ---- attention ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TokenMap:
    """The ways of a pass between tokens and places, the same in all layers.

    Of each token there are H + 2 S vectors of d numbers: queries, keys, values. At the places lie first the queries of
    all blocks, each [B, S, T, H / S], then keys and then values [B, S, T], and last what padding reads and writes.

    `there` [P (H + 2 S)]: the token's vector at each place; `back` [tokens (H + 2 S)]: where a token's vectors are;
    `out` [tokens H]: where attention's are that come from its queries; `again` [A], `again_back` [A (H + 2 S)]: tokens
    that stand at a second place too, and where their vectors are there.
    """

    blocks: tuple[tuple[int, int], ...]
    heads: tuple[int, int, int]
    there: Tensor
    back: Tensor
    out: Tensor
    again: Tensor
    again_back: Tensor

    @classmethod
    def of(cls, places: RowLayout, heads: tuple[int, int, int]) -> TokenMap:
        """For H heads of queries and S of keys and values, of d numbers."""
        h, s, _ = heads
        count, vectors = places.count, h + 2 * s
        queries, keys = _numbered(places.blocks, s, h // s), _numbered(places.blocks, s, 1)
        numbers = torch.cat([queries, keys + count * h, keys + count * (h + s)], dim=1)
        there = torch.empty(numbers.numel(), dtype=torch.int64)
        there[numbers.flatten()] = (places.gather[:, None] * vectors + torch.arange(vectors)).flatten()
        padding = torch.arange(vectors)[None] + count * vectors
        token, place = places.again
        stands = torch.where(places.real, places.scatter, count)
        return cls(
            blocks=places.blocks,
            heads=heads,
            there=there,
            back=torch.cat([numbers, padding])[stands].flatten(),
            out=torch.cat([queries, padding[:, :h] - 2 * count * s])[stands].flatten(),
            again=token,
            again_back=numbers[place].flatten(),
        )

    def parts(self, vectors: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Queries [B S, T H / S, d], keys and values [B S, T, d] of each block."""
        h, s, size = self.heads
        places = [rows * length for rows, length in self.blocks]
        sizes = [count * n for n in (h, s, s) for count in places]
        split = torch.split(vectors[: sum(sizes)], sizes)
        blocks = len(places)
        three = (split[:blocks], split[blocks : 2 * blocks], split[2 * blocks :])
        for (rows, _), q, k, v in zip(self.blocks, *three, strict=True):
            yield q.view(rows * s, -1, size), k.view(rows * s, -1, size), v.view(rows * s, -1, size)

    def found(self, vectors: Tensor) -> Iterator[Tensor]:
        """What attention gives [B S, T H / S, d] for the queries of each block."""
        h, s, size = self.heads
        lengths = [rows * length * h for rows, length in self.blocks]
        for (rows, _), part in zip(self.blocks, torch.split(vectors[: sum(lengths)], lengths), strict=True):
            yield part.view(rows * s, -1, size)

    def room(self, vectors: int, like: Tensor) -> Tensor:
        """Room for so many vectors of each place; zeros for padding."""
        count = sum(rows * length for rows, length in self.blocks)
        room = like.new_empty((count + 1) * vectors, self.heads[2])
        room[count * vectors :] = 0.0
        return room


def _numbered(blocks: Sequence[tuple[int, int]], shared: int, group: int) -> Tensor:
    """Where the vectors of each place are [P, S G], when each block lies as [B, S, T, G]."""
    found, at = [], 0
    for rows, length in blocks:
        size = rows * length * shared * group
        numbers = torch.arange(at, at + size).view(rows, shared, length, group)
        found.append(numbers.transpose(1, 2).reshape(rows * length, -1))
        at += size
    return torch.cat(found)


def _turn(cos: Tensor, sin: Tensor, heads: tuple[int, int, int], scale: float) -> Tensor:
    """Complex numbers [K, N, (H + S) d / 2] that turn pairs of queries and keys; queries get attention's scale too."""
    h, s, size = heads
    turn = torch.complex(cos[..., : size // 2], sin[..., : size // 2])
    return torch.cat([(turn * scale).repeat(1, 1, h), turn.repeat(1, 1, s)], dim=-1)


def _turning(states: Tensor, turn: Tensor) -> Tensor:
    """Queries and keys in states [K, N, (H + 2 S) d] as complex numbers."""
    return torch.view_as_complex(states.view(*states.shape[:-1], -1, 2))[..., : turn.shape[-1]]


class Attention(torch.autograd.Function):
    """x + attention(norm(x)) of states [K, N, width]; the linear layers of queries, keys, values and the output."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        layer: LlamaRMSNorm,
        linears: Sequence[Linear],
        turn: Tensor,
        ways: TokenMap,
        trained: Tensor,
    ) -> Tensor:
        *inwards, outwards = linears
        widths = [one.weight.shape[2] for one in inwards]
        normed, factor = norm(x, layer)
        states = x.new_empty(*x.shape[:2], sum(widths))
        for one, part in zip(inwards, torch.split(states, widths, dim=-1), strict=True):
            torch.bmm(normed, one.weight, out=part)
        _turning(states, turn).mul_(turn)
        vectors = states.view(-1, ways.heads[2]).index_select(0, ways.there)
        room = ways.room(ways.heads[0], x)
        kept = [attend(*parts, found) for parts, found in zip(ways.parts(vectors), ways.found(room), strict=True)]
        out = room.index_select(0, ways.out).view(*x.shape[:2], -1)
        ctx.save_for_backward(x, normed, factor, vectors, turn, out, *(w for weights in kept for w in weights))
        ctx.others = (layer, linears, ways, widths, [len(weights) for weights in kept])
        return torch.baddbmm(x, out, outwards.weight)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, normed, factor, vectors, turn, out, *flat = ctx.saved_tensors
        layer, (*inwards, outwards), ways, widths, numbers = ctx.others
        add_gradients([outwards], out, [dy])
        d_room = torch.zeros_like(ways.room(ways.heads[0], x))
        d_room.index_copy_(0, ways.out, torch.bmm(dy, outwards.weight.mT).view(-1, ways.heads[2]))
        d_vectors = ways.room(ways.heads[0] + 2 * ways.heads[1], x)
        weights = iter(flat)
        blocks = zip(ways.parts(vectors), ways.parts(d_vectors), ways.found(d_room), numbers, strict=True)
        for inputs, d_inputs, d_found, number in blocks:
            attend_back(d_found, inputs, [next(weights) for _ in range(number)], d_inputs)
        d_states = d_vectors.index_select(0, ways.back).view(*x.shape[:2], -1)
        again = d_vectors.index_select(0, ways.again_back).view(-1, sum(widths))
        d_states.flatten(0, 1).index_add_(0, ways.again, again)
        _turning(d_states, turn).mul_(turn.conj())
        parts = torch.split(d_states, widths, dim=-1)
        add_gradients(inwards, normed, parts)
        dx = None
        if ctx.needs_input_grad[0]:
            d_normed = torch.bmm(parts[0], inwards[0].weight.mT)
            for one, part in zip(inwards[1:], parts[1:], strict=True):
                d_normed.baddbmm_(part, one.weight.mT)
            dx = norm_back(d_normed, x, normed, factor, layer, dy)
        return dx, None, None, None, None, None


# ---- the gated layer ----------------------------------------------------------------------------------------------


class Gated(torch.autograd.Function):
    """x + down(silu(gate(norm(x))) up(norm(x))) of states [K, N, width]; the linear layers gate, up and down."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: LlamaRMSNorm, linears: Sequence[Linear]) -> Tensor:
        gate, up, down = linears
        normed, factor = norm(x, layer)
        gates, ups = torch.bmm(normed, gate.weight), torch.bmm(normed, up.weight)
        y = torch.baddbmm(x, functional.silu(gates).mul_(ups), down.weight)
        # Its product is computed again: that takes less time than to write it to memory and read it back.
        ctx.save_for_backward(x, normed, factor, gates, ups)
        ctx.layer, ctx.linears = layer, linears
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, normed, factor, gates, ups = ctx.saved_tensors
        gate, up, down = ctx.linears
        opened = functional.silu(gates)
        add_gradients([down], opened * ups, [dy])
        d_product = torch.bmm(dy, down.weight.mT)
        d_ups = opened.mul_(d_product)
        d_gates = torch.ops.aten.silu_backward(d_product.mul_(ups), gates)
        add_gradients([gate, up], normed, [d_gates, d_ups])
        d_normed = torch.bmm(d_ups, up.weight.mT).baddbmm_(d_gates, gate.weight.mT)
        return norm_back(d_normed, x, normed, factor, ctx.layer, dy), None, None
