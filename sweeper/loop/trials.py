"""Open trials and their runs: which trial is complete, which is the best, which are confirmed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from studies.design.halving import Entrant
from studies.design.points import CONFIRM, quota
from studies.records import Cause, Measurement, RunConfig, RunResult, State
from studies.spec import Confirm, ResolvedVariant, StudySpec, in_scenario, resolve_run
from sweeper.search.trials import Trial, TrialOutcome, verdict_on

Stratum = tuple[str, str]
"""Variant and scenario."""


@dataclass
class TrialRuns:
    """A trial and the results of its runs as they come in. `asked`: Optuna waits to be told.

    With rungs, `entrant` is its place in a bracket; `heading` says by run to which step it trains (None: to its end),
    and `run_ids` holds the MLflow runs that stay open while a run pauses.
    """

    trial: Trial
    configs: tuple[RunConfig, ...]
    phase: str
    asked: bool
    results: dict[str, RunResult] = field(default_factory=dict)
    entrant: Entrant | None = None
    heading: dict[str, int | None] = field(default_factory=dict)
    run_ids: dict[str, str] = field(default_factory=dict)

    def note(self, key: str, result: RunResult) -> None:
        """Take the last result of a run."""
        self.results[key] = result
        if self.entrant is not None:
            self.entrant.results[key] = result


@dataclass(frozen=True)
class Closed:
    """A trial whose runs have all ended. `tell`: Optuna waits for the outcome; `retell`: it was told without a value
    and gets one now. `unneeded`: runs whose adapters are kept no longer. `confirm`: what to train again now, where this
    was the last trial of a replicate.
    """

    trial: Trial
    outcome: TrialOutcome
    tell: bool
    retell: bool
    unneeded: tuple[RunConfig, ...]
    confirm: tuple[TrialRuns, ...] = ()


@dataclass(frozen=True)
class Best:
    """The best trial of a stratum."""

    value: float
    runs: TrialRuns


class TrialBook:
    """The trials of a sweep: their runs, the best of each stratum, and the runs that were measured."""

    def __init__(self, spec: StudySpec, variants: Mapping[str, ResolvedVariant]) -> None:
        self._spec, self._variants = spec, variants
        self._runs = {name: in_scenario(spec, name).runs for name in spec.scenarios}
        self._candidates = Candidates(spec, variants)
        self._confirmed: set[tuple[Stratum, int]] = set()
        self._best: dict[Stratum, Best] = {}
        self.finished: dict[str, tuple[RunConfig, Mapping[str, Measurement]]] = {}
        """By key, every run that came to its end, and its measurements."""
        self.devices: set[str] = set()
        """What those runs trained on, as they say it."""

    def open(self, trial: Trial, *, asked: bool) -> TrialRuns:
        """A trial with the runs that it needs."""
        runs = self._runs[trial.scenario]
        configs = tuple(self._config(trial, block, seed) for block in runs.blocks for seed in runs.seeds)
        return TrialRuns(trial, configs, trial.phase, asked)

    def to_confirm(self, paused: AbstractSet[str]) -> list[TrialRuns]:
        """The chosen trials of each stratum, on fresh blocks and seeds; those of `paused` variants are left out, and
        those that were given out before.
        """
        strata = [stratum for stratum in self._candidates.strata() if stratum[0] not in paused]
        return [runs for stratum in strata for runs in self._to_confirm(stratum)]

    def _to_confirm(self, stratum: Stratum) -> list[TrialRuns]:
        found = []
        for trial in self._candidates.chosen(stratum):
            if (stratum, trial.number) not in self._confirmed:
                self._confirmed.add((stratum, trial.number))
                configs = tuple(self._config(trial, b, s) for b, s in self._candidates.runs(trial.scenario))
                found.append(TrialRuns(trial, configs, CONFIRM, asked=False))
        return found

    def close(self, runs: TrialRuns) -> Closed | None:
        """What became of a trial, None while a run of it has no result."""
        if len(runs.results) < len(runs.configs):
            return None
        results = list(runs.results.values())
        for config in runs.configs:
            if runs.results[config.key].cause is Cause.FINISHED:
                result = runs.results[config.key]
                self.finished[config.key] = (config, result.final())
                self.devices |= {str(result.facts["device"])} if "device" in result.facts else set()
        trial, tell = runs.trial, runs.asked
        outcome = verdict_on(results, self._spec.objective)
        complete = runs.phase != CONFIRM and self._candidates.note(trial, results)
        retell = not tell and trial.unmeasured and runs.phase != CONFIRM and outcome.value is not None
        if retell:
            runs.trial = replace(trial, unmeasured=False)
        runs.asked = False
        if runs.entrant is not None:
            runs.entrant.over = True
        confirm = self._to_confirm((trial.variant, trial.scenario)) if complete else []
        return Closed(trial, outcome, tell, retell, self._unneeded(runs, outcome), tuple(confirm))

    def best(self) -> Best | None:
        """The best trial so far; none of a study with replicates, each of which has a scale of its own."""
        if self._spec.replicates is not None:
            return None
        choose = max if self._spec.objective.direction == "maximize" else min
        return choose(self._best.values(), key=lambda best: best.value, default=None)

    def best_configs(self) -> list[RunConfig]:
        """The runs of the best trial of each stratum."""
        return [config for best in self._best.values() for config in best.runs.configs]

    def _unneeded(self, runs: TrialRuns, outcome: TrialOutcome) -> tuple[RunConfig, ...]:
        """Runs whose adapters are kept no longer, after comparing a closed trial with the best of its stratum."""
        if outcome.state is State.COMPLETE and outcome.value is None:
            return ()  # its value is not known yet, and its adapters may be needed to measure it
        if not outcome.feasible or outcome.value is None or runs.phase == CONFIRM:
            return self._not_held(runs)
        stratum = (runs.trial.variant, runs.trial.scenario)
        best = self._best.get(stratum)
        if best is None or self._is_better(outcome.value, best.value):
            unneeded = () if best is None else self._not_held(best.runs)
            self._best[stratum] = Best(outcome.value, runs)
            return unneeded
        return () if best.runs is runs else self._not_held(runs)

    def _not_held(self, runs: TrialRuns) -> tuple[RunConfig, ...]:
        """The runs of a trial that no best trial shares: two variants that are the same run share its folder."""
        if self._spec.output.keep != "best":
            return ()
        held = {config.key for best in self._best.values() if best.runs is not runs for config in best.runs.configs}
        return tuple(config for config in runs.configs if config.key not in held)

    def _is_better(self, a: float, b: float) -> bool:
        return a > b if self._spec.objective.direction == "maximize" else a < b

    def _config(self, trial: Trial, block: int, seed: int) -> RunConfig:
        variant = self._variants[trial.variant]
        return resolve_run(
            self._spec, variant, trial.scenario, trial=trial.number, knobs=trial.knobs, block=block, seed=seed
        )


class Candidates:
    """The closed trials of a study with what each is worth, and the choice among them.

    Without KL budgets the best `top` that keep the objective's bounds; with them, for each budget the best that keeps
    it in place of the bound on the KL. With `Objective.at_drift`, where none gets there, the best at its end.
    """

    def __init__(self, spec: StudySpec, variants: Mapping[str, ResolvedVariant]) -> None:
        self._spec, self._variants = spec, variants
        self._trials: dict[Stratum, dict[int, Trial]] = defaultdict(dict)
        self._confirm: dict[str, Confirm | None] = {name: in_scenario(spec, name).confirm for name in spec.scenarios}
        # By stratum and KL budget (None: the objective's own bounds): trial number -> objective, those that keep it.
        self._values: dict[Stratum, dict[float | None, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
        # The same of those that keep all else and never came to the drift that the objective is read at.
        self._short: dict[Stratum, dict[int, float]] = defaultdict(dict)

    def note(self, trial: Trial, results: Sequence[RunResult]) -> bool:
        """Take a closed trial in, with the results of all its runs. Whether it was the last of a replicate, whose best
        is known then.
        """
        stratum = (trial.variant, trial.scenario)
        self._trials[stratum][trial.number] = trial
        if any(result.failure is not None and result.failure.by_config for result in results):
            return self._is_last(
                stratum
            )  # one that broke, were it by the length of its samples alone, is not trained again
        confirm = self._confirm[trial.scenario]
        for budget in (confirm.kl or (None,)) if confirm else ():
            objective = self._spec.objective if budget is None else self._spec.objective.within_kl(budget)
            verdict = verdict_on(results, objective)
            if verdict.feasible and verdict.value is not None:
                self._values[stratum][budget][trial.number] = verdict.value
            elif verdict.feasible_short and verdict.value is not None:
                self._short[stratum][trial.number] = verdict.value
        return self._is_last(stratum)

    def _is_last(self, stratum: Stratum) -> bool:
        """Whether all trials of a replicate are closed."""
        if self._spec.replicates is None:
            return False
        return len(self._trials[stratum]) >= quota(in_scenario(self._spec, stratum[1]), self._variants[stratum[0]])

    def strata(self) -> tuple[Stratum, ...]:
        """Strata with a trial that could be confirmed."""
        return tuple(dict.fromkeys([*self._values, *self._short]))

    def chosen(self, stratum: Stratum) -> tuple[Trial, ...]:
        """The trials to train again, each once; of equal ones the first by number, in whatever order they ended: else a
        sweep that goes on would choose another one.
        """
        confirm = self._confirm[stratum[1]]
        assert confirm is not None, "only strata with a confirm phase have candidates"
        largest = self._spec.objective.direction == "maximize"
        found: list[int] = []
        for values in self._values[stratum].values() if self._values.get(stratum) else [self._short[stratum]]:
            ranked = sorted(sorted(values), key=values.__getitem__, reverse=largest)
            found += ranked[: 1 if confirm.kl else confirm.top]
        return tuple(self._trials[stratum][number] for number in dict.fromkeys(found))

    def runs(self, scenario: str) -> tuple[tuple[int, int], ...]:
        """(block, seed) of the runs of a confirmed trial."""
        confirm = self._confirm[scenario]
        return tuple((b, s) for b in confirm.blocks for s in confirm.seeds) if confirm else ()
