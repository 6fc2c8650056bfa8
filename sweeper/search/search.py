"""The search in Optuna's words: strata, asking for trials, telling what became of them.

Knows nothing of how a trial is trained, of MLflow, or of more than one sweep at a time (the caller holds the lease of
`sweeper.ownership.lease`; beside it, only `sweeper.search.ledger` speaks to Optuna's storage).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import optuna
from optuna.distributions import (
    CategoricalDistribution,
)
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import column, table, update

from studies.design.identity import CONTEXT, context_of, goal_of, strata, stratum_question
from studies.design.points import (
    ADAPTIVE,
    CONFIRM,
    FIXED,
    UNBIASED,
    Point,
    all_points,
    axes,
    config_of,
    config_of_knobs,
    joint_quota,
    knobs_of,
    planned_points,
    quota,
    size_of,
)
from studies.records import FIRST_EVALUATOR, PROBE, RunRecord, Scalar, State, digest
from studies.spec import ResolvedVariant, StudySpec, in_scenario
from sweeper.search.open_storage import open_storage, storage_calls
from sweeper.search.optuna_params import (
    Place,
    about_trial,
    draw_params,
    holding,
    optuna_name,
    params_of,
    place_of,
    relative_space,
    to_distribution,
    write_params,
)
from sweeper.search.trials import Trial, TrialOutcome

_TOLD = {State.COMPLETE: TrialState.COMPLETE, State.PRUNED: TrialState.PRUNED, State.FAIL: TrialState.FAIL}
# On an Optuna study: numbers of closed trials that were asked for again; what its trials answer, and what their values
# are, see `studies.design.identity`.
WITHDRAWN, QUESTION, GOAL = "withdrawn", "question", "goal"
LATE = "late"  # on an Optuna study that is filled: the variants of which no trial is known
FILLING = "filling"  # on an Optuna study: its trials are being made of recorded runs
# On a trial: that it is done and nobody has measured its worth. Optuna is told FAIL, of which TPE learns nothing.
UNMEASURED = "unmeasured"
RETOLD = "retold"  # on an Optuna study: numbers of such trials whose worth another trial tells since
# User attributes of a trial, see `Trial.bracket` and `Trial.scores`.
BRACKET, SCORES = "bracket", "rung_scores"
_STUDIES = table("studies", column("study_name"))  # as Optuna has it
_DRAWS = 8  # of the sampler, where it suggests what was tried already


@dataclass
class _Stratum:
    """One Optuna study, what was asked of it and what is left to ask. In `mode: search` it holds all arms, else one."""

    study: optuna.Study
    scenario: str
    arms: Mapping[str, ResolvedVariant]
    tried: set[Place]
    todo: list[tuple[str, Point]]
    adaptive: int
    requeued: int
    withdrawn: set[int]
    open: dict[int, optuna.trial.Trial] = field(default_factory=dict)


class Search:
    """All strata of a study in one storage. Opening it creates or migrates the database and adopts the trials that
    an earlier, killed sweep left RUNNING: they go back to WAITING and are asked for again with the same knobs.

    A stratum of another question than the file asks is put aside under another name, and found again if the file asks
    it again. One without a trial asks first for those of `known`, the runs that answer the file and are recorded
    elsewhere: where Optuna's database was lost, or its values would mean something else now. `changed`: (variant,
    scenario) of format 1 whose sources have changed since.
    """

    def __init__(
        self,
        spec: StudySpec,
        arms: Mapping[str, ResolvedVariant],
        url: str,
        known: Sequence[RunRecord] = (),
        changed: Collection[tuple[str, str]] = (),
    ) -> None:
        self._spec = spec
        self._url = url
        self._storage = open_storage(url)
        self._strata: dict[str, _Stratum] = {}
        self._order: list[str] = []
        self._adaptive = UNBIASED if spec.sampler == "random" else ADAPTIVE
        self._known, self._changed = known, changed
        self.partial = False  # whether less is asked for than the study has
        with storage_calls(url):
            self._open_all(arms)

    def _open_all(self, arms: Mapping[str, ResolvedVariant]) -> None:
        for name, (scenario, members) in strata(self._spec, arms).items():
            self._strata[name] = self._open(name, scenario, members)
            self._order.append(name)

    def trials(self) -> list[Trial]:
        """All trials of this study, oldest first within their stratum. One that waits to be asked for again is
        RUNNING here: its runs may have begun.
        """
        found: list[Trial] = []
        with storage_calls(self._url):
            for name, stratum in self._strata.items():
                seen: set[Place] = set()
                for frozen in stratum.study.get_trials(deepcopy=False):
                    if "trial" not in frozen.user_attrs:
                        continue
                    trial, place = _as_trial(name, stratum, frozen), place_of(stratum.arms, frozen)
                    found.append(replace(trial, repeats=place in seen))
                    seen |= {place} if trial.state is not State.FAIL else set()
        return found

    @property
    def strata(self) -> tuple[str, ...]:
        """Names of the strata."""
        return tuple(self._strata)

    def ask_in(self, name: str, place: tuple[int, int]) -> Trial | None:
        """The next trial of a stratum, which belongs to the bracket `place` (number, size) unless it had one before.

        None when the stratum has its quota.
        """
        with storage_calls(self._url):
            trial = self._ask(name, self._strata[name], paused=())  # a bracket waits for a paused variant
            if trial is None or trial.bracket is not None:
                return trial
            self._strata[name].open[trial.number].set_user_attr(BRACKET, list(place))
        return replace(trial, bracket=place)

    def keep_scores(self, trial: Trial, scores: Sequence[tuple[float, float]]) -> None:
        """Keep what an open trial was worth at decided rungs, so that a restart decides the same."""
        with storage_calls(self._url):
            self._strata[trial.stratum].open[trial.number].set_user_attr(SCORES, [list(score) for score in scores])

    def ask(self, paused: Collection[str] = ()) -> Trial | None:
        """The next trial, strata taking turns so that a sweep stopped early is still a fair comparison.

        None when every stratum has its quota (trials that are open count), those of `paused` variants left aside. In
        `mode: search` the variant is drawn at random among the others while one is paused.
        """
        for _ in range(len(self._order)):
            name = self._order.pop(0)
            self._order.append(name)
            stratum = self._strata[name]
            if stratum.arms.keys() <= set(paused):
                continue
            with storage_calls(self._url):
                trial = self._ask(name, stratum, paused)
            if trial is not None:
                return trial
        return None

    def left(self, variants: Collection[str]) -> bool:
        """Whether there is still a trial to ask for in a stratum of these variants."""
        mine = [stratum for stratum in self._strata.values() if not stratum.arms.keys().isdisjoint(variants)]
        return any(stratum.requeued or stratum.todo or stratum.adaptive for stratum in mine)

    def again(self, trials: Collection[Trial]) -> None:
        """Ask for these closed trials again, with the same knobs, and beside them only for those that were begun; once
        for each config.

        Optuna lets nobody reopen a trial: each gets a new number, and the old one is withdrawn, a FAIL from now on.
        """
        self.partial = any(stratum.todo or stratum.adaptive for stratum in self._strata.values())
        for name, stratum in self._strata.items():
            numbers = {trial.number for trial in trials if trial.stratum == name}
            once = {trial.number for trial in trials if trial.stratum == name and not trial.repeats}
            with storage_calls(self._url):
                for frozen in stratum.study.get_trials(deepcopy=False):
                    if frozen.number in once:
                        stratum.study.enqueue_trial({}, user_attrs={"trial": frozen.user_attrs["trial"]})
                stratum.withdrawn |= numbers
                stratum.study.set_user_attr(WITHDRAWN, sorted(stratum.withdrawn))
            stratum.todo, stratum.adaptive = [], 0
            stratum.requeued += len(once)

    def tell(self, trial: Trial, verdict: TrialOutcome) -> None:
        """Close a trial. Only COMPLETE and PRUNED teach TPE anything, so what a config did to itself is never FAIL."""
        stratum = self._strata[trial.stratum]
        asked = stratum.open.pop(trial.number)
        with storage_calls(self._url):
            if verdict.state is State.COMPLETE and verdict.value is None:
                asked.set_user_attr(UNMEASURED, True)
                stratum.study.tell(asked, state=TrialState.FAIL)
                return
            for name, excess in verdict.constraints.items():
                asked.set_constraint(name, excess)
            if verdict.state is State.PRUNED and verdict.value is not None:
                # TPE ranks the stopped by how far they came, then by value.
                asked.report(verdict.value, step=verdict.step)
            value = verdict.value if verdict.state is State.COMPLETE else None
            stratum.study.tell(asked, values=value, state=_TOLD[verdict.state])

    def retell(self, trial: Trial, verdict: TrialOutcome) -> None:
        """Tell what an unmeasured trial is worth, once somebody has measured it: by another one, as Optuna lets nobody
        change what it was told.
        """
        study = self._strata[trial.stratum].study
        with storage_calls(self._url):
            old = study.get_trials(deepcopy=False)[trial.number]
            study.add_trial(
                optuna.trial.create_trial(
                    state=TrialState.RUNNING,
                    params=old.params,
                    distributions=old.distributions,
                    user_attrs={"trial": old.user_attrs["trial"]},
                )
            )
            new = optuna.trial.Trial(study, study.get_trials(deepcopy=False)[-1]._trial_id)
            self._strata[trial.stratum].open[new.number] = new
            self.tell(replace(trial, number=new.number), verdict)
            study.set_user_attr(RETOLD, [*study.user_attrs.get(RETOLD, ()), trial.number])

    def requeue(self, trial: Trial) -> None:
        """Put an open trial back: it is asked for again, with the same knobs, by this or a later sweep."""
        stratum = self._strata[trial.stratum]
        asked = stratum.open.pop(trial.number)
        with storage_calls(self._url):
            self._storage.set_trial_state_values(asked._trial_id, TrialState.WAITING)
        stratum.requeued += 1

    def close(self) -> None:
        """Let go of the database."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    def _open(self, name: str, scenario: str, arms: Mapping[str, ResolvedVariant]) -> _Stratum:
        spec = self._spec
        asks = (stratum_question(spec, scenario, arms), goal_of(spec))
        study = self._create(name, spec, arms)
        kept = self._asks(study, scenario, arms)
        if kept != asks:
            self._move(name, "@".join((name, *kept)))
            # Where the file says again what it said before; the second name is that of format 1.
            _ = self._move("@".join((name, *asks)), name) or self._move(
                f"{name}@{context_of(spec, scenario, arms)}", name
            )
            study = self._create(name, spec, arms)
        study.set_user_attr(QUESTION, asks[0])
        study.set_user_attr(GOAL, asks[1])
        if study.user_attrs.get(FILLING) or not any("trial" in t.user_attrs for t in study.get_trials(deepcopy=False)):
            self._fill(study, scenario, arms)
        withdrawn = set(study.user_attrs.get(WITHDRAWN, ()))
        tried: dict[Place, str] = {}  # with the origin of its trial
        for frozen in study.get_trials(deepcopy=False):
            if frozen.state is TrialState.RUNNING:
                self._storage.set_trial_state_values(frozen._trial_id, TrialState.WAITING)
            if (frozen.state is not TrialState.FAIL or _is_unmeasured(frozen)) and frozen.number not in withdrawn:
                place = place_of(arms, frozen)
                if place in tried and not frozen.state.is_finished():  # asked for twice by an earlier version
                    self._storage.set_trial_state_values(frozen._trial_id, TrialState.FAIL)
                tried.setdefault(place, about_trial(frozen)["origin"])
        waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        todo, adaptive = self._todo(scenario, arms, tried)
        return _Stratum(study, scenario, arms, set(tried), todo, adaptive, requeued=len(waiting), withdrawn=withdrawn)

    def _asks(self, study: optuna.Study, scenario: str, arms: Mapping[str, ResolvedVariant]) -> tuple[str, ...]:
        """The question and the goal of what a stratum holds; those of the file where it holds nothing."""
        attributes, asks = study.user_attrs, (stratum_question(self._spec, scenario, arms), goal_of(self._spec))
        if QUESTION in attributes or CONTEXT not in attributes:
            return attributes.get(QUESTION, asks[0]), attributes.get(GOAL, asks[1])
        told = asks[0], goal_of(self._spec, FIRST_EVALUATOR)
        same = attributes[CONTEXT] == context_of(self._spec, scenario, arms)
        return told if same and not any((arm, scenario) in self._changed for arm in arms) else (attributes[CONTEXT],)

    def _fill(self, study: optuna.Study, scenario: str, arms: Mapping[str, ResolvedVariant]) -> None:
        """Have the trials of recorded runs asked for first, under the numbers that they had. Killed, it goes on."""
        trials: dict[int, RunRecord] = {}
        for run in self._known:
            here = run.scenario == scenario and run.variant in arms
            if here and run.arm not in (CONFIRM, PROBE) and run.state is not State.FAIL:
                trials.setdefault(run.trial, run)
        if not trials:
            return
        study.set_user_attr(FILLING, True)
        for number in range(len(study.get_trials(deepcopy=False)), max(trials) + 1):
            if number not in trials:  # nobody knows it any more
                study.add_trial(optuna.trial.create_trial(state=TrialState.FAIL))
                continue
            run = trials[number]
            about = {"origin": run.arm, "variant": run.variant, **params_of(arms[run.variant], run.knobs)}
            study.enqueue_trial({}, user_attrs={"trial": json.dumps(about)})
        study.set_user_attr(LATE, sorted(arms.keys() - {run.variant for run in trials.values()}))
        study.set_user_attr(FILLING, False)

    def _move(self, name: str, to: str) -> bool:
        """Rename an Optuna study, replacing one of that name; False where there is none to move."""
        names = optuna.get_all_study_names(self._storage)
        if name not in names:
            return False
        if to in names:
            optuna.delete_study(study_name=to, storage=self._storage)
        # Optuna has no other way to rename than to copy, which a kill leaves half done.
        with self._storage.engine.begin() as connection:
            connection.execute(update(_STUDIES).where(_STUDIES.c.study_name == name).values(study_name=to))
        return True

    def _create(self, name: str, spec: StudySpec, arms: Mapping[str, ResolvedVariant]) -> optuna.Study:
        return optuna.create_study(
            storage=self._storage,
            study_name=name,
            direction=spec.objective.direction,
            sampler=_sampler(spec, name, arms),
            pruner=optuna.pruners.NopPruner(),  # Optuna's default would prune on scale alone
            load_if_exists=True,
        )

    def _todo(
        self, scenario: str, arms: Mapping[str, ResolvedVariant], tried: Mapping[Place, str]
    ) -> tuple[list[tuple[str, Point]], int]:
        """The points still to try, and how many trials the adaptive sampler still owes."""
        spec = in_scenario(self._spec, scenario)
        if spec.mode == "search":
            known = [(name, Point(FIXED, dict(point))) for name, arm in arms.items() for point in arm.points]
            total = joint_quota(spec, arms)
        else:
            ((name, arm),) = arms.items()
            known = [(name, point) for point in planned_points(spec, arm)]
            total = quota(spec, arm)
        places = {(name, config_of(arms[name], point.params)): (name, point) for name, point in reversed(known)}
        todo = [places[place] for place in reversed(places) if place not in tried]
        chosen = [place for place, origin in tried.items() if origin == self._adaptive and place not in places]
        return todo, max(total - len(places) - len(chosen), 0)

    def _ask(self, name: str, stratum: _Stratum, paused: Collection[str]) -> Trial | None:
        held = self._hold(stratum, paused) if stratum.requeued > 0 else []
        try:
            asked = self._next(stratum, paused, len(held))
        finally:
            for trial_id in held:
                self._storage.set_trial_state_values(trial_id, TrialState.WAITING)
        if asked is None:
            return None
        text = asked.user_attrs.get("trial")
        about: dict[str, Any] | None = json.loads(text) if text else self._suggest(asked, stratum, paused)
        if about is None:
            stratum.study.tell(asked, state=TrialState.FAIL)
            stratum.adaptive = 0
            return None
        if not text:
            asked.set_user_attr("trial", json.dumps(about))
        self._write_down(asked, stratum, about)
        stratum.open[asked.number] = asked
        arm = stratum.arms[about["variant"]]
        knobs = knobs_of(arm, about)
        stratum.tried.add((arm.name, config_of_knobs(arm, knobs)))
        trial = Trial(name, asked.number, arm.name, stratum.scenario, about["origin"], knobs)
        return replace(trial, **_rungs(asked.user_attrs))

    def _next(self, stratum: _Stratum, paused: Collection[str], held: int) -> optuna.trial.Trial | None:
        """The next trial of a stratum as Optuna has it: one that waits, else a point of ours, else the sampler's."""
        planned = next((entry for entry in stratum.todo if entry[0] not in paused), None)
        if stratum.requeued > held:
            stratum.requeued -= 1
        elif planned is not None:
            stratum.todo.remove(planned)
            variant, point = planned
            about = {"origin": point.origin, "variant": variant, "params": dict(point.params)}
            stratum.study.enqueue_trial({}, user_attrs={"trial": json.dumps(about)})
        elif stratum.adaptive > 0 and self._free(stratum, paused):
            stratum.adaptive -= 1
        else:
            return None
        return stratum.study.ask()

    def _hold(self, stratum: _Stratum, paused: Collection[str]) -> list[int]:
        """Keep the waiting trials of paused variants from Optuna, which would hand them out first."""
        waiting = stratum.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)) if paused else []
        held = [frozen._trial_id for frozen in waiting if about_trial(frozen)["variant"] in paused]
        for trial_id in held:
            self._storage.set_trial_state_values(trial_id, TrialState.RUNNING)
        return held

    def _free(self, stratum: _Stratum, paused: Collection[str]) -> list[str]:
        """Variants, none of them paused, whose space holds a config that was not tried."""
        return [name for name in stratum.arms if name not in paused and self._untried(stratum, name) is not None]

    def _untried(
        self, stratum: _Stratum, variant: str, near: Mapping[str, Scalar] | None = None
    ) -> Mapping[str, Scalar] | None:
        """A point of the variant's space that was not tried, the first from `near` on; None where there is none."""
        arm = stratum.arms[variant]
        over = axes(self._spec, arm)
        if near is None and over and size_of(over) > len(stratum.tried):
            return {}  # whichever it is
        points = all_points(arm, over, near)
        return next((p for p in points if (variant, config_of(arm, p)) not in stratum.tried), None)

    def _suggest(self, asked: optuna.trial.Trial, stratum: _Stratum, paused: Collection[str]) -> dict[str, Any] | None:
        """Let the sampler choose what was not tried: in `mode: search` the variant first, then that variant's knobs.

        Where it chooses what was tried it is asked again, and after some draws the next untried point is taken. None
        where the space holds none.
        """
        names, free = list(stratum.arms), self._free(stratum, paused)
        if not free:
            return None
        other = free[int(digest([self._spec.sampler_seed, asked.number]), 16) % len(free)]
        late = self._late(stratum, free)
        if late is not None:
            other = late
        last: tuple[str, Mapping[str, Scalar]] = (other, {})
        for draw in range(_DRAWS):
            relative, variant = relative_space(asked, again=draw > 0), other
            if self._spec.mode == "search" and not paused and late is None:
                drawn = str(draw_params(asked, relative, "variant", CategoricalDistribution(names)))
                variant = drawn if drawn in free else other
            arm = stratum.arms[variant]
            params = {
                axis.name: draw_params(asked, relative, optuna_name(self._spec, arm, axis.name), to_distribution(axis))
                for axis in axes(self._spec, arm)
            }
            if (variant, config_of(arm, params)) not in stratum.tried:
                return {"origin": self._adaptive, "variant": variant, "params": params}
            last = variant, params
        for variant in dict.fromkeys([last[0], *free]):
            near = self._untried(stratum, variant, near=last[1] if variant == last[0] else {})
            if near is not None:
                return {"origin": self._adaptive, "variant": variant, "params": near}
        return None

    def _late(self, stratum: _Stratum, free: Collection[str]) -> str | None:
        """A variant that a search got after it had begun and has not tried, which TPE may never choose."""
        tried = {variant for variant, _ in stratum.tried}
        late: Collection[str] = stratum.study.user_attrs.get(LATE, ())
        return next((name for name in late if name in free and name not in tried), None)

    def _write_down(self, asked: optuna.trial.Trial, stratum: _Stratum, about: Mapping[str, Any]) -> None:
        """Make a point that we chose visible to Optuna (its samplers, its dashboard) as the trial's params."""
        arm = stratum.arms[about["variant"]]
        if self._spec.mode == "search":
            write_params(asked, "variant", CategoricalDistribution(list(stratum.arms)), arm.name)
        space = {axis.name: to_distribution(axis) for axis in axes(self._spec, arm)}
        for name, value in about["params"].items():
            distribution = holding(space.get(name), value)
            if distribution is not None:
                write_params(asked, optuna_name(self._spec, arm, name), distribution, value)


