"""The events of a study's sweeps -> what happens in the last of them. Knows no file: it is told the lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from dashboards.live.ports import Event
from dashboards.live.reading.words import words
from dashboards.live.views import Answered, Happening, Span, Training

MOST_SPANS: Final = 2000
MOST_ANSWERS: Final = 100


class Happened:
    """What the events so far add up to. A sweep that begins ends what the one before it was doing."""

    def __init__(self) -> None:
        self._sweep = ""
        self._training: dict[str, Training] = {}
        self._spans: list[Span] = []
        self._workers: dict[str, str] = {}
        self._answered: dict[str, Answered] = {}
        self._heard = 0.0

    def take(self, events: Iterable[Event]) -> bool:
        """Add some events, in their order; whether there were any. What is no such event is left out."""
        any_ = False
        for event in events:
            any_ = True
            sweep, at = str(event.get("sweep")), float(event.get("at") or 0.0)
            self._heard = at
            if sweep != self._sweep:
                self._sweep = sweep
                self._training, self._spans, self._workers = {}, [], {}
            match event.get("event"):
                case "run_started":
                    self._start(event, at)
                case "run_reported":
                    self._report(event)
                case "run_ended":
                    self._end(str(event.get("key")), at, words(event.get("cause")))
                case "worker":
                    self._worker(event)
                case "request_answered":
                    self._answer(event, at)
                case "sweep_ended":
                    for key in list(self._training):
                        self._end(key, at, "sweep ended")
        return any_

    def view(self, *, dead: bool = False) -> Happening:
        """What happens now. `dead`: the sweep is gone, and all that it did ended when it was last heard of."""
        if dead:
            lost = [Span(run.worker, run.variant, run.since, self._heard, "lost") for run in self._training.values()]
            return replace(self.view(), training=(), spans=(*self._spans, *lost), workers={})
        open_ = [Span(run.worker, run.variant, run.since, None, None) for run in self._training.values()]
        return Happening(
            training=tuple(self._training.values()),
            spans=(*self._spans, *open_),
            workers=dict(self._workers),
            answered=tuple(sorted(self._answered.values(), key=lambda answered: -answered.at)),
        )

    def _start(self, event: Event, at: float) -> None:
        key = str(event.get("key"))
        if key in self._training and self._training[key].worker == words(event.get("worker")):
            return  # told again, as a new file begins
        self._training[key] = Training(
            key=key,
            worker=words(event.get("worker")),
            variant=words(event.get("variant")),
            scenario=words(event.get("scenario")),
            trial=int(event.get("trial") or 0),
            block=int(event.get("block") or 0),
            seed=int(event.get("seed") or 0),
            since=at,
        )

    def _report(self, event: Event) -> None:
        run = self._training.get(str(event.get("key")))
        if run is not None:
            values: Mapping[str, Any] = event.get("metrics") or {}
            found = {words(name): float(value) for name, value in values.items() if isinstance(value, int | float)}
            self._training[run.key] = Training(
                *(run.key, run.worker, run.variant, run.scenario, run.trial, run.block, run.seed, run.since),
                step=int(event.get("step") or 0),
                metrics=found,
            )

    def _end(self, key: str, at: float, cause: str) -> None:
        run = self._training.pop(key, None)
        if run is not None:
            self._spans = [*self._spans[-MOST_SPANS + 1 :], Span(run.worker, run.variant, run.since, at, cause)]

    def _worker(self, event: Event) -> None:
        name, state = words(event.get("worker")), words(event.get("state"))
        if state == "gone":
            self._workers.pop(name, None)
        else:
            place = words(event.get("place"))
            self._workers[name] = f"{state} on {place}" if place else state

    def _answer(self, event: Event, at: float) -> None:
        identity = str(event.get("id"))
        told = (words(event.get("ask")), words(event.get("outcome")), words(event.get("message")))
        self._answered[identity] = Answered(at, identity, *told)
        for old in list(self._answered)[:-MOST_ANSWERS]:
            del self._answered[old]
