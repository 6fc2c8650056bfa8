"""Trainers for the tests of failures: the shipped formula, in front of which something goes wrong.

What goes wrong in which variant says the environment variable FAILURES, as JSON: {"ipo": "die"}. A folder NOTES counts
how often each run was tried.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from trainers.formula import FormulaTrainer
from trainers.interface import Desk, Job


class Failing:
    """Fails where FAILURES says so, and trains by the formula elsewhere."""

    def train(self, job: Job, desk: Desk) -> None:
        config = job.config
        act = json.loads(os.environ["FAILURES"]).get(config.variant, "")
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
            case "hang":
                time.sleep(600)
        FormulaTrainer().train(job, desk)
