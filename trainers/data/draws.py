"""Which pairs a block draws for training and evaluation, and why the others are left out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, cast

import numpy as np

from studies.records import REPLICATE_BLOCKS, DataConfig
from studies.records.world_units import task_of_block
from trainers.data.sources import DataError, Row, Rows, Text, read_rows
from trainers.data.tokens import plain, tokenise

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from trainers.world.pairs import WorldOptions, WorldPairs

# A stream of random numbers of a block, so that no draw moves another; see also `trainers.data.corruptions`.
_ORDER: Final = 0
_MOST_EVALUATION_ROWS: Final = 1000
_WORLD_PAIRS, _WORLD_EVALUATION_PAIRS = 2048, 512

SAMPLING_SEED: Final = 20305
"""One seed for all runs: policies that are alike give samples that are alike, which makes differences precise."""

TOO_LONG: Final = "too long"
REFUSED: Final = "refused by the chat template"
NO_PROMPT: Final = "prompts without a token"
UNTOLD: Final = "answers without a token"
ALIKE: Final = "answers of the same tokens"
# Why a row is left out, in words to count by -> the remedy.
REMEDIES: Final[Mapping[str, str]] = {
    TOO_LONG: "raise the limits in `data`",
    REFUSED: "take a model whose chat template takes these roles",
    NO_PROMPT: "write the prompts out, in roles that the chat template has",
    UNTOLD: "the chat template passes over roles that it does not know, so write those that it has",
    ALIKE: "give answers that differ in more than the model's tokenizer or template leaves of them",
}

Writer = Literal["same", "better", "worse"]
Gold = Callable[[Sequence[Text], Sequence[str], Sequence[bool]], Sequence[float]]
"""gold(prompts, completions without their end tokens, whether each ended) -> the worth of each completion.

Raises JudgeError."""

WhyNot = Callable[[Row], str | None]
"""Why a row is not trained on; None where it is."""


class FittingRows(NamedTuple):
    """The rows taken from a list, how many of it were looked at, and why the others of these were not taken.

    `dealt_equal`: rows that were taken and then left out, as a rejected answer from elsewhere is the chosen one.
    """

    rows: tuple[Row, ...]
    looked_at: int
    out: Counter[str]
    dealt_equal: int = 0

    @property
    def too_long(self) -> int:
        return self.out[TOO_LONG]


class Material(NamedTuple):
    """The pairs of a block before a scenario changes them; `dropped`: bad rows among those `read`, by kind."""

    train: FittingRows
    evaluation: FittingRows
    read: int
    notes: tuple[str, ...] = ()
    prompt_held_out: int = 0
    dropped: Counter[str] | None = None
    prompts: tuple[Text, ...] = ()
    gold: Gold | None = None
    sampling_seed: int = SAMPLING_SEED


def draw_world(data: DataConfig, block: int, fits: WhyNot) -> Material:
    """The embedded world's pairs: the world draws them itself, for train and evaluation from streams of their own.

    All its blocks have the same prompts, so one sampling seed would lend what a config was tuned by its luck where it
    is judged: each block of replicates has a seed of its own, the same for all losses.
    """
    from trainers.world.pairs import WorldOptions

    options = WorldOptions(
        pairs=data.rows or _WORLD_PAIRS,
        eval_pairs=data.eval_rows or _WORLD_EVALUATION_PAIRS,
        writer=cast(Writer, data.pairs_from),
        gold=data.gold,
        model=data.path,
    )
    world = _world(options, block)
    sides = (
        [Row(prompt=r.prompt, chosen=r.chosen, rejected=r.rejected) for r in s] for s in (world.train, world.evaluation)
    )
    train, evaluation = (take_fitting(side, None, fits) for side in sides)
    return Material(
        train=train,
        evaluation=evaluation,
        read=train.looked_at + evaluation.looked_at,
        prompts=world.prompts,
        gold=partial(_world_gold, task=task_of_block(block), by_prompt=data.gold == "prompt"),
        sampling_seed=SAMPLING_SEED + block if block >= REPLICATE_BLOCKS else SAMPLING_SEED,
    )


@lru_cache(maxsize=8)
def _world(options: WorldOptions, block: int) -> WorldPairs:
    """A draw takes as long as a short training, and every scenario and length of a study changes the same one."""
    from trainers.world.pairs import make_pairs

    return make_pairs(options, block)


def _world_gold(
    prompts: Sequence[Text], completions: Sequence[str], ended: Sequence[bool], *, task: int, by_prompt: bool
) -> list[float]:
    """Gold reward of reviews in the embedded world; it looks at the prompts only where they decide."""
    from trainers.world.gold import gold_reward, sign_under

    return [
        gold_reward(text.split(), end, task, sign_under(plain(prompt), task) if by_prompt else 1)
        for prompt, text, end in zip(prompts, completions, ended, strict=True)
    ]


def draw_outside(data: DataConfig, block: int, fits: WhyNot) -> Material:
    """Pairs of a file, folder or Hub dataset: held-out prompts first, then training pairs of other prompts."""
    read = read_rows(data)
    train_rows, own_evaluation = read.train, read.evaluation
    fits = partial(_placed, fits=fits, read=read, path=data.path)
    rng = np.random.default_rng((_ORDER, block))
    if own_evaluation is None:
        ordered = _shuffled_by_prompt(train_rows, rng)
        tenth = max(1, min(len(ordered) // 10, _MOST_EVALUATION_ROWS))
        looked_at = ordered if data.eval_rows else ordered[:tenth]
        evaluation = take_fitting(looked_at, data.eval_rows, fits)
        rest = ordered[evaluation.looked_at :]
    else:
        evaluation = take_fitting(_shuffled(own_evaluation, rng), data.eval_rows or _MOST_EVALUATION_ROWS, fits)
        rest = list(train_rows)
    held_out = {canonical(row["prompt"]) for row in evaluation.rows}
    candidates = [row for row in rest if canonical(row["prompt"]) not in held_out]
    return Material(
        train=take_fitting(_shuffled(candidates, rng), data.rows, fits),
        evaluation=evaluation,
        read=read.read,
        dropped=read.dropped,
        notes=read.notes,
        prompt_held_out=len(rest) - len(candidates),
    )


def _placed(row: Row, fits: WhyNot, read: Rows, path: str) -> str | None:
    """`fits`, with the place of a row that the model refuses in its words."""
    try:
        return fits(row)
    except DataError as error:
        places = zip(
            [*read.train, *(read.evaluation or ())], [*read.train_places, *read.evaluation_places], strict=True
        )
        place = next((place for other, place in places if other is row), None)
        if place is None or error.problems[0].startswith("data "):  # a matter of all rows
            raise
        raise DataError([f"data {path}, {place}: {error.problems[0]}"]) from error


def _shuffled(rows: Sequence[Row], rng: np.random.Generator) -> list[Row]:
    """The rows in a drawn order."""
    return [rows[i] for i in rng.permutation(len(rows))]


def _shuffled_by_prompt(rows: Sequence[Row], rng: np.random.Generator) -> list[Row]:
    """The rows with prompts in a drawn order and the rows of one prompt together."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(canonical(row["prompt"]), []).append(row)
    listed = list(groups.values())
    return [row for i in rng.permutation(len(listed)) for row in listed[i]]


