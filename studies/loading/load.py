"""Reads a study file, completes it and checks it, so that a wrong one is refused with every mistake at once.

Reads files and nothing else: no network, no model, no store; creates nothing.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from studies.checks import rungs, runs
from studies.checks import study as checks
from studies.loading import yaml_reader as safe_yaml
from studies.loading.other_tools import base_problems, study_problems
from studies.loading.plain_text import text_problems
from studies.loading.trl_base import Base, take_apart
from studies.loading.validate import validate
from studies.losses.rules import suggest
from studies.schema import paths as places
from studies.schema.knob_problems import Problem, hints, in_parts
from studies.schema.normalize import normal_study
from studies.schema.replicates import with_replicates
from studies.schema.types import StudyError, StudySpec, Values
from studies.text.mistakes import Mistake, value_at
from studies.text.redact import redact
from studies.text.secret_values import secrets_in, secrets_in_options, secrets_in_text

_HERE = Path(__file__).parents[1]


def load_study(
    study: str | Path, overrides: Sequence[str] = (), text: str | None = None, *, only_read: bool = False
) -> StudySpec:
    """Read, check and complete a study: `study` is a path or the name of a shipped one; `overrides` are
    `key.sub=value` strings, values typed by YAML. `text`: what stands in the study's file, where it is none yet.
    `only_read`: nothing is trained, so that data and models need not lie here any more. Raises StudyError with all
    mistakes at once; creates nothing. What is told of it, mistakes and notices, holds no value of a secret setting.
    """
    path = find_study(study) if text is None else Path(study)
    raw = read_yaml(path, text)
    problems = _override(raw, overrides)
    given = deepcopy(raw)
    secrets = secrets_in_options(overrides) | secrets_in(raw)
    found, raw = study_problems(raw, _KEYS)
    problems += found
    base = _read_base(raw, path.parent, problems)
    secrets |= base.secrets
    problems += base.problems
    _fill_in(raw, base)
    spec, found = validate(normal_study(raw))
    problems += found
    if spec is not None:
        problems += text_problems(spec)
        spec = places.locate(spec, path.parent)
        problems += checks.check_study(spec, {problem.path for problem in problems}, only_read=only_read)
    if problems or spec is None:
        raise StudyError([_mistake(path, problem, given, secrets) for problem in problems])
    notices = tuple(redact([*base.notices, *checks.notices(spec)], also=secrets))
    completed = {"notices": notices, "budget": runs.budget(spec), "evaluation": rungs.evaluation(spec)}
    return with_replicates(spec.model_copy(update=completed))


def _mistake(path: Path, problem: Problem, given: Mapping[Any, Any], secrets: Collection[str]) -> Mistake:
    """A mistake in parts, without secrets. `given`: the file as it was written."""
    value, leaf = value_at(given, problem.path), problem.path.rpartition(".")[2]
    rule, remedy = (problem.rule, problem.remedy) if problem.rule else in_parts(problem.text, value)
    text, rule, remedy = redact([problem.text, rule, remedy], also=secrets)
    value = redact({leaf: value}, also=secrets)[leaf]
    return Mistake(problem.path, value, rule, remedy, f"{path}: {problem.path}: {text}")


def not_yet(spec: StudySpec) -> tuple[str, ...]:
    """What the study asks for that is parsed and planned but cannot be done by this version: `run` must refuse it."""
    found = []
    if spec.resources.gpus_per_run > 1:
        found.append(
            f"resources.gpus_per_run: {spec.resources.gpus_per_run} GPUs a run is not built yet; 1 is, one run per GPU"
        )
    return tuple(found)


def foreign_code(spec: StudySpec) -> tuple[str, ...]:
    """Whose Python code the study has run, beside the project's own and that of the installed libraries."""
    found = []
    if spec.base.get("trust_remote_code"):
        found.append(
            f"base.trust_remote_code: Python code that lies with {' and '.join(_models(spec))} will run with "
            "all rights of yours; read it, and pin what you read with model_revision"
        )
    if ":" in spec.trainer:
        found.append(f"trainer: Python code of {spec.trainer} will run")
    if spec.notify is not None:
        found.append(f"notify.command: `sweeper run` will run {shlex.join(spec.notify.command)} when it has ended")
    if spec.resources.slurm.setup:
        lines = "; ".join(spec.resources.slurm.setup)
        found.append(f"resources.slurm.setup: `--executor slurm` will run in each job of a worker: {lines}")
    if spec.resources.slurm.python:
        found.append(f"resources.slurm.python: `--executor slurm` will run {spec.resources.slurm.python}")
    for key, judge in spec.evaluation.judges.items():
        named = {"function": judge.function, "pairwise": judge.pairwise}
        found += [
            f"evaluate.{key}.{kind}: Python code of {code} will run in the workers"
            for kind, code in named.items()
            if code
        ]
        if judge.trust_remote_code:
            found.append(
                f"evaluate.{key}.trust_remote_code: Python code that lies with {judge.reward_model} will run with all "
                f"rights of yours; read it, and pin what you read with evaluate.{key}.revision"
            )
    return tuple(found)


def _models(spec: StudySpec) -> list[str]:
    """Every model that runs of the study may start from."""
    name = "model_name_or_path"
    places: list[Mapping[str, Any]] = [spec.base]
    for variant in spec.variants.values():
        places += [variant.base, *variant.points]
    named = [place[name] for place in places if place.get(name)]
    spaces = [spec.space, *(variant.space for variant in spec.variants.values())]
    named += [value for space in spaces if isinstance(one := space.get(name), Values) for value in one.values]
    return [str(model) for model in dict.fromkeys(named)]


