"""The contract between a trainer and whoever runs it; loads no torch and knows no store, search or executor."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol, cast

from studies.records import RunConfig, RunResult


class Decision(StrEnum):
    """What a trainer must do after a report."""

    CONTINUE = "continue"
    PAUSE = "pause"
    STOP = "stop"


# report(run key, step, metrics) -> Decision. Called at most once a logging step; must be cheap.
Report = Callable[[str, int, Mapping[str, float]], Decision]


@dataclass(frozen=True)
class Job:
    """One run to train: its config, the folder that is its own, and whether its adapter is kept there."""

    config: RunConfig
    folder: Path
    keep_adapter: bool = True


class Trainer(Protocol):
    """Trains runs. One object lives as long as its worker and keeps what runs share (base model, data)."""

    def train(self, jobs: Sequence[Job], report: Report) -> list[RunResult]:
        """Train all jobs and answer one result each, in the same order. What a run does never raises: it is a
        result with a cause. What the machine does (lost files, no device) may raise.
        """
        ...


# Name in the study file -> "module:class". Modules are imported only where a run is trained.
TRAINERS: Mapping[str, str] = {
    "dpo": "trainers.dpo:DPOTrainerWorker",
    "formula": "trainers.formula:FormulaTrainer",
}


def load_trainer(name: str) -> Trainer:
    """The trainer called `name`: one of TRAINERS, or `module:Class` for one's own.

    Raises KeyError for a name that is neither, ImportError or AttributeError for a class that is not there.
    """
    module, _, attribute = (name if ":" in name else TRAINERS[name]).partition(":")
    return cast(Trainer, getattr(importlib.import_module(module), attribute)())
