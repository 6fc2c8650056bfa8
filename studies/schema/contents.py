"""What a study's inputs hold, whatever they are called: its sources, and the digest of each as far as it is known.

Reads nothing: `trainers/contents.py` reads the digests, the store keeps those that a study's runs had.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from studies.records import COMMIT, EMBEDDED_MODELS, DataConfig, EvaluationConfig, Judge

DATED: Final = "date of the chat template of"
JUDGE_MODEL: Final = "reward model"
JUDGE_FUNCTION: Final = "judge function"


class Source(NamedTuple):
    """Something that a run reads: `what` it is taken for, its path or Hub id, and its revision on the Hub.

    The content of a date is a day, the one that a chat template is told which asks for it.
    """

    what: Literal["data", "model", "tokenizer", "date of the chat template of", "reward model", "judge function"]
    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.what} {self.name}" + (f" at {self.revision}" if self.revision else "")


def sources(settings: Mapping[str, Any], data: DataConfig) -> dict[str, Source]:
    """What a run of these settings and data reads, by role: data, eval_data, base, tokenizer, date. What ships with the
    project is no source: it has a version.
    """
    found: dict[str, Source] = {}
    if data.path not in EMBEDDED_MODELS:
        found["data"] = Source("data", data.path, data.revision)
        if data.eval_split is not None and Path(data.eval_split).suffix:  # a file, and not the name of a split
            found["eval_data"] = Source("data", data.eval_split)
    model = settings.get("model_name_or_path")
    if model is not None and model not in EMBEDDED_MODELS:
        revision = settings.get("model_revision")
        found["base"] = Source("model", str(model), None if revision is None else str(revision))
        found["tokenizer"] = found["base"]._replace(what="tokenizer")
        found["date"] = found["base"]._replace(what=DATED)
    return found


def judge_source(evaluation: EvaluationConfig) -> Source | None:
    """What a run's judge is made of: a reward model, or the code of a function. It makes no other training."""
    return None if evaluation.judge is None else _made_of(evaluation.judge)


def _made_of(judge: Judge) -> Source:
    if judge.reward_model is not None:
        return Source(JUDGE_MODEL, judge.reward_model, judge.revision)
    return Source(JUDGE_FUNCTION, str(judge.function or judge.pairwise))


def judge_sources(evaluation: EvaluationConfig) -> dict[str, Source]:
    """What all who look at samples are made of, by their keys in a study file."""
    return {key: _made_of(judge) for key, judge in evaluation.judges.items()}


def held_by_judge(contents: Mapping[str, str], evaluation: EvaluationConfig) -> str | None:
    """The content of the judge, where there is one and it is known. `contents`: source, in words -> content."""
    source = judge_source(evaluation)
    return None if source is None else contents.get(str(source))


def held_by_opinions(contents: Mapping[str, str], evaluation: EvaluationConfig) -> dict[str, str]:
    """The contents of the second judge and the check, as far as they are known, by their keys in a study file."""
    named = {key: contents.get(str(source)) for key, source in judge_sources(evaluation).items() if key != "judge"}
    return {key: content for key, content in named.items() if content is not None}


def held(contents: Mapping[str, str], settings: Mapping[str, Any], data: DataConfig) -> dict[str, str]:
    """The content of each source of such a run that is known. `contents`: source, in words -> content."""
    named = {role: contents.get(str(source)) for role, source in sources(settings, data).items()}
    return {role: content for role, content in named.items() if content is not None}


def pinned(
    content: Mapping[str, str], settings: Mapping[str, Any], data: DataConfig
) -> tuple[dict[str, Any], DataConfig]:
    """Settings and data with the commits of what lies on the Hub as their revisions."""
    commits = {role: text.removeprefix(COMMIT) for role, text in content.items() if text.startswith(COMMIT)}
    revision = {"model_revision": commits["base"]} if "base" in commits else {}
    if "data" in commits:
        data = data.model_copy(update={"revision": commits["data"]})
    return {**settings, **revision}, data


def gone(found: Iterable[Source]) -> str:
    """That nobody can tell what these sources hold now, in words."""
    named = " and ".join(f"{source.what} {source.name}" for source in found)
    return f"{named} cannot be read now, or no `sweeper run` has read it under this name yet"


def changed_since(found: Iterable[Source]) -> str:
    """That these sources hold something else than they did, in words."""
    return f"{' and '.join(f'{source.what} changed in {source.name}' for source in found)} since"
