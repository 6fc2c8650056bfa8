"""The search in Optuna's words: asking for trials, telling what became of them.

For one sweep at a time: the caller holds the lease of `sweeper.ownership.lease`, and beside it only
`sweeper.search.ledger` writes to Optuna's storage.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from studies.design.identity import strata
from studies.design.points import knobs_of
from studies.records import RunRecord, State
from studies.spec import ResolvedVariant, StudySpec
from sweeper.search.optuna_params import about_trial, place_of
from sweeper.search.patience.repeated import make_patient
from sweeper.search.patience.waiting import LOGGED, Patience
from sweeper.search.remaining import Place, Turns
from sweeper.search.sampling import suggest, write_down
from sweeper.search.storage import open_storage, storage_calls
from sweeper.search.strata import UNMEASURED, WITHDRAWN, Strata, Stratum, is_unmeasured
from sweeper.search.trials import Trial, TrialOutcome

_TOLD = {State.COMPLETE: TrialState.COMPLETE, State.PRUNED: TrialState.PRUNED, State.FAIL: TrialState.FAIL}
RETOLD = "retold"  # on an Optuna study: numbers of unmeasured trials whose worth another trial tells since
# User attributes of a trial, see `Trial.bracket` and `Trial.scores`.
BRACKET, SCORES = "bracket", "rung_scores"


class Search:
    """All strata of a study in one storage. Opening it makes or migrates the database and takes over the trials that an
    earlier, killed sweep left RUNNING: they go back to WAITING and are asked for again with the same knobs.

    A stratum without a trial asks first for those of `known`, the runs that answer the file and are recorded elsewhere:
    where Optuna's database was lost, or its values would mean something else now. `changed`: (variant, scenario) of
    format 1 whose sources have changed since. `patience`: for a database on a server that goes away meanwhile.
    """

    def __init__(
        self,
        spec: StudySpec,
        arms: Mapping[str, ResolvedVariant],
        url: str,
        known: Sequence[RunRecord] = (),
        changed: Collection[tuple[str, str]] = (),
        patience: Patience = LOGGED,
    ) -> None:
        self._spec, self._url = spec, url
        self._storage = open_storage(url)
        make_patient(self._storage, url, patience)
        self.partial = False  # whether less is asked for than the study has
        opener = Strata(self._storage, spec, known, changed)
        with storage_calls(url):
            opened = [opener.open(name, *where) for name, where in strata(spec, arms).items()]
        self._strata = {stratum.name: stratum for stratum in opened}
        self._turns = Turns({stratum.name: stratum.scenario for stratum in opened})

    def trials(self) -> list[Trial]:
        """All trials of this study, oldest first within their stratum. One that waits to be asked for again is
        RUNNING here: its runs may have begun.
        """
        found: list[Trial] = []
        with storage_calls(self._url):
            for stratum in self._strata.values():
                seen: set[Place] = set()
                for frozen in stratum.study.get_trials(deepcopy=False):
                    if "trial" not in frozen.user_attrs:
                        continue
                    trial, place = _as_trial(stratum, frozen), place_of(stratum.arms, frozen)
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
            trial = self._ask(self._strata[name], paused=())  # a bracket waits for a paused variant
            if trial is None or trial.bracket is not None:
                return trial
            self._strata[name].open[trial.number].set_user_attr(BRACKET, list(place))
        return replace(trial, bracket=place)

    def keep_scores(self, trial: Trial, scores: Sequence[tuple[float, float]]) -> None:
        """Keep what an open trial was worth at decided rungs, so that a restart decides the same."""
        with storage_calls(self._url):
            self._strata[trial.stratum].open[trial.number].set_user_attr(SCORES, [list(score) for score in scores])

    def ask(self, paused: Collection[str] = ()) -> Trial | None:
        """The next trial, see `Turns`.

        None when every stratum has its quota (trials that are open count), those of `paused` variants left aside. In
        `mode: search` the variant is drawn at random among the others while one is paused.
        """
        for name in self._turns:
            stratum = self._strata[name]
            if stratum.arms.keys() <= set(paused):
                continue
            with storage_calls(self._url):
                trial = self._ask(stratum, paused)
            if trial is not None:
                return trial
        return None

    def left(self, variants: Collection[str]) -> bool:
        """Whether there is still a trial to ask for in a stratum of these variants."""
        mine = [stratum for stratum in self._strata.values() if not stratum.arms.keys().isdisjoint(variants)]
        return any(stratum.has_more for stratum in mine)

    def again(self, trials: Collection[Trial]) -> None:
        """Ask for these closed trials again, with the same knobs, and beside them only for those that were begun; once
        for each config.

        Optuna lets nobody reopen a trial: each gets a new number, and the old one is withdrawn, a FAIL from now on.
        """
        self.partial = any(stratum.left for stratum in self._strata.values())
        for name, stratum in self._strata.items():
            numbers = {trial.number for trial in trials if trial.stratum == name}
            once = {trial.number for trial in trials if trial.stratum == name and not trial.repeats}
            with storage_calls(self._url):
                for frozen in stratum.study.get_trials(deepcopy=False):
                    if frozen.number in once:
                        stratum.study.enqueue_trial({}, user_attrs={"trial": frozen.user_attrs["trial"]})
                stratum.withdrawn |= numbers
                stratum.study.set_user_attr(WITHDRAWN, sorted(stratum.withdrawn))
            stratum.left.clear()
            stratum.requeued += len(once)

    def tell(self, trial: Trial, outcome: TrialOutcome) -> None:
        """Close a trial. Only COMPLETE and PRUNED teach TPE anything, so what a config did to itself is never FAIL."""
        stratum = self._strata[trial.stratum]
        asked = stratum.open.pop(trial.number)
        with storage_calls(self._url):
            if outcome.state is State.COMPLETE and outcome.value is None:
                asked.set_user_attr(UNMEASURED, True)
                stratum.study.tell(asked, state=TrialState.FAIL)
                return
            for name, excess in outcome.constraints.items():
                asked.set_constraint(name, excess)
            if outcome.state is State.PRUNED and outcome.value is not None:
                # TPE ranks the stopped by how far they came, then by value.
                asked.report(outcome.value, step=outcome.step)
            value = outcome.value if outcome.state is State.COMPLETE else None
            stratum.study.tell(asked, values=value, state=_TOLD[outcome.state])

    def retell(self, trial: Trial, outcome: TrialOutcome) -> None:
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
            self.tell(replace(trial, number=new.number), outcome)
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

    def _ask(self, stratum: Stratum, paused: Collection[str]) -> Trial | None:
        held = self._hold(stratum, paused) if stratum.requeued > 0 else []
        try:
            asked = self._next(stratum, paused, len(held))
        finally:
            for trial_id in held:
                self._storage.set_trial_state_values(trial_id, TrialState.WAITING)
        if asked is None:
            return None
        text = asked.user_attrs.get("trial")
        about: dict[str, Any] | None = json.loads(text) if text else suggest(self._spec, stratum, asked, paused)
        if about is None:
            stratum.study.tell(asked, state=TrialState.FAIL)
            stratum.left.adaptive = 0
            return None
        if not text:
            asked.set_user_attr("trial", json.dumps(about))
        write_down(self._spec, stratum, asked, about)
        stratum.open[asked.number] = asked
        arm = stratum.arms[about["variant"]]
        knobs = knobs_of(arm, about)
        stratum.left.add(arm.name, knobs)
        trial = Trial(stratum.name, asked.number, arm.name, stratum.scenario, about["origin"], knobs)
        return replace(trial, **_rungs(asked.user_attrs))

    def _next(self, stratum: Stratum, paused: Collection[str], held: int) -> optuna.trial.Trial | None:
        """The next trial of a stratum as Optuna has it: one that waits, else a point of ours, else the sampler's."""
        if stratum.requeued > held:
            stratum.requeued -= 1
        elif (planned := stratum.left.take_planned(paused)) is not None:
            variant, point = planned
            about = {"origin": point.phase, "variant": variant, "params": dict(point.params)}
            stratum.study.enqueue_trial({}, user_attrs={"trial": json.dumps(about)})
        elif not stratum.left.take_adaptive(paused):
            return None
        return stratum.study.ask()

    def _hold(self, stratum: Stratum, paused: Collection[str]) -> list[int]:
        """Keep the waiting trials of paused variants from Optuna, which would hand them out first."""
        waiting = stratum.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)) if paused else []
        held = [frozen._trial_id for frozen in waiting if about_trial(frozen)["variant"] in paused]
        for trial_id in held:
            self._storage.set_trial_state_values(trial_id, TrialState.RUNNING)
        return held


