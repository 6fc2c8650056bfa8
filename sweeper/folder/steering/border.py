"""The border between a sweep and everybody who watches or steers it: writes events and answers requests, in a thread.

The thread sends the heartbeat and answers requests while the main one is busy for minutes, with training in this
process or with a report. Only the main thread may stop a sweep, so a stop is sent to it as the signal that does the
same.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from studies.design.identity import asked_of_files
from studies.records import Failure, RunConfig
from studies.requests import Extend, Pause, Resume, Retry, Stop, Take
from studies.spec import Study
from studies.text.lines import first_line
from studies.text.plural import so_many
from sweeper.executors.base import Event, Executor, Finished, Lost, Reported, Started, WorkerState
from sweeper.executors.watched import Watched
from sweeper.folder.control import machine_digest, pause_problem, paused, set_paused
from sweeper.folder.events import (
    Heartbeat,
    Line,
    PhaseBegan,
    RequestAnswered,
    RunEnded,
    RunReported,
    RunStarted,
    SweepBegan,
    SweepEnded,
    WorkerChanged,
)
from sweeper.folder.requests import RequestFile, remove, remove_half_written, waiting
from sweeper.folder.steering.event_log import EventLog
from sweeper.folder.steering.rounds import NextVersion, NotTaken, Rounds, takes_none

BEAT_SECONDS: Final = 5.0
POLL_SECONDS: Final = 0.3
MOST_STUCK: Final = 1000  # requests that cannot be removed, after which no more are taken

FINISH_UP: Final = "the runs in training are finished and no others started"
STOP_NOW: Final = "each run stops at its next step"
RETRIED: Final = "the runs that ended so are trained again once all others have ended, unless the sweep is stopped"
TAKEN: Final = (
    "once the runs in training have ended, the sweep goes on as {file} says now{more}, unless it is stopped before"
)
STOPS: Final = "The sweep is being stopped. Once it has ended, run the file again."
EXTENDED: Final = (
    "up to {what} are trained, the further ones once all others have ended, unless the sweep is stopped; say {key} in "
    "the study file too, for later commands"
)


class HowFar(Protocol):
    """The progress of a sweep, as in `sweeper.loop.progress.Progress`."""

    @property
    def planned(self) -> int: ...
    @property
    def done(self) -> int: ...
    @property
    def training(self) -> int: ...
    @property
    def what(self) -> str: ...
    @property
    def failures(self) -> Mapping[Failure, int]: ...
    @property
    def seconds_left(self) -> float | None: ...
    @property
    def best(self) -> tuple[str, str, float] | None: ...


class Border:
    """The border of one sweep, while it holds the study: `with Border(...) as border`. `also`: who gets every event
    beside the file; `next_version`: makes another version of the study of a file.
    """

    def __init__(
        self,
        runs: Path,
        study: Study,
        tell_user: Callable[[str], None],
        also: Callable[[Line], None] = lambda _: None,
        next_version: NextVersion = takes_none,
    ) -> None:
        self._also, self._next_version = also, next_version
        self.sweep = uuid.uuid4().hex[:12]
        self.how, self.why = "stopped", ""
        self.rounds = Rounds(study)
        self._runs, self._study, self._tell_user = runs, study.spec.study, tell_user
        self._host, self._process = socket.gethostname(), os.getpid()
        self._beat = Heartbeat(self._host, machine_digest(), self._process, "begin", asked=asked_of_files(study))
        self._stuck: frozenset[str] = frozenset()
        self._steering = threading.Lock()
        self._steered = False
        self._stopped: Stop | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="border", daemon=True)

    def __enter__(self) -> Self:
        begins_with = (SweepBegan(self._study, self._host, self._process), self._beat)
        self._log = EventLog(self._runs, self.sweep, self._tell_user, self._also, begins_with)
        remove_half_written(self._runs)
        for asked in waiting(self._runs):
            self._answer(asked, "too_late", "It was asked before this sweep began: ask again.")
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join(timeout=BEAT_SECONDS)
        self._log.append(self._beat)
        self._log.append(self._ending(error))
        self._log.close()

    def _ending(self, error: BaseException | None) -> SweepEnded:
        """How the sweep ends. A second Ctrl-C is somebody who stops it, and no failure."""
        if error is None:
            return SweepEnded(self.how, self.why)
        if isinstance(error, KeyboardInterrupt):
            return SweepEnded("stopped")
        return SweepEnded("interrupted", str(error) or type(error).__name__)

    def phase(self, name: str) -> None:
        """Note that another phase begins."""
        self._log.append(PhaseBegan(name))
        self._beat = replace(self._beat, phase=name, asked=asked_of_files(self.rounds.study))
        self._log.append(self._beat)

    def look(self, progress: HowFar) -> None:
        """Keep the progress for the next heartbeat."""
        self._beat = replace(
            self._beat,
            planned=progress.planned,
            done=progress.done,
            training=progress.training,
            what=progress.what,
            failures={str(failure): number for failure, number in progress.failures.items() if number},
            seconds_left=progress.seconds_left,
            best=progress.best,
        )

    def watch(self, executor: Executor) -> Executor:
        """The executor, with its events also written to the log."""
        return Watched(executor, self._see)

    @contextmanager
    def steered(self) -> Iterator[None]:
        """Obey requests to stop within this context, where stop signals are handled; earlier ones wait for it."""
        with self._steering:
            self._steered = True
        try:
            yield
        finally:
            with self._steering:
                self._steered = False

    def _see(self, event: Event, config: RunConfig | None) -> None:
        match event:
            case Started(key=key, worker=worker) if config is not None:
                where = (config.variant, config.scenario, config.trial, config.block, config.seed)
                self._log.append(RunStarted(key, worker, *where))
            case WorkerState(worker=worker, state=state, place=place, why=why):
                self._log.append(WorkerChanged(worker, state, place, why))
            case Reported(key=key, step=step, metrics=metrics):
                self._log.append(RunReported(key, step, metrics))
            case Finished(key=key, result=result):
                self._log.append(RunEnded(key, str(result.cause), first_line(result.message, "")))
            case Lost(key=key, cause=cause, reason=reason):
                self._log.append(RunEnded(key, str(cause), first_line(reason, "")))

    def _serve(self) -> None:
        beaten = time.monotonic()
        while not self._end.wait(POLL_SECONDS):
            if time.monotonic() - beaten >= BEAT_SECONDS:
                beaten = time.monotonic()
                self._log.append(self._beat)
            if len(self._stuck) < MOST_STUCK:
                for asked in waiting(self._runs, self._stuck):
                    self._obey(asked)
        for asked in waiting(self._runs, self._stuck):
            self._answer(asked, "too_late", "The sweep has ended.")

    def _obey(self, asked: RequestFile) -> None:
        if asked.request is None:
            return self._answer(asked, "refused", f"{asked.problem[:1].upper()}{asked.problem[1:]}.")
        if asked.sweep not in ("", self.sweep):
            return self._answer(asked, "too_late", "It asks another sweep of this study, which has ended: ask again.")
        try:
            match asked.request:
                case Stop() as stop:
                    self._stop(asked, stop)
                case Pause(variant):
                    self._pause(asked, variant, hold=True)
                case Resume(variant):
                    self._pause(asked, variant, hold=False)
                case Retry(causes):
                    self._next_round(asked, self.rounds.retry(causes), RETRIED)
                case Extend(trials, replicates):
                    self._next_round(asked, self.rounds.extend(trials, replicates), _extended(trials, replicates))
                case Take(file):
                    self._take(asked, Path(file))
        except OSError as error:
            self._answer(asked, "refused", f"{error.filename or self._runs}: {error.strerror}.")

    def _stop(self, asked: RequestFile, stop: Stop) -> None:
        """Stop once: a second signal would kill the runs."""
        with self._steering:
            if not self._steered:
                return  # it waits in its folder
            if self._stopped is None or (stop.now and not self._stopped.now):
                self._stopped = stop
                _signal_main_thread(signal.SIGTERM if stop.now else signal.SIGUSR1)
        self._answer(asked, "done", STOP_NOW if self._stopped.now else FINISH_UP)

    def _next_round(self, asked: RequestFile, problem: str | None, accepted: str) -> None:
        self._answer(asked, "done" if problem is None else "refused", problem or accepted)

    def _take(self, asked: RequestFile, file: Path) -> None:
        try:
            if self._stopped is not None:
                raise NotTaken(STOPS)
            more = self.rounds.change(lambda study: self._next_version(study, file))
        except NotTaken as error:
            return self._answer(asked, "refused", str(error))
        shown = f", with {so_many(more, 'further run')}" if more > 0 else ""
        self._answer(asked, "done", TAKEN.format(file=file.name, more=shown))

    def _pause(self, asked: RequestFile, variant: str, *, hold: bool) -> None:
        held = paused(self._runs)
        problem = pause_problem(variant, hold, self.rounds.variants, held)
        if problem is not None:
            return self._answer(asked, "refused", problem)
        set_paused(self._runs, held | {variant} if hold else held - {variant})
        self._answer(asked, "done", f"{variant} {'is paused; its runs in training go on' if hold else 'goes on'}")

    def _answer(self, asked: RequestFile, outcome: str, message: str) -> None:
        """Write the answer before the file is removed, so that a killed sweep leaves no unanswered request."""
        self._log.append(RequestAnswered(asked.id, asked.ask, outcome, message))
        if not remove(self._runs, asked.id):
            self._stuck |= {f"{asked.id}.json"}


def _extended(trials: int | None, replicates: int | None) -> str:
    """What is said of an extension that is accepted."""
    given = [
        ("trials of each variant", "budget.trials", trials),
        ("replicates", "replicates", replicates),
    ]
    what = " and ".join(f"{number} {name}" for name, _, number in given if number is not None)
    key = " and ".join(f"{key}: {number}" for _, key, number in given if number is not None)
    return EXTENDED.format(what=what, key=key)


def _signal_main_thread(number: signal.Signals) -> None:
    """Have the main thread handle a signal, even while it sleeps."""
    main = threading.main_thread().ident
    if main is not None:
        signal.pthread_kill(main, number)
