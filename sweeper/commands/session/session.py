"""An open study."""

from __future__ import annotations

from dataclasses import dataclass

from studies.design.answers import Compare
from studies.design.measurers import asked_of
from studies.spec import Study
from sweeper.executors import EXECUTORS, Executor, Workplace
from sweeper.folder.names import LOGS
from sweeper.folder.paths import StudyPaths
from sweeper.folder.steering.border import Border
from sweeper.loop.progress import Screen
from sweeper.loop.recovery import Past
from sweeper.ownership.lease import Lease
from sweeper.recorded.known import Known, is_ours_by
from sweeper.search.search import Search
from sweeper.tracking.tracker import Tracker


@dataclass(frozen=True)
class Session:
    """An open study: its stores and their content, the executor, the border, and what says that nobody else has it."""

    study: Study
    where: StudyPaths
    executor: str
    workers: int | None
    screen: Screen
    lease: Lease
    border: Border
    search: Search
    tracker: Tracker
    known: Known
    compare: Compare

    def pool(self) -> Executor:
        """Start an executor with as many workers as the user or the study says."""
        spec = self.study.spec
        place = Workplace.of(spec, self.workers, self.where.runs / LOGS, self.screen.tell_user)
        return self.border.watch(EXECUTORS[self.executor](spec.trainer, place))

    def past(self, known: Known) -> Past:
        """The runs of `known` that a sweep resumes from."""
        is_ours = is_ours_by(self.known.keys, self.tracker.strict, self.compare)
        return Past(known.under(asked_of(self.study.spec)), is_ours, self.where.runs, self.screen.tell_user)
