"""Facts about measurements: hand-computed formulas, exactly enumerable models, and what measuring leaves alone."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from studies.records import METRICS, DataConfig, EvaluationConfig, Measurement
from tests.trainers.pack_runs import wide_norm
from trainers.data.pairs import Pairs, Row, load_pairs
from trainers.evaluation.evaluate import Evaluation, NonFinite, evaluate, reference_numbers
from trainers.evaluation.metrics import (
    PairLogProbs,
    accuracy,
    distinct,
    entropy,
    length_baseline,
    margin,
    mean,
    ranking_gain,
    ratio,
    sign_accuracy,
    token_entropy,
    token_entropy_and_kl,
    token_log_probs,
)
from trainers.evaluation.policies import Policies, measuring
from trainers.evaluation.samples import samples
from trainers.evaluation.sampling import Completion, Samples, Scored, sample, score
from trainers.world.pairs import load_model, load_tokenizer

END, WORDS = "<end>", ("a", "b", "c")
SE = 4.0


def array(*values: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array(values, dtype=np.float64)


# ---- formulas by hand


def test_a_mean_has_the_standard_error_of_its_samples() -> None:
    # sd with n - 1 of 1, 2, 6 is sqrt(7)
    assert mean(array(1, 2, 6)) == pytest.approx((3.0, math.sqrt(7 / 3)))
    assert mean(array(5)) == (5.0, None)


def test_a_ratio_is_that_of_the_means_with_the_linearised_error() -> None:
    # r = 6/4; residuals of (2, 4) - 1.5 * (1, 3) are .5 and -.5, of sd sqrt(.5)
    assert ratio(array(2, 4), array(1, 3)) == pytest.approx((1.5, math.sqrt(0.5) / (math.sqrt(2) * 2)))
    assert ratio(array(3, 6), array(1, 2)) == (3.0, 0.0)
    assert ratio(array(3), array(2)) == (1.5, None)


# log-probs in nats; margins relative to the reference are 1, 0, -3, 2
POLICY = PairLogProbs(array(-4, -6, -9, -8), array(-6, -6, -5, -9), array(4, 2, 3, 2), array(2, 2, 3, 4))
REFERENCE = PairLogProbs(array(-5, -6, -8, -9), array(-6, -6, -7, -8), array(4, 2, 3, 2), array(2, 2, 3, 4))


def test_margin_is_the_mean_difference_of_log_ratios() -> None:
    assert margin(POLICY, REFERENCE).value == 0.0
    assert margin(POLICY, REFERENCE).error == pytest.approx(math.sqrt(14 / 3 / 4))


def test_accuracy_counts_ties_one_half() -> None:
    rounded = REFERENCE._replace(chosen=REFERENCE.chosen + array(1e-6, -1e-6, 0, 2e-6))
    assert accuracy(rounded, REFERENCE) == (0.5, 0.0)
    assert accuracy(POLICY, REFERENCE).value == (1 + 0.5 + 0 + 1) / 4
    assert accuracy(REFERENCE, REFERENCE) == (0.5, 0.0)


def test_single_answers_are_told_right_by_the_sign_of_their_own_log_ratio() -> None:
    # Of each pair: both sides right, both moved up (the bad one wrong), both down (the good one wrong), untouched.
    policy = PairLogProbs(np.array([1.0, 2.0, -1.0, 0.0]), np.array([-1.0, 1.0, -3.0, 0.0]), np.ones(4), np.ones(4))
    zero = PairLogProbs(np.zeros(4), np.zeros(4), np.ones(4), np.ones(4))
    assert sign_accuracy(policy, zero).value == (1.0 + 0.5 + 0.5 + 0.5) / 4
    assert accuracy(policy, zero).value == (1.0 + 1.0 + 1.0 + 0.5) / 4
    assert sign_accuracy(zero, zero) == (0.5, 0.0)


def test_ranking_gain_compares_log_probs_per_token_with_the_references_own() -> None:
    # per token: policy -1 > -3, -3 = -3, -3 < -5/3, -4 < -9/4; reference -5/4 > -3, -3 = -3, -8/3 < -7/3, -4.5 < -2
    assert ranking_gain(POLICY, REFERENCE) == (0.0, 0.0)
    better = POLICY._replace(chosen=array(-4, -5, -9, -4))
    # the second is now right (+.5), the fourth, -2 against -9/4, too (+1)
    assert ranking_gain(better, REFERENCE).value == 1.5 / 4
    assert ranking_gain(better, REFERENCE).error == pytest.approx(np.std([0, 0.5, 0, 1], ddof=1) / 2)


def test_the_length_baseline_picks_the_longer_answer() -> None:
    assert length_baseline(POLICY).value == (1 + 0.5 + 0.5 + 0) / 4


def test_entropy_is_per_token_and_not_per_sample() -> None:
    assert entropy(array(1, 8), array(1, 2)).value == 3.0


def test_distinct_counts_bigrams_over_all_samples() -> None:
    assert distinct([[1, 2, 3], [1, 2], [7]]).value == 2 / 3
    assert distinct([[1], [2]]).value == 0.0


def test_token_formulas_on_two_words() -> None:
    p, q = (torch.tensor(shares, dtype=torch.float64).log() for shares in ([0.75, 0.25], [0.5, 0.5]))
    q = q + 3.0
    uneven, even = -0.75 * math.log(0.75) - 0.25 * math.log(0.25), math.log(2)
    of_p, of_q = (torch.stack(token_entropy_and_kl(*logits)).tolist() for logits in ((p - 1.0, q), (q, p)))
    assert of_p == pytest.approx([uneven, 0.75 * math.log(1.5) + 0.25 * math.log(0.5)], abs=1e-12)
    assert of_q == pytest.approx([even, 0.5 * math.log(2 / 3) + 0.5 * math.log(2)], abs=1e-12)
    assert token_entropy(p - 2.0).item() == pytest.approx(uneven, abs=1e-12)
    assert token_log_probs(q[None], torch.tensor([1])).item() == pytest.approx(math.log(0.5), abs=1e-12)


# ---- a model small enough to enumerate


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Words a, b, c and the end, with spaces between them dropped."""
    tokenizer = Tokenizer(models.WordLevel({END: 0, **{w: i + 1 for i, w in enumerate(WORDS)}}, unk_token=END))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)


