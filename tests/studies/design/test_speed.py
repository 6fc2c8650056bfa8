"""What the measurement of a study's speed is known by."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from studies.design.speed import speed_asked
from studies.spec import Study, load_study

RESULTS = Path(__file__).parents[3] / "studies" / "results"


@pytest.mark.parametrize("name", ["guide-clean", "guide-binary", "guide-margins"])
def test_speeds_that_were_recorded_answer_what_is_asked_today(name: str) -> None:
    """A field that data get later must leave them what they were, or every user's speeds would be measured again."""
    with gzip.open(RESULTS / name / "records.jsonl.gz", "rt") as lines:
        recorded = [one["asked"] for one in json.loads(next(lines))["speed"]]
    asked = speed_asked(Study.of(load_study(name, ())))
    assert asked is not None
    assert asked.digest in recorded
