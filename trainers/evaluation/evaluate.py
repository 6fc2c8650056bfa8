"""Measures a policy so that runs can be compared whatever their loss or beta; knows no loss, no trainer, no store.

Everything is in nats and against one reference, the untrained model: TRL's own rewards and losses scale with beta and
with the loss. Each measurement is a function in `trainers/evaluation/metrics.py`; `evaluate_all` fills their arrays
from policies that one pass serves, a policy alone being a pass of one. Formulas and why these: the DPO paper
(2305.18290) for log-ratios, 2504.10637 for the KL estimate, 2405.19534 for ranking accuracy. A change that moves any
number must bump `studies.records.EVALUATOR`; one that only adds a number must not, as all others stay what they were
and recorded runs would be measured again for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from studies.records import EvaluationConfig, Measurement, Scalar, Shown
from trainers.data.pairs import JudgeError, Pairs
from trainers.data.tokens import TokenIds, prompt_ids, tokenise
from trainers.evaluation.metrics import (
    Estimate,
    Floats,
    PairLogProbs,
    accuracy,
    distinct,
    entropy,
    length_baseline,
    margin,
    margin_reached,
    mean,
    ranking_gain,
    ratio,
    sign_accuracy,
    token_entropy,
    token_entropy_and_kl,
)
from trainers.evaluation.pair_scores import pair_log_probs
from trainers.evaluation.policies import Look, Policies, on_they_go, one_policy, packed_policies
from trainers.evaluation.samples import (
    Sample,
    SampleStats,
    Written,
    as_judged,
    beside,
    few_shown,
    gold_of,
    preferred_of,
    sample_texts,
    samples,
    texts_of,
    written_of,
)
from trainers.evaluation.sampling import Completion, NonFinite, Samples, diverged

__all__ = [
    "Evaluation",
    "NonFinite",
    "Policies",
    "ReferenceNumbers",
    "Sample",
    "Unmeasured",
    "Written",
    "evaluate",
    "evaluate_all",
    "one_policy",
    "packed_policies",
    "read_as_packed",
    "reference_numbers",
    "samples",
]

Unmeasured = NonFinite | JudgeError
"""Why a policy has no measurements."""

HALVES_SEED: Final = 50
"""How samples are dealt to two halves; the same for all runs with as many samples."""
TRAINING_PAIRS: Final = 256
"""Training pairs that `train_accuracy` looks at, the first of them, at most half as many as are held out."""


@dataclass(frozen=True)
class Tokens:
    """The evaluation's inputs as ids: held-out pairs, a part of the training pairs, and what is sampled under."""

    held_out: tuple[TokenIds, ...]
    training: tuple[TokenIds, ...]
    prompts: tuple[Sequence[int], ...]


@dataclass(frozen=True)
class ReferenceNumbers:
    """The untrained model on the evaluation's inputs: the same for all runs with one base, data and evaluation.

    `gold` (None where the data has none), `entropy` and `distinct` are its own measurements, for gates; `sample_tokens`
    and `sample_gold` are of each sample [n]; `written`: all of its samples, `shown`: a few of them.
    """

    digest: str
    config: EvaluationConfig
    tokens: Tokens
    held_out: PairLogProbs
    training: PairLogProbs
    sample_tokens: Floats
    sample_gold: Floats | None
    gold: float | None
    entropy: float
    distinct: float
    written: Written
    shown: tuple[Sample, ...]

    @property
    def facts(self) -> dict[str, Scalar]:
        """What a run records of the untrained model: its gold on the run's block, where there is one."""
        return {} if self.gold is None else {"reference_gold": self.gold}


class Evaluation(NamedTuple):
    """What was measured of one policy, a few of its samples beside the reference's, and all that it wrote."""

    measurements: tuple[Measurement, ...]
    samples: tuple[Shown, ...]
    written: Written


# ---- what is measured ---------------------------------------------------------------------------------------------


def reference_numbers(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Pairs,
    config: EvaluationConfig,
    look: Look = on_they_go,
) -> ReferenceNumbers:
    """Measure the untrained model (a base model, or a PEFT model that is off). Raises NonFinite and JudgeError."""
    tokens = _tokens(tokenizer, pairs, config)
    policies = Policies(model, look=look)
    (log_probs,) = _pair_log_probs(policies, [tokens], config)
    (drawn,) = _draw(policies, tokenizer, [pairs], config, [tokens], [None])
    if isinstance(log_probs, NonFinite) or isinstance(drawn, NonFinite):
        raise diverged()
    if isinstance(drawn, JudgeError):
        raise drawn
    held_out, training = log_probs
    return ReferenceNumbers(
        digest=pairs.digest,
        config=config,
        tokens=tokens,
        held_out=held_out,
        training=training,
        sample_tokens=drawn.tokens,
        sample_gold=drawn.gold,
        gold=None if drawn.gold is None else mean(drawn.gold).value,
        entropy=entropy(drawn.entropy, drawn.tokens).value,
        distinct=distinct([c.ids for c in drawn.completions]).value,
        written=written_of(drawn),
        shown=few_shown(drawn, pairs),
    )


