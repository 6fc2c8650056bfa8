"""Files of other tools given as a study, a base or a space: says what they look like and what to write here instead.

Nothing of another tool is taken as it is. What can be said for it is put into the file, so that the rest of the file
can be checked beside these mistakes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import yaml

from studies.losses.trl_settings import DATA, DROPPED, OWNED, REFUSED, RENAMED, TYPES, coerce, type_problem
from studies.schema.dialects import BASES, LOSSES, OUT, SWEEPS, Dialect, remedy, spoken
from studies.schema.knob_problems import Problem

_LONGEST_SHOWN = 100
_MOST_STEPS = 20
_LARGEST_POWER = 700  # of e, in a float
_STUDY = "{study: NAME, base: FILE, variants: {sigmoid: {}, ipo: {}}}"
_RANGE = "{low: ..., high: ...}, with log: true for a log scale, or {values: [...]}"
_WANDB = ("min", "max", "value", "distribution", "mu", "sigma", "q", "probabilities")
_OPTUNA = ("step", "choices", "name")
_PLAIN = ("=study", "=question", "=space")
_OTHER_TYPES = ("categorical", "choice", "uniform", "loguniform", "log_uniform")


# ---- a base -------------------------------------------------------------------------------------------------------


def base_problems(raw: Mapping[Any, Any]) -> tuple[list[Problem], dict[Any, Any]]:
    """What is said in another tool's way in a base, and the base with it put right as far as it can be."""
    own = [key for key, value in raw.items() if isinstance(key, str) and not _trl_takes(key, value)]
    tool = spoken((*BASES, *SWEEPS), own)
    rest, problems, left_out = dict(raw), [], []
    for key in own:
        meant = remedy(BASES, tool, key)
        if meant is None:
            continue
        value = rest.pop(key)
        if meant == OUT and tool is not None:
            left_out.append(key)
        elif value is not None or tool is None:  # templates of other tools name what they leave open
            problems.append(Problem(f"base.{key}", _written(meant, value, " in the study file")))
            same = meant.partition(" ")[0].removeprefix("=")
            if same in TYPES or same in DATA:
                rest.setdefault(same, value)
    return _introduced(problems, left_out, tool, "base", "a base has the names of `trl dpo`, so write:"), rest


def _trl_takes(key: str, value: Any) -> bool:
    """Whether a key is TRL's, or one of its older names, with a value of its type."""
    if key in TYPES:
        value = coerce(key, value)
        return value is None or type_problem(key, value) is None
    return any(key in names for names in (RENAMED, OWNED, DROPPED, REFUSED, DATA))


def _introduced(
    problems: list[Problem], left_out: list[str], tool: Dialect | None, place: str, so: str
) -> list[Problem]:
    """The mistakes after a sentence that says which tool's file this looks like, and before what has no counterpart."""
    if tool is None:
        return problems
    out = [Problem(place, f"leave out {', '.join(left_out)}")] if left_out else []
    looks = [Problem(place, f"looks like a file of {tool.tool}; {so}")] if problems or out else []
    return [*looks, *problems, *out]


def _written(meant: str, value: Any, where: str = "") -> str:
    """A remedy in words, with the value where one name stands for another."""
    if not meant.startswith("="):
        return meant
    name, _, note = meant[1:].partition(" ")
    outer, dot, inner = name.partition(".")
    said = f"write {outer}: {{{inner}: {_flow(value)}}}{where}" if dot else f"write {outer}: {_flow(value)}"
    return f"{said} {note}".strip()


