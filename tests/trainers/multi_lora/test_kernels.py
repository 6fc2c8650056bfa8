"""Facts about what a GPU's kernels are given: not cuDNN's attention, heads as they are shared, ranks by eights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.trainers.packs import lora_weights, pack_of
from trainers.evaluation.policies import measuring
from trainers.multi_lora import layout
from trainers.multi_lora.attention import kernels
from trainers.multi_lora.attention.kernels import attention_kernels, shares_heads
from trainers.multi_lora.layout import hidden_states, make_pair, micro_batch, pack_batch, packed_rows

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
PAIRS = [make_pair([1, 2], [3, 4, 5, 1], [3, 2], slice(None)), make_pair([2], [1, 1], [2, 3, 4], slice(None))]


def a_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    widths = {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 6, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**widths, num_hidden_layers=2, vocab_size=16)).double()


def there_and_back(ranks_of: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, list[Any]]:
    """The rank of a pack, and hidden states and gradients of adapters of rank 4 through it."""
    monkeypatch.setattr("trainers.multi_lora.adapters._RANKS_OF", {"cpu": ranks_of})
    monkeypatch.setattr("trainers.multi_lora.llama_body.LONGEST", 0)  # through the model's own code, as on a GPU
    model = a_llama()
    pack = pack_of(model, [lora_weights(model, seed, 0.3, rank=4) for seed in (1, 2)])
    with packed_rows(pack.model):
        hidden = hidden_states(pack.model, pack_batch([micro_batch(PAIRS)] * 2, CPU))
        torch.autograd.backward(hidden.square().sum())
    gradients = [pack.geometry.unpack(pack.gradients[i], pack.read(i)) for i in range(2)]
    return pack.geometry.rank, [hidden.detach(), *(part for g in gradients for lora in g.values() for part in lora[:2])]


def takes_cudnn() -> bool:
    """Whether attention on a GPU may take cuDNN's kernel now."""
    return bool(torch.backends.cuda.cudnn_sdp_enabled())  # type: ignore[no-untyped-call]


def test_on_a_gpu_attention_goes_without_cudnn_and_elsewhere_as_it_was() -> None:
    before = takes_cudnn()
    with attention_kernels(CUDA):
        assert not takes_cudnn()
        assert torch.backends.cuda.flash_sdp_enabled()  # type: ignore[no-untyped-call]
        assert torch.backends.cuda.mem_efficient_sdp_enabled()  # type: ignore[no-untyped-call]
    with attention_kernels(CPU):
        assert takes_cudnn() == before
    assert takes_cudnn() == before


def test_measuring_chooses_kernels_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainers.evaluation.policies.device_of", lambda _: CUDA)
    with measuring(torch.nn.Linear(1, 1)):
        assert not takes_cudnn()


@pytest.mark.parametrize(
    ("dtype", "device", "flash", "shares"),
    [
        (torch.bfloat16, "meta", True, False),
        (torch.bfloat16, "cuda", True, True),
        (torch.bfloat16, "cuda", False, False),  # T4 and V100
        (torch.float32, "cuda", True, False),  # the memory-efficient kernel takes a head of its own for each
    ],
)
def test_heads_that_share_keys_are_repeated_where_the_kernel_wants_it(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, device: str, flash: bool, shares: bool
) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    monkeypatch.setattr(kernels, "_has_flash", lambda: flash)
    with FakeTensorMode():
        assert shares_heads(torch.empty(2, 6, 8, 64, dtype=dtype, device=device)) is shares


def test_shared_heads_give_the_numbers_of_repeated_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    _, expected = there_and_back(1, monkeypatch)
    heads: list[int] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def noted(q: Any, k: Any, v: Any, **options: Any) -> Any:
        heads.append(k.shape[1])
        return attend(q, k, v, **options)

    monkeypatch.setattr(layout, "tiles_pay", lambda *_: False)
    monkeypatch.setattr(layout, "shares_heads", lambda _: True)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    _, found = there_and_back(1, monkeypatch)
    assert set(heads) == {2}
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-11)


def test_a_rank_that_is_rounded_up_changes_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow, expected = there_and_back(1, monkeypatch)
    wide, found = there_and_back(8, monkeypatch)
    assert (narrow, wide) == (4, 8)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-11)
