"""Words of other people in tables: no format acts on them, whatever program opens it."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from itertools import pairwise

import pytest

from dashboards.analysis.strata import Stratum
from dashboards.tables.comparison import comparison
from dashboards.tables.formats import FORMATS, render, render_grids
from dashboards.tables.grids import grids
from studies.spec import Objective
from studies.text.visible import visible
from tests.dashboards.generated import a_record

Render = Callable[[str, str], str]
GOLD = Objective(metric="gold")
FORMULAS = [
    "=cmd|' /C calc'!A0",
    "+1+cmd",
    "-1+cmd",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    " =1",
    " \t=1",
    "\u00a0=1",
    "\uff1d1",
]
TAG = "<img src=x onerror=alert(1)> [here](javascript:x) ![i][r] `a|b` \\| &lt;b&gt;\nnext | row\r\u202eleft\x1b[31m"


def grid(word: str, format: str) -> str:
    records = [a_record(trial=i, knobs={"beta": value, "tau": 0.5 - i}) for i, value in enumerate((word, 0.1))]
    return render_grids(grids(records, GOLD, "beta", "tau"), GOLD, format)


def table(word: str, format: str) -> str:
    record = a_record(knobs={"beta": word}, facts={"judge": f"function {word}"})
    return render(comparison([record], GOLD, [Stratum("ipo", "clean", ("ipo",), 1)], aside=[f"aside {word}"]), format)


@pytest.mark.parametrize("word", FORMULAS)
def test_text_that_a_spreadsheet_would_compute_is_marked_as_text_in_csv(word: str) -> None:
    cells = [row["row"] for row in csv.DictReader(io.StringIO(grid(word, "csv")))]
    assert sorted(cells) == ["'" + visible(word), "0.1"]


def test_numbers_stay_numbers_in_csv() -> None:
    assert [row["column"] for row in csv.DictReader(io.StringIO(grid("x", "csv")))] == ["0.5", "-0.5"]


@pytest.mark.parametrize("render_", [grid, table])
def test_in_markdown_no_word_makes_a_tag_a_link_or_a_row(render_: Render) -> None:
    text = render_(TAG, "markdown")
    assert "&lt;img src=x onerror=alert(1)>" in text
    assert not re.search(r"<[A-Za-z/!?]", text)
    assert not re.search(r"(?<!\\)\][\[(:]", text)
    assert "&amp;lt;b&amp;gt;" in text
    lines = text.splitlines()
    for before, line in pairwise(lines):
        if before.startswith("|") and line.startswith("|"):
            assert cells(before) == cells(line)
    assert not [line for line in lines if line.startswith("next")]


def cells(line: str) -> int:
    """How many cells a line of a table has by the rules of GitHub: a bar behind a backslash that stands for itself
    is none.
    """
    return re.sub(r"\\[!-/:-@\[-`{-~]", "", line).count("|")


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "html"])
@pytest.mark.parametrize("render_", [grid, table])
def test_no_format_holds_what_acts_on_a_terminal(render_: Render, format: str) -> None:
    text = render_(TAG, format)
    assert visible(text) == text
    assert "left" in text or (render_ is table and format == "csv")  # which has no words of the study
    if format == "json":
        assert json.loads(text)


@pytest.mark.parametrize("render_", [grid, table])
def test_words_of_people_who_mean_well_stay_as_they_are(render_: Render) -> None:
    word = "p < 0.05 & [0.1, 0.2] Größe_模型 a*b"
    for format in ("text", "markdown"):
        assert "p < 0.05 & [0.1, 0.2] Größe_模型" in " ".join(render_(word, format).split())
