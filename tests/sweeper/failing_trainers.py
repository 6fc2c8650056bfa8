"""Trainers for the tests of failures: the shipped formula, in front of which something goes wrong.

What goes wrong in which variant, scenario or block says the environment variable FAILURES, as JSON: {"ipo": "die"}. A
folder NOTES counts how often each run was tried.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from studies.records import UNSAVED_FACT, UNUSABLE_FACT, Cause, RunResult
from trainers.formula import FormulaTrainer
from trainers.interface import Job, WorkQueue
from trainers.job_list import JobList


class Unsaved(JobList):
    """A desk at which each result comes in without its adapter, and is handed on to another."""

    def __init__(self, desk: WorkQueue) -> None:
        super().__init__([])
        self._desk = desk

    def finish(self, result: RunResult) -> None:
        self._desk.finish(result.model_copy(update={"facts": {**result.facts, UNSAVED_FACT: "OSError: full"}}))


class Failing:
    """Fails where FAILURES says so, and trains by the formula elsewhere."""

    def train(self, job: Job, desk: WorkQueue) -> None:
        config = job.config
        failures = json.loads(os.environ["FAILURES"])
        named = (config.variant, config.scenario, f"block {config.block}")
        act = next((failures[name] for name in named if name in failures), "")
        note = Path(os.environ["NOTES"]) / config.key
        with note.open("a") as file:
            file.write(f"{time.monotonic()}\n")
        print("about to train", config.variant, config.trial)  # noqa: T201
        first = len(note.read_text().splitlines()) == 1
        match act.removesuffix(" once"):
            case _ if act.endswith(" once") and not first:
                pass
            case "die":
                os._exit(3)
            case "raise":
                raise OSError("no space left on device")
            case "SIGTERM":
                os.kill(os.getpid(), signal.SIGTERM)
            case "unusable":
                facts = {UNUSABLE_FACT: "model"}
                message = "model m: the folder holds no weights: put them there"
                desk.finish(RunResult(key=config.key, cause=Cause.REFUSED, message=message, facts=facts))
                return
            case "unusable schedule" | "unusable settings":
                facts = {UNUSABLE_FACT: act.partition(" ")[2]}
                message = "base.lr_scheduler_kwargs: got an unexpected keyword argument 'a'; correct it there"
                desk.finish(RunResult(key=config.key, cause=Cause.REFUSED, message=message, facts=facts))
                return
            case "unsaved":
                desk = Unsaved(desk)
            case "hang":
                time.sleep(600)
        FormulaTrainer().train(job, desk)
