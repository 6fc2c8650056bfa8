"""Preference pairs for one run: read, checked, cut to length, split by prompt, subsampled, changed, and recorded.

Knows where pairs come from and how a tokenizer counts them; knows no model, no loss and no store. Nothing heavy is
imported before it is needed: checking a local file loads neither torch nor datasets.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, cast, get_args

import numpy as np

from studies.records import DataConfig, Scalar
from studies.records.funnel import DROPPED, DROPPED_BY, LIMITS, LOOKED_AT, NOTES, OUT
from studies.records.world_units import SOURCE, source_of
from trainers.data.corruptions import RejectedFrom, exchange, places_to_flip, with_other_rejected
from trainers.data.refusals import ALIKE, NO_PROMPT, REFUSED, REMEDIES, TOO_LONG, UNTOLD, share_chosen_longer, why_not
from trainers.data.rows import counted
from trainers.data.sources import DataError, Row, Rows, Text, kind_of, read_rows
from trainers.data.tokens import TokenIds, plain, prompt_ids, tokenise

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from trainers.world.pairs import WorldOptions, WorldPairs

__all__ = [
    "ALIKE",
    "NO_PROMPT",
    "REFUSED",
    "TOO_LONG",
    "UNTOLD",
    "DataError",
    "Gold",
    "JudgeError",
    "Pairs",
    "Row",
    "Text",
    "TokenIds",
    "check_data",
    "limits_of",
    "load_pairs",
    "plain",
    "prompt_ids",
    "read_local",
    "tokenise",
    "why_not",
]

Gold = Callable[[Sequence[Text], Sequence[str], Sequence[bool]], Sequence[float]]
"""gold(prompts, completions without their end tokens, whether each ended) -> the worth of each completion.

