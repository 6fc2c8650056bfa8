"""Preference pairs of the embedded world: sampled from one of its models, judged by a gold task; knows no trainer and
no loss.

Texts are made for TRL's explicit-prompt, non-conversational form: a prompt ends in ``:``, a completion begins
with a space and carries no end token, which TRL appends. Tokenising ``prompt + completion + end`` then gives
back the sampled ids exactly, so completions that ran into the cap without an end are never part of a pair.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from studies.records import EMBEDDED
from studies.records.world_units import task_of_block
from trainers.world.gold import TASKS, gold_reward, sign_under
from trainers.world.grammar import MAX_WORDS, Mood, mood_of, prompts
from trainers.world.paths import model_path

Writer = Literal["same", "better", "worse"]

_SPARE: Final = 1.1
"""Candidate pairs drawn per pair asked for in one go; a tenth is more than is usually skipped."""
_COMPACT_BELOW: Final = 0.75
"""While sampling, finished rows leave the batch when fewer than this share of it is still being written."""


@dataclass(frozen=True)
class Completion:
    """One sampled completion: its words without the end token, and whether it ended before the cap."""

    prompt: str
    words: tuple[str, ...]
    ended: bool

    @property
    def text(self) -> str:
        """The completion as TRL wants it: a leading space, single spaces, no end token; empty for no
        words.
        """
        return " " + " ".join(self.words) if self.words else ""


@dataclass(frozen=True)
class Row:
    """One preference pair with the gold reward of both sides, of which a trainer sees only the three
    texts.
    """

    prompt: str
    chosen: str
    rejected: str
    gold_chosen: float
    gold_rejected: float


@dataclass(frozen=True)
class WorldOptions:
    """What pairs to make.

    ``model``: the embedded model that writes them.
    ``writer``: who wrote both sides: the model itself, or the model asked for the mood that this task's gold
    likes (``better``) or dislikes (``worse``); the pair carries the plain prompt all the same.
    ``gold``: ``prompt`` where what is wanted hangs on the prompt's mood word (:func:`~trainers.world.gold.sign_under`).
    The pairs then carry cold and warm prompts. Both answers are written as for the plain prompt all the same, or by a
    better or worse writer as for the mood that gold likes or dislikes there: answers of the prompt's own mood would
    hardly hold what gold wants, and tell the prompt by themselves.
    ``temperature`` of the judge: a side is chosen with probability ``sigmoid((its gold - the other's) /
    temperature)``; at 0 the better one always.
    """

    pairs: int = 2048
    eval_pairs: int = 512
    writer: Writer = "same"
    gold: Literal["task", "prompt"] = "task"
    temperature: float = 1.0
    model: str = EMBEDDED

    def __post_init__(self) -> None:
        """Raises ValueError for counts below one, an unknown writer or a negative or non-finite
        temperature.
        """
        if self.pairs < 1 or self.eval_pairs < 1:
            raise ValueError(f"pairs is {self.pairs} and eval_pairs {self.eval_pairs}; both must be at least 1")
        if self.writer not in ("same", "better", "worse"):
            raise ValueError(f"writer is {self.writer!r}; it must be 'same', 'better' or 'worse'")
        if not (math.isfinite(self.temperature) and self.temperature >= 0.0):
            raise ValueError(f"temperature is {self.temperature}; it must be a finite number, 0 or more")


@dataclass(frozen=True)
class WorldPairs:
    """Pairs of one block, and the prompts that policies are sampled under when they are evaluated."""

    train: tuple[Row, ...]
    evaluation: tuple[Row, ...]
    prompts: tuple[str, ...]


def load_model(name: str = EMBEDDED) -> PreTrainedModel:
    """An embedded model, freshly loaded, in float32 and evaluation mode, on the CPU."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(model_path(name), dtype=torch.float32)
    return model.eval()


def load_tokenizer(name: str = EMBEDDED) -> PreTrainedTokenizerBase:
    """An embedded model's tokenizer, freshly loaded."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model_path(name))
    return tokenizer


def make_pairs(options: WorldOptions, block: int) -> WorldPairs:
    """Pairs of a block: a gold task (:func:`~studies.records.world_units.task_of_block`) and a draw of completions
    and labels that no other block shares, whether of the same task or not.

    The same options and block give the same pairs. Fewer pairs of the same block are the first of more of
    them, and the judge's temperature changes labels only. Evaluation pairs are judged like training pairs and
    drawn from another stream; measure them with :func:`noise_free_accuracy`, which does not look at the noisy
    labels.
    """
    task = task_of_block(block)
    model, tokenizer = load_model(options.model), load_tokenizer(options.model)
    return WorldPairs(
        train=_draw_rows(model, tokenizer, options, options.pairs, task, (block, 0)),
        evaluation=_draw_rows(model, tokenizer, options, options.eval_pairs, task, (block, 1)),
        prompts=_prompts(options),
    )


def _prompts(options: WorldOptions) -> tuple[str, ...]:
    """The prompts that pairs carry: plain ones, or cold and warm ones in turn."""
    if options.gold == "task":
        return prompts("plain")
    return tuple(asked for both in zip(prompts("cold"), prompts("warm"), strict=True) for asked in both)


def _draw_rows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    options: WorldOptions,
    n: int,
    task: int,
    stream: tuple[int, int],
) -> tuple[Row, ...]:
    """The first n usable pairs of an endless stream of candidate pairs."""
    candidates = math.ceil(n * _SPARE) + 8
    while len(rows := _usable_rows(model, tokenizer, options, candidates, task, stream)) < n:
        candidates *= 2
    return rows[:n]


def _usable_rows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    options: WorldOptions,
    candidates: int,
    task: int,
    stream: tuple[int, int],
) -> tuple[Row, ...]:
    """Judges the first candidates of a stream and keeps the pairs that can be learnt from, in order."""
    seeds = np.random.SeedSequence(stream).spawn(3)
    carried = _prompts(options)
    signs = [sign_under(text, task) if options.gold == "prompt" else 1 for text in carried]
    written_for = [
        _written_for(text, options.writer, TASKS[task].direction * s) for text, s in zip(carried, signs, strict=True)
    ]
    picks = (np.random.default_rng(seeds[0]).random(candidates) * len(carried)).astype(int)
    asked = [written_for[pick] for pick in picks for _ in range(2)]
    completions = sample_completions(model, tokenizer, asked, seeds[1])
    draws = np.random.default_rng(seeds[2]).random(candidates)
    special = frozenset(tokenizer.all_special_tokens)
    rows = []
    for pick, draw, a, b in zip(picks, draws, completions[::2], completions[1::2], strict=True):
        if a.words == b.words or not all(can_be_text(side, special) for side in (a, b)):
            continue
        gold_a, gold_b = (gold_reward(side.words, side.ended, task, signs[pick]) for side in (a, b))
        if draw < preference(gold_a - gold_b, options.temperature):
            rows.append(Row(carried[pick], a.text, b.text, gold_a, gold_b))
        else:
            rows.append(Row(carried[pick], b.text, a.text, gold_b, gold_a))
    return tuple(rows)


def can_be_text(completion: Completion, special: frozenset[str]) -> bool:
    """Whether TRL will read the completion's text back as the ids that were sampled."""
    return completion.ended and bool(completion.words) and special.isdisjoint(completion.words)


def _written_for(carried: str, writer: Writer, direction: int) -> str:
    """The prompt that a writer is asked, beside the one that the pair carries: of a mood that gold likes, dislikes, or
    neither. ``direction``: above 0 where praise is wanted.
    """
    mood: Mood = "plain"
    if writer != "same":
        mood = "warm" if (direction > 0) == (writer == "better") else "cold"
    return carried.replace(f" {mood_of(carried)} ", f" {mood} ", 1)


def preference(gold_difference: float, temperature: float) -> float:
    """Bradley-Terry probability that the first side is chosen; a step with one half at a tie for
    temperature 0.
    """
    if temperature == 0.0:
        return 0.5 if gold_difference == 0.0 else float(gold_difference > 0.0)
    return 0.5 * (1.0 + math.tanh(0.5 * gold_difference / temperature))


def label_agreement(rows: Sequence[Row]) -> float:
    """Share of pairs whose chosen side has the higher gold; ties count one half. Raises ValueError without
    rows.
    """
    return noise_free_accuracy([1.0] * len(rows), rows)


def noise_free_accuracy(margins: Sequence[float], rows: Sequence[Row]) -> float:
    """Share of pairs that a margin (chosen over rejected) ranks as gold does, whatever the label; ties one
    half.

    Margins of a trained policy are in nats: its log-ratio to the reference on the chosen side less the
    rejected. Raises ValueError where the lengths differ or are zero.
    """
    if len(margins) != len(rows) or not rows:
        raise ValueError(f"{len(margins)} margins for {len(rows)} rows; both must be the same and at least 1")
    agreements = [
        (1.0 + _sign(margin) * _sign(row.gold_chosen - row.gold_rejected)) / 2.0
        for margin, row in zip(margins, rows, strict=True)
    ]
    return sum(agreements) / len(agreements)


def _sign(value: float) -> int:
    """-1, 0 or 1."""
    return (value > 0) - (value < 0)


def sample_completions(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[str],
    seed: int | np.random.SeedSequence,
    *,
    temperature: float = 1.0,
    max_new_tokens: int = MAX_WORDS,
    batch_size: int = 1024,
) -> tuple[Completion, ...]:
    """One completion for each prompt, in order, from the untruncated softmax; every prompt must have the same
    length.

    Each token is found by inversion from a uniform of its own, fixed by seed, row and position. So a row's
    completion does not depend on what else is in the batch, and policies sampled with one seed share their
    randomness. Raises ValueError for prompts of different token lengths. The model's training mode is kept.
    """
    prompt_ids = [tokenizer(text)["input_ids"] for text in asked]
    if len({len(ids) for ids in prompt_ids}) > 1:
        raise ValueError("the prompts have different numbers of tokens; sample each length by itself")
    uniforms = np.random.default_rng(seed).random((len(asked), max_new_tokens))
    was_training = model.training
    model.eval()
    token_rows: list[list[int]] = []
    for start in range(0, len(asked), batch_size):
        batch = slice(start, start + batch_size)
        tokens = _sample_batch(model, torch.tensor(prompt_ids[batch]), uniforms[batch], tokenizer, temperature)
        token_rows.extend(tokens.tolist())
    model.train(was_training)
    words: Mapping[int, str] = {i: word for word, i in tokenizer.get_vocab().items()}
    return tuple(
        _completion(text, tokens, tokenizer.eos_token_id, words) for text, tokens in zip(asked, token_rows, strict=True)
    )


def _completion(prompt: str, tokens: Sequence[int], end: int, words: Mapping[int, str]) -> Completion:
    """A completion from its token ids, cut before the first end token."""
    ended = end in tokens
    written = tokens[: tokens.index(end)] if ended else tokens
    return Completion(prompt, tuple(words[token] for token in written), ended)


@torch.inference_mode()
def _sample_batch(
    model: torch.nn.Module,
    prompt_ids: Tensor,
    uniforms: npt.NDArray[np.float64],
    tokenizer: PreTrainedTokenizerBase,
    temperature: float,
) -> Tensor:
    """Sampled token ids [rows, tokens], filled with the end token behind the end."""
    device = next(model.parameters()).device
    end = tokenizer.eos_token_id
    rows, steps = uniforms.shape
    thresholds = torch.from_numpy(uniforms)
    tokens = torch.full((rows, steps), end)
    active = torch.arange(rows)
    inputs, cache = prompt_ids, None
    for step in range(steps):
        output = model(input_ids=inputs.to(device), past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = output.past_key_values
        drawn = _invert(output.logits[:, -1].cpu().double() / temperature, thresholds[active, step])
        drawn = torch.where(tokens[active, step - 1] == end, end, drawn) if step else drawn
        tokens[active, step] = drawn
        writing = (drawn != end).nonzero().flatten()
        if len(writing) == 0:
            break
        if len(writing) < _COMPACT_BELOW * len(active):
            active, drawn = active[writing], drawn[writing]
            cache.batch_select_indices(writing.to(device))
        inputs = drawn[:, None]
    return tokens


def _invert(logits: Tensor, thresholds: Tensor) -> Tensor:
    """Token ids [rows] where the cumulated probabilities of logits [rows, vocabulary] pass the thresholds
    [rows].
    """
    cumulated = logits.softmax(-1).cumsum(-1)
    passed: Tensor = (cumulated < (thresholds * cumulated[:, -1])[:, None]).sum(-1)
    return passed.clamp(max=logits.shape[-1] - 1)
