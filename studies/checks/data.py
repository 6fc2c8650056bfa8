"""Checks of what a study and its scenarios do to the pairs where several keys must agree; knows no pairs."""

from __future__ import annotations

from studies.losses import rules
from studies.records import EMBEDDED_MODELS
from studies.records.world_units import MOST_NEW_TOKENS, SOURCE, WHOLE_ANSWER
from studies.schema.knob_problems import Problem
from studies.schema.scenarios import model_of
from studies.schema.types import (
    StudySpec,
)
from studies.schema.variants import scenario_data


def data_problems(spec: StudySpec) -> list[Problem]:
    """Keys that would do nothing: a bias of flips where none are flipped, a gold of the embedded world elsewhere."""
    problems = []
    for name, scenario in spec.scenarios.items():
        data = scenario_data(spec.data, scenario)
        if data.flip_by != "chance" and data.label_flip == 0.0:
            own = scenario.flip_by is not None
            path = f"scenarios.{name}.flip_by" if own else "data.flip_by"
            where = "where label_flip is 0" if own else f"in scenario {name}, where label_flip is 0"
            remedy = "give label_flip too, or remove it" if own else "write it in the scenarios that flip labels"
            problems.append(Problem(path, f"{data.flip_by!r} does nothing {where}: {remedy}"))
    if spec.data.gold != "task" and spec.data.path != SOURCE:
        text = f"{spec.data.gold!r} does nothing with {spec.data.path}: only embedded data have gold"
        problems.append(Problem("data.gold", text))
    if spec.data.path != SOURCE:
        sources = {name: scenario.rejected_from for name, scenario in spec.scenarios.items()}
        asked = [f"scenarios.{name}.rejected_from" for name, source in sources.items() if source == "model"]
        asked += ["data.rejected_from"] if spec.data.rejected_from == "model" else []
        text = (
            f"'model' samples the embedded model, which cannot answer {spec.data.path}: sample your own model, write "
            "its answers as the rejected ones of a file, and remove this"
        )
        problems += [Problem(path, text) for path in asked]
    return problems


def data_notices(spec: StudySpec) -> list[str]:
    """What is right and may surprise: rejected answers of other prompts where the prompt decides nothing."""
    if spec.data.path != SOURCE or spec.data.gold == "prompt":
        return []
    return [
        f"scenarios.{name}: rejected answers of other prompts are as good as a pair's own where gold ignores the "
        "prompt; data.gold: prompt makes it ask the prompt"
        for name, scenario in spec.scenarios.items()
        if scenario_data(spec.data, scenario).rejected_from == "another"
    ]


def model(spec: StudySpec) -> list[Problem]:
    if spec.trainer != "dpo":
        return []
    model = spec.base.get("model_name_or_path")
    path = "base.model_name_or_path"
    if model is None:
        return [Problem(path, "is needed and missing: a Hub id, a folder, or embedded")]
    if spec.data.path in set(EMBEDDED_MODELS) - {SOURCE}:
        text = f"embedded data are written by the embedded model that is trained, whatever its name: use {SOURCE}"
        return [Problem("data.path", f"{spec.data.path} is a model; {text}")]
    if model in EMBEDDED_MODELS and spec.data.path != SOURCE:
        return [
            Problem(path, f"an embedded model knows only its own words, not {spec.data.path}: use data.path: {SOURCE}")
        ]
    if model not in EMBEDDED_MODELS and spec.data.path == SOURCE:
        return [
            Problem("data.path", f"embedded data are written for the embedded models, not {model}: name your pairs")
        ]
    return _positions(spec)


def _positions(spec: StudySpec) -> list[Problem]:
    """Samples that would be longer than an embedded model has positions for."""
    asked = spec.evaluation.max_new_tokens
    named = {model_of(spec, scenario) for scenario in spec.scenarios.values()}
    named |= {str(variant.base.get("model_name_or_path")) for variant in spec.variants.values()}
    return [
        Problem(
            "evaluate.max_new_tokens",
            f"{asked} is more than {name} has positions for behind a prompt ({most}): give {WHOLE_ANSWER}, which is as "
            "long as its answers get",
        )
        for name, most in MOST_NEW_TOKENS.items()
        if name in named and asked > most
    ]


def data(spec: StudySpec) -> list[Problem]:
    data = spec.data
    problems = [
        Problem(f"data.{name}", f"{value} must be at least {least}, or be left out")
        for name, least in (
            ("rows", 1),
            ("eval_rows", 1),
            ("max_prompt_length", 1),
            ("max_completion_length", 1),
            ("max_length", 2),
        )
        if (value := getattr(data, name)) is not None and value < least
    ]
    for name in ("max_prompt_length", "max_completion_length"):
        part = getattr(data, name)
        if part is not None and data.max_length is not None and part >= data.max_length:
            problems.append(
                Problem(
                    f"data.{name}",
                    f"{part} must be below max_length ({data.max_length}), which prompt and answer share",
                )
            )
    flips = [("data.label_flip", data.label_flip)]
    flips += [
        (f"scenarios.{n}.label_flip", s.label_flip) for n, s in spec.scenarios.items() if s.label_flip is not None
    ]
    problems += [
        Problem(path, f"{value:g} must be a share of the training pairs, in [0, 1]")
        for path, value in flips
        if not 0.0 <= value <= 1.0
    ]
    writers = [("data.pairs_from", data.pairs_from)]
    for name, scenario in spec.scenarios.items():
        writers += [(f"scenarios.{name}.pairs_from", scenario.pairs_from)] if scenario.pairs_from else []
        if scenario.rows is not None and scenario.rows < 1:
            problems.append(Problem(f"scenarios.{name}.rows", f"{scenario.rows} must be at least 1"))
    for path, writer in writers:
        if writer not in ("same", "better", "worse"):
            problems.append(
                Problem(
                    path,
                    f"{writer!r} must be same, better or worse{rules.suggest(writer, ('same', 'better', 'worse'))}",
                )
            )
        elif writer != "same" and data.path != "embedded":
            problems.append(Problem(path, f"{writer!r} does nothing with {data.path}: only embedded data have writers"))
    return problems
