"""Facts about measuring several policies in one pass: each gets the numbers that it gets alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, masking_utils
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from studies.records import EvaluationConfig, Measurement
from tests.trainers.evaluation.test_evaluate import measured, pairs_of, tiny_model, tiny_tokenizer
from tests.trainers.pack_runs import wide_norm
from tests.trainers.packs import Weights, lora_weights, pack_of
from trainers.data.pairs import Pairs
from trainers.data.tokens import TokenIds
from trainers.evaluation.evaluate import NonFinite, ReferenceNumbers, evaluate_all, packed_policies, reference_numbers
from trainers.evaluation.pair_scores import pair_log_probs
from trainers.evaluation.policies import CachedReader, Policies, one_policy
from trainers.evaluation.room import RoomyLayer
from trainers.evaluation.sampling import Samples, sample
from trainers.multi_lora.flat import Unpackable
from trainers.multi_lora.layout import hidden_states

CONFIG = EvaluationConfig(prompts=30, max_new_tokens=8, batch_size=8)
TOKENIZER = tiny_tokenizer()


def gold(prompts: Sequence[Any], completions: Sequence[str], ended: Sequence[bool]) -> list[float]:
    return [len(c) + len(p) + 10.0 * end for p, c, end in zip(prompts, completions, ended, strict=True)]


# Different prompts, numbers of pairs and rewards, as runs of other blocks and scenarios have.
PAIRS = (
    replace(pairs_of("a b", "c", "a"), gold=gold),
    replace(pairs_of("b"), digest="few"),
    replace(
        pairs_of("c c a b", "a a", "b c", "c", "b b b"), digest="many", gold=lambda prompts, *_: [1.0] * len(prompts)
    ),
)


@pytest.fixture(params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return tiny_model(request.param).double().eval()


@pytest.fixture(params=["as many rows as fit", "small batches"])
def batches(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "small batches":
        monkeypatch.setattr("trainers.evaluation.sizes._FREE_ON_CPU", 0)
        monkeypatch.setattr("trainers.evaluation.sizes._LOGITS_ON_CPU", 40)
        monkeypatch.setattr("trainers.evaluation.sizes._LOGITS_IN_CACHE", 40)


def adapters(model: PreTrainedModel) -> list[Weights]:
    return [lora_weights(model, seed, std) for seed, std in ((1, 0.4), (2, 0.05), (3, 0.8))]


def references(model: PreTrainedModel, pairs: Sequence[Pairs] = PAIRS) -> list[ReferenceNumbers]:
    return [reference_numbers(model, TOKENIZER, own, CONFIG) for own in pairs]


def evaluated(
    model: PreTrainedModel, weights: Sequence[Weights], pairs: Sequence[Pairs], numbers: Sequence[ReferenceNumbers]
) -> list[dict[str, Measurement] | NonFinite]:
    pack = pack_of(model, weights)
    found = evaluate_all(packed_policies(pack), TOKENIZER, pairs, CONFIG, numbers, step=3)
    return [policy if isinstance(policy, NonFinite) else measured(policy) for policy in found]


def flat(found: dict[str, Measurement] | NonFinite) -> dict[str, float]:
    assert not isinstance(found, NonFinite)
    values = {f"{m.name} {kind}": v for m in found.values() for kind, v in (("value", m.value), ("error", m.error))}
    halves = {f"{m.name} half {i}": half for m in found.values() for i, half in enumerate(m.halves or ())}
    return {name: math.nan if value is None else value for name, value in (values | halves).items()}


@pytest.mark.usefixtures("batches")
def test_a_policy_has_the_numbers_in_a_pack_that_it_has_alone(model: PreTrainedModel) -> None:
    weights, numbers = adapters(model), references(model)
    together = evaluated(model, weights, PAIRS, numbers)
    for i in range(3):
        (alone,) = evaluated(model, [weights[i]], [PAIRS[i]], [numbers[i]])
        assert flat(together[i]) == pytest.approx(flat(alone), abs=1e-9, nan_ok=True)
    kls = [flat(found)["kl value"] for found in together]
    assert min(abs(a - b) for a, b in zip(kls, [*kls[1:], kls[0]], strict=True)) > 0.01


def test_places_in_a_pack_are_alike(model: PreTrainedModel) -> None:
    weights, numbers = adapters(model), references(model)
    order = [2, 0, 1]
    straight = evaluated(model, weights, PAIRS, numbers)
    turned = evaluated(model, *([values[i] for i in order] for values in (weights, PAIRS, numbers)))
    for place, i in enumerate(order):
        assert flat(turned[place]) == pytest.approx(flat(straight[i]), abs=1e-9, nan_ok=True)


@pytest.mark.usefixtures("batches")
@pytest.mark.parametrize("seeds", [pytest.param((4, 4, 4), marks=pytest.mark.slow), (4, 9, 4)])
def test_samples_of_a_pack_are_those_drawn_alone(model: PreTrainedModel, seeds: tuple[int, ...]) -> None:
    weights = adapters(model)
    prompts = [[[1 + (i * k + own) % 3 for k in range(1 + (i + own) % 5)] for i in range(40)] for own in range(3)]
    options: dict[str, Any] = {"end_ids": [0], "max_new_tokens": 8, "batch_size": 9}
    pack = pack_of(model, weights)
    together = sample(packed_policies(pack), prompts, seed=seeds, **options)
    lengths = set()
    for own, asked, found, seed in zip(weights, prompts, together, seeds, strict=True):
        pack = pack_of(model, [own])
        (alone,) = sample(packed_policies(pack), [asked], seed=seed, **options)
        assert isinstance(found, Samples)
        assert isinstance(alone, Samples)
        assert found.completions == alone.completions
        lengths |= {len(c.ids) for c in alone.completions}
    assert len(lengths) > 4


@pytest.mark.usefixtures("batches")
@pytest.mark.parametrize("model", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)], indirect=True)
def test_a_diverged_policy_is_named_and_its_neighbours_do_not_notice(model: PreTrainedModel) -> None:
    weights, numbers = adapters(model), references(model)
    expected = evaluated(model, weights, PAIRS, numbers)
    for broken, value in ((0, math.nan), (1, math.inf), (2, math.nan)):
        name, (first, second) = next(iter(weights[broken].items()))
        diverged = [*weights]
        diverged[broken] = weights[broken] | {name: (first, torch.full_like(second, value))}
        found = evaluated(model, diverged, PAIRS, numbers)
        for i in range(3):
            if i == broken:
                assert isinstance(found[i], NonFinite)
            else:
                assert flat(found[i]) == pytest.approx(flat(expected[i]), abs=1e-9, nan_ok=True)


class DivergesLate(torch.nn.Module):
    """The second policy's logits are no numbers behind a text of more than five tokens."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.inner, self.config, self.generation_config = model, model.config, model.generation_config

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **rest: Any) -> Any:
        output = self.inner(input_ids=input_ids, attention_mask=attention_mask, **rest)
        if attention_mask.shape[1] > 5:
            output.logits[len(input_ids) // 2 :] = math.nan
        return output


def test_a_policy_that_diverges_within_its_samples_is_named(model: PreTrainedModel) -> None:
    options: dict[str, Any] = {"end_ids": [0], "max_new_tokens": 8, "seed": 4, "batch_size": 9}
    prompts = [[[1, 2]] * 6] * 2
    found = sample(Policies(DivergesLate(model), 2), prompts, **options)
    (alone,) = sample(Policies(model), prompts[:1], **options)
    assert isinstance(found[0], Samples)
    assert isinstance(alone, Samples)
    assert found[0].completions == alone.completions
    assert isinstance(found[1], NonFinite)


def test_a_pack_of_one_measures_as_the_merged_model(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the model's norms are in float64 too, which round to float32 whatever it is in."""
    monkeypatch.setattr(LlamaRMSNorm, "forward", wide_norm)
    weights, numbers = adapters(model)[0], references(model, PAIRS[:1])
    (packed,) = evaluated(model, [weights], PAIRS[:1], numbers)
    merged = tiny_model("llama" if "Llama" in type(model).__name__ else "gpt2").double().eval()
    with torch.no_grad():
        for name, (first, second) in weights.items():
            layer = merged.get_submodule(name)
            layer.weight += (first @ second).T if isinstance(layer, torch.nn.Linear) else first @ second
    (alone,) = evaluate_all(one_policy(merged, model), TOKENIZER, PAIRS[:1], CONFIG, numbers, step=3)
    assert not isinstance(alone, NonFinite)
    assert flat(packed) == pytest.approx(flat(measured(alone)), abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("longest", [0, 256], ids=["the model's own body", "ours"])
def test_pairs_of_every_packed_model_have_the_same_log_probs_in_the_layout_and_padded(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, longest: int
) -> None:
    """Of prompts and answers of any length, and of policies with other pairs and other numbers of them."""
    passes: list[Tensor] = []

    def noted(*given: Any) -> Tensor:
        passes.append(hidden_states(*given))
        return passes[-1]

    monkeypatch.setattr(LlamaRMSNorm, "forward", wide_norm)
    monkeypatch.setattr("trainers.multi_lora.llama_body.LONGEST", longest)
    monkeypatch.setattr("trainers.evaluation.pair_scores.hidden_states", noted)
    rows = [TokenIds([1] * (i % 3), [2, 3, 1, 2, 3][: 2 + i % 4], [2, 1, 1][: 2 + i % 2]) for i in range(9)]
    pairs = [rows[:7], rows[4:5], rows[5:]]
    weights = adapters(model)
    together = pair_log_probs(packed_policies(pack_of(model, weights)), pairs, batch_size=4)
    assert passes
    for own, asked, found in zip(weights, pairs, together, strict=True):
        policies = replace(packed_policies(pack_of(model, [own])), packed=False)
        (alone,) = pair_log_probs(policies, [asked], batch_size=64)
        assert not isinstance(found, NonFinite)
        assert not isinstance(alone, NonFinite)
        for ours, theirs in zip(found, alone, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)


def test_pairs_that_the_layout_does_not_take_are_padded(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held-out pairs are not cut, and may be longer than a sliding window where those of training are not."""

    def too_long(*_: Any) -> Tensor:
        raise Unpackable("rows of 7 tokens pass the sliding window of 4")

    rows = [TokenIds([1, 2], [2, 3, 1], [2, 1]), TokenIds([3], [1], [2, 2])]
    policies = packed_policies(pack_of(model, adapters(model)))
    expected = pair_log_probs(policies, [rows] * 3, batch_size=4)
    monkeypatch.setattr("trainers.evaluation.pair_scores.hidden_states", too_long)
    for found, known in zip(pair_log_probs(policies, [rows] * 3, batch_size=4), expected, strict=True):
        assert not isinstance(found, NonFinite)
        assert not isinstance(known, NonFinite)
        np.testing.assert_allclose(found.chosen, known.chosen, rtol=1e-5)


def test_the_halves_of_the_samples_together_are_all_of_them(model: PreTrainedModel) -> None:
    (found,) = evaluated(model, adapters(model)[:1], PAIRS[:1], references(model, PAIRS[:1]))
    assert not isinstance(found, NonFinite)
    for name in ("gold", "kl"):
        halves = found[name].halves
        assert halves is not None
        assert sum(halves) / 2 == pytest.approx(found[name].value)
    for name in ("gold_per_token", "kl_per_token"):
        halves = found[name].halves
        assert halves is not None
        assert min(halves) < found[name].value < max(halves)
    assert found["margin"].halves is None


def test_a_prompt_is_read_once_for_all_samples_of_it(model: PreTrainedModel) -> None:
    read: list[int] = []

    @contextmanager
    def counting() -> Iterator[None]:
        handle = model.register_forward_hook(
            lambda _module, _args, given, _output: read.append(given["input_ids"].numel()), with_kwargs=True
        )
        yield
        handle.remove()

    with counting(), torch.no_grad():
        CachedReader(model, [[1, 2, 3]] * 5 + [[1, 2, 3], [2, 2, 2]] + [[1, 2, 3]] * 3, count=2, lengths=[4] * 10)
    assert read == [2 * 2 * 2]  # two different prompts in the second group, filled up to two in the first


def test_the_reference_reads_a_prompt_of_several_policies_once(model: PreTrainedModel) -> None:
    pack = pack_of(model, adapters(model))
    begun: list[int] = []

    def note(_module: object, _args: object, given: dict[str, Any]) -> None:
        if given["past_key_values"] is None:
            begun.append(len(given["input_ids"]))

    pack.model.register_forward_pre_hook(note, with_kwargs=True)
    options: dict[str, Any] = {"end_ids": [0], "max_new_tokens": 3, "seed": 4, "batch_size": 64}
    sample(packed_policies(pack), [[[1, 2, 3]] * 4] * 3, per_token=lambda policy, _: (policy.sum(-1),), **options)
    assert begun == [3, 1]  # each policy for itself, then the reference


def test_masks_that_are_made_beforehand_are_not_looked_into_and_change_no_number(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU each look at one makes the host wait for it."""
    looked: list[int] = []

    def look(padding_mask: Tensor | None, q_length: int, *args: Any, **more: Any) -> bool:
        looked.append(q_length)
        return own(padding_mask, q_length, *args, **more)

    own = masking_utils._ignore_causal_mask_sdpa
    monkeypatch.setattr(masking_utils, "_ignore_causal_mask_sdpa", look)
    options: dict[str, Any] = {"end_ids": [0], "max_new_tokens": 8, "seed": 4, "batch_size": 64}
    prompts = [[[1, 2, 3, 1][: 1 + i % 4] for i in range(7)]] * 3

    def drawn() -> tuple[Samples | NonFinite, ...]:
        policies = packed_policies(pack_of(model, adapters(model)))
        return sample(policies, prompts, per_token=lambda policy, reference: ((policy - reference).sum(-1),), **options)

    expected, often = drawn(), len(looked)
    looked.clear()
    monkeypatch.setattr("trainers.evaluation.policies._READS_MASKS", ())
    for found, known in zip(drawn(), expected, strict=True):
        assert isinstance(found, Samples)
        assert isinstance(known, Samples)
        assert found.completions == known.completions
        assert found.sums == pytest.approx(known.sums, abs=1e-9)
    assert often > 10
    assert len(looked) == 2  # as the prompts are read, by the policies and by the reference


def test_keys_and_values_with_room_are_written_in_place_and_change_no_number(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"end_ids": [0], "max_new_tokens": 12, "seed": 4, "batch_size": 64}
    prompts = [[[1, 2, 3, 1][: 1 + i % 4] for i in range(20)]] * 3
    made: list[int] = []
    with_room = RoomyLayer._with_room

    def noted(self: RoomyLayer, held: Tensor, end: int) -> Tensor:
        made.append(len(held))
        return with_room(self, held, end)

    def drawn() -> tuple[Samples | NonFinite, ...]:
        policies = packed_policies(pack_of(model, adapters(model)))
        return sample(policies, prompts, per_token=lambda policy, reference: ((policy - reference).sum(-1),), **options)

    expected = drawn()
    monkeypatch.setattr("trainers.evaluation.policies._COPIES", ())
    monkeypatch.setattr(RoomyLayer, "_with_room", noted)
    for found, known in zip(drawn(), expected, strict=True):
        assert isinstance(found, Samples)
        assert isinstance(known, Samples)
        assert found.completions == known.completions
        assert found.sums == pytest.approx(known.sums, abs=1e-9)
    layers = len([m for m in model.modules() if type(m).__name__ in ("LlamaAttention", "GPT2Attention")])
    sizes = set(made)
    assert len(sizes) > ("Llama" in type(model).__name__)  # there rows leave
    assert len(made) <= 2 * 2 * layers * len(sizes)  # once for keys and values of policies and reference, each time


@pytest.mark.parametrize("at_once", [1, 40, 2**20])
def test_sums_over_tokens_do_not_depend_on_how_many_are_summed_at_once(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    options: dict[str, Any] = {"end_ids": [0], "max_new_tokens": 8, "seed": 4, "batch_size": 64}
    prompts = [[[1, 2, 3][: 1 + i % 3] for i in range(7)]] * 3

    def drawn() -> list[Samples]:
        found = sample(
            packed_policies(pack_of(model, adapters(model))),
            prompts,
            per_token=lambda policy, reference: (policy.logsumexp(-1), (policy - reference).abs().sum(-1)),
            **options,
        )
        return [own for own in found if isinstance(own, Samples)]

    expected = drawn()
    monkeypatch.setattr("trainers.evaluation.sizes._LOGITS_IN_CACHE", at_once)
    for own, other in zip(drawn(), expected, strict=True):
        assert own.completions == other.completions
        assert own.sums == pytest.approx(other.sums, abs=1e-9)
        assert len({tuple(row) for row in own.sums}) > 1


def test_as_many_pairs_and_references_as_policies_are_asked_for(model: PreTrainedModel) -> None:
    with pytest.raises(ValueError, match="1 policies, but 3 pairs and 3 references"):
        evaluate_all(Policies(model), TOKENIZER, PAIRS, CONFIG, references(model))
