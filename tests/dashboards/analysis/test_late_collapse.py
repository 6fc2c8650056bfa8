"""Late collapse of strata, from curves whose answer is known by construction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from dashboards.analysis.strata import Stratum
from dashboards.tables.comparison import Comparison, comparison
from dashboards.tables.formats import FORMATS, render
from studies.records import Cause, RunRecord
from studies.spec import Objective
from tests.dashboards.generated import a_record, gold_of

RISES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.6, 0.6)
FALLS = (0.1, 0.3, 0.5, 0.5, 0.5, 0.2, 0.2, 0.2)
DIPS = (0.5, 0.5, 0.5, 0.1, 0.1, 0.4, 0.4, 0.4)


def measured(variant: str, curve: Sequence[float], trial: int, block: int, arm: str, **changes: Any) -> RunRecord:
    """A run with a curve in U: both halves alike, raw gold as the store has it."""
    raw = [gold_of(block, u) for u in curve]
    points = tuple((15 * i, gold, gold) for i, gold in enumerate(raw, start=1))
    fields = {
        "run_id": f"{variant}-{trial}-{block}-{arm}",
        "metrics": {"gold": raw[-1]},
        "curve_halves": {"gold": points},
    }
    return a_record(variant=variant, trial=trial, block=block, arm=arm, **(fields | changes))


def study(variant: str, best: Sequence[float], other: Sequence[float], **changes: Any) -> list[RunRecord]:
    """Two configs on blocks 0 to 2, and confirm runs of the first, which is the better one, on blocks 3 to 6."""
    own = [measured(variant, c, t, b, "unbiased", **changes) for t, c in ((0, best), (1, other)) for b in range(3)]
    return own + [measured(variant, best, 0, block, "confirm", **changes) for block in range(3, 7)]


def compared(records: Sequence[RunRecord]) -> Comparison:
    strata = [Stratum(name, "clean", (name,), 2, 3) for name in dict.fromkeys(r.variant for r in records)]
    return comparison(records, Objective(metric="gold"), strata, source="embedded")


def test_the_best_speaks_by_its_confirm_runs_and_all_by_the_unbiased_arm() -> None:
    sigmoid, ipo = compared([*study("sigmoid", RISES, FALLS), *study("ipo", DIPS, FALLS)]).falls
    assert sigmoid.best is not None
    assert sigmoid.configs is not None
    assert ipo.best is not None
    assert (sigmoid.best.fall.value, sigmoid.configs.fall.value) == pytest.approx((0.0, 0.15))
    assert (ipo.best.fall.value, ipo.best.regained.value) == pytest.approx((0.1, 0.3))
    assert (sigmoid.best.fall.blocks, sigmoid.configs.fall.blocks, sigmoid.configs.configs) == (4, 3, 2)
    assert sigmoid.best.run_ids == tuple(f"sigmoid-0-{block}-confirm" for block in range(3, 7))
    assert (sigmoid.unit, sigmoid.checkpoints) == ("U", (8, 8))


def test_a_lower_objective_falls_upwards() -> None:
    records = [
        a_record(
            run_id=f"{block}",
            block=block,
            metrics={"margin_share": FALLS[-1]},
            curve_halves={"margin_share": [(i, -u, -u) for i, u in enumerate(FALLS)]},
        )
        for block in range(3)
    ]
    objective = Objective(metric="margin_share", direction="minimize")
    (found,) = comparison(records, objective, [Stratum("sigmoid", "clean", ("sigmoid",), 1, 3)]).falls
    assert found.best is None  # there is no confirm phase, and who chose it speaks for it
    assert found.configs is not None
    assert found.configs.fall.value == pytest.approx(0.3)


def test_an_objective_without_halves_leaves_it_to_gold() -> None:
    """Gold that falls while pairs are ranked better and better is over-optimisation as such."""
    gain = {"metrics": {"ranking_gain": 0.1}}
    records = study("sigmoid", FALLS, FALLS, **gain)
    strata = [Stratum("sigmoid", "clean", ("sigmoid",), 2, 3)]
    (found,) = comparison(records, Objective(metric="ranking_gain"), strata, source="embedded").falls
    assert (found.metric, found.unit) == ("gold", "U")
    assert found.best is not None
    assert found.best.fall.value == pytest.approx(0.3)


def test_configs_that_failed_are_under_failed() -> None:
    broken = [measured("sigmoid", FALLS, 2, block, "unbiased", cause=Cause.COLLAPSED) for block in range(3)]
    (found,) = compared([*study("sigmoid", RISES, FALLS), *broken]).falls
    assert found.configs is not None
    assert found.configs.configs == 2


@pytest.mark.parametrize(
    "changes", [{"curve_halves": {}}, {"curve_halves": {"gold": [(i, 0.0, 0.0) for i in range(7)]}}]
)
def test_without_enough_evaluations_there_is_no_section(changes: dict[str, Any]) -> None:
    table = compared(study("sigmoid", RISES, FALLS, **changes))
    assert table.falls == ()
    assert all("Late collapse" not in render(table, format) for format in FORMATS)


def test_one_run_without_a_curve_leaves_its_group_out() -> None:
    records = study("sigmoid", RISES, FALLS)
    (found,) = compared([records[0].model_copy(update={"curve_halves": {}}), *records[1:]]).falls
    assert found.configs is None
    assert found.best is not None


def test_the_section_names_units_blocks_and_what_is_regained() -> None:
    table = compared([*study("sigmoid", RISES, FALLS), *study("ipo", DIPS, FALLS)])
    text = render(table, "markdown")
    assert "Late collapse:" in text
    assert "| Loss | Evaluations | Best: fall of gold (U) | Best: regained (U) | Best: blocks | Configs |" in text
    assert "| ipo | 8 | +0.1" in text
    assert "Late collapse" in render(table, "text", 170)
    assert "sigmoid-0-3-confirm" in render(table, "html")
    assert json.loads(render(table, "json"))["falls"][1]["best"]["regained"]["blocks"] == 4
