"""One study as the page shows it, kept up to date: what is new of its runs is read, and what follows is made anew."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import yaml

from dashboards.analysis.configs import distinct
from dashboards.live.ports import Event, Told
from dashboards.live.reading.answered import answer_view, material
from dashboards.live.reading.figures import figures_view
from dashboards.live.reading.followed import Followed, HowFar
from dashboards.live.reading.happening import Happened
from dashboards.live.reading.words import words
from dashboards.live.views import Glance
from dashboards.report.progress import status_counts
from dashboards.report.study import short_of
from dashboards.store.connection import StoreError
from studies.spec import Study, StudyError, load_study
from studies.text.lines import first_line, first_line_of

LEAST_SECONDS: Final = 2.0  # between two comparisons
SHARE: Final = 15.0  # a comparison is made again, and runs are looked at again, after so many times as long as it took
MOST_SECONDS: Final = 5.0  # between two looks at runs


class FollowedStudy:
    """A study. Belongs to one thread. `glance`: what is known of it."""

    def __init__(self, name: str, uri: str, folder: Path, told: Told) -> None:
        self._uri, self._folder, self._told = uri, folder, told
        self._followed, self._happened = Followed(uri, name), Happened()
        self._runs: Path | None = None
        self._news: Callable[[], Sequence[Event]] | None = None
        self._text = ""
        self._study: Study | None = None
        self._stale, self._due, self._look_due = True, 0.0, 0.0
        self._problems: dict[str, str] = {}
        again = f"sweeper run {told.file(name) or 'STUDY'}"
        self.glance = Glance(words(name), "", "unknown", None, frozenset(), None, 0, again, reading="not read yet")
        self.name = name

    def listen(self, runs: Path | None) -> None:
        """Take what its sweep tells; `runs`: its run folder, None where it is not here."""
        try:
            self._listen(runs)
            self._say("events")
        except Exception as error:  # one study that cannot be read keeps no other from being shown
            self._say("events", f"The page cannot read on: {_why(error)}")

    def _listen(self, runs: Path | None) -> None:
        if runs != self._runs:
            self._runs, self._news = runs, None if runs is None else self._told.follow(runs)
            self._happened = Happened()
        if runs is None or self._news is None:
            self.glance = replace(
                self.glance, sweep=None, state="unknown", paused=frozenset(), happening=self._happened.view()
            )
            return
        was_dead = self.glance.state == "dead"
        is_new = self._happened.take(self._news())
        sweep = self._told.sweep(runs)
        state = "unknown" if sweep is None else sweep.state
        dead = state == "dead"
        happening = self._happened.view(dead=dead) if is_new or dead != was_dead else self.glance.happening
        self.glance = replace(
            self.glance, sweep=sweep, state=state, paused=self._told.paused(runs), happening=happening
        )

    def read(self, show: Callable[[], None]) -> None:
        """Read what is new of its runs, and compare them anew where that is due. `show`: is called meanwhile."""

        def tell(read: int, all_: int) -> None:
            if all_ > 1000:
                self.glance = replace(self.glance, reading=f"{read:,} of {all_:,} runs read")
                show()

        try:
            if time.monotonic() >= self._look_due:
                self._look_for_a_share(tell)
            if self._stale and time.monotonic() >= self._due:
                self._compare_for_a_share()
            self._say("store")
        except StoreError as error:
            self._say("store", words(error))
        except StudyError as error:
            self._say("study", words(f"This version cannot read the study: {first_line_of(error)}"))
        except Exception as error:  # as in `listen`
            self._say("study", f"It cannot be compared: {_why(error)}")

    def _look_for_a_share(self, tell: HowFar) -> None:
        """Read what is new, which takes a while beside thousands of runs and a sweep that writes all the time."""
        began = time.monotonic()
        try:
            self._stale = self._followed.look(tell) or self._stale
        finally:
            self._look_due = time.monotonic() + min(SHARE * (time.monotonic() - began), MOST_SECONDS)

    def _compare_for_a_share(self) -> None:
        """Compare, and not again before many times as long as it took, also where it failed."""
        began = time.monotonic()
        try:
            self._compare()
            self._stale = False
        finally:
            self._due = time.monotonic() + max(LEAST_SECONDS, SHARE * (time.monotonic() - began))

    def _say(self, of: str, problem: str = "") -> None:
        """Show what is wrong with one of its sources; "" where nothing is any more."""
        self._problems[of] = problem
        shown = " ".join(filter(None, self._problems.values()))
        reading = "" if problem and of != "events" else self.glance.reading
        if (shown, reading) != (self.glance.problem, self.glance.reading):
            self.glance = replace(self.glance, problem=shown, reading=reading)

    def close(self) -> None:
        """Close what is open."""
        self._followed.close()

    def _compare(self) -> None:
        """Make all that follows from the runs anew. Raises StoreError and StudyError."""
        text = self._followed.study_text(self._folder)
        if not text:
            return self._say("study", "The store keeps no text of this study.")
        if text != self._text or self._study is None:
            self._study, self._text = _loaded(self.name, text, self._folder), text
        study = self._study
        answers = self._told.among(study, self._followed.records, self._followed.tags)
        records = distinct(answers.records)
        self.glance = replace(
            self.glance,
            question=words(study.spec.question or ""),
            material=material(study),
            counts=status_counts(study, records),
            answer=answer_view(short_of(study, answers, self._followed.reader)),
            figures=figures_view(records, study.spec.objective),
            notes=tuple(map(words, answers.notes())),
            reading="",
            read_at=time.time(),
        )
        self._say("study")


def _why(error: Exception) -> str:
    """What went wrong, in a line."""
    first = first_line(str(error), "")
    return words(f"{type(error).__name__}: {first}" if first else type(error).__name__)


def _loaded(name: str, text: str, folder: Path) -> Study:
    """The study that a sweep has kept, which is JSON: YAML would take some of its numbers for text."""
    with suppress(ValueError):  # of an earlier version
        text = yaml.safe_dump(json.loads(text), sort_keys=False, allow_unicode=True)
    return Study.of(load_study(folder / f"{name}.yaml", text=text, only_read=True))
