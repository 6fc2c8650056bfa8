"""The loop of a sweep: ask, train, record, tell. Knows no Optuna, no MLflow and no torch, only their speakers."""

from __future__ import annotations

import math
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from studies.records import CONSEQUENCES, Cause, Measurement, RunConfig, RunResult, State
from studies.spec import Arm, StudySpec, resolve_run
from sweeper.executors.messages import Dropped, Executor, Finished, Lost, Reported, Started
from sweeper.pacing import Group as _Group
from sweeper.pacing import Pacing
from sweeper.plan import planned_runs, planned_trials, show_knobs
from sweeper.points import CONFIRM
from sweeper.progress import Outcome, Progress
from sweeper.search import Search, Trial, Verdict
from sweeper.tracking import KnownRun, Tracker
from trainers.interface import Job, Placement
from trainers.results import read_result

MAX_ATTEMPTS = 3  # tries at a run when it is the machine that fails
CURVE_SECONDS = 5.0  # how often the curve of a run in training is sent to MLflow
INTERRUPTED = frozenset({Cause.USER_STOP, Cause.PREEMPTED})


# Where a run stands in the study: variant, scenario, trial number, key.
_Place = tuple[str, str, int, str]


@dataclass
class _Attempt:
    group: _Group
    config: RunConfig
    number: int
    run_id: str | None = None
    unsent: list[tuple[int, Mapping[str, float]]] = field(default_factory=list)
    sent_at: float = field(default_factory=time.monotonic)


