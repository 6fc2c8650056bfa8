"""Facts about how many rows are measured at once on a GPU: as many as fit, by bytes held against counted ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from tests.trainers.counted_bytes import CountedBytes
from tests.trainers.packs import lora_weights, pack_of
from trainers.data.tokens import TokenIds
from trainers.evaluation import sizes
from trainers.evaluation.metrics import token_entropy_and_kl
from trainers.evaluation.pair_scores import pair_log_probs
from trainers.evaluation.policies import Policies, one_policy, packed_policies
from trainers.evaluation.sampling import NonFinite, Samples, sample
from trainers.evaluation.sizes import Shape, laid_pairs, sampled_rows, scored_rows, waiting_logits

CUDA = torch.device("cuda")
POLICIES, PROMPTS = 2, 120
PAIRS = [TokenIds([5 + i % 7] * 6, [9] * 20, [11] * (14 + i % 6)) for i in range(60)]


@pytest.fixture(scope="module", params=["wide vocabulary", pytest.param("long rows", marks=pytest.mark.slow)])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    torch.manual_seed(0)
    widths = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 6, "num_key_value_heads": 2}
    vocabulary = 1500 if request.param == "wide vocabulary" else 64
    return LlamaForCausalLM(LlamaConfig(**widths, num_hidden_layers=4, vocab_size=vocabulary)).eval()


def policies_of(model: PreTrainedModel) -> Policies:
    return packed_policies(pack_of(model, [lora_weights(model, i, 0.02) for i in range(POLICIES)]))


def drawn(policies: Policies) -> tuple[Samples | NonFinite, ...]:
    prompts = [[[3 + i % 5] * 8 for i in range(PROMPTS)]] * policies.count
    options: dict[str, Any] = {"end_ids": [1], "max_new_tokens": 12, "seed": 4, "batch_size": 8}
    return sample(policies, prompts, per_token=token_entropy_and_kl, **options)


def as_on_a_gpu(patch: pytest.MonkeyPatch, usable: int) -> None:
    """Sizes are those of a GPU with so many usable bytes."""
    patch.setattr(sizes, "usable_bytes", lambda _: usable)
    patch.setattr(sizes, "logits_at_once", lambda _: 2**12)


def peak_of(work: Callable[[], Any]) -> int:
    with CountedBytes() as counted:
        work()
    return counted.peak


@pytest.mark.parametrize("mib", [6])
def test_what_samples_take_is_what_they_may(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, mib: int) -> None:
    as_on_a_gpu(monkeypatch, mib * 2**20)
    policies = policies_of(model)
    assert 0.2 * mib * 2**20 < peak_of(lambda: drawn(policies)) < mib * 2**20


@pytest.mark.parametrize("mib", [4])
@pytest.mark.parametrize("packed", [True, False], ids=["in the layout", "padded"])
def test_what_scored_pairs_take_is_what_they_may(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, mib: int, packed: bool
) -> None:
    as_on_a_gpu(monkeypatch, mib * 2**20)
    monkeypatch.setattr("trainers.multi_lora.llama_body.LONGEST", 0)  # through the model's own code, as on a GPU
    monkeypatch.setattr("trainers.multi_lora.log_probs._LOGITS_AT_ONCE", 2**12)  # its kernel keeps to 0.3 GB there
    policies = policies_of(model) if packed else one_policy(model)
    peak = peak_of(lambda: pair_log_probs(policies, [PAIRS] * policies.count, 8))
    assert 0.15 * mib * 2**20 < peak < mib * 2**20


def test_numbers_do_not_depend_on_how_much_memory_there_is(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies = policies_of(model)
    expected = drawn(policies)
    as_on_a_gpu(monkeypatch, 4 * 2**20)
    for found, known in zip(drawn(policies), expected, strict=True):
        assert isinstance(found, Samples)
        assert isinstance(known, Samples)
        assert found.completions == known.completions
        np.testing.assert_allclose(found.sums, known.sums, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("fits", [9])
def test_samples_and_pairs_that_do_not_fit_are_halved_with_the_same_numbers(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, fits: int
) -> None:
    policies = policies_of(model)
    expected = drawn(policies), pair_log_probs(policies, [PAIRS] * POLICIES, 64)
    tried: list[int] = []

    def full(_module: torch.nn.Module, _args: Any, given: dict[str, Any]) -> None:
        rows = len(given["input_ids"]) if "layout" not in given else given["layout"].micro[0].rows * POLICIES
        tried.append(rows)
        if rows > fits * 2 * POLICIES:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("trainers.multi_lora.llama_body.LONGEST", 0)
    handles = [m.register_forward_pre_hook(full, with_kwargs=True) for m in (policies.model, policies.model.model)]
    samples, pairs = drawn(policies), pair_log_probs(policies, [PAIRS] * POLICIES, 64)
    for handle in handles:
        handle.remove()
    assert max(tried) > fits * 2 * POLICIES
    for found, known in zip(samples, expected[0], strict=True):
        assert isinstance(found, Samples)
        assert isinstance(known, Samples)
        assert found.completions == known.completions
    for own, other in zip(pairs, expected[1], strict=True):
        assert not isinstance(own, NonFinite)
        assert not isinstance(other, NonFinite)
        np.testing.assert_allclose(own.chosen, other.chosen, rtol=1e-5)


def smol() -> PreTrainedModel:
    """Of SmolLM2-135M's shape, without its weights."""
    config = LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49152,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        return LlamaForCausalLM(config)


def test_a_card_of_141_gb_samples_all_rows_of_16_policies_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 x 256 prompts of 96 tokens with 256 new ones: before, 331 rows, so 20 of each."""
    monkeypatch.setattr(sizes, "usable_bytes", lambda _: int(0.8 * 130e9))
    assert sampled_rows(smol().bfloat16(), CUDA, 96 + 256, 3, 64) > 16 * 170
    assert sampled_rows(smol().bfloat16(), CUDA, 96 + 256, 2, 64) >= 4096
    assert scored_rows(smol(), CUDA, 256, 160, 64) > 100
    assert laid_pairs(smol(), CUDA, 256) * 2 * 256 == pytest.approx(2**17, rel=0.01)
    assert waiting_logits(smol(), CUDA, 3) >= 4096 * 49152


def test_on_a_small_card_fewer_rows_go_at_once_and_at_least_one_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for usable in (6e9, 24e9, 100e9):
        monkeypatch.setattr(sizes, "usable_bytes", lambda _, usable=usable: int(usable))
        found.append(sampled_rows(smol(), CUDA, 1350, 3, 64))
    assert found == sorted(found)
    assert 0 < found[0] < found[-1] / 10


def test_bytes_of_a_token_are_those_of_its_keys_and_values(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Shape.of(smol()).cached == 2 * 30 * 3 * 64 * 4
    assert Shape.of(smol().bfloat16()).cached == 2 * 30 * 3 * 64 * 2