def take_fitting(rows: Sequence[Row], wanted: int | None, fits: WhyNot) -> FittingRows:
    """The first `wanted` rows that fit (None: all that do); stops looking once it has them."""
    taken: list[Row] = []
    out = Counter[str]()
    for row in rows:
        if len(taken) == wanted:
            break
        reason = fits(row)
        if reason is None:
            taken.append(row)
        else:
            out[reason] += 1
    return FittingRows(tuple(taken), len(taken) + out.total(), out)


def canonical(value: Any) -> str:
    """A text that is equal for equal content."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _without_a_token(prompt: Text) -> str:
    """That the model's tokenizer, or its chat template, leaves nothing of a prompt, with the remedy."""
    told = f"the prompt {str(prompt)[:60]!r} has no token of its own under the model's"
    if isinstance(prompt, str):
        return f"{told} tokenizer, so that nothing would stand before the answers; write it out or remove the row"
    roles = " and ".join(repr(role) for role in dict.fromkeys(message["role"] for message in prompt))
    return (
        f"{told} chat template, which passes over messages of role {roles}; write the roles that it has, such as "
        "'user' and 'assistant', or remove the row"
    )


def why_not(row: Row, data: DataConfig, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Why a row is not trained on, in words to count by: it passes a length limit, each of which may be reached, or
    has answers without tokens or with the same. None where it is.
    """
    if isinstance(row["prompt"], list) and not tokenizer.chat_template:
        raise DataError(
            [
                f"data {data.path}: rows are messages but the model's tokenizer has no chat template; "
                "take an instruct model or have them written as plain text with --set data.messages=text"
            ]
        )
    try:
        ids = tokenise(row, tokenizer)
    except DataError:
        if data.bad_rows == "drop":
            return REFUSED
        raise
    if not ids.prompt:
        if data.bad_rows == "drop":
            return NO_PROMPT
        raise DataError([_without_a_token(row["prompt"])])
    if not ids.chosen or not ids.rejected:
        return UNTOLD
    if ids.chosen == ids.rejected:
        return ALIKE
    completion = max(len(ids.chosen), len(ids.rejected))
    limits = (
        (len(ids.prompt), data.max_prompt_length),
        (completion, data.max_completion_length),
        (len(ids.prompt) + completion, data.max_length),
    )
    return None if all(limit is None or length <= limit for length, limit in limits) else TOO_LONG
