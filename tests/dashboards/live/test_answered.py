"""The overview's line and bars of a study say what its table says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dashboards.live.reading.answered import _bars, _beside, material
from dashboards.live.views import Answer, Bar, Table
from dashboards.tables.short import short_cells
from dashboards.tuned.answer import Cost, answer
from studies.spec import Study, load_study
from tests.dashboards.tuned.judged import WITHIN, compared, judged

GOOD, BAD = [0.6, 0.7, 0.65, 0.62, 0.7, 0.66], [0.1, 0.15, 0.05, 0.1, 0.12, 0.08]


SEVERAL = """
study: several
base: {model_name_or_path: MODEL, max_steps: 10}
data: {DATA}
variants: {sigmoid: {}, hinge: {}}
space: {beta: {values: [0.1, 0.2]}}
scenarios: {clean: {}, small: {rows: 64}, other: {OTHER}}
budget: {trials: 1}
evaluate: {max_new_tokens: 32}
objective: {metric: ranking_gain}
"""


def best(*bars: Bar) -> str:
    return Answer((Table("clean", (), (), (), "", bars, "gold"),), ()).best


def test_win_rates_are_drawn_as_the_table_prints_them() -> None:
    found = compared(*judged({"sigmoid": BAD, "hinge": GOOD}))
    said = answer(found, WITHIN, Cost(4))
    cells = short_cells(found, said)
    column = cells.header.index("vs untrained")
    drawn = [f"{bar.value:.0f}% [{bar.low:.0f}, {bar.high:.0f}]" for bar in _bars(found, said)]
    assert drawn == [row[column] for row in cells.rows]


def test_what_is_drawn_beside_the_baseline_is_the_column_that_ranks() -> None:
    found = compared(*judged({"sigmoid": BAD, "hinge": GOOD}))
    said = answer(found, WITHIN, Cost(4))
    cells = short_cells(found, said)
    column = cells.header.index("vs sigmoid")
    drawn = ["-" if bar.value is None else f"{bar.value:.0f}% [{bar.low:.0f}, {bar.high:.0f}]"
             for bar in _beside(found, said)]  # fmt: skip
    assert drawn == [row[column] for row in cells.rows]
    assert drawn.count("-") == 1


@pytest.mark.parametrize(
    ("model", "data", "other", "said"),
    [
        ("some/model", "path: some/pairs, name: hard", "rows: 8", "Model: some/model. Pairs: some/pairs (hard)."),
        (
            "embedded",
            "path: embedded",
            "base: {model_name_or_path: embedded-gpt2}",
            "Models: embedded, embedded-gpt2. Pairs: embedded.",
        ),
    ],
)
def test_all_models_of_a_study_are_named_once_with_its_pairs(
    model: str, data: str, other: str, said: str, tmp_path: Path
) -> None:
    text = SEVERAL.replace("MODEL", model).replace("DATA", data).replace("OTHER", other)
    (tmp_path / "several.yaml").write_text(text)
    assert material(Study.of(load_study(tmp_path / "several.yaml"))) == said


@pytest.mark.parametrize("verdict", ["avoid: fragile", "no gain", "weak: not ranked", "not ranked"])
def test_no_loss_that_the_answer_speaks_against_is_named_at_the_top(verdict: str) -> None:
    against = Bar("dpo", verdict, 0.9, 0.8, 1.0)
    assert best(against) == ""
    assert (
        best(against, Bar("ipo", "undecided", 0.5, 0.4, 0.6)) == "First so far (undecided): ipo, 0.5 [0.4 to 0.6] gold"
    )
    assert best(Bar("ipo", "use", 0.5, None, None), against) == "Use: ipo, 0.5 gold"


def test_the_line_at_the_top_rounds_as_the_table_and_names_what_is_as_good() -> None:
    bars = (
        Bar("ipo", "use", 55.7, 33.0, 78.5),
        Bar("hinge", "as good", 60.0, None, None),
        Bar("dpo", "open", 1.0, 0, 2),
    )
    said = Answer((Table("clean", (), (), (), "", bars, "% of what is possible"),), ()).best
    assert said == "Use: ipo, 56% [33 to 78] of what is possible (as good: hinge)"


def test_the_line_at_the_top_says_by_how_many_replicates_so_far() -> None:
    bars = (Bar("ipo", "use", 55.7, 33.0, 78.5),)
    text = "So far, by 7 of 24 replicates: use ipo (beta 0.1): no other loss is shown to gain more."
    said = Answer((Table("clean", (), (), (), text, bars, "% of what is possible"),), ()).best
    assert said == "So far, by 7 of 24 replicates: use ipo, 56% [33 to 78] of what is possible"


def test_the_line_at_the_top_names_every_condition() -> None:
    text, unit = "So far, by 7 of 24 replicates: use ipo (beta 0.1).", "% of what is possible"
    one = Table("llama", (), (), (), text, (Bar("ipo", "use", 56.0, None, None),), unit)
    other = replace(one, condition="gpt2", bars=(Bar("dpo", "use", 60.0, None, None), Bar("ipo", "as good", 9, 8, 10)))
    assert Answer((one, other), ()).best == (
        "So far, by 7 of 24 replicates: use ipo in llama, 56% of what is possible; "
        "dpo in gpt2, 60% of what is possible (as good: ipo)"
    )
    final = replace(other, answer="Use dpo (beta 0.1).")
    assert Answer((one, final), ()).best.endswith("; Use: dpo in gpt2, 60% of what is possible (as good: ipo)")
