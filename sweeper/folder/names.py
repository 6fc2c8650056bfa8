"""Names of what lies in the folder of a study's runs."""

from __future__ import annotations

from pathlib import Path
from typing import Final

MARK_FILE: Final = "study.json"


JOURNAL: Final = "mlflow-journal.jsonl"


PILOT_FILE: Final = "pilot.json"  # how many runs train together; as earlier versions called it


LOGS: Final = "logs"


REFERENCE: Final = "reference"


LOCK_FILE = "sweep.lock"


PAUSED_FILE = "paused.json"


SPENT_FILE = "spent.json"


def refused_of(journal: Path) -> Path:
    """The file with what the store will never take of a journal."""
    return journal.with_suffix(".refused.jsonl")
