"""Paths and URLs of a study."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from studies.spec import StudySpec
from sweeper.search.storage import storage_url


@dataclass(frozen=True)
class StudyPaths:
    """Paths and URLs of a study. `storage` is Optuna's URL, `tracking` MLflow's (None: its default). `log`: the file
    that gets what a sweep in a process of its own prints.
    """

    folder: Path
    runs: Path
    storage: str
    tracking: str | None
    log: Path | None = None


def places(spec: StudySpec, folder: Path, storage: str | None) -> StudyPaths:
    """The paths of a study that runs in `folder`."""
    return StudyPaths(folder, folder / spec.output.folder / spec.study, storage_url(storage, folder), None)
