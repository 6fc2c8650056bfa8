"""A report of generated records, with whatever a test changes of it."""

from __future__ import annotations

from typing import Any

from dashboards.figures.gallery import figures, first_figures
from dashboards.report.page import Report, ShownSamples
from studies.records import RunRecord, Shown
from tests.dashboards.generated import pool
from tests.dashboards.materials import material_of

SAMPLE = Shown(prompt="a review :", before="bad .", after="good .", gold_before=-1.0, gold_after=2.5, cut_after=True)


def report_of(records: list[RunRecord] | None = None, **changes: Any) -> Report:
    """A whole report: table, all figures, samples."""
    used = records or pool({"sigmoid": 0.0, "ipo": 0.2, "hinge": -0.1}, configs=12, confirm=range(20, 26))
    used = [r.model_copy(update={"started": 1.7e9 + 60 * i, "ended": 1.7e9 + 60 * i + 90}) for i, r in enumerate(used)]
    material = material_of(used)
    fields: dict[str, Any] = {
        "study": "pool",
        "question": "Which loss?",
        "records": used,
        "table": material.comparison,
        "gains": first_figures(material),
        "figures": list(figures(material)),
        "samples": [ShownSamples("ipo", "clean", 3, "0123456789abcdef", (SAMPLE,))],
        "asked": '{"study": "pool"}',
        "page": None,
    }
    return Report(**(fields | changes))