def tiny_model(kind: str = "llama", seed: int = 0) -> PreTrainedModel:
    """Random, with weights large enough that the next word depends on the prompt; positions rotary or learnt."""
    torch.manual_seed(seed)
    sizes = {"eos_token_id": 0, "bos_token_id": None, "pad_token_id": None}
    if kind == "llama":
        llama = LlamaConfig(
            vocab_size=4, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, **sizes
        )
        model: PreTrainedModel = LlamaForCausalLM(llama)
    else:
        model = GPT2LMHeadModel(GPT2Config(vocab_size=4, n_embd=16, n_layer=2, n_head=2, n_positions=32, **sizes))
    for name, parameter in model.named_parameters():
        if "norm" not in name and "ln_" not in name:
            torch.nn.init.normal_(parameter, std=0.4)
    return model


def adapted(model: PreTrainedModel, std: float, seed: int = 1) -> PeftModel:
    """The model with an adapter whose second factors are random with `std`; at 0 it changes nothing."""
    policy = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
    torch.manual_seed(seed)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=std)
    return policy


def next_log_probs(model: torch.nn.Module, ids: Sequence[int]) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=torch.tensor([list(ids)])).logits[0, -1].double().log_softmax(-1)
    return found


def sequences(cap: int) -> list[tuple[int, ...]]:
    """All completions of at most `cap` tokens: ended by 0, or as long as the cap."""
    short = [(*w, 0) for n in range(cap) for w in itertools.product((1, 2, 3), repeat=n)]
    return short + list(itertools.product((1, 2, 3), repeat=cap))


