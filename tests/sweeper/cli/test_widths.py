"""What commands print fits the terminal, from 60 columns on, and acts on no terminal that cannot take it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from studies.records import Failure
from sweeper.cli.display import Display, print_table
from sweeper.loop.progress import Progress

Sweeper = Callable[..., Any]
LONG = "a-variant-with-a-name-of-exactly-sixty-four-characters-and-no-mo"
STUDY = f"""
study: {LONG}
trainer: formula
base: {{model_name_or_path: embedded, max_steps: 2, learning_rate: 1.0e-5}}
variants: {{{LONG}: {{loss_type: ipo}}, sigmoid: {{}}}}
scenarios: {{clean: {{}}, "noisy-labels-by-length": {{label_flip: 0.2}}}}
"""


def test_no_line_of_a_table_is_longer_than_the_terminal_and_nothing_is_cut_off(
    sweeper: Sweeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    assert sweeper(tmp_path, "run", "study.yaml", "--executor", "inline").returncode == 0
    for columns in (60, 80, 100, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        for place in ("sweeper.cli.shared", "sweeper.cli.verbs.results"):
            monkeypatch.setattr(f"{place}.screen_width", lambda columns=columns: columns)
        for command in ("status study.yaml", "table study.yaml", "table study.yaml --all", "ls"):
            ended = sweeper(tmp_path, *command.split())
            lines = ended.stdout.splitlines()
            rule = [i for i, line in enumerate(lines) if set(line.strip()) == {"─"}]
            assert rule, ended.stderr
            for at in rule:
                rows = [line for line in lines[at - 1 :] if line.strip()]
                assert all(cell_len(line) <= columns for line in rows[: rows.index(lines[at]) + 4]), (command, columns)
            assert "…" not in ended.stdout, (command, columns)


def test_a_narrow_screen_leaves_out_what_is_nought_alone() -> None:
    out = io.StringIO()
    console = Console(file=out, width=30)
    rows = [["sigmoid", "12", "0", "3", "12"], ["ipo", "8", "0", "0", "12"]]
    print_table(("variant", "complete", "failed", "stopped", "planned"), rows, console, spare=("failed", "stopped"))
    assert "failed" not in out.getvalue()
    assert "stopped" in out.getvalue()


COLOUR = re.compile(r"\x1b\[(?:[0-9;]*;)?(?:3[0-8]|9[0-7])(?:;[0-9;]*)?m")


@pytest.mark.parametrize(("variables", "codes"), [({"TERM": "dumb"}, False), ({"NO_COLOR": "1"}, False), ({}, True)])
def test_a_terminal_gets_what_it_can_show(variables: dict[str, str], codes: bool) -> None:
    out = io.StringIO()
    environment = {"TERM": "xterm-256color", **variables}
    console = Console(file=out, width=80, force_terminal=True, _environ=environment)
    with Display("s", console) as display:
        display.progress(Progress(4, 4, 0, {Failure.DRIFTED: 1}, None, None))
    if environment["TERM"] == "dumb":
        assert "4/4 runs" in out.getvalue()
        assert "\x1b" not in out.getvalue()
    assert bool(COLOUR.search(out.getvalue())) is codes
