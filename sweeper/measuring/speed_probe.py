"""The timed probe: one run at a time on the machine, every variant in every round.

What is timed is an optimizer step of TRL's own loop in one warm worker that has all cores' threads (as far as the
environment's OMP_NUM_THREADS and its like allow) and the first GPU. Loading of batches, logging and evaluation lie
outside of a step.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from studies.design.answers import is_timed
from studies.design.speed_probe import probe_round
from studies.records import CONSEQUENCES, PROBE, Cause, RunConfig, RunResult, State
from studies.spec import Study
from studies.text.lines import first_line
from studies.text.plural import so_many
from sweeper.executors import Cancel, Dropped, Executor, Kill
from sweeper.executors.waiting import result_of, wait_for
from sweeper.folder.cleanup import drop_scratch, scratch
from sweeper.loop.limits import FinishUp, Limits, Stop
from sweeper.loop.progress import Outcome, Progress, Screen, Tally
from sweeper.tracking.known_runs import KnownRun
from sweeper.tracking.tracker import Tracker
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
        study: Study,
        tracker: Tracker,
        folder: Path,
        screen: Screen,
        started: float,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """`folder`: the study's runs; `started`: when the sweep began that this belongs to, on the monotonic clock;
        `check` is called at least every second.
        """
        self._study, self._tracker, self._folder = study, tracker, folder
        self._screen, self._started, self._check = screen, started, check
        self._executor: Executor | None = None
        self._limits: Limits | None = None
        self._stopping = self._closing = False
        self._tally = Tally()

    def stop(self) -> None:
        """Stop at the next step of the run in training."""
        self._stopping = self._closing = True
        if self._executor is not None:
            self._executor.stop(Cancel())

    def finish_up(self) -> None:
        """Start no other run."""
        self._closing = True

    def run(self, executor: Executor, placement: Placement, so_far: Outcome) -> Outcome:
        """Time what is missing, by an `executor` that trains nothing else, and add it to the outcome of the sweep.

        `placement`: of the sweep's runs, whose precision the probe has too.
        """
        assert self._study.spec.probe is not None
        self._executor = executor
        self._limits = Limits(
            self._study.spec.budget, self._folder, self._started
        )  # here: the sweep has spent its part
        alone = Placement(together=0, bf16=placement.bf16)
        rounds = [probe_round(self._study, number) for number in range(self._study.spec.probe.rounds)]
        missing = _missing(self._tracker, self._study.variants, rounds)
        planned = sum(map(len, rounds))
        self._tally.reused = planned - sum(map(len, missing))
        if missing and not self._closing:
            self._screen.tell_user(
                f"Timing {so_many(len(self._study.variants), 'variant')} alone, in turn, "
                f"{so_many(len(missing), 'round')}. "
                "Leave the machine alone: other work on it widens the intervals until nothing can be said."
            )
        for config in (config for configs in missing for config in configs):
            self._show(planned, 1, self._seconds_left(self._limits, planned))
            if not self._time(config, alone):
                break
        self._show(planned, 0, None)
        self._limits.keep(time.monotonic(), at_once=True)
        tally = self._tally
        return replace(
            so_far,
            trained=so_far.trained + tally.trained,
            reused=so_far.reused + tally.reused,
            failures=Counter(so_far.failures) + tally.failures,
            stopped=so_far.stopped or tally.done < planned,
        )

    def _time(self, config: RunConfig, alone: Placement) -> bool:
        """Train one run alone and record it. False: the probe ends here, stopped, or with a run that cannot be trained:
        without it no round is whole.
        """
        result = self._result_of(config, alone)
        if result is None:
            return False
        self._tally.fail(result.failure)
        if result.state is not State.FAIL:
            self._tally.trained += 1
            return True
        said = first_line(result.message)
        self._screen.tell_user(f"The probe ends: {config.variant} cannot be timed ({result.cause}). {said}")
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
        return CONSEQUENCES[result.cause].retried and number < self._study.spec.resources.attempts

    def _train(self, config: RunConfig, alone: Placement, number: int) -> tuple[str, RunResult | None]:
        """One attempt, recorded, and its MLflow run; None where it was stopped. Nothing is written while it trains: the
        machine is the run's.
        """
        assert self._executor is not None
        assert self._limits is not None
        limits = self._limits
        run_id = self._tracker.start_run(config, number, PROBE)
        # Two variants may be the same run; and a run that goes on from a killed attempt is not one that was timed.
        folder = scratch(self._folder, f"probe-{config.seed}-{config.variant}")
        job = Job(config, folder, keep_adapter=False, placement=alone, time_limit=self._study.spec.budget.per_run)
        (ending,) = wait_for([job], self._executor, self._look, limits.begun)
        result = _costs(result_of(ending))
        if not isinstance(ending, Dropped):
            limits.ended(config.key, result.cause, ending.at)
        self._check()  # again, as nothing may be written where it says so
        self._tracker.finish_run(run_id, config, result)
        drop_scratch(folder)
        if result.cause is Cause.USER_STOP:
            self._tracker.supersede(run_id, "stopped before its end")
            return run_id, None
        return run_id, result

    def _look(self) -> None:
        """Stop what has reached a limit."""
        self._check()
        assert self._limits is not None
        assert self._executor is not None
        for order in self._limits.check(time.monotonic(), slots=1):
            match order:
                case Stop(reason) if not self._stopping:
                    self._screen.tell_user(f"Stopping at the next step: {reason}.")
                    self.stop()
                case Kill() as kill:
                    self._executor.stop(kill)

    def _may_start(self) -> bool:
        """Whether another run is wanted and would end within the budget."""
        assert self._limits is not None
        now = time.monotonic()
        self._limits.keep(now)
        order = next(self._limits.check(now, slots=1), None)
        if isinstance(order, Stop | FinishUp) and not self._closing:
            self._screen.tell_user(f"Timing nothing more: {order.reason}.")
            self.finish_up()
        return not self._closing

    def _show(self, planned: int, training: int, left: float | None) -> None:
        done, failures = self._tally.trained + self._tally.reused, self._tally.failures
        self._screen.show(Progress(planned, done, training, failures, None, left, "timed runs"))

    def _seconds_left(self, limits: Limits, planned: int) -> float | None:
        """Seconds that the rest will take, by the device time of what was timed so far."""
        trained = self._tally.trained
        return limits.spent(time.monotonic()) / trained * (planned - self._tally.done) if trained else None


def _missing(
    tracker: Tracker, variants: Collection[str], rounds: Sequence[Sequence[RunConfig]]
) -> list[Sequence[RunConfig]]:
    """The rounds to time, after superseding what MLflow has of them and what the study no longer asks for."""
    known: dict[int, list[KnownRun]] = {}
    for run in tracker.known_runs():
        if run.phase == PROBE and run.variant in variants:  # another variant's are found again if it returns
            known.setdefault(run.seed, []).append(run)
    missing = []
    for number, configs in enumerate(rounds):
        runs = known.get(number, [])
        standing = {run.variant: run for run in runs if _stands(run)}
        timed = [c for c in configs if c.variant in standing and is_timed(standing[c.variant], c)]
        if len(timed) == len(configs) == sum(map(_stands, runs)):
            continue
        for run in runs:
            tracker.supersede(run.run_id, "its round is timed again")
        missing.append(configs)
    return missing


def _stands(run: KnownRun) -> bool:
    """Whether a recorded run is not asked for again: it came to an end, good or bad, and not by the machine's fault."""
    return run.state is not State.FAIL and run.cause is not Cause.USER_STOP


def _costs(result: RunResult) -> RunResult:
    """The result without what it says of quality."""
    cause = Cause.FINISHED if result.cause in _TRAINED else result.cause
    kept = tuple(m for m in result.measurements if m.name in COSTS)
    return result.model_copy(update={"cause": cause, "measurements": kept, "curve": ()})
