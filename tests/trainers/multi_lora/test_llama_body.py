"""The pack's own way through a Llama is the model's way, both there and back, and only for what is exactly a Llama."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from tests.trainers.pack_runs import wide_norm
from tests.trainers.packs import Weights, lora_weights, pack_of
from trainers.multi_lora import llama_body as llama
from trainers.multi_lora.adapters import PackedAdapters
from trainers.multi_lora.attention import tiled_attention as tiles
from trainers.multi_lora.layout import PackBatch, hidden_states, make_pair, micro_batch, pack_batch, packed_rows

SMALL = {"vocab_size": 50, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4}
CPU = torch.device("cpu")


def a_llama(**settings: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(**{**SMALL, "num_key_value_heads": 2, **settings})
    return LlamaForCausalLM(config).double()


@pytest.fixture(autouse=True)
def wide_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Llama's norms in float64, as the rest."""
    monkeypatch.setattr(LlamaRMSNorm, "forward", wide_norm)


def a_batch(lengths: Sequence[Sequence[tuple[int, int, int]]]) -> PackBatch:
    """For each run its pairs, as numbers of tokens: of the prompt, the chosen and the rejected answer."""
    draw = np.random.default_rng(0)
    micro = []
    for run in lengths:
        sides = [[draw.integers(50, size=n).tolist() for n in pair] for pair in run]
        micro.append(micro_batch([make_pair(p, c, r, slice(None)) for p, c, r in sides]))
    return pack_batch(micro, CPU)


BATCH = a_batch([[(5, 9, 30), (4, 3, 3)], [(2, 60, 50)], [(3, 4, 70), (40, 2, 2), (1, 1, 1)]])


def there_and_back(pack: PackedAdapters, batch: PackBatch = BATCH) -> tuple[Tensor, Tensor]:
    """Hidden states, and the gradients of the adapters for a random slope."""
    pack.gradients.zero_()
    with packed_rows(pack.model):
        hidden = hidden_states(pack.model, batch)
        slope = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1), dtype=hidden.dtype)
        (hidden * slope).sum().backward()  # type: ignore[no-untyped-call]
    return hidden.detach(), pack.gradients.clone()


def adapters(model: PreTrainedModel, *names: str) -> list[Weights]:
    """Three of them, of other ranks, on the layers whose names end so, or on all."""
    found = [lora_weights(model, seed, 0.3, rank) for seed, rank in ((1, 4), (2, 2), (3, 3))]
    return [{n: w for n, w in one.items() if n.endswith(names)} if names else one for one in found]


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each pass went the pack's own way."""
    seen: list[bool] = []
    plain = llama.fits

    def noted(*arguments: Any) -> bool:
        seen.append(plain(*arguments))
        return seen[-1]

    monkeypatch.setattr(llama, "fits", noted)
    return seen


