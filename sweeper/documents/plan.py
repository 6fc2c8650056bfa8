"""What `sweeper plan --json` answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from studies.design.counts import planned_runs
from studies.design.halving import PlannedBracket
from studies.records import Scalar
from studies.spec import Distribution, Study
from sweeper.planning.disk import DiskUse
from sweeper.planning.plan import Plan, PlannedArm, PlannedScenario
from sweeper.recorded.state import StudyState
from trainers.interface import Placement, Sizing


@dataclass(frozen=True)
class PlannedTrial:
    """A trial that is known in advance. `phase`: fixed, unbiased or another phase of the search."""

    phase: str
    knobs: Mapping[str, Scalar]


@dataclass(frozen=True)
class PlannedVariant:
    """A variant. `fixed`: its settings as far as they matter to the loss; `space`: what is varied, as in a study file;
    `left_out`: shared setting -> why it does not hold here; `adaptive`: how many more trials follow from results;
    `fewer`: why there are fewer than asked for; `expected`: what must come out of a control.
    """

    name: str
    losses: tuple[str, ...]
    fixed: Mapping[str, Scalar | tuple[float, ...]]
    space: Mapping[str, Distribution]
    left_out: Mapping[str, str]
    warnings: tuple[str, ...]
    trials: tuple[PlannedTrial, ...]
    adaptive: int
    fewer: str
    expected: str


@dataclass(frozen=True)
class PlanState:
    """How far the study is: planned runs, those done and missing, and finished ones that the file would leave behind,
    by reason. `said`: what else there is to say.
    """

    planned: int
    done: int
    missing: int
    left: Mapping[str, int]
    said: tuple[str, ...]


@dataclass(frozen=True)
class PlannedTraining:
    """What an earlier sweep found of how runs train: placement, and seconds of one run and of all that are planned
    (without measuring them); None where it is not known.
    """

    device: str
    placement: Placement
    reason: str
    workers: int
    seconds_per_run: float | None
    seconds: float | None


@dataclass(frozen=True)
class PlannedDisk:
    """What the study takes on disk: adapters and states that it keeps, the bytes of one adapter and of all; None where
    the size is not known. `guessed`: with one run at a time on a worker, since no sweep has found more to be faster.
    """

    adapters: int
    states: int
    paused: int
    adapter_bytes: int | None
    bytes: int | None
    guessed: bool


@dataclass(frozen=True)
class PlanDocument:
    """All that a study would run. `max_steps` or `epochs` of a run; `power` and `speed`: what its blocks can show and
    what is timed, in sentences; `rungs` and `brackets` of `mode: search`; `training`: None before the first sweep;
    `disk`: None for a trainer of your own. `data` and `notes`: what is said of the data and of the study.
    """

    schema: ClassVar[str] = "plan/1"
    study: str
    question: str
    mode: str
    runs: int
    confirm_runs: int
    max_steps: int | None
    epochs: float | None
    variants: tuple[PlannedVariant, ...]
    scenarios: tuple[PlannedScenario, ...]
    rungs: tuple[int, ...]
    brackets: tuple[PlannedBracket, ...]
    power: str
    speed: str
    fewer: str
    state: PlanState
    training: PlannedTraining | None
    disk: PlannedDisk | None
    data: tuple[str, ...]
    notes: tuple[str, ...]


def plan_document(
    study: Study,
    plan: Plan,
    state: StudyState,
    training: PlannedTraining | None,
    disk: PlannedDisk | None,
    data: Iterable[str],
    notes: Iterable[str],
) -> PlanDocument:
    """The document of a plan."""
    steps = study.spec.base.get("max_steps")
    has_steps = isinstance(steps, int) and steps > 0
    return PlanDocument(
        study=plan.study,
        question=plan.question,
        mode=plan.mode,
        runs=plan.runs,
        confirm_runs=plan.confirm_runs,
        max_steps=int(str(steps)) if has_steps else None,
        epochs=None if has_steps else float(str(study.spec.base.get("num_train_epochs", 3.0))),
        variants=tuple(_variant(study, arm) for arm in plan.arms),
        scenarios=plan.scenarios,
        rungs=plan.rungs,
        brackets=plan.brackets,
        power=plan.power,
        speed=plan.speed,
        fewer=plan.fewer,
        state=PlanState(
            state.planned,
            state.done,
            state.planned - state.done,
            {reason: len(runs) for reason, runs in state.left.items()},
            (*state.unasked, *state.said),
        ),
        training=training,
        disk=disk,
        data=tuple(data),
        notes=tuple(notes),
    )


def planned_training(study: Study, found: Sizing | None, workers: int) -> PlannedTraining | None:
    """What is known of training; None where no sweep has measured it."""
    if found is None:
        return None
    each = found.seconds_per_run
    whole = None if each is None else planned_runs(study) * each / workers
    return PlannedTraining(found.device, found.chosen, found.reason, workers, each, whole)


def planned_bytes(use: DiskUse, *, guessed: bool) -> PlannedDisk:
    """What is known of the disk."""
    each = use.adapter_bytes
    whole = None if each is None else use.in_adapters * each
    return PlannedDisk(use.adapters, use.states, use.paused, each, whole, guessed)


def _variant(study: Study, arm: PlannedArm) -> PlannedVariant:
    return PlannedVariant(
        name=arm.name,
        losses=arm.losses,
        fixed=arm.fixed,
        space=study.variants[arm.name].space,
        left_out=arm.left_out,
        warnings=arm.warnings,
        trials=tuple(PlannedTrial(phase, knobs) for phase, knobs in arm.points),
        adaptive=arm.adaptive,
        fewer=arm.fewer,
        expected=arm.expected,
    )
