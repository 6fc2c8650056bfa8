"""Makes and runs the example notebook: `python -m tests.notebook` writes it anew with what its cells give here.

A notebook is JSON (nbformat 4); its cells are run as Jupyter does, one after the other in one namespace, and the last
expression of each is its result. What depends on the machine or the clock is in cells that are tagged `varies`.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
FILE: Final = ROOT / "studies" / "examples" / "first_study.ipynb"
VARIES: Final = "varies"
_TEXT, _CODE, _VARIES = "markdown", "code", VARIES

CELLS: Final[Sequence[tuple[str, str]]] = (
    (
        _TEXT,
        "# A first study, from Python\n\nTwo losses on the model and data that come with the project: planned, trained "
        "in a process of its own, and read. It takes about a minute on two CPU cores. All of `sweeper` that is "
        "used here: [From Python](../../sweeper/api/README.md).",
    ),
    (
        _CODE,
        "import sweeper\n\nstudy = sweeper.load({\n"
        '    "study": "first-study",\n'
        '    "question": "Does ipo do as well as sigmoid?",\n'
        '    "base": {"model_name_or_path": "embedded", "use_peft": True, "lora_r": 8, "max_steps": 40},\n'
        '    "baseline": "sigmoid",\n'
        '    "variants": {"sigmoid": {}, "ipo": {"space": {"beta": {"low": 0.3, "high": 3.0}}}},\n'
        '    "space": {\n'
        '        "learning_rate": {"low": 3e-4, "high": 3e-3, "log": True},\n'
        '        "beta": {"low": 0.05, "high": 0.5, "log": True},\n'
        "    },\n"
        '    "budget": {"trials": 2},\n'
        '    "replicates": 2,\n'
        "})\nstudy",
    ),
    (_TEXT, "What it would run, and what so many runs can show:"),
    (_CODE, "print(study.plan(workers=2))"),
    (
        _TEXT,
        "Train it. The sweep goes on when this kernel ends; the same call attaches to it again. An interrupt detaches, "
        'or stops it with `on_interrupt="stop"`.',
    ),
    (_VARIES, "study.run()"),
    (_CODE, "study.status()"),
    (_VARIES, 'study.table()[["variant", "verdict", "gain", "worked", "tried", "drift"]].round(2)'),
    (_CODE, "study.answer().use is None, str(study.answer())[:46]"),
    (
        _TEXT,
        "Two replicates are too few to name a loss. A study of the same losses with twelve is recorded with the "
        "project, and is read in the same way:",
    ),
    (
        _CODE,
        'found = sweeper.load("guide-clean", records="../results/guide-clean/records.jsonl.gz")\nprint(found.answer())',
    ),
    (_CODE, 'found.table()[["variant", "verdict", "gain", "gain_low", "gain_high", "worked", "tried"]].round(2)'),
    (_TEXT, "Every run is a row, with its settings and its measurements:"),
    (
        _CODE,
        "runs = found.results()\n"
        'runs[runs.phase == "unbiased"].groupby("variant").failure.count().sort_values().tail(3)',
    ),
    (_CODE, 'found.figures["ranking"]'),
    (_TEXT, "What cannot be done is one exception, with every reason:"),
    (
        _CODE,
        'try:\n    found.best("sigmod")\nexcept sweeper.Refused as refused:\n    print(*refused.problems, sep="\\n")',
    ),
)


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """The cells that are run."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run(sources: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
    """Run cells in the working folder, and give the outputs of each."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for source in sources:
        body, printed, value = ast.parse(source).body, io.StringIO(), None
        last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
        with contextlib.redirect_stdout(printed):
            exec(compile(ast.Module(body, []), "cell", "exec"), names)
            if isinstance(last, ast.Expr):
                value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
        yield _outputs(printed.getvalue(), value)


def text_of(outputs: Sequence[dict[str, Any]]) -> str:
    """What the outputs of a cell say as text."""
    parts = [one["text"] if one["output_type"] == "stream" else one["data"]["text/plain"] for one in outputs]
    return "\n".join("".join(part) for part in parts)


@contextlib.contextmanager
def beside_the_results() -> Iterator[Path]:
    """A folder of its own that lies as the notebook does: with the recorded results next to it."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "studies" / "examples"
        place.mkdir(parents=True)
        (place.parent / "results").symlink_to(ROOT / "studies" / "results")
        with contextlib.chdir(place):
            yield place


def _outputs(printed: str, value: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if printed:
        found.append({"output_type": "stream", "name": "stdout", "text": printed.splitlines(keepends=True)})
    if value is not None:
        data = {"text/plain": repr(value).splitlines(keepends=True)}
        for kind, method in (("text/html", "_repr_html_"), ("image/svg+xml", "_repr_svg_")):
            if hasattr(value, method):
                data[kind] = getattr(value, method)().splitlines(keepends=True)
        found.append({"output_type": "execute_result", "data": data, "metadata": {}, "execution_count": None})
    return found


def _cell(number: int, kind: str, source: str) -> dict[str, Any]:
    cell = {"id": f"cell-{number}", "metadata": {"tags": [VARIES]} if kind == _VARIES else {}}
    lines = source.splitlines(keepends=True)
    if kind == _TEXT:
        return {"cell_type": "markdown", **cell, "source": lines}
    return {"cell_type": "code", **cell, "execution_count": None, "outputs": [], "source": lines}


def main() -> None:
    """Run the cells, and write the notebook."""
    cells = [_cell(i, kind, source) for i, (kind, source) in enumerate(CELLS)]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {
        "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    with beside_the_results() as place:
        sources = ["".join(cell["source"]) for cell in code_cells(notebook)]
        for count, (cell, outputs) in enumerate(zip(code_cells(notebook), run(sources), strict=True), 1):
            cell["execution_count"] = count
            cell["outputs"] = [{**one, **({"execution_count": count} if "data" in one else {})} for one in outputs]
        text = json.dumps(notebook, indent=1, ensure_ascii=False).replace(str(place), ".")
    FILE.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("COLUMNS", "100")
    main()
