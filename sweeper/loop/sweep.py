"""The loop of a sweep: ask, train, record, tell. Knows no Optuna, no MLflow and no torch, only their speakers."""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from studies.design.counts import planned_runs, planned_trials
from studies.design.measurers import asked_of, counted, measured_as, told_by
from studies.design.points import CONFIRM
from studies.records import (
    CONSEQUENCES,
    PROBE,
    UNSAVED_FACT,
    UNUSABLE_FACT,
    Cause,
    Failure,
    Measurement,
    RunConfig,
    RunResult,
    State,
)
from studies.spec import ResolvedVariant, StudySpec, arms_in, in_scenario, resolve_run
from studies.text.files import UnusableFile
from sweeper.executors.base import Dropped, Executor, Finished, Lost, Reported, Started, Told
from sweeper.executors.ledger import Occupancy, Workers
from sweeper.folder.cleanup import set_aside
from sweeper.folder.control import paused
from sweeper.loop.brackets import Group as _Group
from sweeper.loop.brackets import Pacing
from sweeper.loop.confirm import Candidates
from sweeper.loop.limits import Cost, Meter
from sweeper.loop.progress import Outcome, Progress
from sweeper.loop.refusals import Refusals
from sweeper.loop.retries import PUT_OFF, Attempt, Attempts, Retries, describe, is_machine
from sweeper.planning.placement import Packs
from sweeper.planning.plan import show_knobs
from sweeper.search.outcomes import verdict_on
from sweeper.search.search import Search
from sweeper.search.trials import Trial
from sweeper.tracking.tracker import KnownRun, Tracker
from trainers.interface import Doing, Job, Sized
from trainers.run_folder.results import ADAPTER, RESULT_FILE, drop_adapter, drop_state, find_result, read_result

CURVE_SECONDS = 5.0  # how often the curve of a run in training is sent to MLflow
LOOK_SECONDS = 1.0  # how long the loop waits for events before it looks at the clock
GRACE_SECONDS = 30.0  # for a run to stop by itself when its time is over; after that its worker is killed


# Where a run stands in the study: variant, scenario, key.
_Place = tuple[str, str, str]


@dataclass(frozen=True)
class _Replaced:
    """An MLflow run that failed and is to be replaced. It stands until another attempt begins: there may never be one,
    and then it is what people must be told.
    """

    run_id: str
    failure: Failure | None
    reason: str


@dataclass(frozen=True)
class _Waiting:
    """A run that waits to be handed over."""

    group: _Group
    config: RunConfig
    this: Attempt


@dataclass
class _Attempt:
    group: _Group
    config: RunConfig
    this: Attempt
    run_id: str | None = None
    unsent: list[tuple[int, Mapping[str, float]]] = field(default_factory=list)
    sent_at: float = field(default_factory=time.monotonic)


