"""Samples of a policy: drawn, scored, and a few kept to be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from studies.records import EvaluationConfig, Shown
from trainers.data.pairs import Pairs, Preferences, Text
from trainers.data.tokens import plain, prompt_ids
from trainers.evaluation.metrics import Estimate, Floats, lc_win_rate, mean, rate_of_wins, ratio, win_rate
from trainers.evaluation.policies import Policies
from trainers.evaluation.sampling import Completion, NonFinite, Samples, end_ids, sample

SHOWN: Final = 4


"""Prompts whose samples are kept to be read."""


LONGEST_SHOWN: Final = 4000


"""Characters of a prompt or sample that are kept."""


class SampleStats(NamedTuple):
    """A policy's samples: their ids, and per sample [n] its text, tokens, summed entropy, KL to the reference, gold,
    and how it did against the reference's, where a judge compares the two.
    """

    completions: tuple[Completion, ...]
    texts: tuple[str, ...]
    tokens: Floats
    entropy: Floats
    kl: Floats | None
    gold: Floats | None
    preferred: Preferences | None = None


@dataclass(frozen=True)
class Sample:
    """A sampled completion as text, to be shown."""

    prompt: str
    completion: str
    ended: bool
    gold: float | None


def as_judged(
    tokens: Floats,
    reference_tokens: Floats,
    gold: Floats | None,
    reference_gold: Floats | None,
    preferred: Preferences | None,
) -> dict[str, Estimate]:
    """What follows from a judge's word on samples [n] and the reference's [n] under the same prompts."""
    found: dict[str, Estimate] = {}
    if gold is not None:
        found |= {"gold": mean(gold), "gold_per_token": ratio(gold, tokens)}
    if gold is not None and reference_gold is not None:
        found["win_rate"] = win_rate(gold, reference_gold)
        found["lc_win_rate"] = lc_win_rate(gold, reference_gold, tokens, reference_tokens)
    if preferred is not None:
        wins = np.array(preferred[0])
        found["win_rate"] = mean(wins)
        found["lc_win_rate"] = rate_of_wins(wins, tokens, reference_tokens)
    return found


class Written(NamedTuple):
    """All samples of a policy: per prompt its text, whether it ended by itself, its tokens; what it is worth where the
    data, or a judge, tell; and where a judge compares, how it did against the reference's.
    """

    texts: tuple[str, ...]
    ended: tuple[bool, ...]
    tokens: tuple[int, ...]
    gold: tuple[float, ...] | None
    preferred: Preferences | None


def written_of(drawn: SampleStats) -> Written:
    """What a policy wrote, without its ids."""
    return Written(
        drawn.texts,
        tuple(completion.ended for completion in drawn.completions),
        tuple(len(completion.ids) for completion in drawn.completions),
        None if drawn.gold is None else tuple(float(gold) for gold in drawn.gold),
        drawn.preferred,
    )


def samples(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Pairs,
    config: EvaluationConfig,
    count: int,
) -> tuple[Sample, ...]:
    """The first `count` of the samples that `evaluate` draws from this model, as text. Raises NonFinite, JudgeError."""
    asked = [pairs.prompts[i % len(pairs.prompts)] for i in range(min(count, config.prompts))]
    asked_ids = [prompt_ids(prompt, tokenizer) for prompt in asked]
    (drawn,) = sample_texts(Policies(model), tokenizer, [asked_ids], [pairs.sampling_seed], config)
    if isinstance(drawn, NonFinite):
        raise drawn
    texts = texts_of(drawn.completions, tokenizer)
    gold = gold_of(pairs, asked, texts, [completion.ended for completion in drawn.completions])
    return tuple(
        Sample(plain(prompt), texts[i], completion.ended, None if gold is None else float(gold[i]))
        for i, (prompt, completion) in enumerate(zip(asked, drawn.completions, strict=True))
    )


def gold_of(pairs: Pairs, prompts: Sequence[Text], texts: Sequence[str], ended: Sequence[bool]) -> Floats | None:
    """The gold reward of each sample [n]; None where the pairs have none. Raises JudgeError."""
    if pairs.gold is None:
        return None
    return np.array(pairs.gold(prompts, texts, ended), dtype=np.float64)


def preferred_of(
    pairs: Pairs, prompts: Sequence[Text], texts: Sequence[str], others: Sequence[str] | None
) -> Preferences | None:
    """How the samples did against others under the same prompts; None where no judge compares. Raises JudgeError."""
    return None if pairs.prefer is None or others is None else pairs.prefer(prompts, texts, others)


def few_shown(drawn: SampleStats, pairs: Pairs) -> tuple[Sample, ...]:
    """A policy's samples under the first few prompts that differ."""
    found: dict[str, Sample] = {}
    for i, completion in enumerate(drawn.completions):
        prompt = plain(pairs.prompts[i % len(pairs.prompts)])
        if len(found) < SHOWN and prompt not in found:
            gold = None if drawn.gold is None else float(drawn.gold[i])
            found[prompt] = Sample(prompt, drawn.texts[i], completion.ended, gold)
    return tuple(found.values())


def beside(after: Sequence[Sample], before: Sequence[Sample]) -> tuple[Shown, ...]:
    """Samples of a policy beside the reference's under the same prompts."""
    return tuple(
        Shown(
            prompt=new.prompt[:LONGEST_SHOWN],
            before=old.completion[:LONGEST_SHOWN],
            after=new.completion[:LONGEST_SHOWN],
            gold_before=old.gold,
            gold_after=new.gold,
            cut_before=not old.ended,
            cut_after=not new.ended,
        )
        for new, old in zip(after, before, strict=True)
    )


def sample_texts(
    policies: Policies,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[Sequence[int]]],
    seeds: Sequence[int],
    config: EvaluationConfig,
    per_token: Callable[[Tensor, Tensor | None], tuple[Tensor, ...]] | None = None,
) -> tuple[Samples | NonFinite, ...]:
    """For each policy, with its seed, one sample for each prompt; it ends at the tokenizer's end token or one of the
    model's own.
    """
    return sample(
        policies,
        prompts,
        end_ids=end_ids(policies.model, tokenizer),
        max_new_tokens=config.max_new_tokens,
        seed=seeds,
        batch_size=config.batch_size,
        per_token=per_token,
    )


def texts_of(completions: Sequence[Completion], tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Completions without their end tokens; other special tokens stay, since the policy wrote them.

    Each is decoded behind its prompt where it can be: at the beginning of a text, tokenizers leave a first space out.
    """

    @cache
    def decode(ids: tuple[int, ...]) -> str:
        return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    texts = []
    for completion in completions:
        prompt, ids = tuple(completion.prompt), tuple(completion.ids[:-1] if completion.ended else completion.ids)
        before, whole = decode(prompt), decode((*prompt, *ids))
        texts.append(whole[len(before) :] if whole.startswith(before) else decode(ids))
    return tuple(texts)
