"""Names of what lies in the folder of a study's runs."""

from __future__ import annotations

from pathlib import Path
from typing import Final

MARK_FILE: Final = "study.json"


JOURNAL: Final = "mlflow-journal.jsonl"


PILOT_FILE: Final = "pilot.json"  # how many runs train together; as earlier versions called it


LOGS: Final = "logs"


REFERENCE: Final = "reference"


ASKED_FILE: Final = "asked.yaml"  # a study that was asked for from Python as a mapping, with its changed keys


SWEEP_LOG: Final = "sweep.log"  # what a sweep in a process of its own prints


LOCK_FILE = "sweep.lock"


PAUSED_FILE = "paused.json"


SPENT_FILE = "spent.json"


EVENTS_FILE: Final = "events.jsonl"  # see `sweeper.folder.events`


EARLIER_EVENTS_FILE: Final = "events.1.jsonl"


REQUESTS: Final = "requests"  # see `sweeper.folder.requests`


def refused_of(journal: Path) -> Path:
    """The file with what the store will never take of a journal."""
    return journal.with_suffix(".refused.jsonl")


OWN_FILES: Final = (
    *(MARK_FILE, PILOT_FILE, LOCK_FILE, PAUSED_FILE, SPENT_FILE, EVENTS_FILE, EARLIER_EVENTS_FILE, JOURNAL, SWEEP_LOG),
    *(refused_of(Path(JOURNAL)).name, ASKED_FILE),
)
"""All files with fixed names."""
