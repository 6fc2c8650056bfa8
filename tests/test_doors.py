"""Each room has doors: what other programs import from stays where it is."""

from __future__ import annotations

import importlib

import pytest

DOORS = {
    "studies.records": ("DataConfig", "RunConfig", "RunRecord", "RunResult", "Measurement", "Cause", "State"),
    "studies.spec": ("StudySpec", "load_study", "shipped_studies", "resolve_run"),
    "trainers.interface": ("Job", "TRAINERS"),
    "trainers.data": ("check_data", "load_pairs", "read_local", "DataError"),
    "sweeper": ("load", "Study", "Answer", "Best", "Estimate", "Figure", "Plan", "Refused", "Status"),
    "sweeper.cli": ("app", "main"),
    "sweeper.executors": ("Inline", "Process", "Executor"),
}


@pytest.mark.parametrize("door", DOORS)
def test_a_door_gives_its_names(door: str) -> None:
    module = importlib.import_module(door)
    assert [name for name in DOORS[door] if not hasattr(module, name)] == []
