"""Which file of a folder is a study: the acts of the page run and change it, so nobody guesses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from studies.loading.load import read_yaml
from studies.spec import StudyError, shipped_studies
from sweeper.commands.kept.listing import run_folders
from sweeper.folder.names import ASKED_FILE

MOST_BYTES: Final = 1 << 18  # of a file that may be a study
# What no file lacks that names a study, also in a mapping on one line or behind a byte order mark.
_NAMED: Final = re.compile(rb"""(?:^|[\s{,]|\xef\xbb\xbf)["']?study["']?\s*:""")

_Seen = tuple[int, int, int]


class StudyFiles:
    """The files of a folder `here` by the studies that they are. `asked`: what the page was opened for, a file or a
    name. A file is read again when it has changed.
    """

    def __init__(self, here: Path, asked: str | None) -> None:
        self._here, self._asked = here, asked
        self._names: dict[Path, tuple[_Seen, str | None]] = {}

    def file(self, study: str) -> str | None:
        """What a terminal calls a study: the file that the page was opened for, the copy of one that was asked for from
        Python, the only file here or one folder down that names it, or the name of a shipped one. None where there is
        none, or several.
        """
        found = self._found(study)
        if found:
            return found[0] if len(found) == 1 else None
        return study if study in shipped_studies() else None

    def why_none(self, study: str) -> str:
        """Why there is no such file, and what to do."""
        found = self._found(study)
        if len(found) < 2:
            return "No file in this folder is this study: save it as one, and run that in a terminal."
        return (
            f"{', '.join(found)} all name the study {study}: give all but one another name, or open the page with the "
            f"one that is meant, as in `sweeper ui {found[0]}`."
        )

    def _found(self, study: str) -> Sequence[str]:
        """The file that is meant, or all that may be."""
        runs = dict(run_folders(self._here)).get(study)
        sure = [self._here / self._asked] if self._asked is not None else []
        sure += [runs / ASKED_FILE] if runs is not None else []
        for file in sure:
            if self._name_in(file) == study:
                return [self._shown(file)]
        found = {
            file.resolve(): file
            for file in (*sorted(self._here.glob("*/*.yaml"), reverse=True),
                         *sorted(self._here.glob("*.yaml"), reverse=True))
            if self._name_in(file) == study
        }  # fmt: skip
        return [self._shown(file) for file in reversed(found.values())]

    def _shown(self, file: Path) -> str:
        return str(file.relative_to(self._here) if file.is_relative_to(self._here) else file)

    def _name_in(self, file: Path) -> str | None:
        """The name of the study that a file is; None where it is none."""
        try:
            stat = file.stat()
        except OSError:
            return None
        seen = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        known = self._names.get(file)
        if known is None or known[0] != seen:
            known = self._names[file] = (seen, _name_read(file) if stat.st_size <= MOST_BYTES else None)
        return known[1]


def _name_read(file: Path) -> str | None:
    with suppress(OSError, StudyError, ValueError):
        if file.is_file() and _NAMED.search(file.read_bytes()):
            name = read_yaml(file).get("study")
            return name if isinstance(name, str) else None
    return None
