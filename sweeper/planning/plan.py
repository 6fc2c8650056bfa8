"""Plans what a study will run; loads no torch, trains nothing and opens no store."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from studies.design.counts import pairs_source, planned_confirm_runs, planned_runs, planned_trials, runs_in
from studies.design.halving import PlannedBracket, bracket_sizes, planned_bracket, rung_steps
from studies.design.points import FIXED, held, joint_quota, planned_points, quota, to_knobs
from studies.design.speed import speed_line
from studies.losses.table import shown_knobs
from studies.records import Scalar
from studies.schema.replicates import by_condition, cell_of
from studies.spec import FloatRange, IntRange, ResolvedVariant, Simplex, Study, StudySpec, Values
from studies.text.plural import so_many
from sweeper.planning.power import power_of


@dataclass(frozen=True)
class PlannedArm:
    """A variant as it will run. `points` are the trials known in advance; `adaptive` more depend on results. `fewer`:
    why there are fewer than the budget asks for.
    """

    name: str
    losses: tuple[str, ...]
    fixed: Mapping[str, Scalar]
    space: Mapping[str, str]
    left_out: Mapping[str, str]
    warnings: tuple[str, ...]
    points: tuple[tuple[str, Mapping[str, Scalar]], ...]
    adaptive: int
    fewer: str = ""
    expected: str = ""  # what must come out of it, where it is a control


@dataclass(frozen=True)
class PlannedScenario:
    """One scenario as it will run: how many variants take part, their trials in all, and the runs of each trial.

    `settings`: what it changes of the training; `runs` counts its confirm phase, `confirm_runs` that alone;
    `replicates`: how many times all of it is done (`runs` and `confirm_runs` count them all), 0 where the study has
    none.
    """

    name: str
    variants: int
    trials: int
    runs_per_trial: int
    runs: int
    confirm_runs: int
    settings: Mapping[str, Scalar]
    replicates: int = 0


@dataclass(frozen=True)
class Plan:
    """The whole study. `runs` includes the confirm phase; `power` says what differences the blocks can detect; `rungs`
    are the steps where runs pause and are decided on in `brackets`; `speed` says what is timed, beside `runs`; `fewer`:
    why a joint search has fewer trials than the budget asks for.
    """

    study: str
    question: str
    mode: str
    arms: tuple[PlannedArm, ...]
    scenarios: tuple[PlannedScenario, ...]
    confirm_runs: int
    runs: int
    steps: str
    power: str
    speed: str = ""
    brackets: tuple[PlannedBracket, ...] = ()
    rungs: tuple[int, ...] = ()
    fewer: str = ""


def make_plan(study: Study) -> Plan:
    """Every trial of the study, as far as it is known in advance."""
    spec = study.spec
    planned = tuple(_plan_arm(study, arm) for arm in study.variants.values())
    runs = planned_runs(study)
    steps = spec.base.get("max_steps")
    length = so_many(int(str(steps)), "step") if steps else f"{spec.base.get('num_train_epochs', 3.0)} epochs"
    sizes = bracket_sizes(spec, planned_trials(study)) * len(spec.scenarios) if spec.rungs else []
    return Plan(
        study=spec.study,
        question=spec.question,
        mode=spec.mode,
        arms=planned,
        scenarios=tuple(_plan_condition(study, cells) for cells in by_condition(spec.scenarios).values()),
        confirm_runs=sum(planned_confirm_runs(study, name) for name in spec.scenarios),
        runs=runs,
        steps=length,
        power=power_of(study),
        speed=speed_line(study),
        brackets=tuple(planned_bracket(spec, size) for size in sizes),
        rungs=rung_steps(spec),
        fewer=_jointly_fewer(study) if spec.mode == "search" else "",
    )


def _plan_condition(study: Study, cells: Sequence[str]) -> PlannedScenario:
    """The plan of a scenario, of which the replicates are alike. `cells`: their names."""
    first, times = cells[0], len(cells)
    own = study.within(first)
    return PlannedScenario(
        name=cell_of(first).condition,
        variants=len(own.variants),
        trials=planned_trials(own),
        runs_per_trial=len(own.spec.runs.blocks) * len(own.spec.runs.seeds),
        runs=runs_in(study, first) * times,
        confirm_runs=planned_confirm_runs(study, first) * times,
        settings=study.spec.scenarios[first].base,
        replicates=study.spec.replicates or 0,
    )


def show_knobs(knobs: Mapping[str, Scalar]) -> str:
    """Knobs as a person reads them: `beta=0.1, learning_rate=1e-05`."""
    return ", ".join(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in knobs.items())


def _plan_arm(study: Study, arm: ResolvedVariant) -> PlannedArm:
    spec = study.spec
    searching = spec.mode == "search"
    shown = {"learning_rate", "loss_weights"} | shown_knobs()
    known = (
        [(FIXED, dict(p)) for p in arm.points]
        if searching
        else [(p.phase, to_knobs(arm, p.params)) for p in planned_points(spec, arm)]
    )
    return PlannedArm(
        name=arm.name,
        losses=arm.losses,
        fixed={k: v for k, v in arm.settings.items() if k in shown and k not in arm.space}
        | ({"balance": arm.balance} if arm.balance else {}),
        space={name: _range(distribution) for name, distribution in arm.space.items()},
        left_out=arm.left_out,
        warnings=arm.warnings,
        points=tuple(known),
        adaptive=0 if searching else quota(spec, arm) - len(known),
        fewer="" if searching else _fewer_of(study, arm),
        expected=_expected(spec, arm),
    )


def _fewer_of(study: Study, arm: ResolvedVariant) -> str:
    """Why the arm has fewer trials than the file asks for, in the scenario that asks for the most; "" for a grid."""
    spec = study.spec
    if spec.sampler == "grid":
        return ""
    own = [here.spec for _, here in study.by_scenario() if arm.name in here.variants]
    most = max(own, key=lambda one: one.budget.trials, default=spec)
    asked_for = most.budget.trials + len(arm.points) if arm.space else len(arm.points) or 1
    return _fewer(most, [arm], quota(most, arm), asked_for)


def _jointly_fewer(study: Study) -> str:
    """The same for a joint search over the arms."""
    spec = study.spec
    asked_for = spec.budget.trials + sum(len(arm.points) for arm in study.variants.values())
    return _fewer(spec, study.variants.values(), joint_quota(spec, study.variants), asked_for)


def _fewer(spec: StudySpec, arms: Collection[ResolvedVariant], quota: int, asked_for: int) -> str:
    """Why there are `quota` trials of these arms, "" where it is what the file asks for."""
    if quota == asked_for:
        return ""
    whole = sum(held(spec, arm, quota + 1) for arm in arms) <= quota
    why = "the space holds no more" if whole else "fixed points repeat others"
    return f"{so_many(quota, 'distinct config')}: {why}; the quota of {asked_for} falls to {quota}"


def _expected(spec: StudySpec, arm: ResolvedVariant) -> str:
    """The expected outcome of the arm, in words."""
    expected = spec.variants[arm.name].expect
    if expected is None:
        return ""
    from dashboards.controls.expectations import describe
    from dashboards.statistics.scale import scale_of

    scale = scale_of(spec.objective, pairs_source(spec))
    return describe(expected, scale.tie_within, scale.unit)


def _range(distribution: FloatRange | IntRange | Values | Simplex) -> str:
    match distribution:
        case Values(values=values):
            return "{" + ", ".join(str(v) for v in values) + "}"
        case Simplex(corners=corners):
            return "weights with sum 1" + (", corners first" if corners else "")
        case FloatRange(low=low, high=high, log=log) | IntRange(low=low, high=high, log=log):
            return f"{low:g} .. {high:g}" + (" log" if log else "")
