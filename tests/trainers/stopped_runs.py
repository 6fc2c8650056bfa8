"""Work queues that stop runs while a worker does something, for tests of what is cut then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from studies.records import RunConfig, RunResult
from trainers.dpo import DPOTrainerWorker
from trainers.interface import Decision, Doing, Job, News, Placement
from trainers.job_list import JobList


class StoppedWhile(JobList):
    """Stops the runs `of` once their worker says that it does `what` for the `time`-th time; counts how often it is
    asked after that.
    """

    def __init__(self, jobs: Sequence[Job], what: str, time: int = 1, of: Callable[[str], bool] = bool) -> None:
        super().__init__(jobs)
        self._what, self._left, self._of = what, time, of
        self.asked = 0

    def tell(self, news: News) -> None:
        super().tell(news)
        self._left -= isinstance(news, Doing) and news.what.startswith(self._what)

    def decision(self, key: str) -> Decision:
        self.asked += self._left <= 0
        return Decision.STOP if self._left <= 0 and self._of(key) else Decision.CONTINUE


def stopped_while(
    what: str, folder: Path, runs: Sequence[RunConfig], together: int, time: int = 1, of: Callable[[str], bool] = bool
) -> dict[str, RunResult]:
    """The results of runs of a new worker, by key."""
    place = Placement(together=together)
    queue = StoppedWhile([Job(c, folder / c.key, placement=place) for c in runs], what, time, of)
    worker = DPOTrainerWorker()
    while queue.waiting:
        worker.train(queue.waiting.pop(0), queue)
    assert queue.asked > 0, f"nobody said: {what}"
    return queue.results
