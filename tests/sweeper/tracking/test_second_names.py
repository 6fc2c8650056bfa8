"""A file of a run that has a second name, as after `cp -al runs backup`, is not sent to MLflow, and it is said why."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from studies.records import DataConfig, EvaluationConfig, RunConfig
from studies.spec import Objective, StudySpec, Variant
from sweeper.tracking.tracker import Tracker

SPEC = StudySpec(study="small", base={}, variants={"ipo": Variant()}, objective=Objective(metric="gold"))
CONFIG = RunConfig(
    study="small",
    variant="ipo",
    scenario="clean",
    trial=0,
    block=0,
    seed=0,
    settings={},
    knobs={},
    data=DataConfig(),
    evaluation=EvaluationConfig(),
)


def test_a_file_with_a_second_name_is_not_attached_and_the_reason_is_told(tmp_path: Path, empty_mlflow: Path) -> None:
    shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db")
    said: list[str] = []
    tracker = Tracker(None, tmp_path, said.append)
    tracker.open_study(SPEC, "study: small")
    run_id = tracker.start_run(CONFIG, 1, "search")
    folder = tmp_path / "runs" / "small" / CONFIG.key
    files = [folder / "adapter" / "adapter_config.json", folder / "samples" / "scores.json"]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_text("{}")
        os.link(file, tmp_path / file.name)
    tracker.log_adapter(run_id, CONFIG.key)
    tracker.log_samples(run_id, CONFIG.key)
    tracker.attach_samples(run_id, folder)
    assert len(said) == 3
    for told in said:
        assert "second name (hard link)" in told
        assert "no trainer has written" not in told
        assert sum(str(file) in told for file in files) == 1
    assert not [*(tmp_path / "mlartifacts").rglob("scores.json"), *(tmp_path / "mlartifacts").rglob("adapter_c*")]
    for file in files:
        (tmp_path / file.name).unlink()
    said.clear()
    tracker.log_adapter(run_id, CONFIG.key)
    tracker.log_samples(run_id, CONFIG.key)
    assert said == []
    assert len([*(tmp_path / "mlartifacts").rglob("scores.json"), *(tmp_path / "mlartifacts").rglob("adapter_c*")]) == 2
