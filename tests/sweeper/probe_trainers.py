"""A trainer for the tests of the probe: the shipped formula, which notes what it trains, when and where.

The environment: NOTES, the file; INTERRUPT, a variant and a round, such as `ipo 2`, whose timed run is interrupted as
by Ctrl-C, once.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from trainers.formula import FormulaTrainer
from trainers.interface import Job, WorkQueue


class Noting:
    """Trains by the formula and appends a line of JSON for each run."""

    def train(self, job: Job, desk: WorkQueue) -> None:
        config, file = job.config, Path(os.environ["NOTES"])
        began = time.monotonic()
        is_timed = job.placement.together == 0
        left = sorted(path.name for path in job.folder.glob("[!.]*")) if job.folder.is_dir() else []
        if is_timed and os.environ.get("INTERRUPT") == f"{config.variant} {config.seed}":
            del os.environ["INTERRUPT"]
            os.kill(os.getpid(), signal.SIGINT)
        if is_timed:
            time.sleep(0.01)  # long enough to overlap with another, if there were one
        FormulaTrainer().train(job, desk)
        note = {
            "variant": config.variant,
            "round": config.seed,
            "block": config.block,
            "steps": config.settings["max_steps"],
            "timed": is_timed,
            "left": left,
            "process": os.getpid(),
            "threads": os.environ.get("OMP_NUM_THREADS"),
            "began": began,
            "ended": time.monotonic(),
        }
        with file.open("a") as out:
            out.write(json.dumps(note) + "\n")
