"""Where the files of a study lie: data and models named by a path, from the study file or the working folder.

Looks whether files are there and reads none of them.
"""

from __future__ import annotations

import re
from pathlib import Path

from studies.records import EMBEDDED_MODELS
from studies.schema.knob_problems import Problem
from studies.schema.types import StudySpec

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_DATA_FILES = {".json", ".jsonl", ".csv", ".parquet", ".tsv", ".arrow", ".txt", ".gz", ".zst", ".ndjson"}


def existing(path: str) -> Path | None:
    """The file or folder that `path` names, with `~` written out; None where there is none, whatever `path` holds."""
    try:
        place = Path(path).expanduser()
        return place if place.exists() else None
    except (OSError, RuntimeError, ValueError):  # too long, `~nobody`, a zero byte
        return None


def locate(spec: StudySpec, folder: Path) -> StudySpec:
    """The study with paths that hold from the working folder: what is not found there is looked for beside the
    study file, in `folder`.
    """
    data = spec.data.model_copy(update={"path": _found(spec.data.path, folder)})
    if data.eval_split is not None and _is_data_file(data.eval_split):  # elsewhere it is the name of a split
        data = data.model_copy(update={"eval_split": _found(data.eval_split, folder)})
    base = dict(spec.base)
    if isinstance(base.get("model_name_or_path"), str):
        base["model_name_or_path"] = _found(base["model_name_or_path"], folder)
    evaluation = spec.evaluation
    for key, judge in evaluation.judges.items():
        if judge.reward_model:
            found = judge.model_copy(update={"reward_model": _found(judge.reward_model, folder)})
            evaluation = evaluation.model_copy(update={key: found})
    return spec.model_copy(update={"data": data, "base": base, "evaluation": evaluation})


def place_problems(spec: StudySpec) -> list[Problem]:
    """Local files that are not there, and names that can be neither a file nor a Hub id."""
    problems = []
    path = spec.data.path
    if path != "embedded" and existing(path) is None and not is_hub_id(path):
        problems.append(
            Problem(
                "data.path",
                f"{path!r}: no such file or folder from here or beside the study file, and it is not the form of a "
                "Hub id (ORG/NAME)",
            )
        )
    model = spec.base.get("model_name_or_path")
    if isinstance(model, str) and existing(model) is None and not is_hub_id(model):
        problems.append(
            Problem(
                "base.model_name_or_path",
                f"{model!r}: no such folder from here or beside the study file, and it is not the form of a Hub id "
                f"(ORG/NAME); {' and '.join(EMBEDDED_MODELS)} are the models that come with the project",
            )
        )
    for key, name in read_by(spec).items():
        if name not in EMBEDDED_MODELS and _lies_in(spec.output.folder, existing(name)):
            problems.append(
                Problem(
                    "output.folder",
                    f"{spec.output.folder!r}: the runs would lie in {name}, which {key} reads: name another folder",
                )
            )
    return problems


def _lies_in(folder: str, place: Path | None) -> bool:
    try:
        return place is not None and place.is_dir() and Path(folder).resolve().is_relative_to(place.resolve())
    except (OSError, RuntimeError, ValueError):  # too long, a zero byte: refused elsewhere
        return False


def read_by(spec: StudySpec) -> dict[str, str]:
    """What runs of the study read, a path or a Hub id each, by key."""
    named = {
        "data.path": spec.data.path,
        "base.model_name_or_path": spec.base.get("model_name_or_path"),
    }
    named |= {f"evaluate.{key}.reward_model": judge.reward_model for key, judge in spec.evaluation.judges.items()}
    named |= {
        f"variants.{name}.base": variant.base.get("model_name_or_path") for name, variant in spec.variants.items()
    }
    return {key: name for key, name in named.items() if isinstance(name, str)}


def is_hub_id(path: str) -> bool:
    """Whether a name has the form of a Hub id and not that of a local file."""
    looks_local = path.startswith((".", "~")) or _is_data_file(path)
    return _HUB_ID.fullmatch(path) is not None and not looks_local


def _is_data_file(path: str) -> bool:
    return Path(path).suffix.lower() in _DATA_FILES


def _found(path: str, folder: Path) -> str:
    if path in EMBEDDED_MODELS or existing(path) is not None:
        return path
    beside = str(folder / path)
    return path if existing(beside) is None else beside
