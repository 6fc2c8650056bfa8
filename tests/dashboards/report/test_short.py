"""The short table that the live page shows is that of the whole comparison, which asks more of the runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from dashboards.report.study import comparison_in, short_in
from dashboards.store.records_file import Recorded
from dashboards.tables.comparison import Short
from studies.spec import Study, load_study, shipped_studies
from tests.benchmarks.ten_thousand import BLOCKS, CONFIRM, LOSSES, study_text
from tests.dashboards.generated import pool
from tests.dashboards.guide.test_verdicts import by_gain, noise


def by_block(folder: Path) -> tuple[Study, Recorded]:
    """A study without replicates, whose runs of several blocks chose and of others judged."""
    (folder / "mine.yaml").write_text(study_text(6))
    gains = {name: 0.04 * i for i, name in enumerate(LOSSES)}
    runs = pool(gains, configs=6, blocks=BLOCKS, confirm=CONFIRM, scenario="clean")
    return Study.of(load_study(folder / "mine.yaml")), Recorded("ten-thousand", tuple(runs), ("One aside.",), ())


def with_replicates(_: Path) -> tuple[Study, Recorded]:
    study = Study.of(load_study(shipped_studies()["guide-quality"], ["replicates=4"]))
    runs = by_gain(study, lambda v, c, r, t: 0.5 + noise(r, t, 0.1, len(v) + len(c)), points=5)
    return study, Recorded("guide-quality", tuple(runs), (), ())


@pytest.mark.parametrize("made", [by_block, with_replicates])
def test_it_is_that_of_the_whole_comparison_number_by_number(made: object, tmp_path: Path) -> None:
    assert callable(made)
    study, found = made(tmp_path)
    whole = comparison_in(study, found)
    assert short_in(study, found) == Short(whole.tuned, whole.answers, whole.aside, whole.speed)
    assert any(loss.difference is not None for loss in whole.tuned[0].losses)
