"""A config is counted once, with the runs that it has, whatever number of trials the store holds of it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from dashboards.analysis.configs import distinct
from dashboards.analysis.strata import Stratum
from dashboards.tables.comparison import Comparison, comparison
from dashboards.tables.formats import render
from dashboards.tables.grids import grids
from studies.records import Cause, RunRecord
from studies.spec import Objective
from tests.dashboards.generated import a_record, pool

GOLD = Objective(metric="gold")
BLOCKS = range(3)
CONFIRMED = pool({"sigmoid": 0.0, "ipo": 0.1}, configs=8, blocks=BLOCKS, confirm=range(20, 30))
# Every run of a pool with a key of its own, as in a store.
STORED = [r.model_copy(update={"key": f"{r.trial}-{r.block}-{r.seed}"}) for r in CONFIRMED]


def again(run: RunRecord, trial: int, **changes: Any) -> RunRecord:
    """The same run as an earlier version kept it for another trial of the same config."""
    return run.model_copy(update={"trial": trial, "run_id": f"{run.run_id} again as {trial}", **changes})


def table(records: Sequence[RunRecord], planned: int = 8) -> Comparison:
    strata = [Stratum(name, "clean", (name,), planned, len(BLOCKS)) for name in ("sigmoid", "ipo")]
    return comparison(
        records,
        GOLD,
        strata,
        baseline="sigmoid",
        source="embedded",
        kl_budgets={"clean": (1.0, 2.0)},
    )


def numbers(found: Comparison) -> Comparison:
    """All of it but which of several MLflow runs of the same training are named."""
    return replace(found, rows=tuple(replace(row, run_ids={}) for row in found.rows))


def test_no_count_and_no_number_depends_on_how_often_a_config_was_asked_for() -> None:
    """Failures, stability, best of n, shares, frontier, budgets and differences: as without the repetitions."""
    repeated = [again(r, 100 + 10 * r.trial + i) for r in STORED if r.variant == "ipo" for i in range(3)]
    once, often = table(STORED), table([*STORED, *repeated])
    assert numbers(often) == numbers(once)
    assert once.rows[1].space is not None
    assert once.rows[1].difference is not None
    assert [(row.trials_done, row.failures.n) for row in often.rows] == [(8, 8), (8, 8)]
    for form in ("csv", "json"):
        lines = [render(one, form).splitlines() for one in (once, often)]
        assert len(lines[0]) == len(lines[1])
    assert render(once, "csv") == render(often, "csv")


def test_one_config_that_failed_for_160_trials_is_one_failure() -> None:
    one = a_record(Cause.COLLAPSED, variant="ipo", knobs={"beta": 0.1}, key="same")
    row = table([again(one, trial) for trial in range(160)], planned=1).rows[1]
    assert (row.failures.k, row.failures.n, row.trials_done, row.trials_planned) == (1, 1, 1, 1)
    assert row.stability is None


def test_runs_of_one_config_on_several_blocks_are_its_runs_whichever_trial_has_them() -> None:
    mine = [r for r in STORED if (r.variant, r.phase) == ("ipo", "unbiased")]
    dealt = [again(r, r.trial + 50 * r.block) for r in mine]
    assert table(dealt).rows[1].trials_done == 8
    assert table(dealt).rows[1].mean == pytest.approx(table(mine).rows[1].mean)


def test_a_confirm_run_judges_the_config_that_it_has_whatever_its_number() -> None:
    best = table(STORED).rows[1].best
    assert best is not None
    twins = [again(r, 70) for r in STORED if (r.variant, r.trial) == ("ipo", best.trial) and r.phase == "unbiased"]
    moved = [again(r, 70) if (r.variant, r.phase) == ("ipo", "confirm") else r for r in STORED]
    assert numbers(table([*moved, *twins])) == numbers(table(STORED))


def test_two_configs_with_one_number_are_two_configs() -> None:
    """Numbers begin anew where a study file is edited."""
    runs = [
        a_record(trial=0, run_id=f"r{beta}", key=f"k{beta}", knobs={"beta": beta}, metrics={"gold": beta})
        for beta in (0.1, 0.2, 0.3)
    ]
    found = comparison(runs, GOLD, [Stratum("sigmoid", "clean", ("sigmoid",), 3)])
    assert (found.rows[0].trials_done, found.rows[0].failures.n) == (3, 3)
    assert dict(found.rows[0].knobs) == {"beta": 0.3}
    assert len({run.trial for run in distinct(runs)}) == 3


def test_a_fixed_point_that_shares_its_run_with_a_sampled_one_is_no_config_of_its_own() -> None:
    """It leaves to base what the other says; the space keeps its point."""
    fixed = a_record(trial=0, run_id="a", key="same", phase="fixed", knobs={"beta": 0.1}, metrics={"gold": 1.0})
    both = {"beta": 0.1, "learning_rate": 1e-5}
    sampled = a_record(trial=3, run_id="b", key="same", phase="unbiased", knobs=both, metrics={"gold": 1.0})
    confirm = a_record(trial=3, run_id="c", key="fresh", block=5, phase="confirm", knobs=both, metrics={"gold": 1.5})
    (run, judge) = distinct([fixed, sampled, confirm])
    assert (run.trial, run.phase, judge.trial) == (0, "unbiased", 0)
    assert distinct([run, judge]) == (run, judge)
    row = comparison([fixed, sampled, confirm], GOLD, [Stratum("sigmoid", "clean", ("sigmoid",), 1)]).rows[0]
    assert row.trials_done == 1
    assert row.best is not None
    assert (row.best.basis, row.best.estimate.value) == ("confirmed", 1.5)


def test_of_two_states_of_one_run_the_further_one_counts() -> None:
    done = a_record(trial=4, run_id="done", key="same", knobs={"beta": 0.1}, metrics={"gold": 1.0})
    for cause in (Cause.PAUSED, Cause.WORKER_LOST, None):
        other = a_record(cause, trial=1, run_id="other", key="same", knobs={"beta": 0.1})
        row = comparison([other, done], GOLD, [Stratum("sigmoid", "clean", ("sigmoid",), 1)]).rows[0]
        assert (row.trials_done, row.stopped, row.lost) == (1, 0, 0)


def test_the_order_of_records_changes_nothing() -> None:
    records = [*STORED, *(again(r, 200 + r.trial) for r in STORED)]
    wanted = table(records)
    for seed in range(3):
        assert table(random.Random(seed).sample(records, len(records))) == wanted


def test_records_without_repetitions_are_left_as_they_are() -> None:
    mixed = random.Random(0).sample(STORED, len(STORED))
    assert all(a is b for a, b in zip(distinct(mixed), mixed, strict=True))


def test_a_cell_of_a_grid_counts_configs() -> None:
    knobs = {"beta": 0.1, "learning_rate": 1e-5}
    fine = a_record(run_id="a", key="a", knobs=knobs, metrics={"gold": 1.0})
    broken = a_record(Cause.COLLAPSED, trial=1, run_id="b", key="b", knobs={**knobs, "lora_r": 4})
    (grid,) = grids([fine, *(again(broken, n) for n in range(1, 9))], GOLD, "beta", "learning_rate")
    (cell,) = grid.cells.values()
    assert (cell.trials, cell.failed) == (2, 1)
