"""Synchronous successive halving: who goes on from a rung and who ends there; knows no store, executor or clock.

All runs have the same number of steps and the same schedule. The trials of a bracket pause at a rung, and once every
one of them has reported there, the best 1/eta go on from where they are. What is decided is a function of what was
measured alone: not of the order in which runs report, and the same after a restart (Jamieson and Talwalkar,
arXiv 1502.07943; not the asynchronous rule of Optuna's pruner, which depends on who reports first).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from studies.checks.rungs import rung_step
from studies.records import Cause, RunResult
from studies.spec import Objective, StudySpec


@dataclass(frozen=True, order=True)
class Score:
    """What a trial is worth at a rung; smaller is better, so that the tuple order is the ranking.

    `excess`: by how much it breaks the bounds of the objective, 0 where it keeps them, infinity where it has failed.
    `loss`: the objective, with its sign changed where larger is better; 0 where it has failed.
    """

    excess: float
    loss: float

    @property
    def failed(self) -> bool:
        """Whether nothing is left that could go on."""
        return self.excess == math.inf


FAILED = Score(math.inf, 0.0)


def survivors(scores: Mapping[int, Score], eta: int) -> frozenset[int]:
    """The best 1/eta of the trials, at least one and none that has failed; ties go to the smaller trial number."""
    ranked = sorted(scores, key=lambda number: (scores[number], number))
    return frozenset(number for number in ranked[: max(1, len(scores) // eta)] if not scores[number].failed)


@dataclass(frozen=True)
class BracketState:
    """Where a bracket is. `alive` trials train to the rung of index `rung`, or to their end where that is the number
    of rungs; `out` says for the others at which rung they ended.
    """

    rung: int
    alive: frozenset[int]
    out: Mapping[int, int]


def standing(scores: Mapping[int, Sequence[Score]], rungs: int, eta: int) -> BracketState:
    """Decide every rung for which all trials that came so far have a score. `scores`: by trial, one for each rung
    that it has reported.
    """
    alive, out = frozenset(scores), dict[int, int]()
    for rung in range(rungs):
        if any(len(scores[number]) <= rung for number in alive):
            return BracketState(rung, alive, out)
        going_on = survivors({number: scores[number][rung] for number in alive}, eta)
        out |= dict.fromkeys(alive - going_on, rung)
        alive = going_on
    return BracketState(rungs, alive, out)


def rung_scores(results: Sequence[RunResult], steps: Sequence[int], objective: Objective, *, over: bool) -> list[Score]:
    """The scores of a trial at the rungs that all of its runs have reached, in order.

    `results`: one of each run, paused or ended. `over`: no more will come. A rung that a run did not reach before it
    ended is scored as failed.
    """
    found: list[Score] = []
    ended = over or any(result.cause is not Cause.PAUSED for result in results)
    for step in steps:
        score = _score(results, step, objective)
        if score is None and not ended:
            break
        found.append(score or FAILED)
    return found


def _score(results: Sequence[RunResult], step: int, objective: Objective) -> Score | None:
    """The score at a step, by the mean over runs; None where one of them has no finite measurement there."""
    loss = _mean(results, objective.metric, step)
    if loss is None:
        return None
    excess = 0.0
    for metric, bounds in objective.constraints.items():
        mean = _mean(results, metric, step)
        if mean is not None:
            excess += max(mean - bounds.get("max", math.inf), 0.0) + max(bounds.get("min", -math.inf) - mean, 0.0)
    return Score(excess, -loss if objective.direction == "maximize" else loss)


def _mean(results: Sequence[RunResult], metric: str, step: int) -> float | None:
    values = [m.value for r in results for m in r.measurements if (m.name, m.step) == (metric, step)]
    whole = bool(results) and len(values) == len(results) and all(map(math.isfinite, values))
    return math.fsum(values) / len(values) if whole else None


def rung_steps(spec: StudySpec) -> tuple[int, ...]:
    """After how many optimizer steps the runs of the study pause; none without rungs."""
    if spec.rungs is None:
        return ()
    return tuple(rung_step(share, int(spec.base["max_steps"])) for share in spec.rungs.at)


@dataclass(frozen=True)
class PlannedBracket:
    """How many trials train to each rung and, last, to the end, where none fails; their optimizer steps in all, with
    one run a trial, and those of training all to the end.
    """

    trials: tuple[int, ...]
    steps: int
    whole: int


def bracket_sizes(spec: StudySpec, trials: int) -> list[int]:
    """Into brackets of what sizes a scenario's trials go: as equal as can be, none above the study's own size."""
    assert spec.rungs is not None
    count = -(-trials // (spec.rungs.bracket or default_bracket(spec)))
    return [trials // count + (i < trials % count) for i in range(count)]


def default_bracket(spec: StudySpec) -> int:
    """Four times as many trials as leave one that trains to its end."""
    assert spec.rungs is not None
    return 4 * int(spec.rungs.eta ** len(spec.rungs.at))


def planned_bracket(spec: StudySpec, size: int) -> PlannedBracket:
    """What a bracket of this size costs."""
    assert spec.rungs is not None
    last = int(spec.base["max_steps"])
    trials, steps, before = [size], 0, 0
    for step in (*rung_steps(spec), last):
        steps += trials[-1] * (step - before)
        before = step
        trials.append(max(1, trials[-1] // spec.rungs.eta))
    return PlannedBracket(tuple(trials[:-1]), steps, size * last)


@dataclass
class Entrant:
    """A trial in a bracket. `results`: the last that is known of each of its `runs`, by key, paused ones included;
    `over`: it is closed, so that no more will come. `scores`: at the rungs that are decided, which stand whatever
    becomes of the runs later.
    """

    runs: int
    over: bool = False
    scores: tuple[Score, ...] = ()
    results: dict[str, RunResult] = field(default_factory=dict)


@dataclass
class Bracket:
    """Trials of one stratum that are decided on together, by number, once all `size` of them are there."""

    number: int
    size: int
    entrants: dict[int, Entrant] = field(default_factory=dict)

    @property
    def full(self) -> bool:
        """Whether all of its trials are there."""
        return len(self.entrants) >= self.size

    @property
    def over(self) -> bool:
        """Whether all of its trials have come and are closed."""
        return self.full and all(entrant.over for entrant in self.entrants.values())


class Brackets:
    """All brackets of a sweep, by stratum: which trial is in which, and what is decided so far."""

    def __init__(self, spec: StudySpec, trials: int) -> None:
        """`trials`: how many each scenario has. Raises ValueError for a study without rungs."""
        if spec.rungs is None:
            raise ValueError(f"study {spec.study} has no rungs")
        self._spec, self._eta, self._trials = spec, spec.rungs.eta, trials
        self._brackets: dict[str, list[Bracket]] = {}
        self.steps = rung_steps(spec)

    def place(self, stratum: str) -> tuple[int, int] | None:
        """The bracket that the next trial of a stratum belongs to, and that bracket's size; None as long as another is
        under way: the sampler learns from a whole bracket, and nothing that it asks depends on who reports first.
        """
        brackets = self._brackets.get(stratum, [])
        if brackets and not brackets[-1].full:
            return brackets[-1].number, brackets[-1].size
        if not all(bracket.over for bracket in brackets):
            return None
        left = self._trials - sum(bracket.size for bracket in brackets)
        number = brackets[-1].number + 1 if brackets else 0
        return number, bracket_sizes(self._spec, left)[0] if left > 0 else 1

    def enter(self, stratum: str, place: tuple[int, int], trial: int, entrant: Entrant) -> None:
        """Put a trial into its bracket."""
        brackets = self._brackets.setdefault(stratum, [])
        found = next((bracket for bracket in brackets if bracket.number == place[0]), None)
        if found is None:
            found = Bracket(*place)
            brackets.append(found)
            brackets.sort(key=lambda bracket: bracket.number)
        found.entrants[trial] = entrant

    def seal(self, stratum: str) -> None:
        """No more trials will come: a bracket that waits for some is decided with those that it has."""
        for bracket in self._brackets.get(stratum, []):
            bracket.size = min(bracket.size, len(bracket.entrants))

    def standings(self, stratum: str) -> dict[int, BracketState]:
        """Where the brackets that are not over are, by number."""
        return {b.number: self._standing(b) for b in self._brackets.get(stratum, []) if not b.over}

    def _standing(self, bracket: Bracket) -> BracketState:
        if not bracket.full:
            return BracketState(0, frozenset(bracket.entrants), {})
        scores = {}
        for number, entrant in bracket.entrants.items():
            known = entrant.over or len(entrant.results) == entrant.runs
            results = list(entrant.results.values()) if known else []
            found = rung_scores(results, self.steps, self._spec.objective, over=entrant.over)
            scores[number] = (*entrant.scores, *found[len(entrant.scores) :])
        now = standing(scores, len(self.steps), self._eta)
        for number, entrant in bracket.entrants.items():
            entrant.scores = scores[number][: now.out.get(number, now.rung - 1) + 1]
        return now
