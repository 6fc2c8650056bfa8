"""Checks of what a study and its scenarios do to the pairs where several keys must agree; knows no pairs."""

from __future__ import annotations

from studies.records.world_units import SOURCE
from studies.schema.types import StudySpec
from studies.schema.variants import Problem, scenario_data


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