def log_prob(model: torch.nn.Module, prompt: Sequence[int], completion: Sequence[int]) -> float:
    return sum(float(next_log_probs(model, [*prompt, *completion[:i]])[token]) for i, token in enumerate(completion))


def exact_kl(policy: PeftModel, prompt: Sequence[int], cap: int) -> float:
    """sum over all completions of pi(y) log(pi(y) / ref(y))."""
    total = 0.0
    for completion in sequences(cap):
        ours = log_prob(policy, prompt, completion)
        with policy.disable_adapter():
            total += math.exp(ours) * (ours - log_prob(policy, prompt, completion))
    return total


def pairs_of(*prompts: str) -> Pairs:
    rows = tuple(Row(prompt=p, chosen=chosen, rejected=" c") for p in prompts for chosen in (" a b", " a", " b c a"))
    return Pairs(train=rows, evaluation=rows, prompts=prompts, digest="d", facts={})


def measured(found: Evaluation) -> dict[str, Measurement]:
    return {m.name: m for m in found.measurements}


def evaluated(policy: PeftModel, pairs: Pairs, config: EvaluationConfig) -> dict[str, Measurement]:
    with policy.disable_adapter():
        reference = reference_numbers(policy, tiny_tokenizer(), pairs, config)
    return measured(evaluate(policy, tiny_tokenizer(), pairs, config, reference))


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models in float64 have no layer in float32 either, so that nothing rounds by how many rows are read at once."""
    monkeypatch.setattr(LlamaRMSNorm, "forward", wide_norm)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_kl_of_one_token_is_exact(kind: str) -> None:
    policy = adapted(tiny_model(kind).double(), std=0.5).eval()
    kl = evaluated(policy, pairs_of("a b"), EvaluationConfig(prompts=5, max_new_tokens=1))["kl"]
    assert kl.value == pytest.approx(exact_kl(policy, [1, 2], 1), abs=1e-12)
    assert kl.error == pytest.approx(0.0, abs=1e-12)
    assert kl.value > 0.05


@pytest.mark.parametrize("kind", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_kl_and_entropy_of_sequences_agree_with_enumeration(kind: str) -> None:
    policy = adapted(tiny_model(kind), std=0.5).eval()
    found = evaluated(policy, pairs_of("a b"), EvaluationConfig(prompts=4000, max_new_tokens=3, batch_size=512))
    kl, exact = found["kl"], exact_kl(policy, [1, 2], 3)
    assert kl.error is not None
    assert abs(kl.value - exact) < SE * kl.error
    # the error must be that of the Rao-Blackwellised estimate, small enough to tell it from half of the KL
    assert SE * kl.error < 0.5 * exact
    logs = [(log_prob(policy, [1, 2], y), len(y)) for y in sequences(3)]
    exact_entropy = -sum(math.exp(p) * p for p, _ in logs) / sum(math.exp(p) * n for p, n in logs)
    assert found["entropy"].error is not None
    assert abs(found["entropy"].value - exact_entropy) < SE * found["entropy"].error
    tokens = sum(math.exp(p) * n for p, n in logs)
    assert found["kl_per_token"].error is not None
    assert abs(found["kl_per_token"].value - exact / tokens) < SE * found["kl_per_token"].error


@pytest.mark.usefixtures("exact")
def test_shifts_are_differences_of_whole_log_probs_with_the_end() -> None:
    policy, pairs = adapted(tiny_model().double(), std=0.5).eval(), pairs_of("a", "b c a")
    found = evaluated(policy, pairs, EvaluationConfig(prompts=2, max_new_tokens=2, batch_size=4))
    ids = {word: i + 1 for i, word in enumerate(WORDS)}
    shifts: dict[str, list[float]] = {"chosen": [], "rejected": []}
    for row, side in itertools.product(pairs.evaluation, shifts):
        prompt = [ids[w] for w in str(row["prompt"]).split()]
        completion = [*(ids[w] for w in str(row[side]).split()), 0]  # type: ignore[literal-required]
        ours = log_prob(policy, prompt, completion)
        with policy.disable_adapter():
            shifts[side].append(ours - log_prob(policy, prompt, completion))
    chosen, rejected = np.array(shifts["chosen"]), np.array(shifts["rejected"])
    assert found["chosen_shift"].value == pytest.approx(chosen.mean(), abs=1e-12)
    assert found["rejected_shift"].value == pytest.approx(rejected.mean(), abs=1e-12)
    assert found["margin"].value == pytest.approx((chosen - rejected).mean(), abs=1e-12)
    assert found["margin"].error == pytest.approx((chosen - rejected).std(ddof=1) / math.sqrt(6), abs=1e-12)
    assert found["accuracy"].value == pytest.approx(((chosen - rejected) > 0).mean())
    reached = (chosen - rejected) >= 0.1
    assert 0.0 < reached.mean() < 1.0
    least = evaluated(policy, pairs, EvaluationConfig(prompts=2, max_new_tokens=2, batch_size=4, margin=0.1))
    assert least["margin_share"].value == pytest.approx(reached.mean())
    assert least["margin_share"].error == pytest.approx(reached.std(ddof=1) / math.sqrt(6))
    assert sum(least["margin_share"].halves or ()) / 2 == pytest.approx(reached.mean())


# ---- samples


def drawn_from(model: PreTrainedModel, prompts: Sequence[Sequence[int]], **options: Any) -> tuple[Completion, ...]:
    (found,) = sample(Policies(model), [prompts], **options)
    assert isinstance(found, Samples)
    return found.completions


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches have as many rows as is asked for: these models are so small that they would have all."""
    monkeypatch.setattr("trainers.evaluation.sizes._FREE_ON_CPU", 0)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_samples_follow_the_models_own_distribution(kind: str) -> None:
    model = tiny_model(kind).eval()
    n = 4000
    drawn = drawn_from(model, [[1, 2]] * n, end_ids=[0], max_new_tokens=2, seed=3, batch_size=1000)
    for completion in sequences(2):
        expected = math.exp(log_prob(model, [1, 2], completion))
        share = sum(tuple(c.ids) == completion for c in drawn) / n
        assert abs(share - expected) < SE * math.sqrt(expected * (1 - expected) / n) + 1e-4


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.usefixtures("small_batches")
def test_a_sample_depends_on_nothing_else_in_its_batch(kind: str) -> None:
    model = tiny_model(kind).eval()
    prompts = [[1 + (i * k) % 3 for k in range(1 + i % 5)] for i in range(60)]
    options: dict[str, Any] = {"end_ids": [0], "max_new_tokens": 8, "seed": 0}
    alone = drawn_from(model, prompts, batch_size=1, **options)
    together = drawn_from(model, prompts, batch_size=60, **options)
    assert alone == together
    assert drawn_from(model, prompts[:7], batch_size=3, **options) == alone[:7]
    assert len({c.ended for c in alone}) == 2
    assert all((c.ids[-1] == 0) == c.ended and 0 not in c.ids[:-1] for c in alone)
    assert {len(c.ids) for c in alone if not c.ended} == {8}


