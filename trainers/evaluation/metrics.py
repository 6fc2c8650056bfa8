"""Measurements as small functions of arrays, each with its formula and source; knows no model and no policy."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from studies.samples.wins import at_equal_length, error_of

Floats = npt.NDArray[np.float64]

ROUNDING: Final = 1e-4
ROUNDING_PER_TOKEN: Final = 1e-5
"""Nats by which log-probabilities of single precision, of a hundred nats or two, differ between layouts and batch
shapes, with room: no more is a tie."""


class Estimate(NamedTuple):
    """A value with its standard error over pairs or samples; None where there is none or only one sample."""

    value: float
    error: float | None = None


class PairLogProbs(NamedTuple):
    """Log-probabilities of whole completions [n], in nats, and their lengths [n] in tokens."""

    chosen: Floats
    rejected: Floats
    chosen_tokens: Floats
    rejected_tokens: Floats


def mean(values: Floats) -> Estimate:
    """Mean of `values` [n], in their unit, with standard error sd / sqrt(n), sd with n - 1.

    `gold`, `kl`, `chosen_shift` and `rejected_shift` are such means: over samples of gold and of the KL's
    Rao-Blackwellised estimate, over held-out pairs of log pi(y|x) - log ref(y|x), in nats per sequence.
    """
    n = len(values)
    return Estimate(float(values.mean()), float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else None)


def ratio(numerator: Floats, denominator: Floats) -> Estimate:
    """Ratio of two means over the same samples [n], with the linearised error sd(a - r b) / (sqrt(n) mean(b)).

    `kl_per_token` (nats/token) and `gold_per_token` divide by the samples' tokens, so that a long sample counts by
    its length; `length_ratio` divides the policy's tokens by the reference's for the same prompts and seed.
    Source: Cochran, Sampling Techniques, ch. 6.
    """
    value = float(numerator.mean() / denominator.mean())
    n = len(numerator)
    if n < 2:
        return Estimate(value)
    spread = float((numerator - value * denominator).std(ddof=1))
    return Estimate(value, spread / float(np.sqrt(n) * denominator.mean()))


def margin(policy: PairLogProbs, reference: PairLogProbs) -> Estimate:
    """Mean over pairs of [log pi(c) - log ref(c)] - [log pi(r) - log ref(r)], in nats: DPO's implicit reward
    margin (2305.18290, eq. 5-7) without its beta.
    """
    return mean(_margins(policy, reference))


def margin_reached(policy: PairLogProbs, reference: PairLogProbs, least: float) -> Floats:
    """1 for each pair [n] whose margin is at least `least` nats, else 0: what a rule that asks for a margin accepts.

    `margin_share` is its mean.
    """
    return (_margins(policy, reference) >= least).astype(np.float64)


def accuracy(policy: PairLogProbs, reference: PairLogProbs) -> Estimate:
    """Share of pairs with a positive margin, ties one half: .5 for the reference itself.

    TRL's `rewards/accuracies` counts ties as wrong and so starts at 0. It saturates after the smallest step: a gate.
    """
    return mean(_wins(_margins(policy, reference), ROUNDING))


def sign_accuracy(policy: PairLogProbs, reference: PairLogProbs) -> Estimate:
    """Share of single answers that the log-ratio tells right: good ones above 0, bad ones below, ties one half; .5 for
    the reference itself.

    What a binary classifier of answers gets right (BCO, 2404.04656) without a threshold of its own, each side counting
    half; the error is over pairs. A pair whose two sides moved together is half right here, and may be wholly right in
    `accuracy`.
    """
    good, bad = (_wins(d, ROUNDING) for d in (policy.chosen - reference.chosen, reference.rejected - policy.rejected))
    return mean((good + bad) / 2.0)


def ranking_gain(policy: PairLogProbs, reference: PairLogProbs) -> Estimate:
    """Share of pairs whose chosen side has the higher log-probability per token, less the same of the reference.

    Ties count one half; the error is that of the paired difference. Ranking accuracy: 2405.19534; length
    normalisation: 2405.14734.
    """
    ours, theirs = (_wins(_per_token_margins(pairs), ROUNDING_PER_TOKEN) for pairs in (policy, reference))
    return mean(ours - theirs)


def length_baseline(pairs: PairLogProbs) -> Estimate:
    """Share of pairs whose chosen side has more tokens, ties one half: what 'pick the longer answer' gets right."""
    return mean(_wins(pairs.chosen_tokens - pairs.rejected_tokens, 0.0))


def win_rate(scores: Floats, reference: Floats) -> Estimate:
    """Share of prompts at which a judge scores the policy's sample [n] above the untrained model's [n] for the same
    prompt and seed, ties one half: .5 for the reference itself.
    """
    return mean(_wins(scores - reference, 0.0))


def lc_win_rate(scores: Floats, reference: Floats, tokens: Floats, reference_tokens: Floats) -> Estimate:
    """`win_rate` at equal length, by `studies.samples.wins.at_equal_length`, which has the formula."""
    return rate_of_wins(_wins(scores - reference, 0.0), tokens, reference_tokens)


def rate_of_wins(wins: Floats, tokens: Floats, reference_tokens: Floats) -> Estimate:
    """The share of wins [n] at equal length, with its error over samples."""
    found = at_equal_length(wins, tokens, reference_tokens)
    return mean(wins) if found.fitted == 1 else Estimate(found.value, error_of(found.influence, fitted=found.fitted))


def entropy(sums: Floats, tokens: Floats) -> Estimate:
    """Entropy of the policy's next-token distribution along its own samples, in nats/token.

    sum over samples and positions of H(pi(.|prefix)) over the number of sampled tokens, the end token included.
    """
    return ratio(sums, tokens)


def distinct(completions: Sequence[Sequence[int]]) -> Estimate:
    """Distinct bigrams over bigrams of token ids in all samples together (distinct-2, 1510.03055); 0 without any.

    It falls as the number of samples grows: compare it at one number of samples only. It has no error.
    """
    bigrams = [pair for ids in completions for pair in itertools.pairwise(ids)]
    return Estimate(len(set(bigrams)) / len(bigrams) if bigrams else 0.0)


def token_entropy_and_kl(policy: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """`token_entropy` of pi, and KL(pi || ref) of next-token distributions given by logits [..., V], in nats.

    KL is sum_v pi(v) log(pi(v) / ref(v)). Summed over the positions of a sample of pi it is the Rao-Blackwellised
    estimate of the sequence KL: unbiased, and of no more variance than the log-ratio of the sample (2504.10637).
    """
    log_pi, log_ref = policy.log_softmax(-1), reference.log_softmax(-1)
    pi = log_pi.exp()
    kl = torch.sub(log_pi, log_ref, out=log_ref).mul_(pi).sum(-1)
    return -log_pi.mul_(pi).sum(-1), kl


def token_entropy(logits: Tensor) -> Tensor:
    """Entropy of next-token distributions given by logits [..., V]: -sum_v pi(v) log pi(v), in nats."""
    log_pi = logits.log_softmax(-1)
    return -(log_pi.exp() * log_pi).sum(-1)


def token_log_probs(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities [...] of ids [...] under logits [..., V], in nats, without a second copy of the logits."""
    return logits.gather(-1, ids[..., None])[..., 0] - logits.logsumexp(-1)


def _margins(policy: PairLogProbs, reference: PairLogProbs) -> Floats:
    """Beta-free margin of each pair."""
    return (policy.chosen - reference.chosen) - (policy.rejected - reference.rejected)


def _per_token_margins(pairs: PairLogProbs) -> Floats:
    """Difference of log-probabilities per token of each pair."""
    return pairs.chosen / pairs.chosen_tokens - pairs.rejected / pairs.rejected_tokens


def _wins(differences: Floats, rounding: float) -> Floats:
    """1 where positive, 0 where negative, one half at 0 and where only rounding may be the difference."""
    return (1.0 + np.sign(np.where(np.abs(differences) > rounding, differences, 0.0))) / 2.0
