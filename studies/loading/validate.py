"""Turns the mapping of a study file into a StudySpec, and pydantic's complaints into sentences with a remedy.

What is wrong is named and then taken out, so that the rest can still be checked and every mistake is told at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

from pydantic import BaseModel, ValidationError

from studies.losses.rules import suggest
from studies.records import DataConfig, EvaluationConfig, Judge
from studies.schema import types as parts
from studies.schema.knob_problems import Problem, hints
from studies.schema.types import NOT_WRITTEN, StudySpec

Path = tuple[str | int, ...]

_KINDS = ("float", "int", "values", "simplex")
_MODELS: Mapping[str, type[BaseModel]] = {
    "": StudySpec,
    "data": DataConfig,
    "evaluation": EvaluationConfig,
    "evaluation.*": Judge,
    "objective": parts.Objective,
    "budget": parts.Budget,
    "resources": parts.Resources,
    "resources.slurm": parts.SlurmJobs,
    "output": parts.Output,
    "notify": parts.Notify,
    "runs": parts.Runs,
    "rungs": parts.Rungs,
    "confirm": parts.Confirm,
    "probe": parts.Probe,
    "variants.*": parts.Variant,
    "variants.*.expect": parts.Expectation,
    "scenarios.*": parts.Scenario,
    "scenarios.*.runs": parts.Runs,
    "scenarios.*.confirm": parts.Confirm,
}
# Stands in for what must be given and is missing, so that the rest can be checked.
_STAND_IN: Mapping[str, Any] = {"study": "unnamed", "base": {}, "variants": {}}
_ROUNDS = 4  # taking one mistake out can bring out another, but not for ever


def validate(raw: Mapping[Any, Any]) -> tuple[StudySpec | None, list[Problem]]:
    """The study and what is wrong with its structure. Where something is, the study is what is left without it, for
    further checks only; None where nothing can be made of it.
    """
    rest: Any = deepcopy(dict(raw))
    problems = _take_out_bad_keys(rest)
    for field in NOT_WRITTEN:
        problems += _take_out(rest, (field,), "unknown key") if field in rest else []
    for _ in range(_ROUNDS):
        try:
            return StudySpec.model_validate(rest), problems
        except ValidationError as error:
            grouped = _grouped(error, rest)
            problems += [_problem(path, found, rest) for path, found in grouped.items()]
            for path in grouped:
                _remove(rest, path)
    return None, problems


def shown_path(path: Sequence[str | int]) -> str:
    """A path as the user wrote it: `evaluation` is `evaluate` in the file."""
    steps = [str(step) for step in path]
    if steps and steps[0] == "evaluation":
        steps[0] = "evaluate"
    return ".".join(steps) or "study file"


def _take_out_bad_keys(rest: Any) -> list[Problem]:
    """Keys that YAML did not read as text, such as a bare `no`, which is false."""
    problems = []
    for path, node in list(_mappings(rest, ())):
        for key in [key for key in node if not isinstance(key, str)]:
            where = shown_path(path)
            if isinstance(key, bool):
                word = "on, yes or true" if key else "no, off or false"
                text = f"YAML reads a bare {word} as the truth value {str(key).lower()}: put the name in quotes"
            else:
                text = f"the name {key!r} is not text: put it in quotes"
            problems.append(Problem(where, text))
            del node[key]
    return problems


def _mappings(node: Any, path: Path) -> Iterator[tuple[Path, dict[Any, Any]]]:
    if isinstance(node, dict):
        yield path, node
        for key, value in list(node.items()):
            yield from _mappings(value, (*path, key))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _mappings(value, (*path, i))


def _take_out(rest: dict[str, Any], path: Path, text: str) -> list[Problem]:
    _remove(rest, path)
    return [Problem(shown_path(path), text, rule=text)]


def _grouped(error: ValidationError, rest: Any) -> dict[Path, list[Any]]:
    """Complaints by the place in the file that they are about; a union complains once for each of its members."""
    grouped: dict[Path, list[Any]] = {}
    for complaint in error.errors(include_url=False):
        grouped.setdefault(_real(complaint["loc"], rest), []).append(complaint)
    return grouped


def _real(loc: Sequence[str | int], rest: Any) -> Path:
    """The part of pydantic's location that is in the file: without the names of union members."""
    path: list[str | int] = []
    node = rest
    for i, step in enumerate(loc):
        if isinstance(node, Mapping):
            if step not in node:
                if step in _KINDS and i < len(loc) - 1:
                    continue
                path += [step] if i == len(loc) - 1 and step not in _KINDS else []
                break
            node = node[step]
        elif isinstance(node, list | tuple) and isinstance(step, int) and step < len(node):
            node = node[step]
        else:
            break
        path.append(step)
    return tuple(path)


def _at(rest: Any, path: Path) -> Any:
    node = rest
    for step in path:
        try:
            node = node[step]
        except (KeyError, IndexError, TypeError):
            return None
    return node