Raises JudgeError."""


class JudgeError(ValueError):
    """A judge that cannot be used or did not answer as it must: says who, what and what to do.

    It ends a run as refused: what the study asks for cannot be measured, and another try would end the same.
    """


Writer = Literal["same", "better", "worse"]


@dataclass(frozen=True)
class Pairs:
    """The pairs of one block, as they are trained on and measured with.

    `train` has its rejected answers dealt and its labels flipped already; `evaluation` never has. `prompts` are what a
    policy is sampled under: the distinct prompts of `evaluation`, in its order (in the embedded world, all that pairs
    can carry). `digest` is the SHA-256 of the three. `gold` exists where the data has a true reward, or the study a
    judge.
    """

    train: tuple[Row, ...]
    evaluation: tuple[Row, ...]
    prompts: tuple[Text, ...]
    digest: str
    facts: Mapping[str, Scalar]
    gold: Gold | None = None


def check_data(data: DataConfig) -> list[str]:
    """Everything wrong with `data` that can be known without a model, a tokenizer or the network.

    A local file or saved folder is read whole and each bad row is named (ten at most). Of a Hub dataset only the
    options are checked: its rows are checked by `load_pairs`, in the same way.
    """
    try:
        read_local(data)
    except DataError as error:
        return list(error.problems)
    return []


def read_local(data: DataConfig) -> Rows | None:
    """The rows of a local file or folder, checked as in `check_data`; None of what lies elsewhere. Raises DataError."""
    problems = _option_problems(data)
    if problems:
        raise DataError(problems)
    return None if kind_of(data.path) in ("embedded", "hub") else read_rows(data)


def _option_problems(data: DataConfig) -> list[str]:
    """Options out of range, and options that would do nothing for this kind of source."""
    kind = kind_of(data.path)
    problems = [
        f"data.{name} is {value}; it must be 1 or more, or left out"
        for name in ("rows", "eval_rows", "max_prompt_length", "max_completion_length", "max_length")
        if (value := getattr(data, name)) is not None and value < 1
    ]
    if not 0.0 <= data.label_flip <= 1.0:
        problems.append(f"data.label_flip is {data.label_flip}; it is a share of the training pairs, 0 to 1")
    if data.flip_by != "chance" and data.label_flip == 0.0:
        problems.append(f"data.flip_by is {data.flip_by!r}, which does nothing where label_flip is 0; remove it")
    if data.rejected_from == "model" and kind not in ("embedded", "missing"):
        problems.append(
            f"data.rejected_from is 'model', which samples the embedded model and cannot for {data.path} "
            f"({_KIND_WORDS[kind]}); sample your own model, write its answers as the rejected ones, and remove this"
        )
    if data.pairs_from not in get_args(Writer):
        problems.append(f"data.pairs_from is {data.pairs_from!r}; it must be one of {', '.join(get_args(Writer))}")
    problems += [
        f"data.columns.{text} is null, which only the prompt may be; name the column"
        for text, name in data.columns.items()
        if name is None and text != "prompt"
    ]
    if kind == "missing":
        return [
            *problems,
            f"data.path {data.path}: there is no such file or folder, and it is not the form of a Hub id",
        ]
    acting: dict[str, tuple[str, ...]] = {
        "name": ("hub", "folder"),
        "revision": ("hub",),
        "split": ("hub", "folder"),
        "eval_split": ("hub", "folder", "file"),
        "bad_rows": ("hub", "folder", "file"),
        "columns": ("hub", "folder", "file"),
        "pairs_from": ("embedded",),
        "gold": ("embedded",),
    }
    defaults = DataConfig()
    problems += [
        f"data.{name} is {getattr(data, name)!r}, which does nothing for {data.path} ({_KIND_WORDS[kind]}); remove it"
        for name, kinds in acting.items()
        if kind not in kinds and getattr(data, name) != getattr(defaults, name)
    ]
    if kind == "file" and data.eval_split is not None and kind_of(data.eval_split) != "file":
        problems.append(f"data.eval_split {data.eval_split}: there is no such file; beside a file it must be a file")
    return problems


_KIND_WORDS: Final[Mapping[str, str]] = {
    "embedded": "the embedded world",
    "file": "one file",
    "folder": "a saved dataset",
    "hub": "a Hub dataset",
}


def load_pairs(data: DataConfig, block: int, tokenizer: PreTrainedTokenizerBase) -> Pairs:
    """The pairs of a block; the same `data`, `block` and tokenizer give the same pairs.

    - A row that is bad is left out and counted where `bad_rows` says so. So is, always, a pair of which the tokenizer
      and the chat template leave no token of an answer, or two equal answers.
    - A pair that is longer than a limit (`max_prompt_length`, `max_completion_length` of either answer, `max_length`
      of both together; tokens as TRL counts them) is left out and counted, never truncated. So TRL's own truncation
      at the same `max_length` has nothing to cut.
    - Without `eval_split`, whole prompts go to one side or the other, drawn anew for every block. With it, training
      pairs whose prompt is also in the evaluation split are left out and counted.
    - `rows` and `eval_rows` keep the first that fit in an order drawn for the block; where there are fewer, all.
    - `rejected_from: another` deals the rejected answers of the training pairs to other prompts, each once. A pair that
      is then too long, or has two equal answers, is left out and counted. `rejected_from: model` puts samples of the
      untrained model for the same prompts in their place.
    - `label_flip` then exchanges the answers of exactly `round(label_flip * rows)` training pairs. Those flipped at a
      lower rate are among those flipped at a higher one. With `flip_by: length` pairs whose rejected answer has more
      tokens come first, as far as they reach.
    - In the embedded world a block is a gold task and a draw of pairs; its 30 prompts are on both sides (60 where gold
      asks the prompt).

    Raises DataError for data that cannot be used.
    """
    problems = _option_problems(data)
    if problems:
        raise DataError(problems)
    draw = _draw_world if data.path == "embedded" else _draw_outside
    fits = partial(why_not, data=data, tokenizer=tokenizer)
    material = draw(data, block, fits)
    if data.rejected_from != "own":
        material = material._replace(train=_changed(material.train, data.rejected_from, block, fits))
    train, evaluation = material.train, material.evaluation
    _require_rows(material, data)
    first = _rejected_longer(train.rows, tokenizer) if data.flip_by == "length" else ()
    flipped = places_to_flip(len(train.rows), data.label_flip, block, first)
    labelled = tuple(exchange(row) if i in flipped else row for i, row in enumerate(train.rows))
    prompts = material.prompts or _distinct(row["prompt"] for row in evaluation.rows)
    content = _sha256({"train": labelled, "evaluation": evaluation.rows, "prompts": prompts})
    facts: dict[str, Scalar] = {
        "source": source_of(data),
        "digest": content,
        "block": block,
        "rows_read": material.read,
        "train_rows": len(labelled),
        "eval_rows": len(evaluation.rows),
        "prompts": len(prompts),
        "train_too_long": train.too_long,
        "eval_too_long": evaluation.too_long,
        "prompt_held_out": material.prompt_held_out,
        "dealt_equal": train.dealt_equal,
        "flipped": len(flipped),
        "length_baseline": share_chosen_longer(evaluation.rows, tokenizer),
        "conversational": isinstance(evaluation.rows[0]["prompt"], list),
        **_funnel(material, data),
    }
    return Pairs(labelled, evaluation.rows, prompts, content, facts, material.gold)


# ---- tokens -------------------------------------------------------------------------------------------------------


# ---- what a block draws -------------------------------------------------------------------------------------------

# A stream of random numbers of a block, so that no draw moves another; see also `trainers.data.corruptions`.
_ORDER: Final = 0
_MOST_EVALUATION_ROWS: Final = 1000
_WORLD_PAIRS, _WORLD_EVALUATION_PAIRS = 2048, 512


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


class _Material(NamedTuple):
    """The pairs of a block before a scenario changes them; `dropped`: bad rows among those `read`, by kind."""

    train: FittingRows
    evaluation: FittingRows
    read: int
    notes: tuple[str, ...] = ()
    prompt_held_out: int = 0
    dropped: Counter[str] | None = None
    prompts: tuple[Text, ...] = ()
    gold: Gold | None = None


def _draw_world(data: DataConfig, block: int, fits: WhyNot) -> _Material:
    """The embedded world's pairs: the world draws them itself, for train and evaluation from streams of their own."""
    from trainers.world.pairs import WorldOptions, task_of

    options = WorldOptions(
        pairs=data.rows or _WORLD_PAIRS,
        eval_pairs=data.eval_rows or _WORLD_EVALUATION_PAIRS,
        writer=cast(Writer, data.pairs_from),
        gold=data.gold,
    )
    world = _world(options, block)
    sides = (
        [Row(prompt=r.prompt, chosen=r.chosen, rejected=r.rejected) for r in s] for s in (world.train, world.evaluation)
    )
    train, evaluation = (_take_fitting(side, None, fits) for side in sides)
    return _Material(
        train=train,
        evaluation=evaluation,
        read=train.looked_at + evaluation.looked_at,
        prompts=world.prompts,
        gold=partial(_world_gold, task=task_of(block), by_prompt=data.gold == "prompt"),
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


def _draw_outside(data: DataConfig, block: int, fits: WhyNot) -> _Material:
    """Pairs of a file, folder or Hub dataset: held-out prompts first, then training pairs of other prompts."""
    read = read_rows(data)
    train_rows, own_evaluation = read.train, read.evaluation
    fits = partial(_placed, fits=fits, read=read, path=data.path)
    rng = np.random.default_rng((_ORDER, block))
    if own_evaluation is None:
        ordered = _shuffled_by_prompt(train_rows, rng)
        tenth = max(1, min(len(ordered) // 10, _MOST_EVALUATION_ROWS))
        looked_at = ordered if data.eval_rows else ordered[:tenth]
        evaluation = _take_fitting(looked_at, data.eval_rows, fits)
        rest = ordered[evaluation.looked_at :]
    else:
        evaluation = _take_fitting(_shuffled(own_evaluation, rng), data.eval_rows or _MOST_EVALUATION_ROWS, fits)
        rest = list(train_rows)
    held_out = {_canonical(row["prompt"]) for row in evaluation.rows}
    candidates = [row for row in rest if _canonical(row["prompt"]) not in held_out]
    return _Material(
        train=_take_fitting(_shuffled(candidates, rng), data.rows, fits),
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
        groups.setdefault(_canonical(row["prompt"]), []).append(row)
    listed = list(groups.values())
    return [row for i in rng.permutation(len(listed)) for row in listed[i]]


def _take_fitting(rows: Sequence[Row], wanted: int | None, fits: WhyNot) -> FittingRows:
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


def _require_rows(material: _Material, data: DataConfig) -> None:
    """Raises DataError where length limits, the template or the split left one side without rows; names which."""
    train, evaluation = material.train, material.evaluation
    problems = [
        f"data {data.path}: no {side} pairs left{_cause(taken, material, data)}"
        for side, taken in (("training", train), ("evaluation", evaluation))
        if not taken.rows and (taken.looked_at or evaluation.rows or not evaluation.looked_at)
    ]
    if problems:
        raise DataError(problems)


def _cause(taken: FittingRows, material: _Material, data: DataConfig) -> str:
    """What took the rows of a side away, with the remedy."""
    fell = material.train.out + material.evaluation.out
    limits = f"the limits ({limits_of(data)} tokens)"
    remedies = [remedy for reason, remedy in REMEDIES.items() if fell[reason]]
    if taken.out:
        told = f"are longer than {limits}" if taken.out.keys() == {TOO_LONG} else f"fell out ({counted(taken.out)})"
        return f", all {taken.looked_at:,} {told}; {' and '.join(remedies)}"
    if not fell:
        held_out, dropped, shared = len(material.evaluation.rows), material.dropped, material.prompt_held_out
        fell_to = [f"{dropped.total():,} are bad and left out ({counted(dropped)})"] if dropped else []
        fell_to += [f"{held_out:,} are held out"] if held_out else []
        fell_to += [f"{shared:,} have a prompt of those, which is never on both sides"] if shared else []
        told = f": {', '.join(fell_to)}" if fell_to else ""
        return f" of {material.read:,} read{told}; give more prompts, fewer `eval_rows` or an `eval_split` of its own"
    why = f"{fell[TOO_LONG]:,} are longer than {limits}" if fell[TOO_LONG] else counted(fell)
    held_out = len(material.evaluation.rows)
    return (
        f": of {material.read:,} read {why}, and all {held_out:,} that fit are held out; {' and '.join(remedies)}, or "
        "give fewer `eval_rows`"
    )


def limits_of(data: DataConfig) -> str:
    """The length limits, in words."""
    return ", ".join(
        f"{name} {getattr(data, name)}"
        for name in ("max_prompt_length", "max_completion_length", "max_length")
        if getattr(data, name) is not None
    )


def _funnel(material: _Material, data: DataConfig) -> dict[str, Scalar]:
    """What `studies.records.funnel` tells of, for data that are not drawn as they are needed."""
    if data.path == SOURCE:
        return {}
    out = material.train.out + material.evaluation.out
    facts: dict[str, Scalar] = {LOOKED_AT: material.train.looked_at + material.evaluation.looked_at}
    facts |= {LIMITS: limits_of(data)} if limits_of(data) else {}
    others = Counter({reason: count for reason, count in out.items() if reason != TOO_LONG})
    facts |= {OUT: counted(others)} if others else {}
    facts |= {NOTES: "; ".join(material.notes)} if material.notes else {}
    dropped = material.dropped
    return facts | ({DROPPED: dropped.total(), DROPPED_BY: counted(dropped)} if dropped else {})


def _changed(taken: FittingRows, source: RejectedFrom, block: int, fits: WhyNot) -> FittingRows:
    """The rows with rejected answers from elsewhere; those left out that then do not fit, or teach nothing."""
    changed = with_other_rejected(taken.rows, [_canonical(row["prompt"]) for row in taken.rows], source, block)
    unequal = [row for row in changed if row["chosen"] != row["rejected"]]
    again = _take_fitting(unequal, None, fits)
    return FittingRows(again.rows, taken.looked_at, taken.out + again.out, len(changed) - len(unequal))


def _rejected_longer(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Places of the rows whose rejected answer has more tokens."""
    tokens = (tokenise(row, tokenizer) for row in rows)
    return frozenset(i for i, ids in enumerate(tokens) if len(ids.rejected) > len(ids.chosen))


def _distinct(prompts: Iterable[Text]) -> tuple[Text, ...]:
    """The prompts without repetitions, in order."""
    return tuple({_canonical(prompt): prompt for prompt in prompts}.values())


def _canonical(value: Any) -> str:
    """A text that is equal for equal content."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _sha256(value: Any) -> str:
    """SHA-256 of the content, as 64 hexadecimal digits."""
    return hashlib.sha256(_canonical(value).encode()).hexdigest()
