"""A desk for a list of jobs in this process: for checks and tests. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from studies.records import RunResult
from trainers.interface import Decision, Job, News, Trainer, pack_key

Answer = Callable[[str, int, Mapping[str, float]], Decision]


def _go_on(_key: str, _step: int, _metrics: Mapping[str, float]) -> Decision:
    return Decision.CONTINUE


class JobList:
    """Jobs in order, the results handed in, and the news. `answer` decides on reports."""

    def __init__(self, jobs: Sequence[Job], answer: Answer = _go_on) -> None:
        self.waiting = list(jobs)
        self.results: dict[str, RunResult] = {}
        self.news: list[News] = []
        self._answer = answer

    def take(self, like: str) -> Job | None:
        """See `WorkQueue.take`."""
        job = next((job for job in self.waiting if pack_key(job.config) == like), None)
        if job is not None:
            self.waiting.remove(job)
        return job

    def report(self, key: str, step: int, metrics: Mapping[str, float]) -> Decision:
        """See `WorkQueue.report`."""
        return self._answer(key, step, metrics)

    def decision(self, key: str) -> Decision:
        """See `WorkQueue.decision`: here only reports are answered."""
        return Decision.CONTINUE

    def finish(self, result: RunResult) -> None:
        """See `WorkQueue.finish`."""
        self.results[result.key] = result

    def tell(self, news: News) -> None:
        """See `WorkQueue.tell`."""
        self.news.append(news)


def train_all(trainer: Trainer, jobs: Sequence[Job], answer: Answer = _go_on) -> list[RunResult]:
    """Train all jobs, together where they can be, and give their results in the same order."""
    desk = JobList(jobs, answer)
    while desk.waiting:
        trainer.train(desk.waiting.pop(0), desk)
    return [desk.results[job.config.key] for job in jobs]
