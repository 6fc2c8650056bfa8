"""What is wrong with a variant's knobs, ranges and weights, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from studies.losses import rules, table
from studies.losses.free_settings import free_problems
from studies.losses.trl_settings import DATA, OWNED, REFUSED, RENAMED, TYPES, coerce, type_problem
from studies.records import Scalar
from studies.schema.dialects import BASES, remedy
from studies.schema.types import (
    Distribution,
    FloatRange,
    IntRange,
    Simplex,
    Values,
    Variant,
)


class Problem(NamedTuple):
    """A mistake: the key path in the study file, and the value, rule and remedy in a sentence or two. `rule` and
    `remedy`: these parts of the text alone, where they are known apart.
    """

    path: str
    text: str
    rule: str | None = None
    remedy: str | None = None


def in_parts(text: str, value: Any) -> tuple[str | None, str | None]:
    """Rule and remedy of a text that begins with the value, `VALUE RULE: REMEDY`; None for both of any other."""
    for written in (shown(value), repr(value)):
        if value is not None and text.startswith(f"{written} "):
            rule, _, remedy = text[len(written) + 1 :].partition(": ")
            return rule, remedy or None
    return None, None


def hints(near: str, *others: str) -> str | None:
    """What `rules.suggest` found and what else may help, as a remedy; None where nothing does."""
    return "; ".join(filter(None, (near.strip(" ()"), *others))) or None


def ends(distribution: Distribution) -> Iterator[tuple[str, Scalar]]:
    """(key, value) of both ends of a range, or of every listed value; nothing for a simplex."""
    if isinstance(distribution, FloatRange | IntRange):
        yield from (("low", distribution.low), ("high", distribution.high))
    elif isinstance(distribution, Values):
        yield from ((f"values.{i}", value) for i, value in enumerate(distribution.values))


def name_problem(knob: str) -> str | None:
    """Why `knob` cannot be set or varied by a variant; None where it can."""
    if knob == "seed":
        return "seeds are given in runs: {seeds: [...]}"
    if knob == "loss_type":
        return "losses are compared by variants: give each its own, with loss_type"
    if knob == "trust_remote_code":
        return "whether foreign code runs is no setting to search: say it once, in base"
    if knob in DATA:
        return f"say it once under data ({DATA[knob]}); a variant cannot change the data"
    if knob in REFUSED:
        return REFUSED[knob]
    if knob in RENAMED:
        return f"it is called {RENAMED[knob]} in this TRL"
    if knob in OWNED:
        return f"it does nothing here: {OWNED[knob]}"
    if knob in TYPES:
        return None
    if knob.startswith("loss_weights."):
        return "weights are varied together: space: {loss_weights: {type: simplex}}"
    meant = remedy(BASES, None, knob)
    if meant is not None:
        return f"it is called {meant[1:].partition(' ')[0]} here" if meant.startswith("=") else meant
    return f"no setting of `trl dpo` is called {knob}{rules.suggest(knob, TYPES)}"


def own_knob_problem(losses: Sequence[str], knob: str, value: Any) -> str | None:
    """Why a knob that the variant itself names cannot be used with its losses."""
    reason = rules.refusal(losses, knob)
    if reason is not None and (value is None or value != table.DEFAULTS.get(knob)):
        return reason
    return None if rules.acts(losses, knob) else rules.inert(losses, knob)


def reason_to_leave_out(losses: Sequence[str], knob: str, value: Any) -> str | None:
    if knob not in table.DEFAULTS:
        return None
    return rules.refusal(losses, knob) or (None if rules.acts(losses, knob) else rules.inert(losses, knob))


def reason_not_shared(variant: Variant, losses: Sequence[str], knob: str) -> str | None:
    if variant.points and not variant.space:
        return "the variant has fixed points only"
    if knob in variant.base or (knob == "loss_weights" and variant.loss_weights is not None):
        return "the variant fixes it"
    return rules.refusal(losses, knob) or (None if rules.acts(losses, knob) else rules.inert(losses, knob))


def value_problems(losses: Sequence[str], knob: str, value: Any, path: str) -> list[Problem]:
    value = coerce(knob, value)
    wrong = type_problem(knob, value) or rules.bound_problem(losses, knob, value)
    if wrong is None and knob == "lora_target_modules" and "lm_head" in (value or ()):
        wrong = "must not hold lm_head: TRL computes log-probs past it, so the adapter would never be trained"
    if wrong is not None:
        return [Problem(path, f"{shown(value)} {wrong}", rule=wrong)]
    where = path.rpartition(".")[0] if path.endswith(f".{knob}") else path
    return [Problem(f"{where}.{inside}", text) for inside, text in free_problems(knob, value)]


def distribution_problems(losses: Sequence[str], knob: str, distribution: Distribution, path: str) -> list[Problem]:
    if isinstance(distribution, Simplex) != (knob == "loss_weights"):
        rule = "weights of a mixture, and only they, are varied as {type: simplex}"
        return [Problem(path, rule, rule=rule)]
    if knob not in TYPES:
        return []
    return [
        problem for key, value in ends(distribution) for problem in value_problems(losses, knob, value, f"{path}.{key}")
    ]


def shown(value: Any) -> str:
    return repr(value) if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)
