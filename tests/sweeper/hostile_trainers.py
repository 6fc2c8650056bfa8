"""A trainer that says, in every way there is, what would act on a terminal."""

from __future__ import annotations

import logging
import sys
import warnings

from trainers.formula import FormulaTrainer
from trainers.interface import Job, WorkQueue

ACTS = "\x1b]52;c;ZWNobw==\x07\x1b]0;title\x07\x1b[31mRED\x1b[1A\x1b[2KGONE\x1b]8;;https://evil.example\x1b\\LINK\x1b]8;;\x1b\\"
ACTS += "\x9b31m\x85\u202eleft\u2066\u200b\ufeff\U000e0041\rOVER\x08\x7f"


class Hostile:
    """Talks while it trains as the formula does; one variant fails with a message of the same kind."""

    def train(self, job: Job, desk: WorkQueue) -> None:
        """See `Trainer.train`."""
        sys.stdout.write(f"printed {ACTS}\n")
        sys.stderr.write(f"without an end {ACTS}")
        logging.getLogger("library").warning("logged %s", ACTS)
        warnings.warn(f"warned {ACTS}", stacklevel=1)
        if job.config.variant == "ipo":
            raise RuntimeError(f"raised {ACTS}")
        FormulaTrainer().train(job, desk)