def read_as_packed(numbers: ReferenceNumbers, model: torch.nn.Module, look: Look = on_they_go) -> ReferenceNumbers:
    """The untrained model's numbers with its pairs read as the policies of a pack read theirs: where a product of
    another shape rounds otherwise by much, that would look like a shift. Raises NonFinite.
    """
    (log_probs,) = _pair_log_probs(Policies(model, packed=True, look=look), [numbers.tokens], numbers.config)
    if isinstance(log_probs, NonFinite):
        raise diverged()
    held_out, training = log_probs
    return replace(numbers, held_out=held_out, training=training)


def evaluate(
    policy: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Pairs,
    config: EvaluationConfig,
    reference: ReferenceNumbers,
    *,
    reference_model: torch.nn.Module | None = None,
    step: int = 0,
    look: Look = on_they_go,
) -> Evaluation:
    """`evaluate_all` for one model, its reference being `reference_model` or as `one_policy` says. Raises NonFinite
    and JudgeError.
    """
    (found,) = evaluate_all(one_policy(policy, reference_model, look), tokenizer, [pairs], config, [reference], step)
    if isinstance(found, Unmeasured):
        raise found
    return found


def evaluate_all(
    policies: Policies,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pairs],
    config: EvaluationConfig,
    references: Sequence[ReferenceNumbers],
    step: int = 0,
) -> tuple[Evaluation | Unmeasured, ...]:
    """All measurements of each policy after `step` training steps, with standard errors over pairs or samples, and a
    few of the samples.

    `pairs` and `references`: those of each policy, which may differ. Where logits of a policy are not numbers its place
    holds NonFinite, where its judge gave no numbers JudgeError; no policy's numbers depend on the others'. The KL needs
    the reference's distribution on a policy's own samples: without `policies.reference` it is not measured. Names and
    units are those of `studies.records.METRICS`. The model's mode and the global random state stay as they are.
    Raises ValueError for a reference's numbers of other data.
    """
    if len(pairs) != policies.count or len(references) != policies.count:
        raise ValueError(f"{policies.count} policies, but {len(pairs)} pairs and {len(references)} references")
    for own, reference in zip(pairs, references, strict=True):
        if (reference.digest, reference.config) != (own.digest, config):
            raise ValueError("the reference's numbers belong to other pairs or another evaluation config")
    tokens = [reference.tokens for reference in references]
    scored = _pair_log_probs(policies, tokens, config)
    drawn = _draw(policies, tokenizer, pairs, config, tokens, [reference.written.texts for reference in references])
    return tuple(
        diverged()
        if isinstance(log_probs, NonFinite) or isinstance(samples, NonFinite)
        else samples
        if isinstance(samples, JudgeError)
        else Evaluation(
            _measurements(log_probs, samples, reference, step),
            beside(few_shown(samples, own), reference.shown),
            written_of(samples),
        )
        for log_probs, samples, reference, own in zip(scored, drawn, references, pairs, strict=True)
    )


def _measurements(
    log_probs: tuple[PairLogProbs, PairLogProbs], drawn: SampleStats, reference: ReferenceNumbers, step: int
) -> tuple[Measurement, ...]:
    """All measurements of one policy, from its log-probabilities of held-out and training pairs and its samples."""
    held_out, training = log_probs
    reached = margin_reached(held_out, reference.held_out, reference.config.margin)
    found = {
        **_on_pairs(held_out, reference.held_out),
        "margin_share": mean(reached),
        "train_accuracy": accuracy(training, reference.training),
        **_on_samples(drawn, reference),
    }
    halves = _halves(drawn) | _halves_of_pairs(reached)
    return tuple(Measurement(name, e.value, e.error, step, halves.get(name)) for name, e in found.items())


def _on_pairs(policy: PairLogProbs, reference: PairLogProbs) -> dict[str, Estimate]:
    """Measurements on held-out pairs."""
    return {
        "margin": margin(policy, reference),
        "chosen_shift": mean(policy.chosen - reference.chosen),
        "rejected_shift": mean(policy.rejected - reference.rejected),
        "accuracy": accuracy(policy, reference),
        "sign_accuracy": sign_accuracy(policy, reference),
        "ranking_gain": ranking_gain(policy, reference),
        "length_baseline": length_baseline(policy),
    }


def _on_samples(drawn: SampleStats, reference: ReferenceNumbers) -> dict[str, Estimate]:
    """Measurements on samples."""
    found = {
        "length_ratio": ratio(drawn.tokens, reference.sample_tokens),
        "entropy": entropy(drawn.entropy, drawn.tokens),
        "distinct": distinct([c.ids for c in drawn.completions]),
    }
    if drawn.kl is not None:
        found |= {"kl": mean(drawn.kl), "kl_per_token": ratio(drawn.kl, drawn.tokens)}
    lengths = (drawn.tokens, reference.sample_tokens)
    return found | as_judged(*lengths, drawn.gold, reference.sample_gold, drawn.preferred)


