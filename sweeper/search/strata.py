"""The strata of a study in Optuna's storage: found, renamed, filled and opened."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import column, table, update

from studies.design.identity import CONTEXT, context_of, goal_of, stratum_question
from studies.design.points import CONFIRM
from studies.records import FIRST_EVALUATOR, PROBE, RunRecord, State, digest
from studies.spec import ResolvedVariant, StudySpec
from sweeper.search.optuna_params import about_trial, params_of, place_of
from sweeper.search.remaining import Place, Remaining, remaining_in

# On an Optuna study: numbers of closed trials that were asked for again; what its trials answer, and what their values
# are, see `studies.design.identity`.
WITHDRAWN, QUESTION, GOAL = "withdrawn", "question", "goal"
LATE = "late"  # on an Optuna study that is filled: the variants of which no trial is known
FILLING = "filling"  # on an Optuna study: its trials are being made of recorded runs
# On a trial: that it is done and nobody has measured its worth. Optuna is told FAIL, of which TPE learns nothing.
UNMEASURED = "unmeasured"
_STUDIES = table("studies", column("study_name"))  # as Optuna has it


@dataclass
class Stratum:
    """One Optuna study, what is left to ask of it, and its open trials by number."""

    study: optuna.Study
    name: str
    scenario: str
    left: Remaining
    requeued: int
    withdrawn: set[int]
    open: dict[int, optuna.trial.Trial] = field(default_factory=dict)

    @property
    def arms(self) -> Mapping[str, ResolvedVariant]:
        """Its variants: all in `mode: search`, else one."""
        return self.left.arms

    @property
    def has_more(self) -> bool:
        """Whether there is a trial to ask for."""
        return self.requeued > 0 or bool(self.left)

    def late(self, free: Collection[str]) -> str | None:
        """A variant that a search got after it had begun and has not tried, which TPE may never choose."""
        tried = {variant for variant, _ in self.left.tried}
        late: Collection[str] = self.study.user_attrs.get(LATE, ())
        return next((name for name in late if name in free and name not in tried), None)


class Strata:
    """Opens strata, one Optuna study each, in a storage.

    A stratum of another question than the file asks is put aside under another name, and found again if the file asks
    it again. One without a trial is filled from `known`; `changed`: see `Search`.
    """

    def __init__(
        self,
        storage: optuna.storages.RDBStorage,
        spec: StudySpec,
        known: Sequence[RunRecord],
        changed: Collection[tuple[str, str]],
    ) -> None:
        self._storage, self._spec = storage, spec
        self._known, self._changed = known, changed

    def open(self, name: str, scenario: str, arms: Mapping[str, ResolvedVariant]) -> Stratum:
        """The stratum of this name. What a killed sweep left RUNNING goes back to WAITING."""
        study = self._find(name, scenario, arms)
        if study.user_attrs.get(FILLING) or not any("trial" in t.user_attrs for t in study.get_trials(deepcopy=False)):
            self._fill(study, scenario, arms)
        withdrawn = set(study.user_attrs.get(WITHDRAWN, ()))
        tried: dict[Place, str] = {}  # with the phase of its trial
        for frozen in study.get_trials(deepcopy=False):
            if frozen.state is TrialState.RUNNING:
                self._storage.set_trial_state_values(frozen._trial_id, TrialState.WAITING)
            if (frozen.state is not TrialState.FAIL or is_unmeasured(frozen)) and frozen.number not in withdrawn:
                place = place_of(arms, frozen)
                if place in tried and not frozen.state.is_finished():  # asked for twice by an earlier version
                    self._storage.set_trial_state_values(frozen._trial_id, TrialState.FAIL)
                tried.setdefault(place, about_trial(frozen)["origin"])
        waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        left = remaining_in(self._spec, scenario, arms, tried)
        return Stratum(study, name, scenario, left, requeued=len(waiting), withdrawn=withdrawn)

    def _find(self, name: str, scenario: str, arms: Mapping[str, ResolvedVariant]) -> optuna.Study:
        """The Optuna study that answers what the file asks, made where there is none."""
        asks = (stratum_question(self._spec, scenario, arms), goal_of(self._spec))
        study = self._create(name, arms)
        kept = self._asks(study, scenario, arms)
        if kept != asks:
            self._move(name, "@".join((name, *kept)))
            # Where the file says again what it said before; the second name is that of format 1.
            _ = self._move("@".join((name, *asks)), name) or self._move(
                f"{name}@{context_of(self._spec, scenario, arms)}", name
            )
            study = self._create(name, arms)
        study.set_user_attr(QUESTION, asks[0])
        study.set_user_attr(GOAL, asks[1])
        return study

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
            if here and run.phase not in (CONFIRM, PROBE) and run.state is not State.FAIL:
                trials.setdefault(run.trial, run)
        if not trials:
            return
        study.set_user_attr(FILLING, True)
        for number in range(len(study.get_trials(deepcopy=False)), max(trials) + 1):
            if number not in trials:  # nobody knows it any more
                study.add_trial(optuna.trial.create_trial(state=TrialState.FAIL))
                continue
            run = trials[number]
            about = {"origin": run.phase, "variant": run.variant, **params_of(arms[run.variant], run.knobs)}
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

    def _create(self, name: str, arms: Mapping[str, ResolvedVariant]) -> optuna.Study:
        return optuna.create_study(
            storage=self._storage,
            study_name=name,
            direction=self._spec.objective.direction,
            sampler=_sampler(self._spec, name, arms),
            pruner=optuna.pruners.NopPruner(),  # Optuna's default would prune on scale alone
            load_if_exists=True,
        )


def is_unmeasured(frozen: FrozenTrial) -> bool:
    """Whether a trial is done and nobody has measured its worth."""
    return UNMEASURED in frozen.user_attrs


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
