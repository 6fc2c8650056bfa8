"""What makes trials comparable: the question that a stratum's trials answer. Knows no Optuna."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from studies.records import digest
from studies.spec import Arm, Scenario, StudySpec


def context_of(spec: StudySpec, scenario: str, arms: Mapping[str, Arm]) -> str:
    """Digest of what all trials of a stratum share. Trials of another context answer another question.

    The space belongs to it: Optuna refuses other choices or another scale for a param that it knows, and points of an
    old range beside those of a new one would be unequal shares. Fixed points and the budget only extend. Defaults are
    left out, as in `RunConfig.key`: a field that comes later makes no other question of an old study.
    """
    return digest(
        {
            "trainer": spec.trainer,
            "data": spec.data.model_dump(mode="json", exclude_defaults=True),
            "scenario": _condition(spec.scenarios[scenario]),
            "evaluation": spec.evaluation.model_dump(mode="json", exclude_defaults=True),
            "objective": [spec.objective.metric, spec.objective.direction],
            "sampler": [spec.sampler, spec.sampler_seed],
            **({"rungs": spec.rungs.model_dump(mode="json")} if spec.rungs else {}),
            "arms": {name: _arm(arm) for name, arm in arms.items()},
        }
    )


def _arm(arm: Arm) -> list[Any]:
    space = {knob: distribution.model_dump(mode="json") for knob, distribution in arm.space.items()}
    return [dict(arm.settings), space, *([arm.balance] if arm.balance else [])]


def _condition(scenario: Scenario) -> dict[str, Any]:
    """What a scenario changes; how much is trained in it only extends."""
    return {**scenario.data, **({"base": dict(scenario.base)} if scenario.base else {})}
