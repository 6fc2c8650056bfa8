"""The timed probe: one run at a time on the machine, every variant in every round. Knows no Optuna, MLflow or torch.

What is timed is an optimizer step of TRL's own loop in one warm worker that has all cores' threads (as far as the
environment's OMP_NUM_THREADS and its like allow) and the first GPU. Loading of batches, logging and evaluation lie
outside of a step.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from studies.design.answers import is_timed
from studies.design.speed_probe import probe_round
from studies.records import CONSEQUENCES, PROBE, Cause, Failure, RunConfig, RunResult, State
from studies.spec import ResolvedVariant, StudySpec
from studies.text.plural import so_many
from sweeper.executors import Dropped, Executor, Finished, Lost
from sweeper.executors.base import Started
from sweeper.executors.ledger import Workers
from sweeper.folder.cleanup import drop_scratch, scratch
from sweeper.loop.limits import Cost, Meter
from sweeper.loop.progress import Outcome, Progress
from sweeper.loop.sweep import GRACE_SECONDS, LOOK_SECONDS
from sweeper.tracking.tracker import KnownRun, Tracker
from trainers.interface import Job, Placement

# All that a run of the probe tells: its evaluation is too small to say anything.
COSTS = frozenset({"steps_per_second", "tokens_per_second", "peak_memory", "train_seconds", "evaluation_seconds"})
# What is said of quality after a handful of steps and samples is no verdict.
_TRAINED = frozenset({Cause.FINISHED, Cause.INVERTED, Cause.COLLAPSED})


class Probe:
    """The probe of one study; `run` is the whole of it. A round is timed whole: one that was cut short, or that lacks
    a variant that the study has now, is timed again.
    """

    def __init__(
        self,
        spec: StudySpec,
        arms: Mapping[str, ResolvedVariant],
        tracker: Tracker,
        folder: Path,
        show: Callable[[Progress], None],
        tell_user: Callable[[str], None],
        started: float,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """`folder`: the study's runs; `started`: when the sweep began that this belongs to, on the monotonic clock;
        `check` is called at least every second.
        """
        self._spec, self._arms, self._tracker, self._folder = spec, arms, tracker, folder
        self._show, self._tell_user, self._started, self._check = show, tell_user, started, check
        self._workers = Workers()
        self._executor: Executor | None = None
        self._meter: Meter | None = None
        self._stopping = self._closing = False
        self._done, self._trained = 0, 0
        self._failures = Counter[Failure]()

    def stop(self) -> None:
        """Stop at the next step of the run in training."""
        self._stopping = self._closing = True
        if self._executor is not None:
            self._executor.cancel(None)

    def finish_up(self) -> None:
        """Start no other run."""
        self._closing = True

    def run(self, executor: Executor, placement: Placement, so_far: Outcome) -> Outcome:
        """Time what is missing, by an `executor` that trains nothing else, and add it to the outcome of the sweep.

        `placement`: of the sweep's runs, whose precision the probe has too.
        """
        self._executor = executor
        self._meter = Meter(self._spec.budget, self._folder, self._started)  # here: the sweep has spent its part
        alone = Placement(together=0, bf16=placement.bf16)
        assert self._spec.probe is not None
        rounds = [probe_round(self._spec, self._arms, number) for number in range(self._spec.probe.rounds)]
        missing = self._missing(rounds)
        planned = sum(map(len, rounds))
        self._done = reused = planned - sum(map(len, missing))
        if missing and not self._closing:
            self._tell_user(
                f"Timing {so_many(len(self._arms), 'variant')} alone, in turn, {so_many(len(missing), 'round')}. "
                "Leave the machine alone: other work on it widens the intervals until nothing can be said."
            )
        for config in (config for configs in missing for config in configs):
            self._show(Progress(planned, self._done, 1, self._failures, None, self._left(planned), "timed runs"))
            if not self._time(config, alone):
                break
            self._done += 1
        self._show(Progress(planned, self._done, 0, self._failures, None, None, "timed runs"))
        now = time.monotonic()
        self._meter.keep(now, self._workers.spent(now), at_once=True)
        return replace(
            so_far,
            trained=so_far.trained + self._trained,
            reused=so_far.reused + reused,
            failures=Counter(so_far.failures) + self._failures,
            stopped=so_far.stopped or self._done < planned,
        )

    def _missing(self, rounds: Sequence[Sequence[RunConfig]]) -> list[Sequence[RunConfig]]:
        """The rounds to time, after superseding what MLflow has of them and what the study no longer asks for."""
        known: dict[int, list[KnownRun]] = {}
        for run in self._tracker.known_runs():
            if run.arm == PROBE and run.variant in self._arms:  # another variant's are found again if it returns
                known.setdefault(run.seed, []).append(run)
        missing = []
        for number, configs in enumerate(rounds):
            runs = known.get(number, [])
            standing = {run.variant: run for run in runs if _stands(run)}
            timed = [c for c in configs if c.variant in standing and is_timed(standing[c.variant], c)]
            if len(timed) == len(configs) == sum(map(_stands, runs)):
                continue
            for run in runs:
                self._tracker.supersede(run.run_id, "its round is timed again")
            missing.append(configs)
        return missing

    def _time(self, config: RunConfig, alone: Placement) -> bool:
        """Train one run alone and record it. False: the probe ends here, stopped, or with a run that cannot be trained:
        without it no round is whole.
        """
        result = self._result_of(config, alone)
        if result is None:
            return False
        self._failures.update([result.failure] if result.failure else [])
        if result.state is not State.FAIL:
            self._trained += 1
            return True
        said = result.message.strip().partition("\n")[0]
        self._tell_user(f"The probe ends: {config.variant} cannot be timed ({result.cause}). {said}")
        return False

    def _result_of(self, config: RunConfig, alone: Placement) -> RunResult | None:
        """Of the last attempt; another is made, at once, where the machine fails it. None where it was stopped."""
        if not self._may_start():
            return None
        number = 1
        run_id, result = self._train(config, alone, number)
        while result is not None and self._again(result, number) and self._may_start():
            self._tracker.supersede(run_id, f"{result.cause}: tried again")
            number += 1
            run_id, result = self._train(config, alone, number)
        return result

    def _again(self, result: RunResult, number: int) -> bool:
        return CONSEQUENCES[result.cause].retried and number < self._spec.resources.attempts

    def _train(self, config: RunConfig, alone: Placement, number: int) -> tuple[str, RunResult | None]:
        """One attempt, recorded, and its MLflow run; None where it was stopped."""
        run_id = self._tracker.start_run(config, number, PROBE)
        # Two variants may be the same run; and a run that goes on from a killed attempt is not one that was timed.
        folder = scratch(self._folder, f"probe-{config.seed}-{config.variant}")
        limit = self._spec.budget.per_run
        assert self._executor is not None
        self._executor.submit(Job(config, folder, keep_adapter=False, placement=alone, time_limit=limit))
        result = _costs(self._result(config.key))
        self._check()  # again, as nothing may be written where it says so
        self._tracker.finish_run(run_id, config, result)
        drop_scratch(folder)
        if result.cause is Cause.USER_STOP:
            self._tracker.supersede(run_id, "stopped before its end")
            return run_id, None
        return run_id, result

    def _result(self, key: str) -> RunResult:
        """Wait for the run, with an eye on the budget. Nothing is written meanwhile: the machine is the run's."""
        assert self._executor is not None
        while True:
            self._check()
            for event in self._executor.events(LOOK_SECONDS):
                match event:
                    case Started(worker=worker, at=at):
                        self._workers.started(key, worker, at)
                    case Finished(result=result, at=at):
                        return self._ended(key, result, at)
                    case Lost(at=at):
                        return self._ended(key, event.result(), at)
                    case Dropped():
                        return RunResult(key=key, cause=Cause.USER_STOP)
            self._check_limits(key)

    def _ended(self, key: str, result: RunResult, at: float) -> RunResult:
        stint = self._workers.ended(key, at)
        if stint is not None and result.cause in _TRAINED and self._meter is not None:
            self._meter.add(Cost(stint.seconds, stint.device_seconds))
        return result

    def _check_limits(self, key: str) -> None:
        """Stop what has reached a limit."""
        assert self._meter is not None
        assert self._executor is not None
        now = time.monotonic()
        over = self._meter.over(now, self._workers.spent(now))
        if over is not None and not self._stopping:
            self._tell_user(f"Stopping at the next step: {over}.")
            self.stop()
        limit = self._spec.budget.per_run
        if limit is not None and self._workers.in_training(now).get(key, 0.0) > limit + GRACE_SECONDS:
            self._executor.kill(key, Cause.TIME_LIMIT)

    def _may_start(self) -> bool:
        """Whether another run is wanted and would end within the budget."""
        assert self._meter is not None
        now = time.monotonic()
        spent = self._workers.spent(now)
        self._meter.keep(now, spent)
        short = self._meter.over(now, spent) or self._meter.too_short(now, spent, {}, free=True)
        if short is not None and not self._closing:
            self._tell_user(f"Timing nothing more: {short}.")
            self.finish_up()
        return not self._closing

    def _left(self, planned: int) -> float | None:
        """Seconds that the rest will take, by the device time of what was timed so far."""
        spent = self._workers.spent(time.monotonic())
        return spent / self._trained * (planned - self._done) if self._trained else None


def _stands(run: KnownRun) -> bool:
    """Whether a recorded run is not asked for again: it came to an end, good or bad, and not by the machine's fault."""
    return run.state is not State.FAIL and run.cause is not Cause.USER_STOP


def _costs(result: RunResult) -> RunResult:
    """The result without what it says of quality."""
    cause = Cause.FINISHED if result.cause in _TRAINED else result.cause
    kept = tuple(m for m in result.measurements if m.name in COSTS)
    return result.model_copy(update={"cause": cause, "measurements": kept, "curve": ()})
