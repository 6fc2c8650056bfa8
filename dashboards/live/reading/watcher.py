"""Keeps what the page shows up to date, in a thread of its own: all studies of a folder and its store.

While nobody watches, it looks at the events of sweeps alone, and seldom.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from dashboards.live.ports import Told
from dashboards.live.reading.database import Beside, OpenFile
from dashboards.live.reading.followed import ALL_SECONDS
from dashboards.live.reading.study import FollowedStudy
from dashboards.live.reading.words import words
from dashboards.live.views import Glance, Seen
from dashboards.store.addresses import sqlite_file
from dashboards.store.connection import StoreError
from dashboards.store.mlflow_tags import marks_in, seconds
from dashboards.store.records import stored_studies, view_page
from dashboards.store.sqlite_runs import ListedExperiment, experiments_in

WATCHED_SECONDS: Final = 1.0
ALONE_SECONDS: Final = 10.0
LIST_SECONDS: Final = 10.0  # between two looks for new studies


class Watcher:
    """Follows all studies. `seen` is what is known, `looked_at` since when (seconds since 1970), `failed` why no look
    succeeds, "" where they do.
    """

    def __init__(self, uri: str, folder: Path, told: Told) -> None:
        self._uri, self._folder, self.told = uri, folder, told
        self._studies: dict[str, FollowedStudy] = {}
        self._listed: dict[str, ListedExperiment] = {}
        self._folders: dict[str, Path] = {}
        self._listed_at = -LIST_SECONDS
        self._end, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._follow, name="watcher", daemon=True)
        self._problem = ""
        self._open = OpenFile()
        self._store_at = -ALL_SECONDS
        self.beside = Beside()
        self.looked_at = time.time()
        self.failed = ""
        self.seen = Seen(0, time.time(), ())
        self._viewers: set[object] = set()

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self) -> None:
        """End, within seconds."""
        self._end.set()
        self._wake.set()
        self._thread.join(timeout=5)
        self.beside.close()

    def open(self, viewer: object) -> None:
        """Somebody watches from now on."""
        self._viewers.add(viewer)
        self.wake()

    def close(self, viewer: object) -> None:
        """Somebody has gone."""
        self._viewers.discard(viewer)

    def wake(self) -> None:
        """Look now."""
        self._wake.set()

    def look(self) -> None:
        """Look once at everything."""
        for name, study in self._studies.items():
            study.listen(self._folders.get(name))
        if time.monotonic() - self._listed_at >= LIST_SECONDS:
            self._listed_at = time.monotonic()
            self._list()
        self._show()
        if self._viewers or any(study.glance.reading for study in self._studies.values()):
            for study in self._in_order():
                study.read(self._show)
                self._show()

    def _follow(self) -> None:
        while not self._end.is_set():
            try:
                self.look()
                self.failed = ""
            except Exception as error:  # what cannot be read now is looked for again
                self.failed = words(f"The page cannot read on: {type(error).__name__}: {error}")
            self._wake.wait(WATCHED_SECONDS if self._viewers else ALONE_SECONDS)
            self._wake.clear()
        for study in self._studies.values():
            study.close()
        self._open.close()

    def _list(self) -> None:
        """Find the studies."""
        self._folders = dict(self.told.folders())
        if self._asks_store():
            self._store_at = time.monotonic()
            try:
                self._listed = {one.name: one for one in stored_studies(self._uri, self._experiments)}
                self._problem = ""
            except StoreError as error:
                self._problem = words(error)
        for name in {*self._folders, *self._listed} - self._studies.keys():
            self._studies[name] = FollowedStudy(name, self._uri, self._folder, self.told)
            self._studies[name].listen(self._folders.get(name))
        for name in self._studies.keys() - {*self._folders, *self._listed}:
            self._studies.pop(name).close()
        for name, study in self._studies.items():
            study.glance = self._placed(study.glance, self._listed.get(name))

    def _experiments(self, file: Path, kind: tuple[str, str]) -> list[ListedExperiment] | None:
        """The experiments of a SQLite file; None where SQLite alone cannot say."""
        return self._open.find(file, lambda read: experiments_in(read, kind))

    def _asks_store(self) -> bool:
        """Whether the store's studies are listed now. On a server that means to ask for every run of each: seldom, but
        for a sweep that runs here and that the store does not know yet.
        """
        if sqlite_file(self._uri) is not None or time.monotonic() - self._store_at >= ALL_SECONDS or self._problem:
            return True
        unlisted = self._studies.keys() - self._listed.keys()
        return any(self._studies[name].glance.state == "running" for name in unlisted)

    def _placed(self, glance: Glance, listed: ListedExperiment | None) -> Glance:
        """With what the store says of the study as a whole."""
        if listed is None:
            return replace(glance, reading="" if self._folders else glance.reading)
        marks = {name: words(text) for name, text in marks_in(listed.tags).items()}
        return replace(
            glance,
            runs=listed.runs,
            page=view_page(listed.experiment_id),
            changed=seconds(listed.last),
            owner=marks.get("owner", ""),
            folder=marks.get("folder", ""),
        )

    def _in_order(self) -> list[FollowedStudy]:
        """Those that train first, then those that changed last."""
        return sorted(
            (study for study in self._studies.values() if study.name in self._listed),
            key=lambda study: (study.glance.state != "running", -(study.glance.changed or 0.0)),
        )

    def _show(self) -> None:
        self.looked_at = time.time()
        glances = tuple(
            sorted(
                (study.glance for study in self._studies.values()),
                key=lambda one: (one.state != "running", -(one.changed or 0.0), one.name),
            )
        )
        if glances != self.seen.studies or self._problem != self.seen.problem:
            self.seen = Seen(self.seen.number + 1, time.time(), glances, self._problem)
