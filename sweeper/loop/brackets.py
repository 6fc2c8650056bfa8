"""With rungs: what a report decides of the trials of a bracket, by the rules of `studies.design.halving`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from studies.design.halving import Brackets, BracketState, Entrant, Score
from studies.design.points import CONFIRM
from studies.records import Cause, RunConfig, RunResult
from studies.spec import StudySpec
from studies.text.plural import so_many
from sweeper.loop.trials import TrialRuns
from trainers.run_folder.results import EARLIER_FILE, STATE_FILE, read_result

# Causes after which a run on disk can be taken up where it was.
GOES_ON = frozenset({Cause.PAUSED, Cause.USER_STOP, Cause.PREEMPTED})


@dataclass(frozen=True)
class Train:
    """Train this run to the step that its trial is `heading` for."""

    runs: TrialRuns
    config: RunConfig


@dataclass(frozen=True)
class EndAtRung:
    """Close a trial that does not go on from the rung at this step."""

    runs: TrialRuns
    step: int


@dataclass(frozen=True)
class KeepScores:
    """Keep what an open trial was worth at decided rungs, so that a restart decides the same."""

    runs: TrialRuns
    scores: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Say:
    """Tell the user what was decided."""

    text: str


Decision = Train | EndAtRung | KeepScores | Say


class OpenBrackets:
    """The open trials of brackets. Without rungs there are none, and nothing is ever decided.

    Decisions come one by one, and each is carried out before the next is asked for.
    """

    def __init__(self, spec: StudySpec, trials: int, strata: Sequence[str], folder: Path) -> None:
        """`trials`: how many each scenario has; `folder`: the study's runs."""
        self._brackets = Brackets(spec, trials) if spec.rungs else None
        self._strata, self._folder = strata, folder
        self._open: list[TrialRuns] = []
        self._told: dict[tuple[str, int], int] = {}

    def place(self, stratum: str) -> tuple[int, int] | None:
        """The bracket of the next trial of a stratum, by number and size; None where it must wait."""
        return self._brackets.place(stratum) if self._brackets else None

    def seal(self, stratum: str) -> None:
        """No more trials of a stratum will come."""
        if self._brackets:
            self._brackets.seal(stratum)

    def enter(self, runs: TrialRuns) -> None:
        """Put a trial into its bracket, no config twice, with what its runs had reported when last heard of."""
        trial = runs.trial
        entered = runs.entrant is not None or trial.repeats or runs.phase == CONFIRM
        if self._brackets is None or trial.bracket is None or entered:
            return
        scores = tuple(Score(*score) for score in trial.scores)
        runs.entrant = Entrant(len(runs.configs), over=not runs.asked, scores=scores)
        self._brackets.enter(trial.stratum, trial.bracket, trial.number, runs.entrant)
        if runs.asked:
            self._open.append(runs)
        for config in runs.configs:
            result = read_result(self._folder / config.key)
            if result is not None and result.key == config.key and result.cause in GOES_ON:
                runs.entrant.results[config.key] = result.model_copy(update={"cause": Cause.PAUSED})

    def pause(self, runs: TrialRuns, run_id: str, result: RunResult) -> Iterator[Decision]:
        """A run has come to its rung. Its MLflow run stays open until it is decided."""
        assert runs.entrant is not None
        runs.run_ids[result.key], runs.entrant.results[result.key] = run_id, result
        ended = runs.results.keys() | runs.entrant.results.keys()
        if runs.asked:
            yield from self.advance_all()
        elif runs.trial.rung is not None and all(config.key in ended for config in runs.configs):
            yield EndAtRung(runs, runs.trial.rung)

    def train_again(self, runs: TrialRuns) -> Iterator[Decision]:
        """Train the runs of a closed trial that nobody has any more: to the rung where it ended, or to their end."""
        yield from self._advance(runs, runs.trial.rung)

    def advance_all(self) -> Iterator[Decision]:
        """Bring every open trial to where its bracket stands: on to the next rung, or to its end."""
        if self._brackets is None:
            return
        steps = self._brackets.steps
        for stratum in self._strata:
            for number, now in self._brackets.standings(stratum).items():
                mine = [one for one in self._open if one.asked and one.trial.stratum == stratum]
                trials = [one for one in mine if one.trial.bracket and one.trial.bracket[0] == number]
                yield from _new_scores(trials)
                yield from self._say(stratum, number, now, trials, steps)
                for runs in trials:
                    if runs.trial.number in now.out:
                        yield EndAtRung(runs, steps[now.out[runs.trial.number]])
                    else:
                        yield from self._advance(runs, (*steps, None)[now.rung])
        self._open = [runs for runs in self._open if runs.asked]

    def not_held(self, runs: TrialRuns) -> list[RunConfig]:
        """The runs of a closed trial that no open trial shares."""
        held = {config.key for other in self._open if other.asked for config in other.configs}
        return [config for config in runs.configs if config.key not in held]

    def open_trials(self) -> list[TrialRuns]:
        """The trials that are not decided to their end."""
        return [runs for runs in self._open if runs.asked]

    def take_paused(self) -> list[str]:
        """The MLflow runs that pause at a rung, which are left to the caller."""
        run_ids = [run_id for runs in self._open for run_id in runs.run_ids.values()]
        for runs in self._open:
            runs.run_ids.clear()
        return run_ids

    def _say(
        self, stratum: str, number: int, now: BracketState, trials: Sequence[TrialRuns], steps: Sequence[int]
    ) -> Iterator[Say]:
        """Say what was decided, and what the paused runs take on disk, once a rung."""
        if now.rung == 0 or self._told.get((stratum, number)) == now.rung or not trials:
            return
        self._told[stratum, number] = now.rung
        folders = {self._folder / config.key for runs in trials for config in runs.configs}
        files = [folder / name for folder in folders for name in (STATE_FILE, EARLIER_FILE)]
        size = sum(file.stat().st_size for file in files if file.exists()) / 2**20
        ends = sum(rung == now.rung - 1 for rung in now.out.values())
        held = f"; {size:.1f} MiB of paused runs on disk until now" if size else ""
        yield Say(
            f"Bracket {number + 1}, step {steps[now.rung - 1]}: {so_many(len(now.alive), 'trial')} "
            f"go{'es' * (len(now.alive) == 1)} on, {ends} end{'s' * (ends == 1)} here{held}"
        )

    def _advance(self, runs: TrialRuns, step: int | None) -> Iterator[Train]:
        """Train the runs of a trial that have not come to this step (None: their end) and are not on the way to it."""
        assert runs.entrant is not None
        for config in runs.configs:
            known = runs.entrant.results.get(config.key)
            there = known is not None and any(m.step == step for m in known.measurements)
            if config.key not in runs.results and not there and runs.heading.get(config.key, 0) != step:
                runs.heading[config.key] = step
                yield Train(runs, config)


def _new_scores(trials: Sequence[TrialRuns]) -> Iterator[KeepScores]:
    """The scores of trials that nobody has kept yet."""
    for runs in trials:
        scores = runs.entrant.scores if runs.entrant else ()
        if len(scores) > len(runs.trial.scores):
            yield KeepScores(runs, tuple((score.excess, score.loss) for score in scores))
