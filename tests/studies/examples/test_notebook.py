"""The example notebook is what its cells give, apart from those that depend on the machine."""

from __future__ import annotations

import json
import re

import pytest

from tests.notebook import CELLS, FILE, VARIES, beside_the_results, code_cells, run, text_of

NOTEBOOK = json.loads(FILE.read_text(encoding="utf-8"))


def plain(text: str) -> str:
    """The text without the last sweep's process and age."""
    return re.sub(r"process \d+, was finished .*? ago|\d+\.\d s a run", "", " ".join(text.split()))


def test_the_notebook_has_the_cells_that_it_is_made_of() -> None:
    assert ["".join(cell["source"]) for cell in NOTEBOOK["cells"]] == [source for _, source in CELLS]
    assert all(cell["outputs"] for cell in code_cells(NOTEBOOK))
    assert (NOTEBOOK["nbformat"], FILE.stat().st_size < 200_000) == (4, True)


@pytest.mark.slow
def test_its_cells_give_what_it_shows() -> None:
    cells = code_cells(NOTEBOOK)
    with beside_the_results():
        for cell, outputs in zip(cells, run(["".join(cell["source"]) for cell in cells]), strict=True):
            if VARIES not in cell["metadata"].get("tags", []):
                assert plain(text_of(outputs)) == plain(text_of(cell["outputs"]))
            assert [one["output_type"] for one in outputs] == [one["output_type"] for one in cell["outputs"]]