def _remove(rest: Any, path: Path) -> None:
    """Take the entry at `path` out of the file, or put a stand-in where one must be."""
    if not path:
        return
    if _is_distribution(path[:2]) or _is_distribution(path[:4]):  # half a distribution is none
        path = path[:2] if path[0] == "space" else path[:4]
    parent, last = _at(rest, path[:-1]), path[-1]
    if len(path) == 1 and last in _STAND_IN:
        rest[last] = deepcopy(_STAND_IN[str(last)])
    elif isinstance(parent, dict) and last in parent:
        del parent[last]
    elif len(path) > 1:  # a needed key is missing, or an item of a list is wrong: what holds it cannot be read
        _remove(rest, path[:-1])


def _problem(path: Path, complaints: Sequence[Any], rest: Any) -> Problem:
    """What is wrong at `path`, with the value and what would have been right."""
    value = _at(rest, path)
    first = complaints[0]
    kind = first["type"]
    if kind == "missing":
        example = _example(path)
        rule = "is needed and missing"
        return Problem(shown_path(path), rule + (f": {example}" if example else ""), rule, example)
    if kind == "extra_forbidden":
        names = _valid_keys(path, rest)
        near = suggest(str(path[-1]), names)
        valid = f"valid here are {', '.join(names)}"
        return Problem(shown_path(path), f"unknown key{near}; {valid}", "unknown key", hints(near, valid))
    if _is_distribution(path) and not isinstance(value, Mapping):
        if isinstance(value, list):
            return _wrong(path, value, "is a list", "write {values: [...]}")
        return _wrong(
            path,
            value,
            "is one value",
            "write {low: ..., high: ...} or {values: [...]} to vary it, or give it in base",
        )
    if kind == "union_tag_invalid":
        return _wrong(path, _at(rest, (*path, "type")), f"is none of {', '.join(_KINDS)}", named="type ")
    if kind == "literal_error":
        allowed = first["ctx"]["expected"].replace("'", "")
        near = suggest(str(value), allowed.replace(" or ", ", ").split(", "))
        rule = f"must be one of {allowed}"
        return Problem(shown_path(path), f"{value!r} {rule}{near}", rule, hints(near))
    return _wrong(path, value, _rule(path, kind, complaints))


def _wrong(path: Path, value: Any, rule: str, remedy: str | None = None, named: str = "") -> Problem:
    """A value against its rule."""
    return Problem(shown_path(path), f"{named}{value!r} {rule}" + (f": {remedy}" if remedy else ""), rule, remedy)


def _rule(path: Path, kind: str, complaints: Sequence[Any]) -> str:
    """What a value of the wrong type must be."""
    if path in (("budget", "wall_clock"), ("budget", "per_run"), ("resources", "retry_after")):
        return "must be a time such as 12h, 30m, 45s, or seconds"
    if path == ("notify", "command"):
        return "must be a list of words, as [notify-send, done]; for a shell [sh, -c, '...']"
    if path == ("base",):
        return "must be a mapping of TRL settings, or the path of a TRL YAML"
    if kind in ("model_type", "model_attributes_type", "mapping_type", "dict_type"):
        return "must be a mapping of keys"
    if kind in ("tuple_type", "list_type"):
        return "must be a list"
    wanted = list(dict.fromkeys(_without_lead(complaint["msg"]) for complaint in complaints))
    return f"must be {' or '.join(wanted)}"


def _without_lead(message: str) -> str:
    text = message.removeprefix("Input should be ").removeprefix("Value error, ")
    return text.split(", unable to")[0].split(", got a number")[0]


def _example(path: Path) -> str | None:
    examples = {
        "study": "a short name, such as study: my-first-sweep",
        "base": "TRL settings or the path of a TRL YAML, such as base: {model_name_or_path: embedded}",
        "variants": "the losses to compare, such as variants: {sigmoid: {}, ipo: {}}",
    }
    return examples.get(str(path[0])) if len(path) == 1 else None


def _is_distribution(path: Path) -> bool:
    return (len(path) == 2 and path[0] == "space") or (len(path) == 4 and path[0] == "variants" and path[2] == "space")


def _valid_keys(path: Path, rest: Any) -> list[str]:
    """The keys that could stand beside the unknown one at `path`."""
    parent = path[:-1]
    if _is_distribution(parent):
        given = _at(rest, parent)
        values = isinstance(given, Mapping) and "values" in given
        names = {"simplex": ["corners"], "values": ["values"], "int": ["low", "high", "log"]}
        kind = str(given.get("type", "values" if values else "float"))
        return ["type", *names.get(kind, ["low", "high", "log"])]
    pattern = ".".join("*" if i == 1 else str(step) for i, step in enumerate(parent))
    fields = list(_MODELS[pattern].model_fields) if pattern in _MODELS else []
    if pattern == "":
        fields = ["evaluate" if f == "evaluation" else f for f in fields if f not in NOT_WRITTEN]
    return fields
