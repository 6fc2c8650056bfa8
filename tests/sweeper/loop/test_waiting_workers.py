"""A sweep says how many of its workers wait for their place, and for what."""

from __future__ import annotations

from pathlib import Path

from studies.spec import Study, load_study
from sweeper.executors import WorkerState
from sweeper.loop.limits import Limits
from sweeper.loop.progress import Tally
from sweeper.loop.sweep import _View
from sweeper.planning.placement import Packs


def test_workers_that_wait_are_counted_with_what_the_first_waits_for(tmp_path: Path) -> None:
    study = Study.of(load_study("quickstart"))
    packs, limits = Packs(study, tmp_path, 3, 3, lambda _: None), Limits(study.spec.budget, tmp_path, 0.0)
    told: list[str] = []
    view = _View(packs, 10, limits, told.append)

    def doing() -> str:
        return view.progress(0.0, Tally(), None, 0).doing

    for number in range(3):
        view.take(WorkerState(f"worker-{number}", "asked", "a Slurm job"))
    assert doing() == ""
    for number in range(2):
        view.take(WorkerState(f"worker-{number}", "waiting", f"Slurm job {number} (Resources)"))
    view.take(WorkerState("worker-2", "here", "Slurm job 2 on n1"))
    assert doing() == "2 of 3 workers wait: Slurm job 0 (Resources)"
    view.take(WorkerState("worker-0", "here", "Slurm job 0 on n1"))
    view.take(WorkerState("worker-2", "gone", "Slurm job 2 on n1", "its node failed"))
    assert doing() == "1 of 2 workers waits: Slurm job 1 (Resources)"
    assert told == []


def test_why_workers_end_before_they_come_is_told_once(tmp_path: Path) -> None:
    told: list[str] = []
    study = Study.of(load_study("quickstart"))
    packs, limits = Packs(study, tmp_path, 3, 3, lambda _: None), Limits(study.spec.budget, tmp_path, 0.0)
    view = _View(packs, 10, limits, told.append)
    for number in range(3):
        for state in ("asked", "waiting", "gone"):
            view.take(WorkerState(f"worker-{number}", state, f"Slurm job {number}", "no torch" * (state == "gone")))
    view.take(WorkerState("gpu7", "gone", "process 7", "it does not see the folder"))
    assert told == [
        "worker-0 (Slurm job 0) ended before it could take a run: no torch",
        "gpu7 (process 7) ended before it could take a run: it does not see the folder",
    ]
