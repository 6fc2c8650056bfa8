"""Checks of a study's judge: one of two kinds, options that act on it, and what can be known of it without loading it.

Imports no code of the user and loads no model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from studies.losses.rules import suggest
from studies.records import Judge
from studies.schema.knob_problems import Problem
from studies.schema.paths import existing, is_hub_id
from studies.schema.types import StudySpec
from studies.text.files import read_json

_FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_MOST_CLASSES = 10_000  # a classifier that says it has more is looked at where it is loaded
# What acts on a reward model alone.
_OF_MODELS = ("label", "max_length", "batch_size", "trust_remote_code")


def judge_problems(spec: StudySpec) -> list[Problem]:
    """Every mistake in the study's judges and its check."""
    judges = spec.evaluation.judges
    problems = [problem for key, judge in judges.items() for problem in _problems(spec, judge, f"evaluate.{key}")]
    if "second_judge" in judges and "judge" not in judges:
        text = "there is no first one, which chooses: name it under evaluate.judge"
        problems.append(Problem("evaluate.second_judge", text))
    elif "second_judge" in judges and judges["second_judge"] == judges["judge"]:
        problems.append(Problem("evaluate.second_judge", "is the first one again: name another, or leave it out"))
    if spec.replicates is None:
        text = "looks at the runs that judge replicates, and there are none: add replicates: 8, or leave it out"
        problems += [Problem(f"evaluate.{key}", text) for key in ("second_judge", "check") if key in judges]
    return problems


def _problems(spec: StudySpec, judge: Judge, path: str) -> list[Problem]:
    problems = []
    if spec.trainer == "formula":
        problems.append(Problem(path, "does nothing with trainer: formula, which samples from no model: leave it out"))
    elif spec.data.path == "embedded":
        problems.append(
            Problem(path, "embedded data have a gold reward of their own: leave it out, or name your pairs")
        )
    kinds = ("reward_model", "function", "pairwise")
    given = [kind for kind in kinds if getattr(judge, kind) is not None]
    if len(given) != 1:
        which = " and ".join(given) + " are given" if given else "none is"
        text = (
            f"must name one of reward_model, function and pairwise, and {which}: reward_model: ORG/MODEL, function: "
            "module:name, or pairwise: module:name"
        )
        return [*problems, Problem(path, text)]
    return [*problems, *(_of_model(judge, path) if given == ["reward_model"] else _of_function(judge, path, given[0]))]


def _of_function(judge: Judge, place: str, kind: str) -> list[Problem]:
    function = str(getattr(judge, kind))
    found = [
        Problem(f"{place}.{name}", f"does nothing on a function ({function}): it is for a reward_model; leave it out")
        for name in _OF_MODELS
        if getattr(judge, name) != Judge.model_fields[name].default
    ]
    path = f"{place}.{kind}"
    if not _FUNCTION.fullmatch(function):
        return [*found, Problem(path, f"{function!r} must be module:name, such as my_judge:score")]
    module = function.partition(":")[0]
    if not _is_there(module):
        text = (
            f"there is no module {module} in the working folder ({Path.cwd()}) and none is installed: start sweeper "
            f"where {module.replace('.', '/')}.py lies, or correct the name"
        )
        found.append(Problem(path, text))
    return found


def _is_there(module: str) -> bool:
    """Whether a module can be found, as far as that can be told without importing what it lies in."""
    first, *rest = module.split(".")
    place = Path.cwd() / first
    try:
        if find_spec(first) is not None:
            return True
    except (ImportError, ValueError):  # what is imported already has lost its spec
        return True
    if not rest:
        return place.with_suffix(".py").is_file() or place.is_dir()
    place = place.joinpath(*rest)
    return place.with_suffix(".py").is_file() or place.is_dir()


def _of_model(judge: Judge, place: str) -> list[Problem]:
    found = [
        Problem(f"{place}.{name}", f"{value} must be at least 1, or be left out")
        for name, value in (("max_length", judge.max_length), ("batch_size", judge.batch_size))
        if value is not None and value < 1
    ]
    name, path = str(judge.reward_model), f"{place}.reward_model"
    folder = existing(name)
    if folder is None and not is_hub_id(name):
        text = (
            f"{name!r}: no such folder from here or beside the study file, and it is not the form of a Hub id "
            "(ORG/NAME) of a sequence classifier"
        )
        return [*found, Problem(path, text)]
    return [*found, *(_of_folder(judge, folder, place) if folder is not None else [])]


def _of_folder(judge: Judge, folder: Path, place: str) -> list[Problem]:
    """What the config that lies with a model tells."""
    path, file = f"{place}.reward_model", folder / "config.json"
    try:
        config: Any = read_json(file, links=True)
        kinds, labels = list(config.get("architectures") or []), label_names(config)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        return [Problem(path, f"{folder} is no folder of a model: {file.name} cannot be read ({type(error).__name__})")]
    if kinds and not judge.trust_remote_code and not any("SequenceClassification" in str(kind) for kind in kinds):
        text = (
            f"{folder} is a {kinds[0]} and no sequence classifier, so that the reward would be random: train its head "
            "first, or name a reward model"
        )
        return [Problem(path, text)]
    wrong = None if labels is None else label_problem(judge.label, labels)
    return [Problem(f"{place}.label", wrong)] if wrong else []


def label_names(config: Any) -> list[str] | None:
    """Names of a classifier's classes by number, from the mapping of its config.json; None where it does not say."""
    names = config.get("id2label")
    if isinstance(names, dict) and names:
        return [str(names[number]) for number in sorted(names, key=int)]
    count = int(config.get("num_labels") or 0)
    return [f"LABEL_{i}" for i in range(count)] if 0 < count <= _MOST_CLASSES else None


def label_problem(label: int | str | None, names: Sequence[str]) -> str | None:
    """What is wrong with the class that is to be the reward, None where nothing is."""
    shown = ", ".join(f"{i}: {name}" for i, name in enumerate(names[:20])) + (", ..." if len(names) > 20 else "")
    if label is None:
        return None if len(names) <= 2 else f"must be given, since the classifier has {len(names)} classes ({shown})"
    if (label in range(len(names))) if isinstance(label, int) else label in names:
        return None
    near = suggest(label, names) if isinstance(label, str) else ""
    return f"{label!r} is no class of the classifier{near}; it has {shown}"


def label_number(label: int | str | None, names: Sequence[str]) -> int:
    """The number of the class that is the reward, of those that `label_problem` has nothing against."""
    if label is None:
        return len(names) - 1
    return label if isinstance(label, int) else list(names).index(label)