def _halves(drawn: SampleStats) -> dict[str, tuple[float, float]]:
    """What is measured of gold and KL on each of two fixed halves of the samples; nothing of a single sample.

    Drawn and not taken in turn, since prompts come again in turn.
    """
    order = np.random.default_rng(HALVES_SEED).permutation(len(drawn.tokens))
    rows = (order[: len(order) // 2], order[len(order) // 2 :])
    found: dict[str, tuple[float, float]] = {}
    for name, values in (("kl", drawn.kl), ("gold", drawn.gold)):
        if values is not None and len(order) > 1:
            first, second = (values[half] for half in rows)
            found[name] = (mean(first).value, mean(second).value)
            tokens, others = (drawn.tokens[half] for half in rows)
            found[f"{name}_per_token"] = (ratio(first, tokens).value, ratio(second, others).value)
    return found


def _halves_of_pairs(reached: Floats) -> dict[str, tuple[float, float]]:
    """`margin_share` on each of two fixed halves of the held-out pairs [n]; nothing of a single pair."""
    first, second = np.array_split(reached[np.random.default_rng(HALVES_SEED).permutation(len(reached))], 2)
    return {"margin_share": (mean(first).value, mean(second).value)} if len(second) else {}


# ---- what a model says --------------------------------------------------------------------------------------------


def _tokens(tokenizer: PreTrainedTokenizerBase, pairs: Pairs, config: EvaluationConfig) -> Tokens:
    """The evaluation's inputs as ids. Where there are fewer prompts than samples, prompts come again in turn."""
    prompts = [prompt_ids(prompt, tokenizer) for prompt in pairs.prompts]
    most = max(1, min(TRAINING_PAIRS, len(pairs.evaluation[: config.pairs]) // 2))
    return Tokens(
        held_out=tuple(tokenise(row, tokenizer) for row in pairs.evaluation[: config.pairs]),
        training=tuple(tokenise(row, tokenizer) for row in pairs.train[:most]),
        prompts=tuple(prompts[i % len(prompts)] for i in range(config.prompts)),
    )


def _pair_log_probs(
    policies: Policies, tokens: Sequence[Tokens], config: EvaluationConfig
) -> list[tuple[PairLogProbs, PairLogProbs] | NonFinite]:
    """Each policy's log-probabilities of both sides of its held-out and training pairs."""
    pairs = {id(own): (*own.held_out, *own.training) for own in tokens}
    found = pair_log_probs(policies, [pairs[id(own)] for own in tokens], config.batch_size)
    return [
        one if isinstance(one, NonFinite) else _split(one, len(own.held_out))
        for one, own in zip(found, tokens, strict=True)
    ]


def _split(pairs: PairLogProbs, first: int) -> tuple[PairLogProbs, PairLogProbs]:
    """The first pairs, and the others."""
    return PairLogProbs(*(values[:first] for values in pairs)), PairLogProbs(*(values[first:] for values in pairs))


def _draw(
    policies: Policies,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pairs],
    config: EvaluationConfig,
    tokens: Sequence[Tokens],
    others: Sequence[Sequence[str] | None],
) -> list[SampleStats | Unmeasured]:
    """Samples of each policy, and per sample what `SampleStats` says; `others`: those of its reference, if known."""
    seeds = [own.sampling_seed for own in pairs]
    drawn = sample_texts(policies, tokenizer, [own.prompts for own in tokens], seeds, config, _entropy_and_kl)
    return [
        found if isinstance(found, NonFinite) else _drawn(found, own, tokenizer, reference)
        for found, own, reference in zip(drawn, pairs, others, strict=True)
    ]


def _drawn(
    samples: Samples, pairs: Pairs, tokenizer: PreTrainedTokenizerBase, others: Sequence[str] | None
) -> SampleStats | JudgeError:
    """One policy's samples with the sums of `_entropy_and_kl` and what is thought of them."""
    completions, sums = samples
    prompts = [pairs.prompts[i % len(pairs.prompts)] for i in range(len(completions))]
    texts = texts_of(completions, tokenizer)
    try:
        gold = gold_of(pairs, prompts, texts, [completion.ended for completion in completions])
        preferred = preferred_of(pairs, prompts, texts, others)
    except JudgeError as error:  # of this policy alone, not of those beside it
        return error
    kl = sums[:, 1] if sums.shape[1] > 1 else None
    return SampleStats(completions, texts, _lengths(completions), sums[:, 0], kl, gold, preferred)


def _entropy_and_kl(policy: Tensor, reference: Tensor | None) -> tuple[Tensor, ...]:
    """Entropy and, where there is a reference, KL of each next-token distribution."""
    return (token_entropy(policy),) if reference is None else token_entropy_and_kl(policy, reference)


def _lengths(completions: Sequence[Completion]) -> Floats:
    """Tokens of each completion, the end token included."""
    return np.array([float(len(c.ids)) for c in completions])