@pytest.mark.usefixtures("small_batches", "exact")
@pytest.mark.parametrize("prompts", [4, 2])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_padding_and_batches_do_not_change_log_probs(kind: str, prompts: int) -> None:
    model = tiny_model(kind).double().eval()
    completions = [Completion([1, 2, 3, 1][: 1 + i % prompts], [2, 3, 1, 1, 0][i % 3 :]) for i in range(12)]
    found: dict[int, float] = {}

    def read(batch: Scored) -> None:
        assert len(batch.ids) <= 5
        values = token_log_probs(batch.logits, batch.ids)
        found.update(zip(batch.rows[0], (values * batch.mask).sum(-1).tolist(), strict=True))

    with measuring(model):
        score(Policies(model), [completions], 5, read)
    expected = [log_prob(model, c.prompt, c.ids) for c in completions]
    assert [found[i] for i in range(12)] == pytest.approx(expected, abs=1e-12)


# ---- evaluation as a whole


CONFIG = EvaluationConfig(prompts=20, max_new_tokens=6, batch_size=8)


@pytest.mark.usefixtures("exact")
def test_a_fresh_adapter_measures_as_the_reference() -> None:
    found = evaluated(adapted(tiny_model().double(), std=0.0), pairs_of("a", "b c"), CONFIG)
    zero = ("margin", "chosen_shift", "rejected_shift", "ranking_gain")
    assert [found[name].value for name in zero] == [0.0] * len(zero)
    # the policy reads its samples a token at a time and the reference many, so that rounding differs
    assert [found[name].value for name in ("kl", "kl_per_token")] == pytest.approx([0.0, 0.0], abs=1e-12)
    assert (found["accuracy"].value, found["train_accuracy"].value, found["length_ratio"].value) == (0.5, 0.5, 1.0)


