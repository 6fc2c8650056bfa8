"""What makes trials comparable: the question that a stratum's trials answer. Knows no Optuna."""

from __future__ import annotations

from collections.abc import Mapping

from studies.records import digest
from studies.spec import Arm, StudySpec


def context_of(spec: StudySpec, scenario: str, arms: Mapping[str, Arm]) -> str:
    """Digest of what all trials of a stratum share. Trials of another context answer another question.

    The space belongs to it: Optuna refuses other choices or another scale for a param that it knows, and points of an
    old range beside those of a new one would be unequal shares. Fixed points and the budget only extend.
    """
    return digest(
        {
            "trainer": spec.trainer,
            "data": spec.data.model_dump(mode="json"),
            "scenario": [spec.scenarios[scenario].data, dict(spec.scenarios[scenario].base)],
            "evaluation": spec.evaluation.model_dump(mode="json"),
            "objective": [spec.objective.metric, spec.objective.direction],
            "sampler": [spec.sampler, spec.sampler_seed],
            **({"rungs": spec.rungs.model_dump(mode="json")} if spec.rungs else {}),
            "arms": {
                name: [dict(arm.settings), {knob: d.model_dump(mode="json") for knob, d in arm.space.items()}]
                for name, arm in arms.items()
            },
        }
    )
