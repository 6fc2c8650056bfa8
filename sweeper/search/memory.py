"""A search that keeps its trials in memory. It asks for the planned points of a study as Optuna's does, and where a
sampler would choose it takes the next point that was not tried.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from studies.design.identity import strata
from studies.design.points import config_of_knobs, to_knobs
from studies.records import Scalar, State
from studies.spec import ResolvedVariant, StudySpec
from sweeper.search.remaining import Place, Remaining, Turns, adaptive_phase, remaining_in
from sweeper.search.trials import Trial, TrialOutcome


@dataclass
class _Stratum:
    scenario: str
    left: Remaining
    trials: list[Trial]  # by number
    waiting: list[int]  # numbers of those to be asked for again

    @property
    def has_more(self) -> bool:
        return bool(self.waiting) or bool(self.left)


class MemorySearch:
    """The strata of a study for as long as the process lives. `before`: the search that an earlier sweep of the same
    file left, whose open trials are asked for again.
    """

    def __init__(
        self, spec: StudySpec, arms: Mapping[str, ResolvedVariant], before: MemorySearch | None = None
    ) -> None:
        self._spec, self.partial = spec, False
        self.outcomes: dict[tuple[str, int], TrialOutcome] = dict(before.outcomes) if before else {}
        self._strata: dict[str, _Stratum] = {}
        for name, (scenario, members) in strata(spec, arms).items():
            kept = before._strata[name].trials if before and name in before._strata else []
            tried: dict[Place, str] = {}
            for trial in kept:
                if trial.state is not State.FAIL:
                    tried.setdefault(_place(members, trial.variant, trial.knobs), trial.phase)
            waiting = [trial.number for trial in kept if trial.state is State.RUNNING]
            self._strata[name] = _Stratum(scenario, remaining_in(spec, scenario, members, tried), list(kept), waiting)
        self._turns = Turns({name: stratum.scenario for name, stratum in self._strata.items()})

    @property
    def strata(self) -> tuple[str, ...]:
        """Names of the strata."""
        return tuple(self._strata)

    def trials(self) -> list[Trial]:
        """All trials, oldest first within their stratum."""
        found = []
        for stratum in self._strata.values():
            seen: set[Place] = set()
            for trial in stratum.trials:
                place = _place(stratum.left.arms, trial.variant, trial.knobs)
                found.append(replace(trial, repeats=place in seen))
                seen |= {place} if trial.state is not State.FAIL else set()
        return found

    def ask(self, paused: Collection[str] = ()) -> Trial | None:
        """The next trial, strata taking turns; None when every stratum has its quota, `paused` variants left aside."""
        for name in self._turns:
            trial = self._ask(name, paused)
            if trial is not None:
                return trial
        return None

    def ask_in(self, name: str, place: tuple[int, int]) -> Trial | None:
        """The next trial of a stratum, which belongs to the bracket `place` unless it had one before."""
        trial = self._ask(name, paused=())
        return trial if trial is None or trial.bracket is not None else self._set(trial, bracket=place)

    def keep_scores(self, trial: Trial, scores: Sequence[tuple[float, float]]) -> None:
        """Keep what an open trial was worth at decided rungs."""
        self._set(trial, scores=tuple(scores))

    def left(self, variants: Collection[str]) -> bool:
        """Whether there is a trial to ask for in a stratum of these variants."""
        return any(s.has_more for s in self._strata.values() if not s.left.arms.keys().isdisjoint(variants))

    def tell(self, trial: Trial, outcome: TrialOutcome) -> None:
        """Close a trial."""
        at_rung = outcome.state is State.PRUNED and outcome.value is not None
        unmeasured = outcome.state is State.COMPLETE and outcome.value is None
        self.outcomes[trial.stratum, trial.number] = outcome
        self._set(trial, state=outcome.state, rung=(outcome.step or None) if at_rung else None, unmeasured=unmeasured)

    def retell(self, trial: Trial, outcome: TrialOutcome) -> None:
        """Tell what an unmeasured trial is worth, by another one."""
        trials = self._strata[trial.stratum].trials
        self._set(trial, unmeasured=False)
        new = Trial(trial.stratum, len(trials), trial.variant, trial.scenario, trial.phase, trial.knobs)
        trials.append(new)
        self.tell(new, outcome)

    def requeue(self, trial: Trial) -> None:
        """Put an open trial back, to be asked for again."""
        stratum = self._strata[trial.stratum]
        stratum.waiting = sorted([*stratum.waiting, trial.number])

    def _set(self, trial: Trial, **changes: object) -> Trial:
        trials = self._strata[trial.stratum].trials
        trials[trial.number] = replace(trials[trial.number], **changes)  # type: ignore[arg-type]
        return trials[trial.number]

    def _ask(self, name: str, paused: Collection[str]) -> Trial | None:
        stratum = self._strata[name]
        again = next((n for n in stratum.waiting if stratum.trials[n].variant not in paused), None)
        if again is not None:
            stratum.waiting.remove(again)
            return stratum.trials[again]
        if (planned := stratum.left.take_planned(paused)) is not None:
            variant, phase, params = planned[0], planned[1].phase, planned[1].params
        elif stratum.left.take_adaptive(paused):
            variant = stratum.left.turn_of(len(stratum.trials), stratum.left.free(paused))
            phase, params = adaptive_phase(self._spec), stratum.left.untried(variant, near={}) or {}
        else:
            return None
        knobs = to_knobs(stratum.left.arms[variant], params)
        stratum.left.add(variant, knobs)
        stratum.trials.append(Trial(name, len(stratum.trials), variant, stratum.scenario, phase, knobs))
        return stratum.trials[-1]


def _place(arms: Mapping[str, ResolvedVariant], variant: str, knobs: Mapping[str, Scalar]) -> Place:
    return variant, config_of_knobs(arms[variant], knobs)