def test_every_measurement_has_a_name_with_a_unit_and_the_step() -> None:
    policy, pairs = (
        adapted(tiny_model(), std=0.5),
        replace(pairs_of("a", "b"), gold=lambda prompts, *_: [1.0] * len(prompts)),
    )
    reference = reference_numbers(policy, tiny_tokenizer(), pairs, CONFIG)
    found = evaluate(policy, tiny_tokenizer(), pairs, CONFIG, reference, step=7).measurements
    timed = {"steps_per_second", "tokens_per_second", "peak_memory", "train_seconds", "evaluation_seconds"}
    logged = {"loss", "eval_loss", "grad_norm", "learning_rate", "reward_margin", "reward_accuracy"}
    assert {m.name for m in found} == set(METRICS) - timed - logged
    assert {m.step for m in found} == {7}
    assert {m.name for m in found if m.error is None} == {"distinct"}
    halved = {"gold", "gold_per_token", "kl", "kl_per_token", "margin_share"}
    assert {m.name for m in found if m.halves} == halved


def test_the_training_part_is_labelled_as_it_is_trained() -> None:
    policy, pairs = adapted(tiny_model(), std=0.5), pairs_of("a", "b", "c", "a b")
    flipped = tuple(Row(prompt=r["prompt"], chosen=r["rejected"], rejected=r["chosen"]) for r in pairs.train)
    found = [evaluated(policy, replace(pairs, train=rows), CONFIG) for rows in (pairs.train, flipped)]
    assert found[0]["train_accuracy"].value == pytest.approx(1.0 - found[1]["train_accuracy"].value)
    assert found[0]["train_accuracy"].value != 0.5
    assert found[0]["accuracy"] == found[1]["accuracy"]


