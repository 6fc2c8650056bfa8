"""What of a study the measurement of its speed takes: a run of each variant whose steps differ in the loss alone. Pure,
knows nothing of stores, processes or time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from studies.checks.speed import TRAINER, unlike_step
from studies.design.points import axes, to_knobs, value_at
from studies.records import EvaluationConfig, RunConfig, Scalar, digest
from studies.spec import ResolvedVariant, Study, StudySpec, resolve_run
from studies.text.plural import so_many

# As little as the trainer's evaluation can be: nothing is evaluated.
_UNMEASURED: Final = EvaluationConfig(prompts=2, max_new_tokens=1, pairs=2)
# Settings at any value of which a step takes as long.
_NOT_OF_A_STEP: Final = frozenset(
    {"learning_rate", "max_steps", "num_train_epochs", "warmup_steps", "warmup_ratio", "lr_scheduler_type"}
    | {"lr_scheduler_kwargs", "weight_decay", "seed", "data_seed", "logging_steps", "output_dir", "model_revision"}
)
# Fields that data have got since speeds were first recorded: at their default they make no other answer.
_LATER: Final = frozenset({"messages"})


@dataclass(frozen=True)
class Asked:
    """What is measured: the `runs` of the baseline and of every variant whose steps are the baseline's beside their
    loss, all with the same data. `unlike`: why the others are not; `check`: rounds of whole steps, 0 for none; `digest`
    is another where another answer is to be expected.
    """

    study: str
    baseline: str
    runs: Mapping[str, RunConfig]
    unlike: Mapping[str, str]
    check: int
    digest: str

    @property
    def is_any(self) -> bool:
        """Whether there is a variant to measure."""
        return len(self.runs) > 1


def speed_asked(study: Study) -> Asked | None:
    """What is measured of a study; None for one without a baseline and another variant, or whose trainer trains no
    steps of TRL.
    """
    spec = study.spec
    if spec.baseline is None or spec.trainer != TRAINER or spec.mode == "search" or len(study.variants) < 2:
        return None
    runs = {name: _config(spec, arm) for name, arm in study.variants.items()}
    steps = runs[spec.baseline].settings
    differing = {name: unlike_step(run.settings, steps) for name, run in runs.items()}
    unlike = {name: f"its steps differ in {', '.join(of)}" for name, of in differing.items() if of}
    alike = {name: run for name, run in runs.items() if name not in unlike}
    check = 0 if spec.probe is None else spec.probe.rounds
    settings = {
        name: {key: value for key, value in run.settings.items() if key not in _NOT_OF_A_STEP}
        for name, run in alike.items()
    }
    of = runs[spec.baseline].data
    own = of.model_dump(mode="json", exclude_defaults=True)
    data = {name: value for name, value in of.model_dump(mode="json").items() if name in own or name not in _LATER}
    return Asked(spec.study, spec.baseline, alike, unlike, check, digest([spec.baseline, settings, data, check]))


def _config(spec: StudySpec, arm: ResolvedVariant) -> RunConfig:
    """The run in the middle of the arm's space, or at its first point, on the study's first scenario and block."""
    middle = {axis.name: value_at(axis.distribution, 0.5) for axis in axes(spec, arm)}
    config = resolve_run(
        spec,
        arm,
        next(iter(spec.scenarios)),
        trial=0,
        knobs=_knobs(arm, middle),
        block=spec.runs.blocks[0],
        seed=0,
    )
    return config.model_copy(update={"evaluation": _UNMEASURED})


def _knobs(arm: ResolvedVariant, middle: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
    """The middle of the arm's space, which the variants share as far as they share the space: a step takes as long at
    any beta, and not at any rank. An arm of fixed points has its first.
    """
    return to_knobs(arm, middle) if middle else next(iter(arm.points), {})


def speed_line(study: Study) -> str:
    """What will be measured of the speed of steps, in a sentence; empty where nothing is."""
    asked = speed_asked(study)
    if asked is None:
        return ""
    others = len(asked.runs) - 1
    unlike = "".join(f" Not of {name}: {why}." for name, why in asked.unlike.items())
    if not asked.is_any:
        return f"The speed of steps is not measured.{unlike}"
    check = f", then {so_many(asked.check, 'round')} of whole steps of each as a check" if asked.check else ""
    return (
        f"At the end the loss of {so_many(others, 'variant')} is timed against that of {asked.baseline}, as a share of "
        f"a whole step, in at most 15 s of measuring{check}.{unlike}"
    )
