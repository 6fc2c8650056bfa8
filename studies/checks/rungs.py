"""What `rungs` of a study file asks for, checked and worked into its evaluation; decides nothing about a run."""

from __future__ import annotations

from collections.abc import Mapping

from studies.records import COSTS, EvaluationConfig
from studies.schema.knob_problems import Problem
from studies.schema.types import ResolvedVariant, Rungs, StudySpec
from studies.study import Study

# What a run has once, at its end, or for which losses cannot be compared: not measured at a rung.
_NOT_AT_A_RUNG = COSTS | {"loss", "eval_loss", "grad_norm", "learning_rate", "reward_margin", "reward_accuracy"}


def rung_step(share: float, steps: int) -> int:
    """The optimizer step that is nearest to this share of the training."""
    return max(1, round(share * steps))


def evaluation(spec: StudySpec) -> EvaluationConfig:
    """The study's evaluation, at the rungs too, so that a run that cannot pause there is measured there."""
    if spec.rungs is None:
        return spec.evaluation
    return spec.evaluation.model_copy(update={"at": tuple(sorted({*spec.evaluation.at, *spec.rungs.at}))})


def rung_problems(study: Study) -> list[Problem]:
    """Every mistake about rungs."""
    spec = study.spec
    rungs = spec.rungs
    if rungs is None:
        return []
    if spec.mode == "compare":
        text = (
            "would end runs by how they start, so that shares are no longer equal and slow starters look bad: "
            "leave it out, or ask for the best config alone with mode: search"
        )
        return [Problem("rungs", text)]
    return [*_shape(rungs), *_steps(spec, rungs, study.variants), *_pauses(spec), *_measured(spec)]


def _shape(rungs: Rungs) -> list[Problem]:
    problems = []
    if not rungs.at:
        problems.append(Problem("rungs.at", "is empty: give the shares of the training at which runs pause, as [0.5]"))
    problems += [
        Problem("rungs.at", f"{share:g} must be a share of the training between 0 and 1, both left out")
        for share in rungs.at
        if not 0.0 < share < 1.0
    ]
    if any(a >= b for a, b in zip(rungs.at, rungs.at[1:], strict=False)):
        problems.append(Problem("rungs.at", f"{list(rungs.at)} must rise, no share twice"))
    if rungs.eta < 2:
        problems.append(Problem("rungs.eta", f"{rungs.eta} must be at least 2: of eta trials one goes on"))
    if rungs.bracket is not None and rungs.bracket < max(rungs.eta, 2):
        problems.append(
            Problem("rungs.bracket", f"{rungs.bracket} must be at least eta ({rungs.eta}), or nothing is decided")
        )
    return problems


def _steps(spec: StudySpec, rungs: Rungs, arms: Mapping[str, ResolvedVariant]) -> list[Problem]:
    """All runs need the same number of steps, known in advance."""
    steps = spec.base.get("max_steps")
    if not isinstance(steps, int) or steps < 2:
        text = "is needed with rungs, at least 2: runs are compared after the same steps of the same schedule"
        return [Problem("base.max_steps", text)]
    problems = [
        Problem(f"variants.{name}", "changes max_steps, but runs that meet at a rung have the same")
        for name, arm in arms.items()
        if arm.settings.get("max_steps") != steps
        or "max_steps" in arm.space
        or any("max_steps" in point for point in arm.points)
    ]
    at = [rung_step(share, steps) for share in rungs.at if 0.0 < share < 1.0]
    if len(set(at)) < len(at) or steps in at:
        problems.append(Problem("rungs.at", f"{list(rungs.at)} of {steps} steps are the steps {at}: give fewer"))
    return problems


def _pauses(spec: StudySpec) -> list[Problem]:
    """Runs that train by TRL's own loop cannot pause; where all do, rungs would save nothing."""
    if spec.trainer != "dpo":
        return []
    if spec.resources.together == 0:
        return [Problem("rungs", "saves nothing with resources.together: 0, as TRL's own loop cannot pause a run")]
    if not spec.base.get("use_peft"):
        return [Problem("rungs", "needs base.use_peft: true: full fine-tuning cannot pause")]
    return []


def _measured(spec: StudySpec) -> list[Problem]:
    named = [("objective.metric", spec.objective.metric)]
    named += [(f"objective.constraints.{metric}", metric) for metric in spec.objective.constraints]
    return [
        Problem(path, f"{metric!r} is not measured at a rung: use one that the evaluation gives, or leave rungs out")
        for path, metric in named
        if metric in _NOT_AT_A_RUNG
    ]