@pytest.mark.parametrize("targets", [(), ("q_proj", "v_proj"), ("down_proj",), ("k_proj", "o_proj", "gate_proj")])
@pytest.mark.parametrize("shared", [1, 2, 4])
def test_states_and_gradients_are_those_of_the_models_own_code(
    targets: tuple[str, ...], shared: int, taken: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = a_llama(num_key_value_heads=shared, rope_parameters={"rope_type": "default", "rope_theta": 50.0})
    pack = pack_of(model, adapters(model, *targets))
    hidden, gradients = there_and_back(pack)
    assert taken == [True]
    monkeypatch.setattr(llama, "fits", lambda *_: False)
    expected, slopes = there_and_back(pack)
    torch.testing.assert_close(hidden, expected, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(gradients, slopes, rtol=1e-10, atol=1e-11)
    assert (gradients != 0).any(1).all()


def test_pairs_that_share_no_token_go_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = pack_batch([micro_batch([make_pair([], [1, 2, 3], [4, 5], slice(None))])], CPU)
    assert batch.places.again.shape == (2, 0)
    model = a_llama()
    pack = pack_of(model, adapters(model)[:1])
    found = there_and_back(pack, batch)
    monkeypatch.setattr(llama, "fits", lambda *_: False)
    for ours, own in zip(found, there_and_back(pack, batch), strict=True):
        torch.testing.assert_close(ours, own, rtol=1e-10, atol=1e-11)


def test_without_adapters_it_is_the_base(taken: list[bool]) -> None:
    model = a_llama()
    pack = pack_of(model, adapters(model))
    with torch.no_grad(), packed_rows(pack.model), pack.off():
        hidden = hidden_states(pack.model, BATCH)
    ids = BATCH.tokens[0][torch.from_numpy(BATCH.micro[0].tokens_of)]
    with torch.no_grad():
        whole = model.base_model(input_ids=ids, attention_mask=BATCH.own[0].attention_mask).last_hidden_state
    expected = whole[:, :-1].flatten(0, 1)[BATCH.own[0].at]
    assert taken == [True]
    torch.testing.assert_close(hidden[BATCH.predicted[0]], expected, rtol=1e-11, atol=1e-12)


def test_a_run_that_is_no_number_leaves_the_others_alone() -> None:
    model = a_llama()
    pack = pack_of(model, adapters(model))
    hidden, gradients = there_and_back(pack)
    pack.weights[1] = float("nan")
    broken, slopes = there_and_back(pack)
    assert broken[BATCH.predicted[1]].isnan().all()
    assert slopes[1].isnan().any()
    for k in (0, 2):
        assert torch.equal(broken[BATCH.predicted[k]], hidden[BATCH.predicted[k]])
        assert torch.equal(slopes[k], gradients[k])


def test_layers_that_are_computed_again_give_the_same(taken: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    model = a_llama()
    pack = pack_of(model, adapters(model))
    expected = there_and_back(pack)
    pack.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    pack.model.train()
    computed: list[None] = []
    attend = tiles.attend

    def counted(*states: Tensor) -> list[Tensor]:
        computed.append(None)
        return attend(*states)

    monkeypatch.setattr(llama, "attend", counted)
    found = there_and_back(pack)
    assert taken == [True, True]
    assert len(computed) == 2 * 2 * len(BATCH.places.blocks)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


class OtherNorm(LlamaRMSNorm):  # type: ignore[misc]
    """One that might compute anything."""


def with_another_norm() -> Any:
    model: Any = a_llama()
    model.model.layers[1].input_layernorm.__class__ = OtherNorm
    return model


def that_somebody_watches() -> Any:
    model: Any = a_llama()
    model.model.layers[0].mlp.register_forward_hook(lambda *_: None)
    return model


@pytest.mark.parametrize(
    "model",
    [
        lambda: a_llama(attention_bias=True),
        lambda: a_llama(mlp_bias=True),
        lambda: a_llama(hidden_act="gelu"),
        lambda: a_llama(attention_dropout=0.1),
        lambda: a_llama(hidden_size=64, intermediate_size=513),
        lambda: a_llama().bfloat16(),
        lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL, num_key_value_heads=2)),
        with_another_norm,
        that_somebody_watches,
    ],
    ids=["biases", "biases-in-the-mlp", "gelu", "dropout", "large", "half-precision", "qwen", "another-norm", "hooks"],
)
def test_what_is_not_exactly_a_small_llama_goes_through_its_own_code(model: Callable[[], Any]) -> None:
    base = model()
    base.train()
    pack = pack_of(base, [lora_weights(base, 1, 0.3, 2)])
    assert not llama.fits(pack.model, BATCH.places.length)


def test_autocast_and_long_rows_go_through_the_models_own_code() -> None:
    model = a_llama(max_position_embeddings=512)
    pack = pack_of(model, adapters(model))
    assert llama.fits(pack.model, BATCH.places.length)
    assert not llama.fits(pack.model, 303)
    with torch.autocast("cpu", torch.bfloat16):
        assert not llama.fits(pack.model, BATCH.places.length)
