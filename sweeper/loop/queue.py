"""The runs that wait and train; how trials become runs (`Feeder`), and what follows when a run ends (`RunEnds`)."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path

from studies.records import UNSAVED_FACT, UNUSABLE_FACT, Cause, Failure, RunConfig, RunResult, State
from studies.spec import ResolvedVariant, StudySpec, arms_in, in_scenario
from studies.text.lines import first_line
from sweeper.executors.ledger import Occupancy
from sweeper.loop.brackets import Decision, EndAtRung, KeepScores, OpenBrackets, Say, Train
from sweeper.loop.progress import Screen
from sweeper.loop.recording import STOPPED, Recorder, Training
from sweeper.loop.recovery import Past
from sweeper.loop.retries import PUT_OFF, Attempt, Attempts, Refusals, Retries, describe, is_machine
from sweeper.loop.trials import TrialBook, TrialRuns
from sweeper.stores import Search
from trainers.interface import Placement
from trainers.run_folder.results import drop_adapter, drop_state


@dataclass(frozen=True)
class Waiting:
    """A run that waits to be handed over."""

    runs: TrialRuns
    config: RunConfig
    attempt: Attempt


class RunQueue:
    """The runs that wait, in order, and the runs in training, by key."""

    def __init__(self) -> None:
        self._waiting: deque[Waiting] = deque()
        self.training: dict[str, Training] = {}

    def add(self, waiting: Waiting, *, first: bool = False) -> None:
        """Let a run wait, last of all or first."""
        (self._waiting.appendleft if first else self._waiting.append)(waiting)

    def due(self, now: float, paused: AbstractSet[str]) -> Waiting | None:
        """The first run that may be handed over now."""
        return next((one for one in self._waiting if _wait_for(one, now, paused) == 0.0), None)

    def waits(self, now: float, paused: AbstractSet[str]) -> list[float | None]:
        """For each run that waits, the seconds until it may be handed over; None while its variant is paused."""
        return [_wait_for(one, now, paused) for one in self._waiting]

    def take(self, waiting: Waiting) -> bool:
        """Take a run out of the queue. Where the same run is in training for another variant, it goes to the end of the
        queue and waits for that result.
        """
        self._waiting.remove(waiting)
        if waiting.config.key not in self.training:
            return True
        self._waiting.append(waiting)
        return False

    def begin(self, waiting: Waiting) -> None:
        """Count a run that was taken as in training, with the MLflow run that it left open at a rung."""
        runs, key = waiting.runs, waiting.config.key
        self.training[key] = Training(runs, waiting.config, waiting.attempt, runs.run_ids.pop(key, None))

    def in_workers(self) -> int:
        """How many runs a worker has taken."""
        return sum(run.run_id is not None for run in self.training.values())

    def drop(self, runs: TrialRuns) -> None:
        """Let no run of a trial wait any longer."""
        self._waiting = deque(one for one in self._waiting if one.runs is not runs)

    def trials(self) -> list[TrialRuns]:
        """The trials of the runs that wait, one for each run."""
        return [one.runs for one in self._waiting]

    def clear(self) -> None:
        """Let no run wait any longer."""
        self._waiting.clear()

    def __bool__(self) -> bool:
        """Whether a run waits."""
        return bool(self._waiting)


def _wait_for(waiting: Waiting, now: float, paused: AbstractSet[str]) -> float | None:
    return None if waiting.runs.trial.variant in paused else max(waiting.attempt.not_before - now, 0.0)


class Feeder:
    """Asks Optuna for trials, queues their runs, and tells Optuna what became of them. In a sweep nothing else writes
    to the search.
    """

    def __init__(
        self,
        search: Search,
        record: Recorder,
        past: Past,
        book: TrialBook,
        queue: RunQueue,
        brackets: OpenBrackets,
        placement: Placement,
        folder: Path,
        screen: Screen,
    ) -> None:
        """`placement`: of runs of which nothing else is known; `folder`: the study's runs."""
        self._search, self._record, self._past, self._book = search, record, past, book
        self._queue, self._brackets = queue, brackets
        self._placement, self._folder, self._screen = placement, folder, screen

    def recover(self) -> None:
        """Take in the trials of earlier sweeps, with the runs of them that have no result any more."""
        for trial in self._record.reconcile(self._search.trials()):
            runs = self._book.open(trial, asked=False)
            if trial.state is State.FAIL:
                self._brackets.enter(runs)
            else:
                self.start(runs)

    def ask(self, paused: AbstractSet[str], *, rungs: bool) -> bool:
        """Ask for a trial, with rungs for a whole bracket, and start what was asked for. False when there is none."""
        asked = list(self._ask_brackets()) if rungs else self._ask_one(paused)
        for runs in asked:
            self.start(runs)
        self.follow(self._brackets.advance_all())
        return bool(asked)

    def confirm(self, paused: AbstractSet[str]) -> None:
        """Queue the chosen trials of each stratum again on fresh blocks and seeds."""
        for runs in self._book.to_confirm(paused):
            self.start(runs)

    def start(self, runs: TrialRuns) -> None:
        """Queue the runs of a trial that have no result yet; close the trial if all have. A trial of a bracket is led
        by that, and once it has ended at a rung it is trained no further. The runs of one that repeats an
        earlier config are that one's.
        """
        if runs.trial.repeats:
            return
        for config in runs.configs:
            self._past.take_over(config)
        self._brackets.enter(runs)
        missing = [config for config in runs.configs if not self.answer(runs, config)]
        if runs.entrant is None or runs.trial.state is State.COMPLETE:
            for config in missing:
                self._add(runs, config)
        elif missing and runs.trial.state is State.PRUNED:
            self.follow(self._brackets.train_again(runs))
        self.close(runs)

    def answer(self, runs: TrialRuns, config: RunConfig) -> bool:
        """Whether a run has a result already; its trial is closed where that was the last."""
        if config.key in runs.results:
            return True
        if not self._record.answer(runs, config):
            return False
        self.close(runs)
        return True

    def follow(self, decisions: Iterable[Decision]) -> None:
        """Carry out what a bracket has decided."""
        for decision in decisions:
            match decision:
                case Train(runs, config):
                    self._add(runs, config)
                case EndAtRung(runs, step):
                    self._record.end_at_rung(runs, step)
                    self.close(runs)
                    for config in self._brackets.not_held(runs):
                        drop_state(self._folder / config.key)
                case KeepScores(runs, scores):
                    self._search.keep_scores(runs.trial, scores)
                    runs.trial = replace(runs.trial, scores=scores)
                case Say(text):
                    self._screen.tell_user(text)

    def close(self, runs: TrialRuns) -> None:
        """Tell Optuna what became of a trial once all of its runs have ended, and drop adapters that nobody needs. The
        best of a replicate is trained again as soon as it is known, so that a sweep stopped early has whole ones.
        """
        closed = self._book.close(runs)
        if closed is None:
            return
        if closed.tell:
            self._search.tell(closed.trial, closed.outcome)
        elif closed.retell:
            self._search.retell(closed.trial, closed.outcome)
        for config in closed.unneeded:
            drop_adapter(self._past.folder(config))
        for chosen in closed.confirm:
            self.start(chosen)

    def put_off(self, runs: TrialRuns) -> None:
        """Leave a trial to the next sweep, which asks for it again."""
        if runs.asked:
            self._search.requeue(runs.trial)
            runs.asked = False
        self._queue.drop(runs)

    def requeue_open(self) -> None:
        """After a stop: trials with runs that were not handed over are asked for again by the next sweep."""
        self._record.stop_paused(self._brackets.take_paused())
        left = [*self._queue.trials(), *self._brackets.open_trials()]
        for runs in {id(runs): runs for runs in left}.values():
            if runs.asked:
                self._search.requeue(runs.trial)
        self._queue.clear()

    def has_more(self, variants: Collection[str]) -> bool:
        """Whether a run waits, or there is a trial of these variants to ask for."""
        return bool(self._queue) or self._search.left(variants)

    def held_back(self, paused: Sequence[str]) -> list[str]:
        """The paused variants that have something left to train."""
        waiting = {runs.trial.variant for runs in self._queue.trials()}
        return [variant for variant in paused if variant in waiting or self._search.left([variant])]

    def _ask_one(self, paused: AbstractSet[str]) -> list[TrialRuns]:
        trial = self._search.ask(paused)
        return [] if trial is None else [self._book.open(trial, asked=True)]

    def _ask_brackets(self) -> Iterator[TrialRuns]:
        """All trials of the next bracket of each stratum; none where there are none, or where it must wait."""
        for stratum in self._search.strata:
            while (place := self._brackets.place(stratum)) is not None:
                trial = self._search.ask_in(stratum, place)
                if trial is None:
                    self._brackets.seal(stratum)
                    break
                runs = self._book.open(trial, asked=True)
                self._brackets.enter(runs)
                yield runs

    def _add(self, runs: TrialRuns, config: RunConfig) -> None:
        self._queue.add(Waiting(runs, config, Attempt(placement=self._placement)))


