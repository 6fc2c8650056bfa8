"""Which trials of each stratum the confirm phase trains again; knows no Optuna, no store and no executor."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from studies.records import RunResult
from studies.spec import Confirm, StudySpec, in_scenario
from sweeper.search.outcomes import verdict_on
from sweeper.search.trials import Trial

Stratum = tuple[str, str]
"""Variant and scenario."""


class Candidates:
    """The closed trials of a study with what each is worth, and the choice among them.

    Without KL budgets the best `top` that keep the objective's bounds; with them, for each budget the best that keeps
    it in place of the bound on the KL.
    """

    def __init__(self, spec: StudySpec) -> None:
        self._spec = spec
        self._confirm: dict[str, Confirm | None] = {name: in_scenario(spec, name).confirm for name in spec.scenarios}
        # By stratum and KL budget (None: the objective's own bounds): trial number -> objective, those that keep it.
        self._values: dict[Stratum, dict[float | None, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))

    def note(self, trial: Trial, results: Sequence[RunResult]) -> None:
        """Take a closed trial in, with the results of all its runs."""
        confirm = self._confirm[trial.scenario]
        for budget in (confirm.kl or (None,)) if confirm else ():
            objective = self._spec.objective if budget is None else self._spec.objective.within_kl(budget)
            verdict = verdict_on(results, objective)
            if verdict.feasible and verdict.value is not None:
                self._values[trial.variant, trial.scenario][budget][trial.number] = verdict.value

    def strata(self) -> tuple[Stratum, ...]:
        """Strata with a trial that could be confirmed."""
        return tuple(self._values)

    def chosen(self, stratum: Stratum) -> tuple[int, ...]:
        """Numbers of the trials to train again, each once; of equal ones the one that was closed first."""
        confirm = self._confirm[stratum[1]]
        assert confirm is not None, "only strata with a confirm phase have candidates"
        largest = self._spec.objective.direction == "maximize"
        found: list[int] = []
        for values in self._values[stratum].values():
            ranked = sorted(values, key=values.__getitem__, reverse=largest)
            found += ranked[: 1 if confirm.kl else confirm.top]
        return tuple(dict.fromkeys(found))

    def runs(self, scenario: str) -> tuple[tuple[int, int], ...]:
        """(block, seed) of the runs of a confirmed trial."""
        confirm = self._confirm[scenario]
        return tuple((b, s) for b in confirm.blocks for s in confirm.seeds) if confirm else ()
