"""The workers of an executor: how each is started, and the door that they come in by."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sweeper.executors.door.door import Door
from sweeper.executors.door.greeting import Welcome
from sweeper.executors.door.network import KEY_VARIABLE
from sweeper.executors.process.devices import GPU_VARIABLES, usable_cores, visible_gpus, worker_environments
from sweeper.executors.process.handle import Starter
from sweeper.executors.process.launcher import Desk, Launcher
from sweeper.executors.process.local import Local


@dataclass(frozen=True)
class Team:
    """`places`: for people, by the names of the `starters`; `desk`: where hosts come by, where they may; `close`: to be
    called once all workers have ended.
    """

    starters: Sequence[Starter]
    places: Mapping[str, str]
    door: Door
    desk: Desk | None = None
    close: Callable[[], None] = lambda: None


def local_team(
    trainer: str, workers: int | None, log_folder: Path, env: Collection[str], launcher: Launcher | None = None
) -> Team:
    """Workers on this machine, each with a GPU, or with a share of the cores. Raises ValueError for none at all."""
    gpus = visible_gpus(os.environ)
    environments = worker_environments(workers, gpus, usable_cores(), os.environ, env)
    key = secrets.token_hex(32)
    launcher = Local() if launcher is None else launcher
    starters = [
        Starter(f"worker-{i}", Welcome(trainer=trainer), {**own, KEY_VARIABLE: key}, log_folder, launcher)
        for i, own in enumerate(environments)
    ]
    return Team(starters, {starter.name: _place(starter) for starter in starters}, Door(key.encode()))


def _place(starter: Starter) -> str:
    device = next((starter.environment[name] for name in GPU_VARIABLES if name in starter.environment), None)
    return f"{starter.name} on GPU {device}" if device else starter.name
