"""Messages between a sweep and its workers, and the JSON that they travel as.

Numbers may be no numbers, as those of a run that diverged: Python writes and reads NaN and Infinity. Times do not
travel, as every machine has a clock of its own: who receives an event stamps it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from studies.records import Cause, RunConfig, RunResult
from studies.text.files import parse_json
from sweeper.executors.base import Finished, Reported, Started, WorkerNews
from trainers.interface import Doing, Job, Placement, Sized


@dataclass(frozen=True)
class Want:
    """From a worker: it can train one more run of this `pack_key` beside its own; None: it has no run and takes any.
    The first is answered at once, the second when there is a job.
    """

    like: str | None


@dataclass(frozen=True)
class Stop:
    """To a worker: stop the run with this key at its next report."""

    key: str


@dataclass(frozen=True)
class End:
    """To a worker: end once the runs in training have ended."""


@dataclass(frozen=True)
class Nothing:
    """To a worker: no such job waits."""


@dataclass(frozen=True)
class Launch:
    """To a host: start the worker of this ticket and name in one of its places."""

    ticket: str
    name: str


@dataclass(frozen=True)
class Kill:
    """To a host: kill the worker of this ticket and its children at once."""

    ticket: str


@dataclass(frozen=True)
class Ended:
    """From a host: the process of the worker of this ticket has ended, for this cause and reason."""

    ticket: str
    cause: Cause
    reason: str


Order = Job | Nothing | Stop | End | Launch | Kill
FromWorker = Want | Started | Reported | Finished | WorkerNews | Ended


def encode(message: Order | FromWorker) -> bytes:
    """The message as JSON. Raises TypeError or ValueError for what JSON has no words for."""
    match message:
        case Reported(key, step, metrics):
            told: Any = ["reported", key, step, dict(metrics)]
        case Want(like):
            told = ["want", like]
        case Started(key):
            told = ["started", key]
        case Finished(key, result):
            told = ["finished", result.model_dump(mode="json")]
        case WorkerNews(news=Doing(what)):
            told = ["doing", what]
        case WorkerNews(news=Sized() as sized):
            told = ["sized", asdict(sized)]
        case Job():
            told = ["job", _of_job(message)]
        case Nothing() | End():
            told = [type(message).__name__.lower()]
        case Stop(key):
            told = ["stop", key]
        case Launch(ticket, name):
            told = ["launch", ticket, name]
        case Kill(ticket):
            told = ["kill", ticket]
        case Ended(ticket, cause, reason):
            told = ["ended", ticket, cause.value, reason]
    return json.dumps(told).encode()


def decode_order(data: bytes) -> Order:
    """What a sweep has sent. Raises ValueError for what is none of its messages."""
    kind, rest = _parts(data)
    found: Order = _made(_known(_ORDERS, kind), rest)
    return found


def decode_event(data: bytes, worker: str) -> FromWorker:
    """What a worker, or a host, has sent, with the name that the sweep knows it by. Raises ValueError for what is none
    of their messages.
    """
    kind, rest = _parts(data)
    found: FromWorker = _made(_known(_EVENTS, kind), [worker, *rest])
    return found


def _parts(data: bytes) -> tuple[str, list[Any]]:
    found = parse_json(data)
    if not isinstance(found, list) or not found or not isinstance(found[0], str):
        raise ValueError("no message: it is no list that begins with a word")
    return found[0], found[1:]


def _known(kinds: Mapping[str, Callable[..., Any]], kind: str) -> Callable[..., Any]:
    if kind not in kinds:
        raise ValueError(f"no message: there is none called {kind[:40]!r}")
    return kinds[kind]


def _made(make: Callable[..., Any], rest: list[Any]) -> Any:
    try:
        return make(*rest)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"no message: {error}") from error


def _of_job(job: Job) -> dict[str, Any]:
    return {
        "config": job.config.model_dump(mode="json"),
        "folder": str(job.folder),
        "keep_adapter": job.keep_adapter,
        "placement": asdict(job.placement),
        "pause_at": job.pause_at,
        "time_limit": job.time_limit,
        "attempt": job.attempt,
        "keep_samples": job.keep_samples,
        "from_samples": job.from_samples,
        "against": [str(file) for file in job.against],
        "model": job.model,
        "trainer": job.trainer,
    }


def _job(told: dict[str, Any]) -> Job:
    known = {
        "config": RunConfig.model_validate(told["config"]),
        "folder": Path(told["folder"]),
        "against": tuple(map(Path, told["against"])),
        "placement": Placement(**told["placement"]),
    }
    return Job(**{**told, **known})


def _reported(_worker: str, key: str, step: int, metrics: Mapping[str, float]) -> Reported:
    return Reported(str(key), int(step), {str(name): float(value) for name, value in metrics.items()})


def _finished(_worker: str, told: Mapping[str, Any]) -> Finished:
    result = RunResult.model_validate(told)
    return Finished(result.key, result)


@cache
def _sizes() -> TypeAdapter[Sized]:
    return TypeAdapter(Sized)


_EVENTS: Final[Mapping[str, Callable[..., FromWorker]]] = {
    "reported": _reported,
    "want": lambda _, like: Want(None if like is None else str(like)),
    "started": lambda worker, key: Started(str(key), worker),
    "finished": _finished,
    "doing": lambda worker, what: WorkerNews(worker, Doing(str(what))),
    "sized": lambda worker, told: WorkerNews(worker, _sizes().validate_python(told)),
    "ended": lambda _, ticket, cause, reason: Ended(str(ticket), Cause(cause), str(reason)),
}
_ORDERS: Final[Mapping[str, Callable[..., Order]]] = {
    "job": _job,
    "nothing": Nothing,
    "end": End,
    "stop": lambda key: Stop(str(key)),
    "launch": lambda ticket, name: Launch(str(ticket), str(name)),
    "kill": lambda ticket: Kill(str(ticket)),
}