class Sweep:
    """One sweep of a study, from what is recorded already to the last run; `run` is the whole of it."""

    def __init__(
        self,
        spec: StudySpec,
        arms: Mapping[str, Arm],
        search: Search,
        tracker: Tracker,
        executor: Executor,
        folder: Path,
        placement: Placement,
        show: Callable[[Progress], None],
        tell_user: Callable[[str], None],
    ) -> None:
        self._spec, self._arms = spec, arms
        self._search, self._tracker, self._executor = search, tracker, executor
        self._folder, self._placement, self._show, self._tell_user = folder, placement, show, tell_user
        self._queue: deque[tuple[_Group, RunConfig, int]] = deque()
        self._training: dict[str, _Attempt] = {}
        self._recorded: dict[_Place, KnownRun] = {}
        self._values: dict[tuple[str, str], dict[int, float]] = {}
        self._best: dict[tuple[str, str], tuple[float, _Group]] = {}
        self._counts = {"trained": 0, "reused": 0, "failed": 0, "unstable": 0}
        self._planned = planned_runs(spec, arms)
        self._started = time.monotonic()
        self._stopping = False
        of_brackets = (search, tracker, folder, self._lead_on, self._close_if_complete, tell_user)
        self._pacing = Pacing(spec, planned_trials(spec, arms), *of_brackets) if spec.rungs else None
        self.finished: dict[str, tuple[RunConfig, Mapping[str, Measurement]]] = {}

    def run(self) -> Outcome:
        """Train all that is missing. Returns when the study is complete, out of budget, or stopped."""
        self._reconcile()
        self._drain()
        if not self._stopping and self._spec.confirm is not None:
            self._queue_confirm()
            self._drain()
        self._give_back()
        self._keep_adapters()
        counts = self._counts
        return Outcome(self._trained, counts["reused"], counts["failed"], self._stopping)

    @property
    def _trained(self) -> int:
        return self._counts["trained"] + (self._pacing.ended if self._pacing else 0)

    def stop(self) -> None:
        """Stop at the next report of every run in training; what they asked for is asked again next time."""
        self._stopping = True
        self._executor.cancel(None)

    def _reconcile(self) -> None:
        """Make MLflow agree with the results on disk, and find out what is done.

        The order of truth is: result.json, then MLflow, then Optuna.
        """
        trials = {(t.variant, t.scenario, t.number): t for t in self._search.trials()}
        orphans = 0
        for known in self._tracker.known_runs():
            if known.state is State.RUNNING:
                self._tracker.supersede(known.run_id, "interrupted")
                continue
            if known.variant not in self._arms or known.scenario not in self._spec.scenarios:
                continue  # no longer in the file: kept as it is, and found again if it returns
            trial = trials.get((known.variant, known.scenario, known.trial))
            if trial is None or known.key != self._config(trial, known.block, known.seed).key:
                self._tracker.supersede(known.run_id, "the study file changed what determines this run")
                orphans += 1
            elif State.FAIL in (trial.state, known.state) or known.cause in INTERRUPTED:
                self._tracker.supersede(known.run_id, "tried again")
            else:
                self._recorded[(known.variant, known.scenario, known.trial, known.key)] = known
        if orphans:
            self._tell_user(
                f"{orphans} finished runs answer another question than the study file asks now "
                f"(strata: {', '.join(self._search.orphaned) or 'points changed'}); they stay in MLflow, marked "
                "superseded, and are not in the table."
            )
        for trial in trials.values():
            if trial.state in (State.COMPLETE, State.PRUNED):
                self._start(_Group(trial, self._configs(trial), trial.origin, asked=False))
            elif trial.state is State.FAIL and self._pacing is not None:  # what was decided, it had a part in
                self._pacing.enter(_Group(trial, self._configs(trial), trial.origin, asked=False))

    def _drain(self) -> None:
        """Train until nothing is left to ask for, or the sweep is told to stop."""
        while True:
            self._check_budget()
            # More than can train, so that no worker waits while results are recorded.
            most = self._executor.slots + self._executor.ahead
            while not self._stopping and len(self._training) < most and self._submit_next():
                pass
            self._show(self._progress())
            if not self._training:
                return
            for event in self._executor.events(timeout=1.0):
                match event:
                    case Started(key=key):
                        self._begun(key)
                    case Dropped(key=key):
                        self._finished(key, RunResult(key=key, cause=Cause.USER_STOP))
                    case Reported(key=key, step=step, metrics=metrics):
                        self._reported(key, step, metrics)
                    case Finished(key=key, result=result):
                        self._finished(key, result)
                    case Lost(key=key, reason=reason, log_tail=tail):
                        message = f"{reason}\n{tail}".strip()
                        self._finished(key, RunResult(key=key, cause=Cause.WORKER_LOST, message=message))

    def _submit_next(self) -> bool:
        """Hand one run to the executor. False when there is none to hand over now."""
        while not self._queue:
            if not self._ask():
                return False
        group, config, number = self._queue.popleft()
        if config.key in self._training:  # two variants that are the same run: wait for its result
            self._queue.append((group, config, number))
            return False
        if self._answered(group, config):
            return True
        self._training[config.key] = _Attempt(group, config, number, group.run_ids.pop(config.key, None))
        keep, pause_at = self._spec.output.keep != "none", group.heading.get(config.key)
        self._executor.submit(Job(config, self._folder / config.key, keep, self._placement, pause_at))
        return True

    def _ask(self) -> bool:
        """Ask for a trial, with rungs for a whole bracket, and start what was asked for. False when there is none."""
        if self._pacing is not None:
            groups = self._pacing.next_bracket(self._group)
        else:
            trial = self._search.ask()
            groups = [self._group(trial)] if trial is not None else []
        for group in groups:
            self._start(group)
        self._heed_rungs()
        return bool(groups)

    def _group(self, trial: Trial) -> _Group:
        return _Group(trial, self._configs(trial), trial.origin, asked=True)

    def _start(self, group: _Group) -> None:
        """Queue the runs of a trial that have no result yet; close the trial if all have. A trial of a bracket is led
        by that, and once it has ended at a rung nothing more of it is trained.
        """
        if self._pacing is not None:
            self._pacing.enter(group)
        led = group.entrant is not None and group.trial.state is not State.COMPLETE
        for config in group.configs:
            if not self._answered(group, config) and not led:
                self._queue.append((group, config, 1))
        self._close_if_complete(group)

    def _lead_on(self, group: _Group, config: RunConfig) -> None:
        self._queue.append((group, config, 1))

    def _heed_rungs(self) -> None:
        if self._pacing is not None:
            self._pacing.heed()

    def _give_back(self) -> None:
        """After a stop: trials with runs that were not handed over are asked for again by the next sweep."""
        left = [entry[0] for entry in self._queue] + (self._pacing.give_back() if self._pacing else [])
        for group in {id(group): group for group in left}.values():
            if group.asked:
                self._search.requeue(group.trial)
        self._queue.clear()

    def _answered(self, group: _Group, config: RunConfig) -> bool:
        """Whether the run has a result already, in MLflow or on disk; if only there, record it."""
        if config.key in group.results:
            return True
        result = read_result(self._folder / config.key)
        place = (config.variant, config.scenario, config.trial, config.key)
        known = self._recorded.get(place)
        if known is not None:
            group.note(config.key, result or known.result())
            self._counts["reused"] += 1
        elif result is not None and result.state is not State.FAIL and not _goes_on(group, result):
            run_id = self._tracker.start_run(config, 1, group.arm)
            self._tracker.finish_run(run_id, config, result)
            group.note(config.key, result)
            self._counts["reused"] += 1
        else:
            return False
        self._close_if_complete(group)
        return True

    def _begun(self, key: str) -> str | None:
        """The MLflow run of what is in training under `key`, made when a worker takes it."""
        attempt = self._training.get(key)
        if attempt is None:
            return None
        if attempt.run_id is None:
            attempt.run_id = self._tracker.start_run(attempt.config, attempt.number, attempt.group.arm)
        return attempt.run_id

    def _reported(self, key: str, step: int, metrics: Mapping[str, float]) -> None:
        attempt = self._training.get(key)
        if attempt is None or attempt.run_id is None:
            return
        attempt.unsent.append((step, metrics))
        if time.monotonic() - attempt.sent_at > CURVE_SECONDS:
            self._tracker.log_curve(attempt.run_id, attempt.unsent)
            attempt.unsent, attempt.sent_at = [], time.monotonic()

    def _finished(self, key: str, result: RunResult) -> None:
        if key not in self._training:
            return
        never_begun = result.cause is Cause.USER_STOP and self._training[key].run_id is None
        run_id = None if never_begun else self._begun(key)
        attempt = self._training.pop(key)
        group, config = attempt.group, attempt.config
        if self._pacing is not None and run_id is not None and result.cause is Cause.PAUSED:
            self._pacing.paused(group, run_id, result)
            return
        if run_id is not None:
            self._tracker.finish_run(run_id, config, result)
        if result.cause in INTERRUPTED:
            if run_id is not None:
                self._tracker.supersede(run_id, "stopped before its end")
            if group.asked:
                self._search.requeue(group.trial)
                group.asked = False
            self._queue = deque(entry for entry in self._queue if entry[0] is not group)
            return
        retried = CONSEQUENCES[result.cause].retried and attempt.number < MAX_ATTEMPTS
        if retried and not self._stopping and run_id is not None:
            self._tracker.supersede(run_id, f"tried again: {result.cause}")
            self._queue.appendleft((group, config, attempt.number + 1))
            return
        self._counts["trained"] += 1
        if result.state is State.FAIL:
            self._counts["failed"] += 1
            said = result.message.strip().partition("\n")[0] or "no message"
            self._tell_user(f"{config.variant}, trial {config.trial} failed ({result.cause}): {said}")
        self._counts["unstable"] += CONSEQUENCES[result.cause].instability
        group.note(key, result)
        self._close_if_complete(group)
        self._heed_rungs()

    def _close_if_complete(self, group: _Group) -> None:
        """Tell Optuna what became of a trial once all of its runs have ended, and remember the best one."""
        if len(group.results) < len(group.configs):
            return
        results = list(group.results.values())
        for config in group.configs:
            if group.results[config.key].cause is Cause.FINISHED:
                self.finished[config.key] = (config, group.results[config.key].final())
        verdict = self._verdict(results)
        value = verdict.value
        if group.asked:
            group.asked = False
            self._search.tell(group.trial, verdict)
        if group.entrant is not None:
            group.entrant.over = True
        if not verdict.feasible or value is None or group.arm == CONFIRM:
            self._drop_adapters(group)
            return
        stratum = (group.trial.variant, group.trial.scenario)
        self._values.setdefault(stratum, {})[group.trial.number] = value
        best = self._best.get(stratum)
        if best is None or self._better(value, best[0]):
            if best is not None:
                self._drop_adapters(best[1])
            self._best[stratum] = (value, group)
        elif best[1] is not group:
            self._drop_adapters(group)

    def _verdict(self, results: Sequence[RunResult]) -> Verdict:
        """What a trial's runs come to: its state, the mean of the objective, and the constraints it was held to."""
        value = self._mean(self._spec.objective.metric, results)
        if any(r.state is State.FAIL for r in results):
            return Verdict(State.FAIL, None, {})
        failures = [str(r.cause) for r in results if CONSEQUENCES[r.cause].infeasible]
        if failures or value is None or any(r.state is State.PRUNED for r in results):
            step = max((m.step for r in results if r.cause is Cause.PAUSED for m in r.measurements), default=0)
            kept = self._constraints(results) if step else {}  # as they were at the rung
            return Verdict(State.PRUNED, value, {failures[0]: 1.0} if failures else kept, step)
        return Verdict(State.COMPLETE, value, self._constraints(results))

    def _constraints(self, results: Sequence[RunResult]) -> dict[str, float]:
        """For each bound of the objective, by how much it is exceeded (0 or less: kept), as Optuna wants it."""
        found = {}
        for metric, bounds in self._spec.objective.constraints.items():
            mean = self._mean(metric, results)
            if mean is not None and "max" in bounds:
                found[f"{metric} max"] = mean - bounds["max"]
            if mean is not None and "min" in bounds:
                found[f"{metric} min"] = bounds["min"] - mean
        return found

    def _mean(self, metric: str, results: Sequence[RunResult]) -> float | None:
        """The mean over runs of their last measurement, None where none has it or one is not finite."""
        values = [r.final()[metric].value for r in results if metric in r.final()]
        return math.fsum(values) / len(values) if values and all(map(math.isfinite, values)) else None

    def _queue_confirm(self) -> None:
        """Queue the best trials of each stratum again on fresh blocks and seeds."""
        confirm = self._spec.confirm
        assert confirm is not None
        trials = {(t.variant, t.scenario, t.number): t for t in self._search.trials()}
        for (variant, scenario), values in self._values.items():
            chosen = sorted(values, key=values.__getitem__, reverse=self._spec.objective.direction == "maximize")
            for number in chosen[: confirm.top]:
                trial = trials[(variant, scenario, number)]
                pairs = [(b, s) for b in confirm.blocks for s in confirm.seeds]
                configs = tuple(self._config(trial, b, s) for b, s in pairs)
                self._start(_Group(trial, configs, CONFIRM, asked=False))

    def _config(self, trial: Trial, block: int, seed: int) -> RunConfig:
        arm = self._arms[trial.variant]
        return resolve_run(
            self._spec, arm, trial.scenario, trial=trial.number, knobs=trial.knobs, block=block, seed=seed
        )

    def _configs(self, trial: Trial) -> tuple[RunConfig, ...]:
        runs = self._spec.runs
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
                shutil.rmtree(self._folder / config.key / "adapter", ignore_errors=True)

    def _keep_adapters(self) -> None:
        """Attach the best adapters of each stratum to their MLflow runs."""
        if self._spec.output.keep == "none":
            return
        run_ids = {(k.variant, k.scenario, k.trial, k.key): k.run_id for k in self._tracker.known_runs()}
        for _, group in self._best.values():
            for config in group.configs:
                adapter = self._folder / config.key / "adapter"
                run_id = run_ids.get((config.variant, config.scenario, config.trial, config.key))
                if run_id is not None and adapter.is_dir():
                    self._tracker.log_adapter(run_id, adapter)

    def _check_budget(self) -> None:
        limit = self._spec.budget.wall_clock
        if limit is not None and not self._stopping and time.monotonic() - self._started > limit:
            self._tell_user(f"The wall-clock budget of {limit:.0f} s is spent: stopping at the next step.")
            self.stop()

    def _progress(self) -> Progress:
        counts, planned = self._counts, self._planned
        done = self._trained + counts["reused"]
        elapsed = time.monotonic() - self._started
        left = elapsed / self._trained * max(planned - done, 0) if self._trained else None
        best = None
        if self._best:
            maximize = self._spec.objective.direction == "maximize"
            value, group = (max if maximize else min)(self._best.values(), key=lambda entry: entry[0])
            best = (group.trial.variant, show_knobs(group.trial.knobs), value)
        training = sum(attempt.run_id is not None for attempt in self._training.values())
        return Progress(planned, done, training, counts["failed"], counts["unstable"], best, left)


def _goes_on(group: _Group, result: RunResult) -> bool:
    """Whether a result on disk is of a run with more to do; one paused at a rung has as long as its trial is open."""
    return result.cause in INTERRUPTED or (result.cause is Cause.PAUSED and group.asked)
