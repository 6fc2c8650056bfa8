"""Executors by the name that `--executor` takes: another one is a line here and a parameter of the contract tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sweeper.executors.base import Executor
from sweeper.executors.door.network import KEY_VARIABLE, key_in
from sweeper.executors.inline import Inline
from sweeper.executors.process.executor import Process

if TYPE_CHECKING:
    from studies.schema.types import SlurmJobs, StudySpec


@dataclass(frozen=True)
class Workplace:
    """What an executor may use: a number of workers (None: as many as the machine holds), a folder for their logs, and
    the environment variables named in `env` beside those that training needs.

    Of workers on other machines: what a job of theirs asks for (None: as a study without `resources.slurm`), the
    `address` at which they find this one, the name of the study, and where the user is told how to start them.
    """

    workers: int | None
    logs: Path
    env: Collection[str] = ()
    slurm: SlurmJobs | None = None
    address: str | None = None
    study: str = "sweep"
    say: Callable[[str], None] = lambda _: None

    @classmethod
    def of(cls, spec: StudySpec, workers: int | None, logs: Path, say: Callable[[str], None]) -> Workplace:
        """As the study says; `workers`: as the user does."""
        known = spec.resources
        return cls(workers or known.workers, logs, known.env, known.slurm, known.address, spec.study, say)


def _process(trainer: str, place: Workplace) -> Executor:
    return Process(trainer, place.workers, place.logs, env=place.env)


def _inline(trainer: str, place: Workplace) -> Executor:
    return Inline(trainer)


# The modules behind these read study files, which no worker needs.
def _slurm(trainer: str, place: Workplace) -> Executor:
    from studies.schema.types import SlurmJobs
    from sweeper.executors.elsewhere.team import slurm_team

    team = partial(slurm_team, jobs=place.slurm or SlurmJobs(), study=place.study, address=place.address)
    return Process(trainer, place.workers, place.logs, env=place.env, team=team)


def _hosts(trainer: str, place: Workplace) -> Executor:
    from sweeper.executors.elsewhere.team import hosts_team

    team = partial(hosts_team, address=place.address, say=place.say)
    return Process(trainer, place.workers, place.logs, env=place.env, team=team)


EXECUTORS: Final[Mapping[str, Callable[[str, Workplace], Executor]]] = {
    "process": _process,
    "inline": _inline,
    "slurm": _slurm,
    "hosts": _hosts,
}
"""Each is made of the trainer that it runs and of its workplace."""

ELSEWHERE: Final = frozenset({"slurm", "hosts"})
"""Those whose workers are on other machines: nobody but the user knows how many there are."""


def problem(executor: str, workers: int | None) -> str:
    """Why an executor cannot begin as it is asked for, "" where it can."""
    if executor not in ELSEWHERE:
        return ""
    if not workers:
        return f"--executor {executor}: say how many workers there are, with --workers or resources.workers."
    try:
        if KEY_VARIABLE in os.environ:
            key_in(os.environ)
    except ValueError as error:
        return f"{KEY_VARIABLE}: {error}."
    return ""