class Sweep:
    """One sweep of a study, from what is recorded already to the last run; `run` is the whole of it."""

    def __init__(
        self,
        spec: StudySpec,
        arms: Mapping[str, ResolvedVariant],
        search: Search,
        tracker: Tracker,
        known: Sequence[tuple[KnownRun, RunConfig | None]],
        is_ours: Callable[[str, RunConfig, RunResult], bool],
        executor: Executor,
        folder: Path,
        packs: Packs,
        show: Callable[[Progress], None],
        tell_user: Callable[[str], None],
    ) -> None:
        """`known`: the recorded runs that answer the study, with the numbers that those found of them who measure runs
        now, each that format 1 recorded with the config it is of; `is_ours`: whether a result in a folder of format 1,
        by its key there, may be taken for that of a config.
        """
        self._spec, self._arms = spec, arms
        self._search, self._tracker, self._executor = search, tracker, executor
        self._folder, self._packs, self._show, self._tell_user = folder, packs, show, tell_user
        self._doing: dict[str, tuple[str, float]] = {}
        self._queue: deque[_Waiting] = deque()
        self._training: dict[str, _Attempt] = {}
        self._known, self._is_ours = known, is_ours
        self._recorded: dict[_Place, KnownRun] = {}
        self._candidates = Candidates(spec)
        self._best: dict[tuple[str, str], tuple[float, _Group]] = {}
        self._counts = {"trained": 0, "reused": 0, "untrained": 0}
        self._failures = Counter[Failure]()
        self._replaced: dict[tuple[str, str, str], list[_Replaced]] = {}
        self._arms_in = {name: arms_in(spec, arms, name) for name in spec.scenarios}
        self._runs = {name: in_scenario(spec, name).runs for name in spec.scenarios}
        self._planned = planned_runs(spec, arms)
        self._started = time.monotonic()
        self._attempts = Attempts(Retries(spec.resources.attempts, spec.resources.retry_after))
        self._workers, self._meter = Workers(), Meter(spec.budget, folder, self._started)
        self._paused = paused(folder)
        self._hopeless: set[str] = set()
        self._named: set[str] = set()  # files that were told of
        self._refusals = Refusals(spec, self._arms_in, {name: runs.blocks for name, runs in self._runs.items()})
        self._unusable = ""
        self._stopping = False
        self._closing = False
        of_brackets = (search, tracker, folder, self._advance, self._close_if_complete, tell_user)
        self._pacing = Pacing(spec, planned_trials(spec, arms), *of_brackets) if spec.rungs else None
        self.finished: dict[str, tuple[RunConfig, Mapping[str, Measurement]]] = {}

    def run(self) -> Outcome:
        """Train all that is missing. Returns when the study is complete, out of budget, or stopped."""
        self._reconcile()
        self._drain()
        if not self._closing and not self._search.partial:
            self._queue_confirm()
            self._drain()
        held = self._held_back()
        if not (self._closing or held or self._search.partial):  # what stands for no run that is asked for now
            for same in list(self._replaced):
                self._replace(same)
        self._requeue_open()
        self._keep_adapters()
        now = time.monotonic()
        self._meter.keep(now, self._workers.spent(now), at_once=True)
        return Outcome(self._trained, self._reused, self._failed, self._closing or held, unusable=self._unusable)

    @property
    def _trained(self) -> int:
        return self._counts["trained"] + (self._pacing.trained if self._pacing else 0)

    @property
    def _reused(self) -> int:
        return self._counts["reused"] + (self._pacing.reused if self._pacing else 0)

    @property
    def _failed(self) -> Counter[Failure]:
        return self._failures + (self._pacing.failures if self._pacing else Counter())

    def stop(self) -> None:
        """Stop at the next report of every run in training; what they asked for is asked again next time."""
        self._stopping = self._closing = True
        self._executor.cancel(None)

    def finish_up(self) -> None:
        """Start nothing new, and end when the runs in training have."""
        self._closing = True
        self._executor.hold_back()

    def _reconcile(self) -> None:
        """Make MLflow agree with the results on disk, and find out what is done.

        The order of truth is: result.json, then MLflow, then Optuna.
        """
        trials = {(t.variant, t.scenario, t.number): t for t in self._search.trials()}
        for known, config in self._known:
            if known.arm == PROBE:
                continue  # of no trial: `sweeper.measuring.speed_probe` knows what to do with it
            trial = trials.get((known.variant, known.scenario, known.trial))
            key = known.key if config is None else config.key
            if known.state is State.RUNNING:
                self._tracker.supersede(known.run_id, "interrupted")
            elif known.cause in PUT_OFF:
                self._tracker.supersede(known.run_id, "tried again")
            elif known.state is State.FAIL or (trial is not None and trial.state is State.FAIL):
                self._to_replace((known.variant, known.scenario, key), known.run_id, known.failure, "tried again")
            else:
                self._recorded[(known.variant, known.scenario, key)] = known
        decided = {(trial.stratum, trial.bracket) for trial in trials.values() if trial.scores}
        for trial in trials.values():
            if trial.state in (State.COMPLETE, State.PRUNED):
                self._start(_Group(trial, self._configs(trial), trial.origin, asked=False))
            elif trial.state is State.FAIL and self._pacing is not None and (trial.stratum, trial.bracket) in decided:
                # It had a part in that. Where nothing is decided yet, another takes its place.
                self._pacing.enter(_Group(trial, self._configs(trial), trial.origin, asked=False))

    def _drain(self) -> None:
        """Train until nothing is left to ask for, or the sweep is told to stop."""
        while True:
            self._check_limits(time.monotonic())
            # More than can train, so that no worker waits while results are recorded.
            most = self._executor.slots + self._executor.ahead
            while not self._closing and len(self._training) < most and self._submit_next():
                pass
            self._show(self._progress())
            waits = [self._wait_for(waiting) for waiting in self._queue if not self._closing]
            if not self._training and all(wait is None for wait in waits):
                return
            for event in self._executor.events(min([LOOK_SECONDS, *(wait for wait in waits if wait)])):
                match event:
                    case Started(key=key, worker=worker, at=at):
                        self._workers.started(key, worker, at)
                        self._begun(key)
                    case Dropped(key=key):
                        self._finished(key, RunResult(key=key, cause=Cause.USER_STOP), time.monotonic())
                    case Reported(key=key, step=step, metrics=metrics):
                        self._reported(key, step, metrics)
                    case Finished(key=key, result=result, at=at):
                        self._finished(key, result, at)
                    case Lost(key=key, worker=worker, at=at):
                        self._packs.forget(worker)
                        self._doing.pop(worker, None)
                        self._finished(key, event.result(), at)
                    case Told(worker=worker, news=Sized() as sized):
                        self._packs.heed(worker, sized)
                    case Told(worker=worker, news=Doing(what=what), at=at):
                        self._doing[worker] = (what, at)

    def _submit_next(self) -> bool:
        """Hand one run to the executor. False when there is none to hand over now."""
        while (waiting := self._next_due()) is None:
            if not self._ask():
                return False
        group, config = waiting.group, waiting.config
        self._queue.remove(waiting)
        if config.key in self._training:  # two variants that are the same run: wait for its result
            self._queue.append(waiting)
            return False
        if self._answered(group, config):
            return True
        for notice in set_aside(self._folder / config.key):
            self._tell_user(notice)
        self._training[config.key] = _Attempt(group, config, waiting.this, group.run_ids.pop(config.key, None))
        self._executor.submit(
            Job(
                config,
                self._folder / config.key,
                keep_adapter=self._spec.output.keep != "none",
                placement=self._packs.place(config, self._attempts.placement(config, waiting.this.placement)),
                pause_at=group.heading.get(config.key),
                time_limit=self._spec.budget.per_run,
            )
        )
        return True

    def _next_due(self) -> _Waiting | None:
        """The first run in the queue that may be handed over now."""
        return next((waiting for waiting in self._queue if self._wait_for(waiting) == 0.0), None)

    def _wait_for(self, waiting: _Waiting) -> float | None:
        """Seconds until a run in the queue may be handed over; None while its variant is paused."""
        if waiting.group.trial.variant in self._paused:
            return None
        return max(waiting.this.not_before - time.monotonic(), 0.0)

    def _ask(self) -> bool:
        """Ask for a trial, with rungs for a whole bracket, and start what was asked for. False when there is none."""
        if self._pacing is not None:
            groups = self._pacing.next_bracket(self._group)
        else:
            trial = self._search.ask(self._paused)
            groups = [self._group(trial)] if trial is not None else []
        for group in groups:
            self._start(group)
        self._heed_rungs()
        return bool(groups)

    def _group(self, trial: Trial) -> _Group:
        return _Group(trial, self._configs(trial), trial.origin, asked=True)

    def _start(self, group: _Group) -> None:
        """Queue the runs of a trial that have no result yet; close the trial if all have. A trial of a bracket is led
        by that, and once it has ended at a rung it is trained no further. The runs of one that repeats an
        earlier config are that one's.
        """
        if group.trial.repeats:
            return
        for config in group.configs:
            if (config.variant, config.scenario, config.key) not in self._recorded:
                self._take_over(config)
        if self._pacing is not None:
            self._pacing.enter(group)
        missing = [config for config in group.configs if not self._answered(group, config)]
        if self._pacing is None or group.entrant is None or group.trial.state is State.COMPLETE:
            for config in missing:
                self._advance(group, config)
        elif missing and group.trial.state is State.PRUNED:
            self._pacing.train_again(group)
        self._close_if_complete(group)

    def _advance(self, group: _Group, config: RunConfig) -> None:
        """Queue a run."""
        self._queue.append(_Waiting(group, config, Attempt(placement=self._packs.placement)))

    def _heed_rungs(self) -> None:
        if self._pacing is not None:
            self._pacing.heed()

    def _requeue_open(self) -> None:
        """After a stop: trials with runs that were not handed over are asked for again by the next sweep."""
        left = [waiting.group for waiting in self._queue] + (self._pacing.requeue_open() if self._pacing else [])
        for group in {id(group): group for group in left}.values():
            if group.asked:
                self._search.requeue(group.trial)
        self._queue.clear()

    def _answered(self, group: _Group, config: RunConfig) -> bool:
        """Whether the run has a result already, in MLflow or on disk; if only there, record it."""
        if config.key in group.results:
            return True
        known = self._recorded.get((config.variant, config.scenario, config.key))
        result = self._result_of(config)
        if known is not None:
            group.note(config.key, known.result() if result is None else measured_as(result, known))
            self._counts["reused"] += 1
            self._count(known.failure)
        elif result is not None and result.state is not State.FAIL and not _goes_on(group, result):
            self._replace((config.variant, config.scenario, config.key))
            run_id = self._tracker.start_run(config, 1, group.arm)
            by = told_by(result, asked_of(self._spec).judged)
            self._tracker.finish_run(run_id, config, result, _rung(result), by=by)
            group.note(config.key, counted(result, by, asked_of(self._spec)))
            self._counts["reused"] += 1
            self._count(result.failure)
        else:
            return False
        self._close_if_complete(group)
        return True

    def _result_of(self, config: RunConfig) -> RunResult | None:
        """The result in a run's folder; says, once, where what is there is none, or is another run's."""
        folder = self._kept(config)
        try:
            result = find_result(folder)
            if result is None or result.key in (config.key, folder.name) or result.key in config.earlier_keys:
                return result
            said = f"{folder / RESULT_FILE} is the result of another run ({result.key})"
        except UnusableFile as error:
            said = str(error)
        if said not in self._named:
            self._named.add(said)
            self._tell_user(f"{said}: it is left out, and the run is trained again where nothing else has its numbers.")
        return None

    def _kept(self, config: RunConfig) -> Path:
        """The folder of a run, which has another name where format 1 gave it."""
        known = self._recorded.get((config.variant, config.scenario, config.key))
        return self._folder / (config.key if known is None else known.key)

    def _take_over(self, config: RunConfig) -> None:
        """Give the folder of a run of format 1 that no store knows any more its name of today."""
        folder = self._folder / config.key
        for earlier in config.earlier_keys - {config.key}:
            result = None if os.path.lexists(folder) else read_result(self._folder / earlier)
            if result is not None and self._is_ours(earlier, config, result):
                os.rename(self._folder / earlier, folder)

    def _begun(self, key: str) -> str | None:
        """The MLflow run of what is in training under `key`, made when a worker takes it."""
        attempt = self._training.get(key)
        if attempt is None:
            return None
        if attempt.run_id is None:
            config = attempt.config
            self._replace((config.variant, config.scenario, key))
            attempt.run_id = self._tracker.start_run(config, attempt.this.number, attempt.group.arm)
        return attempt.run_id

    def _to_replace(self, same: tuple[str, str, str], run_id: str, failure: Failure | None, reason: str) -> None:
        """Let a failed run stand until another attempt at the same (variant, scenario, key) begins."""
        self._replaced.setdefault(same, []).append(_Replaced(run_id, failure, reason))
        self._count(failure)

    def _replace(self, same: tuple[str, str, str]) -> None:
        for earlier in self._replaced.pop(same, []):
            self._tracker.supersede(earlier.run_id, earlier.reason)
            self._failures.subtract([earlier.failure] if earlier.failure else [])

    def _count(self, failure: Failure | None) -> None:
        self._failures.update([failure] if failure else [])

    def _reported(self, key: str, step: int, metrics: Mapping[str, float]) -> None:
        attempt = self._training.get(key)
        if attempt is None or attempt.run_id is None:
            return
        attempt.unsent.append((step, metrics))
        if time.monotonic() - attempt.sent_at > CURVE_SECONDS:
            self._tracker.log_curve(attempt.run_id, attempt.unsent)
            attempt.unsent, attempt.sent_at = [], time.monotonic()

    def _finished(self, key: str, result: RunResult, at: float) -> None:
        if key not in self._training:
            return
        never_begun = result.cause is Cause.USER_STOP and self._training[key].run_id is None
        run_id = None if never_begun else self._begun(key)
        attempt = self._training.pop(key)
        group, config = attempt.group, attempt.config
        at_rung = self._pacing is not None and result.cause is Cause.PAUSED
        if run_id is not None and not at_rung:
            self._tracker.finish_run(run_id, config, result)
        stint = self._workers.ended(key, at)
        self._judge_worker(stint, key, result, at)
        if self._pacing is not None and run_id is not None and at_rung:
            self._pacing.paused(group, run_id, result)
            return
        together = 1 if result.facts.get("together") == 1 or stint is None else stint.together
        again = self._attempts.after(attempt.this, config, result.cause, together, time.monotonic())
        if again is not None and run_id is not None:
            why = "stopped before its end" if self._closing else describe(attempt.this, again, result.cause)
            if is_machine(result.cause):
                self._to_replace((config.variant, config.scenario, key), run_id, result.failure, why)
            else:
                self._tracker.supersede(run_id, why)
        if result.cause in PUT_OFF or (again is not None and self._closing):
            if again is None and run_id is not None:
                self._tracker.supersede(run_id, "stopped before its end")
            if group.asked:
                self._search.requeue(group.trial)
                group.asked = False
            self._queue = deque(waiting for waiting in self._queue if waiting.group is not group)
            return
        if again is not None:
            self._queue.appendleft(_Waiting(group, config, again))
            return
        self._count(result.failure)
        if result.state is not State.FAIL:  # which the next sweep tries again
            self._counts["trained"] += 1
            drop_state(self._folder / key)
            if UNSAVED_FACT in result.facts:
                lost = result.facts[UNSAVED_FACT]
                self._tell_user(f"{config.variant}, trial {config.trial} is measured but not all of it is kept: {lost}")
        else:
            self._counts["untrained"] += 1
            if not self._ends_here(config, result):
                said = _first_line(result.message)
                self._tell_user(f"{config.variant}, trial {config.trial}: {result.cause}, {said}")
        group.note(key, result)
        self._close_if_complete(group)
        self._heed_rungs()

    def _ends_here(self, config: RunConfig, result: RunResult) -> bool:
        """Whether no run can be trained, as what all have in common cannot be used: then the sweep ends. All that
        differs in it has been tried, and nothing was trained, nor ever before.
        """
        if self._unusable:
            return True
        if UNUSABLE_FACT not in result.facts or self._trained or self._reused:
            return False
        self._refusals.note(config, str(result.facts[UNUSABLE_FACT]))
        if not self._refusals.hold_for_all:
            return False
        self._unusable = result.message
        self.stop()
        return True

    def _judge_worker(self, stint: Occupancy | None, key: str, result: RunResult, at: float) -> None:
        """Learn from an attempt what runs cost, and set a worker aside that fails one run after another."""
        if stint is None:
            return
        if result.cause is Cause.FINISHED:
            self._meter.add(Cost(stint.seconds, stint.device_seconds))
        if not is_machine(result.cause):
            if CONSEQUENCES[result.cause].told is State.COMPLETE or CONSEQUENCES[result.cause].instability:
                self._workers.went_well(stint.worker)
            return
        failed = self._workers.failed(stint.worker, key, at)
        if failed is None or stint.worker in self._hopeless:
            return
        self._hopeless.add(stint.worker)
        place = self._executor.set_aside(stint.worker)
        log = result.facts.get("log")
        self._tell_user(
            f"{place} is set aside: {len(failed)} different runs failed on it in a row ({', '.join(failed)}), the last "
            f"for {result.cause}: {_first_line(result.message)}" + (f" Its log: {log}" if log else "")
        )
        if self._executor.slots == 0 and not self._closing:
            self._tell_user("No worker is left: the sweep ends. Mend what the log tells, then run it again.")
            self.finish_up()

    def _close_if_complete(self, group: _Group) -> None:
        """Tell Optuna what became of a trial once all of its runs have ended, and remember the best one."""
        if len(group.results) < len(group.configs):
            return
        results = list(group.results.values())
        for config in group.configs:
            if group.results[config.key].cause is Cause.FINISHED:
                self.finished[config.key] = (config, group.results[config.key].final())
        verdict = verdict_on(results, self._spec.objective)
        value = verdict.value
        if group.arm != CONFIRM:
            self._candidates.note(group.trial, results)
        if group.asked:
            group.asked = False
            self._search.tell(group.trial, verdict)
        elif group.trial.unmeasured and group.arm != CONFIRM and value is not None:
            self._search.retell(group.trial, verdict)
            group.trial = replace(group.trial, unmeasured=False)
        if group.entrant is not None:
            group.entrant.over = True
        if verdict.state is State.COMPLETE and value is None:
            return  # what it is worth is not known yet, for which its adapters may be needed
        if not verdict.feasible or value is None or group.arm == CONFIRM:
            self._drop_adapters(group)
            return
        stratum = (group.trial.variant, group.trial.scenario)
        best = self._best.get(stratum)
        if best is None or self._better(value, best[0]):
            if best is not None:
                self._drop_adapters(best[1])
            self._best[stratum] = (value, group)
        elif best[1] is not group:
            self._drop_adapters(group)

    def _queue_confirm(self) -> None:
        """Queue the chosen trials of each stratum again on fresh blocks and seeds."""
        trials = {(t.variant, t.scenario, t.number): t for t in self._search.trials()}
        for variant, scenario in self._candidates.strata():
            if variant in self._paused:
                continue
            for number in self._candidates.chosen((variant, scenario)):
                trial = trials[(variant, scenario, number)]
                configs = tuple(self._config(trial, b, s) for b, s in self._candidates.runs(scenario))
                self._start(_Group(trial, configs, CONFIRM, asked=False))

    def _config(self, trial: Trial, block: int, seed: int) -> RunConfig:
        arm = self._arms[trial.variant]
        return resolve_run(
            self._spec, arm, trial.scenario, trial=trial.number, knobs=trial.knobs, block=block, seed=seed
        )

    def _configs(self, trial: Trial) -> tuple[RunConfig, ...]:
        runs = self._runs[trial.scenario]
        return tuple(self._config(trial, block, seed) for block in runs.blocks for seed in runs.seeds)

    def _better(self, a: float, b: float) -> bool:
        return a > b if self._spec.objective.direction == "maximize" else a < b

    def _drop_adapters(self, group: _Group) -> None:
        if self._spec.output.keep != "best":
            return
        # Two variants that are the same run share its folder.
        held = {config.key for _, best in self._best.values() if best is not group for config in best.configs}
        for config in group.configs:
            if config.key not in held:
                drop_adapter(self._kept(config))

    def _keep_adapters(self) -> None:
        """Attach the best adapters of each stratum to their MLflow runs."""
        if self._spec.output.keep == "none":
            return
        known = [k for k in self._tracker.known_runs() if k.arm != PROBE]
        run_ids = {(k.variant, k.scenario, k.key): k.run_id for k in known}
        for _, group in self._best.values():
            for config in group.configs:
                run = self._kept(config)
                run_id = run_ids.get((config.variant, config.scenario, run.name))
                if run_id is not None and os.path.lexists(run / ADAPTER):
                    self._tracker.log_adapter(run_id, run.name)

    def _check_limits(self, now: float) -> None:
        """Look at the clock and at what other terminals have asked for."""
        spent, in_training = self._workers.spent(now), self._workers.in_training(now)
        self._meter.keep(now, spent)
        self._paused = paused(self._folder)
        over = self._meter.over(now, spent)
        if over is not None and not self._stopping:
            self._tell_user(f"Stopping at the next step: {over}.")
            self.stop()
        free = len(in_training) < self._executor.slots
        short = self._meter.too_short(now, spent, in_training, free) if not self._closing else None
        more = self._queue or self._search.left(self._arms) or len(self._training) > len(in_training)
        if short is not None and more:
            self._tell_user(f"Starting nothing new: {short}.")
            self.finish_up()
        limit = self._spec.budget.per_run
        for key, seconds in in_training.items():
            if limit is not None and seconds > limit + GRACE_SECONDS and key in self._training:
                self._executor.kill(key, Cause.TIME_LIMIT)

    def _held_back(self) -> bool:
        """Whether a paused variant has something left to train; says so."""
        held = [v for v in self._arms if v in self._paused]
        waiting = {waiting.group.trial.variant for waiting in self._queue}
        left = [v for v in held if v in waiting or self._search.left([v])]
        if left and not self._closing:
            self._tell_user(f"Paused, with runs left: {', '.join(left)}. Let it go on with `sweeper resume`.")
        return bool(left)

    def _progress(self) -> Progress:
        planned, done = self._planned, self._trained + self._reused + self._counts["untrained"]
        elapsed = time.monotonic() - self._started
        left = elapsed / self._trained * max(planned - done, 0) if self._trained else None
        best = None
        if self._best:
            maximize = self._spec.objective.direction == "maximize"
            value, group = (max if maximize else min)(self._best.values(), key=lambda entry: entry[0])
            best = (group.trial.variant, show_knobs(group.trial.knobs), value)
        training = sum(attempt.run_id is not None for attempt in self._training.values())
        doing = [f"{what} ({time.monotonic() - at:.0f} s)" for what, at in self._doing.values() if what]
        return Progress(planned, done, training, self._failed, best, left, doing="; ".join(dict.fromkeys(doing)))


def _rung(result: RunResult) -> int | None:
    """The step of the rung at which a run was stopped, None for any other."""
    return max((m.step for m in result.measurements), default=None) if result.cause is Cause.PAUSED else None


def _first_line(message: str) -> str:
    return message.strip().partition("\n")[0] or "no message"


def _goes_on(group: _Group, result: RunResult) -> bool:
    """Whether a result on disk is of a run with more to do; one paused at a rung has as long as its trial is open."""
    return result.cause in PUT_OFF or (result.cause is Cause.PAUSED and group.asked)
