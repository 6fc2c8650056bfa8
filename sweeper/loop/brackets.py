"""Leads the trials of a bracket from rung to rung: what pauses, goes on or ends there. Knows no executor and decides
nothing itself, see `studies.design.halving`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from studies.design.halving import Brackets, BracketState, Entrant, Score
from studies.design.points import CONFIRM
from studies.records import Cause, Failure, RunConfig, RunResult
from studies.spec import StudySpec
from studies.text.plural import so_many
from sweeper.search.search import Search
from sweeper.search.trials import Trial
from sweeper.tracking.tracker import Tracker
from trainers.run_folder.results import EARLIER_FILE, STATE_FILE, drop_state, read_result

# Causes after which a run on disk can be taken up where it was.
GOES_ON = frozenset({Cause.PAUSED, Cause.USER_STOP, Cause.PREEMPTED})


@dataclass
class Group:
    """A trial and the results of its runs as they come in. `asked`: Optuna waits to be told.

    With rungs, `entrant` is its place in a bracket; `heading` says by run to which step it trains (None: to its end),
    and `run_ids` holds the MLflow runs that stay open while a run pauses.
    """

    trial: Trial
    configs: tuple[RunConfig, ...]
    arm: str
    asked: bool
    results: dict[str, RunResult] = field(default_factory=dict)
    entrant: Entrant | None = None
    heading: dict[str, int | None] = field(default_factory=dict)
    run_ids: dict[str, str] = field(default_factory=dict)

    def note(self, key: str, result: RunResult) -> None:
        """What a run came to in the end."""
        self.results[key] = result
        if self.entrant is not None:
            self.entrant.results[key] = result


class Pacing:
    """The open trials of brackets. `queue` hands a run over to be trained, `close` tells what became of a trial."""

    def __init__(
        self,
        spec: StudySpec,
        trials: int,
        search: Search,
        tracker: Tracker,
        folder: Path,
        queue: Callable[[Group, RunConfig], None],
        close: Callable[[Group], None],
        tell_user: Callable[[str], None],
    ) -> None:
        """`trials`: how many each scenario has. Raises ValueError for a study without rungs."""
        self._brackets = Brackets(spec, trials)
        self._search, self._tracker, self._folder = search, tracker, folder
        self._queue, self._close, self._tell_user = queue, close, tell_user
        self._open: list[Group] = []
        self._told: dict[tuple[str, int], int] = {}
        # Runs that ended at a rung, to which they were trained here or before.
        self.trained = self.reused = 0
        self.failures = Counter[Failure]()  # of them

    def enter(self, group: Group) -> None:
        """Put a trial into its bracket, no config twice, with what its runs had reported when last heard of."""
        trial = group.trial
        if trial.bracket is None or trial.repeats or group.entrant is not None or group.arm == CONFIRM:
            return
        scores = tuple(Score(*score) for score in trial.scores)
        group.entrant = Entrant(len(group.configs), over=not group.asked, scores=scores)
        self._brackets.enter(trial.stratum, trial.bracket, trial.number, group.entrant)
        if group.asked:
            self._open.append(group)
        for config in group.configs:
            result = read_result(self._folder / config.key)
            if result is not None and result.key == config.key and result.cause in GOES_ON:
                group.entrant.results[config.key] = result.model_copy(update={"cause": Cause.PAUSED})

    def next_bracket(self, make: Callable[[Trial], Group]) -> list[Group]:
        """Ask for all trials of the next bracket of each stratum; none where there are none, or where it must wait."""
        asked = []
        for stratum in self._search.strata:
            while (place := self._brackets.place(stratum)) is not None:
                trial = self._search.ask_in(stratum, place)
                if trial is None:
                    self._brackets.seal(stratum)
                    break
                asked.append(make(trial))
                self.enter(asked[-1])
        return asked

    def paused(self, group: Group, run_id: str, result: RunResult) -> None:
        """A run has come to its rung. Its MLflow run stays open until it is decided."""
        assert group.entrant is not None
        group.run_ids[result.key], group.entrant.results[result.key] = run_id, result
        if group.asked:
            self.heed()
        elif group.trial.rung is not None and all(self._has_ended(group, config) for config in group.configs):
            self._end(group, group.trial.rung)

    def train_again(self, group: Group) -> None:
        """Queue the runs of a closed trial that nobody has any more: to the rung where it ended, or to their end."""
        self._advance(group, group.trial.rung)

    def _has_ended(self, group: Group, config: RunConfig) -> bool:
        assert group.entrant is not None
        return config.key in group.results or config.key in group.entrant.results

    def heed(self) -> None:
        """Bring every open trial to where its bracket stands: on to the next rung, or to its end."""
        for stratum in self._search.strata:
            for number, now in self._brackets.standings(stratum).items():
                mine = [g for g in self._open if g.asked and g.trial.stratum == stratum]
                trials = [g for g in mine if g.trial.bracket and g.trial.bracket[0] == number]
                self._keep_scores(trials)
                self._tell(stratum, number, now, trials)
                for group in trials:
                    if group.trial.number in now.out:
                        self._end(group, self._brackets.steps[now.out[group.trial.number]])
                    else:
                        self._advance(group, (*self._brackets.steps, None)[now.rung])
        self._open = [group for group in self._open if group.asked]

    def requeue_open(self) -> list[Group]:
        """After a stop: the open trials, whose MLflow runs are closed; the next sweep takes them up where they are."""
        for group in self._open:
            for run_id in group.run_ids.values():
                self._tracker.supersede(run_id, "stopped before its end")
            group.run_ids.clear()
        return [group for group in self._open if group.asked]

    def _keep_scores(self, groups: Sequence[Group]) -> None:
        for group in groups:
            scores = group.entrant.scores if group.entrant else ()
            if len(scores) > len(group.trial.scores):
                kept = tuple((score.excess, score.loss) for score in scores)
                self._search.keep_scores(group.trial, kept)
                group.trial = replace(group.trial, scores=kept)

    def _tell(self, stratum: str, number: int, now: BracketState, groups: Sequence[Group]) -> None:
        """Say what was decided, and what the paused runs take on disk, once a rung."""
        if now.rung == 0 or self._told.get((stratum, number)) == now.rung or not groups:
            return
        self._told[stratum, number] = now.rung
        folders = {self._folder / config.key for group in groups for config in group.configs}
        files = [folder / name for folder in folders for name in (STATE_FILE, EARLIER_FILE)]
        size = sum(file.stat().st_size for file in files if file.exists()) / 2**20
        ends = sum(rung == now.rung - 1 for rung in now.out.values())
        held = f"; {size:.1f} MiB of paused runs on disk until now" if size else ""
        self._tell_user(
            f"Bracket {number + 1}, step {self._brackets.steps[now.rung - 1]}: {so_many(len(now.alive), 'trial')} "
            f"go{'es' * (len(now.alive) == 1)} on, {ends} end{'s' * (ends == 1)} here{held}"
        )

    def _advance(self, group: Group, step: int | None) -> None:
        """Queue the runs of a trial that have not come to this step (None: their end) and are not on the way to it."""
        assert group.entrant is not None
        for config in group.configs:
            known = group.entrant.results.get(config.key)
            there = known is not None and any(m.step == step for m in known.measurements)
            if config.key not in group.results and not there and group.heading.get(config.key, 0) != step:
                group.heading[config.key] = step
                self._queue(group, config)

    def _end(self, group: Group, step: int) -> None:
        """Close a trial that does not go on from the rung at this step, and remove what it would have gone on from."""
        assert group.entrant is not None
        for config in group.configs:
            if config.key in group.results:
                continue
            result = group.entrant.results[config.key]
            run_id = group.run_ids.pop(config.key, None)
            self.trained, self.reused = self.trained + (run_id is not None), self.reused + (run_id is None)
            self._tracker.finish_run(run_id or self._tracker.start_run(config, 1, group.arm), config, result, step)
            group.note(config.key, result)
            self.failures.update([result.failure] if result.failure else [])
        self._close(group)
        held = {config.key for other in self._open if other.asked for config in other.configs}
        for config in group.configs:
            if config.key not in held:
                drop_state(self._folder / config.key)
