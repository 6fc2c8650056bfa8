"""Where artifacts lie in a working folder. MLflow records absolute places, which are wrong once the folder is renamed,
moved or copied. Changes nothing; `sweeper/tracking/moved.py` mends what MLflow has recorded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from studies.text.files import is_folder

_ARTIFACTS, _OF_RUN = "mlartifacts", "artifacts"
_ID: Final = re.compile(r"[0-9a-f]{32}")


def study_artifacts(folder: Path, study: str) -> Path:
    """The place of a study that is run in `folder`."""
    return folder.absolute() / _ARTIFACTS / study


def run_artifacts(folder: Path, study: str, run_id: str) -> Path:
    """The place of one of its runs, which MLflow makes of the study's."""
    return study_artifacts(folder, study) / run_id / _OF_RUN


def recorded(uri: str | None, run_id: str | None = None) -> tuple[Path, str] | None:
    """The working folder and the study of a place that MLflow has recorded for a study, or for a run; None for a place
    that is not of this kind.
    """
    parts = urlsplit(uri or "")
    place = Path(unquote(parts.path))
    if run_id is not None:
        if (place.name, place.parent.name) != (_OF_RUN, run_id):
            return None
        place = place.parent.parent
    return (place.parent.parent, place.name) if parts.scheme == "file" and place.parent.name == _ARTIFACTS else None


def misplaced(place: Path, run_id: str) -> str | None:
    """Why nothing of a run may be kept at a place that a store names; None where it may. A store may be
    anybody's: MLflow makes the place of a run's id, and no link is in it or leads to it from the id on.
    """
    if (place.name, place.parent.name) != (_OF_RUN, run_id) or _ID.fullmatch(run_id) is None:
        return "which is not a folder that MLflow makes for a run"
    for folder in (place.parent, place):
        if os.path.lexists(folder) and not is_folder(folder):
            return f"where {folder} is no real folder"
    link = next(_linked(place), None)
    return None if link is None else f"where {link} leads elsewhere"


def _linked(folder: Path) -> Iterator[Path]:
    """Links to folders, below a folder."""
    if is_folder(folder):
        for path in sorted(folder.iterdir()):
            if is_folder(path):
                yield from _linked(path)
            elif path.is_dir():
                yield path


def found_here(uri: str, run_id: str, folder: Path) -> Path | None:
    """The artifacts of a run that lie in `folder`, whatever working folder is recorded; None where there are none."""
    was = recorded(uri, run_id)
    here = run_artifacts(folder, was[1], run_id) if was else None
    return here if here is not None and here.is_dir() else None
