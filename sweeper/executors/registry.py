"""Executors by the name that `--executor` takes: another one is a line here and a parameter of the contract tests."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sweeper.executors.base import Executor
from sweeper.executors.inline import Inline
from sweeper.executors.process.executor import Process


@dataclass(frozen=True)
class Workplace:
    """What an executor may use: a number of workers (None: as many as the machine holds), a folder for their logs, and
    the environment variables named in `env` beside those that training needs.
    """

    workers: int | None
    logs: Path
    env: Collection[str] = ()


def _process(trainer: str, place: Workplace) -> Executor:
    return Process(trainer, place.workers, place.logs, env=place.env)


def _inline(trainer: str, place: Workplace) -> Executor:
    return Inline(trainer)


EXECUTORS: Final[Mapping[str, Callable[[str, Workplace], Executor]]] = {"process": _process, "inline": _inline}
"""Each is made of the trainer that it runs and of its workplace."""