def _flow(value: Any) -> str:
    """A value as YAML on one line, not longer than a line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True)
    text = text.strip().removesuffix("\n...")
    return text if len(text) <= _LONGEST_SHOWN else "..."


# ---- a study ------------------------------------------------------------------------------------------------------


def study_problems(raw: Mapping[Any, Any], known: Collection[str]) -> tuple[list[Problem], dict[Any, Any]]:
    """What is said in another tool's way in a study file, and the file with it put right as far as it can be.

    `known`: the keys of a study file.
    """
    own = [key for key in raw if isinstance(key, str) and key not in known]
    tool, of_base = spoken(SWEEPS, own), spoken(BASES, own)
    settings = [key for key in own if _trl_takes(key, raw[key]) or (of_base is not None and key in of_base.keys)]
    if tool is None and len(settings) > 1 and "base" not in raw and "variants" not in raw:
        of = f"a file of {of_base.tool}" if of_base is not None else "settings of `trl dpo`"
        text = f"looks like {of}, not like a study: write a study that names it, such as {_STUDY}"
        problems, rest = [Problem("study file", text)], {k: v for k, v in raw.items() if k not in settings}
    else:
        problems, rest = _said_otherwise(raw, own, tool)
    found, rest = _spaces(rest)
    return [*problems, *found], rest


def _said_otherwise(
    raw: Mapping[Any, Any], own: list[str], tool: Dialect | None
) -> tuple[list[Problem], dict[Any, Any]]:
    """What to write for the keys that no study has, and the file without those that something can be said of."""
    rest, problems, left_out = dict(raw), [], []
    for key in own:
        value, meant = raw[key], remedy(SWEEPS, tool, key)
        if key == "parameters" and isinstance(value, Mapping):
            problems += [Problem(f"parameters.{name}", _parameter(name, said)) for name, said in value.items()]
        elif meant == OUT and tool is not None:
            left_out.append(key)
        elif meant is not None:
            problems.append(Problem(key, _written(meant, value)))
        elif key in TYPES or key in RENAMED:
            problems.append(Problem(key, f"is a setting of TRL: write base: {{{key}: {_flow(value)}}}"))
        elif (meant := remedy(BASES, None, key)) is not None:
            problems.append(Problem(key, f"{_written(meant, value)}, under base"))
        else:
            continue
        del rest[key]
        if meant in _PLAIN:
            rest.setdefault(meant[1:], value)
    return _introduced(problems, left_out, tool, "study file", "a study says it so:"), rest


def _parameter(name: Any, said: Any) -> str:
    """What to write for an entry of `parameters` of a W&B sweep."""
    if name in ("loss_type", "loss"):
        return LOSSES.replace("the study's ", "")
    if isinstance(said, Mapping) and "value" in said:
        return f"write base: {{{name}: {_flow(said['value'])}}}"
    put = _put_right(said) if isinstance(said, Mapping) else None
    return f"write space: {{{name}: {_flow(put) if put else _RANGE}}}"


# ---- a space ------------------------------------------------------------------------------------------------------


def _spaces(raw: dict[Any, Any]) -> tuple[list[Problem], dict[Any, Any]]:
    """What is said in another tool's way in the spaces of a study and of its variants."""
    problems: list[Problem] = []
    study = dict(raw)
    if "space" in raw:
        problems, study["space"] = _space(raw["space"], "space")
    variants = raw.get("variants")
    if isinstance(variants, Mapping):
        study["variants"] = dict(variants)
        for name, variant in variants.items():
            if isinstance(variant, Mapping) and "space" in variant:
                found, space = _space(variant["space"], f"variants.{name}.space")
                problems += found
                study["variants"][name] = {**variant, "space": space}
    return problems, study


def _space(space: Any, path: str) -> tuple[list[Problem], Any]:
    if not isinstance(space, Mapping):
        return [], space
    problems, rest = [], dict(space)
    for knob, said in space.items():
        words = _foreign_words(said)
        if not words:
            continue
        tool = "W&B sweeps" if set(words) & {*_WANDB} else "Optuna"
        put = _put_right(said)
        fixed = f"base: {{{knob}: {_flow(said['value'])}}}" if "value" in words else None
        write = fixed or f"{knob}: {_flow(put) if put else _RANGE}"
        problems.append(Problem(f"{path}.{knob}", f"{', '.join(words)}: that is the way of {tool}; write {write}"))
        if put:
            rest[knob] = put
        else:
            del rest[knob]
    return problems, rest


def _foreign_words(said: Any) -> list[str]:
    """The words of a distribution that are another tool's."""
    if not isinstance(said, Mapping):
        return []
    types = [f"type: {said['type']}"] if said.get("type") in _OTHER_TYPES else []
    return [*types, *(key for key in said if key in (*_WANDB, *_OPTUNA))]


def _put_right(said: Mapping[Any, Any]) -> dict[str, Any] | None:
    """A distribution of another tool as a study says it; None where a study has none like it."""
    listed = said.get("values", said.get("choices"))
    if isinstance(listed, list) and listed:
        return {"values": listed}
    shape, kind = str(said.get("distribution", "uniform")), str(said.get("type", "float"))
    low, high = (_number(said.get(ours, said.get(theirs))) for ours, theirs in (("low", "min"), ("high", "max")))
    if low is None or high is None or not low < high or "uniform" not in shape:
        return None
    step = _number(said.get("step", said.get("q")))
    if step is not None and step > 0 and "log" not in shape and (high - low) / step < _MOST_STEPS:
        steps = math.floor((high - low) / step * (1 + 1e-9))
        return {"values": [_short(low + i * step) for i in range(steps + 1)]}
    if "log_uniform" in shape and "values" not in shape:  # the ends of this one are powers of e
        if high > _LARGEST_POWER:
            return None
        low, high = _short(math.exp(low)), _short(math.exp(high))
    log = said.get("log") is True or "log" in shape or "log" in kind
    return {"low": low, "high": high, **({"log": True} if log else {})}


def _number(value: Any) -> int | float | None:
    """A finite number, which YAML may have left as text."""
    value = coerce("beta", value) if isinstance(value, str) else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
        return None
    return value


def _short(value: float) -> float:
    """A number without the last digits that adding leaves; a whole number stays one."""
    return value if isinstance(value, int) else float(f"{value:.6g}")
