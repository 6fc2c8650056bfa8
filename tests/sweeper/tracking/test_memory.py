"""The tracker in memory knows the same of runs as the one that writes to MLflow."""

from __future__ import annotations

from pathlib import Path

from studies.records import Cause
from sweeper.stores import Tracker as AnyTracker
from sweeper.tracking.memory import MemoryTracker
from sweeper.tracking.tracker import Tracker
from tests.sweeper.tracking.test_tracker import SPEC, a_config, a_result


def acts(tracker: AnyTracker) -> list[object]:
    """What is known after runs that ended well, failed, were superseded and are in training."""
    config = a_config()
    failed = tracker.start_run(config, 1, "unbiased")
    tracker.finish_run(failed, config, a_result(config, cause=Cause.WORKER_LOST))
    tracker.supersede(failed, "tried again")
    again = tracker.start_run(config, 2, "unbiased")
    tracker.log_curve(again, [(10, {"loss": 0.7})])
    tracker.finish_run(again, config, a_result(config))
    other = a_config(trial=1)
    paused = tracker.start_run(other, 1, "unbiased")
    tracker.finish_run(paused, other, a_result(other, cause=Cause.PAUSED, message="at a rung"), rung=120)
    tracker.supersede(tracker.start_run(a_config(trial=2), 1, "unbiased"), "interrupted")
    tracker.start_run(a_config(trial=3), 1, "confirm")
    unset = {"run_id": "", "started": None, "ended": None}
    return [run.model_copy(update=unset) for run in tracker.known_runs()]


def test_memory_knows_what_mlflow_knows(tmp_path: Path) -> None:
    real = Tracker("sqlite:///mlflow.db", tmp_path)
    real.open_study(SPEC, "study: pilot\n")
    assert acts(MemoryTracker("pilot")) == acts(real)