def test_gold_sees_the_prompt_the_text_without_its_end_and_whether_it_ended() -> None:
    seen: list[tuple[str, str, bool]] = []

    def gold(prompts: Sequence[Any], completions: Sequence[str], ended: Sequence[bool]) -> list[float]:
        seen.extend(zip(prompts, completions, ended, strict=True))
        return [len(text.split()) + 100.0 * end for text, end in zip(completions, ended, strict=True)]

    policy, pairs = adapted(tiny_model(), std=0.5), replace(pairs_of("a", "b c"), gold=gold)
    found = evaluated(policy, pairs, CONFIG)
    ours = seen[len(seen) // 2 :]
    assert [prompt for prompt, _, _ in ours] == ["a", "b c"] * 10
    assert all(END not in completion for _, completion, _ in ours)
    words = [len(completion.split()) for _, completion, _ in ours]
    ended = [ended for _, _, ended in ours]
    assert found["gold"].value == pytest.approx(np.mean(words) + 100.0 * np.mean(ended))
    assert found["gold_per_token"].value == pytest.approx((sum(words) + 100.0 * sum(ended)) / (sum(words) + sum(ended)))


def test_shown_samples_are_those_that_are_measured() -> None:
    tokenizer, policy = tiny_tokenizer(), adapted(tiny_model(), std=0.5)
    seen: list[str] = []

    def gold(_: object, completions: Sequence[str], ended: Sequence[bool]) -> list[float]:
        seen.extend(completions)
        return [float(end) for end in ended]

    pairs = replace(pairs_of("a", "b c"), gold=gold)
    evaluated(policy, pairs, CONFIG)
    measured_texts = seen[-CONFIG.prompts :]
    shown = samples(policy, tokenizer, pairs, CONFIG, 5)
    assert [s.completion for s in shown] == measured_texts[:5]
    assert [s.prompt for s in shown] == ["a", "b c", "a", "b c", "a"]


def test_the_first_prompts_that_differ_are_shown_with_the_answers_that_are_measured() -> None:
    tokenizer, policy = tiny_tokenizer(), adapted(tiny_model(), std=0.5)
    pairs = replace(pairs_of("a", "b c", "a", "b", "c c", "b b"), gold=_length_and_end)
    with policy.disable_adapter():
        reference = reference_numbers(policy, tokenizer, pairs, CONFIG)
        before = samples(policy, tokenizer, pairs, CONFIG, 6)
    shown = evaluate(policy, tokenizer, pairs, CONFIG, reference).samples
    after = samples(policy, tokenizer, pairs, CONFIG, 6)
    places = [0, 1, 3, 4]
    assert [s.prompt for s in shown] == ["a", "b c", "b", "c c"]
    assert [(s.before, s.gold_before, s.cut_before) for s in shown] == [
        (before[i].completion, before[i].gold, not before[i].ended) for i in places
    ]
    assert [(s.after, s.gold_after, s.cut_after) for s in shown] == [
        (after[i].completion, after[i].gold, not after[i].ended) for i in places
    ]
    assert any(s.before != s.after for s in shown)


def test_the_first_space_of_a_sample_is_kept_where_the_tokenizer_would_leave_it_out() -> None:
    words = Tokenizer(models.WordLevel({END: 0, **{f"▁{w}": i + 1 for i, w in enumerate(WORDS)}}, unk_token=END))
    words.pre_tokenizer, words.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token=END, pad_token=END)
    assert tokenizer.decode([2, 3]) == "b c"
    shown = samples(tiny_model(), tokenizer, pairs_of("a b"), CONFIG, 10)
    assert {s.completion[:1] for s in shown} <= {"", " "}
    assert any(s.completion for s in shown)


def test_a_diverged_policy_is_named_and_not_measured() -> None:
    policy, pairs = adapted(tiny_model(), std=0.5), pairs_of("a")
    reference = reference_numbers(policy, tiny_tokenizer(), pairs, CONFIG)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(parameter, math.nan)
    with pytest.raises(NonFinite, match="not finite"):
        evaluate(policy, tiny_tokenizer(), pairs, CONFIG, reference)
    with pytest.raises(NonFinite, match="not finite"):
        samples(policy, tiny_tokenizer(), pairs, CONFIG, 2)


def test_measuring_leaves_mode_gradients_and_random_numbers_alone() -> None:
    policy, pairs = adapted(tiny_model(), std=0.5).train(), pairs_of("a", "b")
    trained = {name for name, p in policy.named_parameters() if p.requires_grad}
    torch.manual_seed(5)
    np.random.seed(5)
    expected = (torch.rand(3).tolist(), np.random.rand(3).tolist())
    torch.manual_seed(5)
    np.random.seed(5)
    evaluated(policy, pairs, CONFIG)
    assert (torch.rand(3).tolist(), np.random.rand(3).tolist()) == expected
    assert policy.training
    assert {name for name, p in policy.named_parameters() if p.requires_grad} == trained
    policy(input_ids=torch.tensor([[1, 2]]), labels=torch.tensor([[1, 2]])).loss.backward()