def _sampler(spec: StudySpec, name: str, arms: Mapping[str, ResolvedVariant]) -> optuna.samplers.BaseSampler:
    """TPE where it is asked for; else one that costs nothing, as we choose the points ourselves."""
    seed = int(digest([spec.sampler_seed, name]), 16) % 2**31
    if spec.mode == "search" and spec.sampler != "random":
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(10, 2 * len(arms)))
    if spec.sampler == "tpe":
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=min(10, max(spec.budget.trials // 2, 1)))
    if spec.sampler == "sobol+tpe":
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=1)
    return optuna.samplers.RandomSampler(seed=seed)


def _is_unmeasured(frozen: FrozenTrial) -> bool:
    return UNMEASURED in frozen.user_attrs


def _state(stratum: _Stratum, frozen: FrozenTrial) -> State:
    if not frozen.state.is_finished():
        return State.RUNNING
    if _is_unmeasured(frozen) and frozen.number not in stratum.withdrawn:
        return State.COMPLETE
    return State.FAIL if frozen.number in stratum.withdrawn else State(frozen.state.name)


def _as_trial(name: str, stratum: _Stratum, frozen: FrozenTrial) -> Trial:
    about = about_trial(frozen)
    arm = stratum.arms[about["variant"]]
    trial = Trial(
        name,
        frozen.number,
        arm.name,
        stratum.scenario,
        about["origin"],
        knobs_of(arm, about),
        _state(stratum, frozen),
        unmeasured=_is_unmeasured(frozen) and frozen.number not in stratum.study.user_attrs.get(RETOLD, ()),
        rung=frozen.last_step or None if frozen.state is TrialState.PRUNED else None,  # step 0: it ended by itself
    )
    return replace(trial, **_rungs(frozen.user_attrs))


def _rungs(user_attrs: Mapping[str, Any]) -> dict[str, Any]:
    """What a trial's user attributes say of its bracket, as fields of Trial."""
    bracket, scores = user_attrs.get(BRACKET), user_attrs.get(SCORES, [])
    return {"bracket": bracket and tuple(bracket), "scores": tuple((float(a), float(b)) for a, b in scores)}