def _state(stratum: Stratum, frozen: FrozenTrial) -> State:
    if not frozen.state.is_finished():
        return State.RUNNING
    if is_unmeasured(frozen) and frozen.number not in stratum.withdrawn:
        return State.COMPLETE
    return State.FAIL if frozen.number in stratum.withdrawn else State(frozen.state.name)


def _as_trial(stratum: Stratum, frozen: FrozenTrial) -> Trial:
    about = about_trial(frozen)
    arm = stratum.arms[about["variant"]]
    trial = Trial(
        stratum.name,
        frozen.number,
        arm.name,
        stratum.scenario,
        about["origin"],
        knobs_of(arm, about),
        _state(stratum, frozen),
        unmeasured=is_unmeasured(frozen) and frozen.number not in stratum.study.user_attrs.get(RETOLD, ()),
        rung=frozen.last_step or None if frozen.state is TrialState.PRUNED else None,  # step 0: it ended by itself
    )
    return replace(trial, **_rungs(frozen.user_attrs))


def _rungs(user_attrs: Mapping[str, Any]) -> dict[str, Any]:
    """What a trial's user attributes say of its bracket, as fields of Trial."""
    bracket, scores = user_attrs.get(BRACKET), user_attrs.get(SCORES, [])
    return {"bracket": bracket and tuple(bracket), "scores": tuple((float(a), float(b)) for a, b in scores)}