def shipped_studies() -> Mapping[str, Path]:
    """The study files that come with the project, by name; base files that lie beside them are not studies."""
    files = [path for place in ("", "guide/", "examples/") for path in sorted(_HERE.glob(f"{place}*.yaml"))]
    return {path.stem: path for path in files if re.search(r"^study:", path.read_text(), re.MULTILINE)}


def find_study(study: str | Path) -> Path:
    """The file that `study` means: a path, else the name of a shipped one. Raises StudyError."""
    path = places.existing(str(study))
    if path is not None and path.is_file():
        return path
    if path is not None:
        rule = f"is {'a folder' if path.is_dir() else 'no regular file'}, a study is a YAML file"
        raise StudyError([Mistake("STUDY", str(study), rule, None, f"{study}: {rule}")])
    if re.fullmatch(r"[\w.-]+", str(study)):
        shipped = shipped_studies()
        if str(study) in shipped:
            return shipped[str(study)]
        near, known = suggest(str(study), shipped), f"shipped are {', '.join(shipped)}"
    else:
        near = known = ""
    rule = "no such file, and no shipped study of this name"
    said = f"{study}: {rule}{near}{known and f'; {known}'}"
    raise StudyError([Mistake("STUDY", str(study), rule, hints(near, known), said)])


def read_yaml(path: Path, text: str | None = None) -> dict[Any, Any]:
    """A YAML file that holds a mapping; `text`: its content, where that is known. Raises StudyError for unreadable
    text, bad syntax and repeated keys.
    """
    try:
        text = safe_yaml.read_text(path) if text is None else text
        raw = safe_yaml.parse(text)
    except safe_yaml.UnusableYaml as error:
        told = redact(error.problems, also=secrets_in_text(text or ""))
        raise StudyError(tuple(f"{path}: {problem}" for problem in told)) from None  # its cause may hold a secret
    if not isinstance(raw, dict):
        raise StudyError((f"{path}: must be a mapping of keys, is {'empty' if raw is None else type(raw).__name__}",))
    return raw


def _override(raw: dict[Any, Any], overrides: Sequence[str]) -> list[Problem]:
    """Set `key.sub=value` in `raw`. `base` itself goes first, since others may reach into the file it names."""
    problems = []
    for text in sorted(overrides, key=lambda one: not one.startswith("base=")):
        key, equals, value = text.partition("=")
        steps = key.strip().split(".")
        if not equals or not all(steps):
            rule, remedy = "must be key.sub=value", "such as budget.trials=4"
            problems.append(Problem("--set", f"{text!r} {rule}, {remedy}", rule, remedy))
            continue
        try:
            parsed = safe_yaml.parse(value)
        except safe_yaml.UnusableYaml as error:
            wrong = "; ".join(error.problems)
            problems.append(Problem(f"--set {key}", f"{value!r} is not a YAML value: put it in quotes ({wrong})"))
            continue
        if not _put(raw, steps, parsed):
            rule = "there is no such place in the study file"
            problems.append(Problem(f"--set {key}", rule, rule))
    return problems


def _put(node: Any, steps: Sequence[str], value: Any) -> bool:
    """Set `value` at `steps` below `node`, making mappings on the way; False where the way leads through a value."""
    for i, step in enumerate(steps):
        last = i == len(steps) - 1
        if isinstance(node, list):
            if not step.isdecimal() or int(step) >= len(node):
                return False
            if last:
                node[int(step)] = value
            else:
                node = node[int(step)]
        elif isinstance(node, dict):
            if step == "base" and i == 0 and not last and isinstance(node.get("base"), str):
                # The base is the path of a file: what is set lies over it.
                node = node.setdefault(_OVER_BASE, {})
            elif last:
                node[step] = value
            else:
                node[step] = {} if node.get(step) is None else node[step]
                node = node[step]
        else:
            return False
    return True


_OVER_BASE = "--set base"
_KEYS = {*StudySpec.model_fields, "evaluate", _OVER_BASE}


def _read_base(raw: dict[Any, Any], folder: Path, problems: list[Problem]) -> Base:
    """The base of the study, read from the file that it names where it names one."""
    over = raw.pop(_OVER_BASE, {})
    given = raw.get("base")
    if isinstance(given, str):
        found = (places.existing(str(folder / given)), places.existing(given))
        path = next((p for p in found if p is not None and p.is_file()), None)
        if path is None:
            problems.append(
                Problem("base", f"{given!r}: no such file beside the study file; write a path or a mapping")
            )
            raw["base"] = {}
            return Base()
        try:
            given = {**read_yaml(path), **over}
        except StudyError as error:
            problems += [Problem("base", text) for text in error.problems]
            given = {}
    if not isinstance(given, Mapping):
        return Base()
    foreign, given = base_problems(given)
    problems += foreign
    base = take_apart(given)
    raw["base"] = base.settings
    return base


def _fill_in(raw: dict[Any, Any], base: Base) -> None:
    """Put what the base says of data and seed where the study file leaves it open."""
    data = raw.get("data")
    if base.data and (data is None or isinstance(data, Mapping)):
        own = data or {}
        for key, value in base.data.items():
            if key in own and own[key] != value and key not in ("path", "name", "split", "eval_split"):
                base.notices.append(f"base: {key} {value} left out, data.{key} says {own[key]}")
        moved = {k: v for k, v in base.data.items() if not ("path" in own and k in ("name", "split", "eval_split"))}
        raw["data"] = {**moved, **own}
    if base.seed is None:
        return
    runs = raw.get("runs")
    if runs is None or (isinstance(runs, Mapping) and "seeds" not in runs):
        raw["runs"] = {**(runs or {}), "seeds": [base.seed]}
    elif isinstance(runs, Mapping):
        base.notices.append(f"base.seed: {base.seed} left out, runs.seeds says {runs['seeds']}")
