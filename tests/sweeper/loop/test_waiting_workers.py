"""A sweep says how many of its workers wait for their place and for what, and what it waits for as it stops."""

from __future__ import annotations

from pathlib import Path

from studies.spec import Study, load_study
from sweeper.executors import WorkerNews, WorkerState
from sweeper.loop.limits import Limits
from sweeper.loop.progress import Tally
from sweeper.loop.sweep import _View
from sweeper.planning.placement import Packs
from trainers.interface import Doing


def test_workers_that_wait_are_counted_with_what_the_first_waits_for(tmp_path: Path) -> None:
    study = Study.of(load_study("quickstart"))
    packs, limits = Packs(study, tmp_path, 3, 3, lambda _: None), Limits(study.spec.budget, tmp_path, 0.0)
    told: list[str] = []
    view = _View(packs, 10, limits, told.append)

    def doing() -> str:
        return view.progress(0.0, Tally(), None, 0, False).doing

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


def test_a_sweep_that_stops_says_for_how_many_runs_it_waits_how_long_and_what_they_do(tmp_path: Path) -> None:
    study = Study.of(load_study("quickstart"))
    packs, limits = Packs(study, tmp_path, 3, 3, lambda _: None), Limits(study.spec.budget, tmp_path, 0.0)
    view = _View(packs, 10, limits, lambda _: None)
    view.take(WorkerNews("worker-0", Doing("loading the model"), at=100.0))
    assert view.progress(103.0, Tally(), None, 2, True).doing == (
        "waiting for 2 runs to stop (0 s); loading the model (3 s)"
    )
    view.take(WorkerNews("worker-0", Doing(""), at=109.0))
    assert view.progress(110.0, Tally(), None, 1, True).doing == "waiting for 1 run to stop (7 s)"
    assert view.progress(111.0, Tally(), None, 0, True).doing == ""