class RunEnds:
    """What the end of a run leads to: a pause at a rung, another attempt, a trial that is put off, or the last word."""

    def __init__(
        self,
        spec: StudySpec,
        variants: Mapping[str, ResolvedVariant],
        record: Recorder,
        feeder: Feeder,
        queue: RunQueue,
        brackets: OpenBrackets,
        screen: Screen,
    ) -> None:
        self._spec, self._record, self._feeder, self._queue = spec, record, feeder, queue
        self._brackets, self._screen = brackets, screen
        self._explained = set[Failure]()
        self.attempts = Attempts(Retries(spec.resources.attempts, spec.resources.retry_after))
        blocks = {name: in_scenario(spec, name).runs.blocks for name in spec.scenarios}
        self._refusals = Refusals(spec, {name: arms_in(spec, variants, name) for name in spec.scenarios}, blocks)
        self.unusable = ""
        """Why no run of the study can be trained."""

    def is_at_rung(self, result: RunResult) -> bool:
        """Whether a run has come to its rung, where it waits to be decided."""
        return self._spec.rungs is not None and result.cause is Cause.PAUSED

    def settle(self, run: Training, result: RunResult, occupancy: Occupancy | None, *, closing: bool) -> bool:
        """Decide what follows, and have it queued, put off or told. True: no run can be trained, so the sweep ends.

        `closing`: nothing new is started.
        """
        if self.is_at_rung(result) and run.run_id is not None:
            self._feeder.follow(self._brackets.pause(run.runs, run.run_id, result))
            return False
        together = 1 if result.facts.get("together") == 1 or occupancy is None else occupancy.together
        again = self.attempts.after(run.attempt, run.config, result.cause, together, time.monotonic())
        if again is None and result.cause not in PUT_OFF:
            return self._end(run, result)
        why = STOPPED if again is None or closing else describe(run.attempt, again, result.cause)
        self._record.leave(run, result, why, stands=again is not None and is_machine(result.cause))
        if again is None or closing or result.cause in PUT_OFF:
            self._feeder.put_off(run.runs)
        else:
            self._queue.add(Waiting(run.runs, run.config, again), first=True)
        return False

    def _end(self, run: Training, result: RunResult) -> bool:
        """Count the last attempt at a run, tell what is wrong with it, and close its trial where that was the last."""
        config = run.config
        self._record.count(config, result)
        said = _told_end(result) or self._explain(result.failure)
        ends_here = result.state is State.FAIL and self._no_run_can_train(config, result)
        if said and not (self.unusable and result.state is State.FAIL):
            self._screen.tell_user(f"{config.variant}, trial {config.trial}{said}")
        run.runs.note(config.key, result)
        self._feeder.close(run.runs)
        self._feeder.follow(self._brackets.advance_all())
        return ends_here

    def _explain(self, failure: Failure | None) -> str:
        """What it means that a run failed by its settings, for the first that failed so."""
        if failure is None or not failure.by_config or failure in self._explained:
            return ""
        self._explained.add(failure)
        return f" {failure}: {failure.meaning}. That speaks against its settings; nothing is wrong with the sweep."

    def _no_run_can_train(self, config: RunConfig, result: RunResult) -> bool:
        """Whether it shows now that no run can be trained, as what all have in common cannot be used: all that differs
        in it has been tried, and nothing was trained, nor ever before.
        """
        tally = self._record.tally
        if self.unusable or UNUSABLE_FACT not in result.facts or tally.trained or tally.reused:
            return False
        self._refusals.note(config, str(result.facts[UNUSABLE_FACT]))
        if self._refusals.hold_for_all:
            self.unusable = result.message
        return bool(self.unusable)


def _told_end(result: RunResult) -> str:
    """What is to be told of a run that ended, "" where all is well."""
    if result.state is State.FAIL:
        return f": {result.cause}, {first_line(result.message)}"
    lost = result.facts.get(UNSAVED_FACT)
    return "" if lost is None else f" is measured but not all of it is kept: {lost}"


def told_failing(place: str, failed: Sequence[str], result: RunResult) -> str:
    """That a worker is given no more runs, and why."""
    log = result.facts.get("log")
    return (
        f"{place} is set aside: {len(failed)} different runs failed on it in a row ({', '.join(failed)}), the last "
        f"for {result.cause}: {first_line(result.message)}" + (f" Its log: {log}" if log else "")
    )