@pytest.mark.usefixtures("exact")
def test_a_full_model_is_measured_against_a_model_of_its_own() -> None:
    tokenizer, pairs, start = tiny_tokenizer(), pairs_of("a", "b c"), tiny_model().double()
    policy = adapted(tiny_model().double(), std=0.5)
    expected = evaluated(policy, pairs, CONFIG)
    merged = policy.merge_and_unload()
    reference = reference_numbers(start, tokenizer, pairs, CONFIG)
    found = measured(evaluate(merged, tokenizer, pairs, CONFIG, reference, reference_model=start))
    assert {n: m.value for n, m in found.items()} == pytest.approx({n: m.value for n, m in expected.items()}, abs=1e-9)
    alone = measured(evaluate(merged, tokenizer, pairs, CONFIG, reference))
    assert set(found) - set(alone) == {"kl", "kl_per_token"}


@pytest.mark.usefixtures("exact")
def test_the_reference_of_an_adapter_trained_further_is_its_state_at_the_start() -> None:
    policy, pairs = adapted(tiny_model().double(), std=0.5), pairs_of("a")
    policy.add_adapter("ref", LoraConfig(r=2, target_modules="all-linear"))
    weights = dict(policy.named_parameters())
    with torch.no_grad():
        for name, parameter in weights.items():
            if ".ref." in name:
                parameter.copy_(weights[name.replace(".ref.", ".default.")])
    reference = reference_numbers(policy, tiny_tokenizer(), pairs, CONFIG)
    found = measured(evaluate(policy, tiny_tokenizer(), pairs, CONFIG, reference))
    assert found["kl"].value == pytest.approx(0.0, abs=1e-12)


def test_numbers_of_other_data_or_another_evaluation_are_refused() -> None:
    policy, pairs = adapted(tiny_model(), std=0.0), pairs_of("a")
    reference = reference_numbers(policy, tiny_tokenizer(), pairs, CONFIG)
    with pytest.raises(ValueError, match="belong to other pairs"):
        evaluate(policy, tiny_tokenizer(), replace(pairs, digest="other"), CONFIG, reference)
    with pytest.raises(ValueError, match="belong to other pairs"):
        evaluate(policy, tiny_tokenizer(), pairs, CONFIG.model_copy(update={"prompts": 3}), reference)


def test_only_the_asked_for_pairs_are_measured() -> None:
    policy, pairs = adapted(tiny_model(), std=0.5), pairs_of("a", "b", "c")
    few = evaluated(policy, pairs, CONFIG.model_copy(update={"pairs": 3}))
    only = evaluated(policy, replace(pairs, evaluation=pairs.evaluation[:3]), CONFIG)
    assert few["margin"] == only["margin"] != evaluated(policy, pairs, CONFIG)["margin"]


def _length_and_end(_: object, completions: Sequence[str], ended: Sequence[bool]) -> list[float]:
    return [len(text) + 100.0 * end for text, end in zip(completions, ended, strict=True)]


def _ends_a_sentence(_: object, completions: Sequence[str], ended: Sequence[bool]) -> list[float]:
    return [float(end and text.endswith(" .")) for text, end in zip(completions, ended, strict=True)]


def test_the_embedded_model_writes_as_its_world_says() -> None:
    tokenizer, model = load_tokenizer(), load_model()
    prompt = "a plain review of the new film :"
    pairs = replace(pairs_of(prompt), gold=_ends_a_sentence)
    config = EvaluationConfig(prompts=200, max_new_tokens=32, batch_size=200)
    reference = reference_numbers(model, tokenizer, pairs, config)
    assert reference.gold is not None
    assert reference.gold > 0.9
    assert 10.0 < reference.sample_tokens.mean() < 13.0


def test_the_two_draws_of_a_replicate_share_no_luck_of_the_samples() -> None:
    """What chose a config must not lend its luck to what judges it; earlier blocks keep the one seed that they had."""
    tokenizer, model = load_tokenizer(), load_model()
    config = EvaluationConfig(prompts=60, max_new_tokens=32)

    def untrained(block: int) -> float | None:
        pairs = load_pairs(DataConfig(rows=4, eval_rows=4), block, tokenizer)
        return reference_numbers(model, tokenizer, pairs, config).gold

    assert untrained(2) == untrained(8)
    assert untrained(104) != untrained(105)
    assert untrained(104) == untrained(104)
