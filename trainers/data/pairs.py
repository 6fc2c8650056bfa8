"""Preference pairs for one run: read, checked, drawn for a block, changed by the scenario, and recorded.

Nothing heavy is imported before it is needed: checking a local file loads neither torch nor datasets.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, get_args

from studies.records import DataConfig, Scalar
from studies.records.funnel import DROPPED, DROPPED_BY, LIMITS, LOOKED_AT, NOTES, OUT
from studies.records.world_units import source_of
from trainers.data.corruptions import deal_rejected, exchange, places_to_flip, with_sampled_rejected
from trainers.data.draws import (
    REMEDIES,
    SAMPLING_SEED,
    TOO_LONG,
    FittingRows,
    Gold,
    Material,
    WhyNot,
    Writer,
    canonical,
    draw_outside,
    draw_world,
    take_fitting,
    why_not,
)
from trainers.data.rows import counted
from trainers.data.sources import DataError, Row, Rows, Text, UnreadableData, kind_of, read_rows
from trainers.data.tokens import tokenise

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "DataError",
    "Gold",
    "JudgeError",
    "Pairs",
    "Row",
    "Text",
    "check_data",
    "limits_of",
    "load_pairs",
    "read_local",
]


class JudgeError(ValueError):
    """A judge that cannot be used or did not answer as it must: says who, what and what to do.

    It ends a run as refused: what the study asks for cannot be measured, and another try would end the same.
    """


Preferences = tuple[tuple[float, ...], tuple[bool, ...]]
"""Wins [n] of answers over others (1, 0 or between), and where a judge that was asked in both orders contradicted
itself, which counts as a tie."""
Prefer = Callable[[Sequence[Text], Sequence[str], Sequence[str]], Preferences]
"""prefer(prompts, answers, other answers); raises JudgeError."""


@dataclass(frozen=True)
class Pairs:
    """The pairs of one block, as they are trained on and measured with.

    `train` has its rejected answers dealt and its labels flipped already; `evaluation` never has. `prompts` are what a
    policy is sampled under: the distinct prompts of `evaluation`, in its order (in the embedded world, all that pairs
    can carry). `digest` is the SHA-256 of the three. `gold` exists where the data has a true reward, or the study a
    judge that scores, `prefer` where it has one that compares two answers. `sampling_seed`: what a policy is sampled
    with.
    """

    train: tuple[Row, ...]
    evaluation: tuple[Row, ...]
    prompts: tuple[Text, ...]
    digest: str
    facts: Mapping[str, Scalar]
    gold: Gold | None = None
    sampling_seed: int = SAMPLING_SEED
    prefer: Prefer | None = None


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
        raise UnreadableData(problems)
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
        "messages": ("hub", "folder", "file"),
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
    draw = draw_world if kind_of(data.path) == "embedded" else draw_outside
    fits = partial(why_not, data=data, tokenizer=tokenizer)
    material = draw(data, block, fits)
    if data.rejected_from != "own":
        material = material._replace(train=_changed(material.train, data, block, fits))
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
        "length_baseline": _share_chosen_longer(evaluation.rows, tokenizer),
        "conversational": isinstance(evaluation.rows[0]["prompt"], list),
        **_funnel(material, data),
    }
    return Pairs(labelled, evaluation.rows, prompts, content, facts, material.gold, material.sampling_seed)


def _require_rows(material: Material, data: DataConfig) -> None:
    """Raises DataError where length limits, the template or the split left one side without rows; names which."""
    train, evaluation = material.train, material.evaluation
    problems = [
        f"data {data.path}: no {side} pairs left{_cause(taken, material, data)}"
        for side, taken in (("training", train), ("evaluation", evaluation))
        if not taken.rows and (taken.looked_at or evaluation.rows or not evaluation.looked_at)
    ]
    if problems:
        raise DataError(problems)


def _cause(taken: FittingRows, material: Material, data: DataConfig) -> str:
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


def _funnel(material: Material, data: DataConfig) -> dict[str, Scalar]:
    """What `studies.records.funnel` tells of, for data that are not drawn as they are needed."""
    if kind_of(data.path) == "embedded":
        return {}
    out = material.train.out + material.evaluation.out
    facts: dict[str, Scalar] = {LOOKED_AT: material.train.looked_at + material.evaluation.looked_at}
    facts |= {LIMITS: limits_of(data)} if limits_of(data) else {}
    others = Counter({reason: count for reason, count in out.items() if reason != TOO_LONG})
    facts |= {OUT: counted(others)} if others else {}
    facts |= {NOTES: "; ".join(material.notes)} if material.notes else {}
    dropped = material.dropped
    return facts | ({DROPPED: dropped.total(), DROPPED_BY: counted(dropped)} if dropped else {})


def _changed(taken: FittingRows, data: DataConfig, block: int, fits: WhyNot) -> FittingRows:
    """The rows with rejected answers from elsewhere; those left out that then do not fit, or teach nothing."""
    prompts = [canonical(row["prompt"]) for row in taken.rows]
    if data.rejected_from == "model":
        changed = with_sampled_rejected(taken.rows, block, data.path)
    else:
        changed = deal_rejected(taken.rows, prompts, block)
    unequal = [row for row in changed if row["chosen"] != row["rejected"]]
    again = take_fitting(unequal, None, fits)
    return FittingRows(again.rows, taken.looked_at, taken.out + again.out, len(changed) - len(unequal))


def _rejected_longer(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Places of the rows whose rejected answer has more tokens."""
    tokens = (tokenise(row, tokenizer) for row in rows)
    return frozenset(i for i, ids in enumerate(tokens) if len(ids.rejected) > len(ids.chosen))


def _share_chosen_longer(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> float:
    """Share of pairs whose chosen answer has more tokens, ties one half: what 'pick the longer answer' gets right."""
    tokens = [tokenise(row, tokenizer) for row in rows]
    return sum((len(t.chosen) > len(t.rejected)) + 0.5 * (len(t.chosen) == len(t.rejected)) for t in tokens) / len(rows)


def _distinct(prompts: Iterable[Text]) -> tuple[Text, ...]:
    """The prompts without repetitions, in order."""
    return tuple({canonical(prompt): prompt for prompt in prompts}.values())


def _sha256(value: Any) -> str:
    """SHA-256 of the content, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()
