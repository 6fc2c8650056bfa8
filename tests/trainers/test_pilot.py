"""The pilot of a pack: what it measures with, whatever the runs look like."""

from __future__ import annotations

from pathlib import Path

from tests.trainers.pack_runs import config
from trainers.dpo import DPOTrainerWorker
from trainers.interface import Job


def test_a_run_of_fewer_steps_than_a_pilot_has_passes_has_a_pilot(tmp_path: Path) -> None:
    jobs = [Job(config("sigmoid", max_steps=2, beta=0.1 * (1 + i)), tmp_path / str(i)) for i in range(2)]
    pilot = DPOTrainerWorker().pilot(jobs, workers=1)
    assert [t.placement.together for t in pilot.timings if not t.placement.bf16] == [1, 2]
    assert pilot.passes == 2
    assert not list(tmp_path.rglob("result.json"))
