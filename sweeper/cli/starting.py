"""What commands share that begin with a model, a data set and hours in the place of a study file."""

from __future__ import annotations

import math
import os
import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Final

from sweeper.cli.inputs import read_data, try_data

if TYPE_CHECKING:
    from studies.records import DataConfig
    from sweeper.commands.check_data import DataCheck
    from sweeper.commands.starter.cost import Machine
    from sweeper.commands.starter.facts import Facts
    from trainers.data.sources import DataError, Rows

_MOST_HOURS: Final = 10_000.0


def given_problems(given: Mapping[str, str], hours: float, model: str = "", dataset: str = "") -> list[str]:
    """Everything wrong with words and hours of the command line, and with a model and data that do not go together,
    before anything is looked at.
    """
    from studies.loading.plain_text import text_problem
    from studies.records import EMBEDDED, EMBEDDED_MODELS

    problems = [f"{name} {text!r}: {wrong}." for name, text in given.items() if (wrong := text_problem(text))]
    problems += [f"{name}: is empty: name one, or leave the option out." for name, text in given.items() if not text]
    if model in EMBEDDED_MODELS and dataset != EMBEDDED:
        problems.append(f"--model {model}: it knows only its own words, not {dataset}: name your own.")
    if dataset == EMBEDDED and model not in EMBEDDED_MODELS:
        problems.append(f"--model {model}: embedded data are written for the embedded models: name your pairs too.")
    if not (math.isfinite(hours) and 0.0 < hours <= _MOST_HOURS):
        problems.append(f"--hours {hours:g}: must be above 0 and at most {_MOST_HOURS:g}.")
    return problems


def looked_at(model: str, dataset: str) -> Facts:
    """What model and data are; says so on standard error where that takes long."""
    from sweeper.cli.display import shown
    from sweeper.cli.inputs import said_if_long
    from sweeper.commands.starter.facts import look

    with said_if_long(f"Looking at {shown(model)} and {shown(dataset)} ..."):
        return look(model, dataset, read_data)


def machine(gpus: int | None) -> Machine:
    """The devices of this machine, `gpus` of them at most."""
    from sweeper.commands.starter.cost import Machine
    from sweeper.executors.process.devices import usable_cores, visible_gpus

    found = len(visible_gpus(os.environ))
    return Machine(min(gpus or found, found), gpu=True) if found else Machine(usable_cores(), gpu=False)


def try_study(text: str, facts: Facts, file: Path) -> list[str]:
    """What is to be told of the data of a written study: what refuses them, or what becomes of them."""
    from studies.spec import Study, StudyError, load_study

    if facts.unusable:
        return ["no run could use them yet:", *facts.unusable]
    if facts.rows is None:
        return []
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / file.name
        written.write_text(text, encoding="utf-8")
        try:
            spec = load_study(str(written), ())
        except StudyError:  # `plan` tells
            return [facts.remark]
    problems, notes = try_data(facts.rows, Study.of(spec))
    told = ["no run could use them yet:", *problems] if problems else notes
    return [*facts.in_words(), facts.remark, *told, *facts.rows.notes]


def rows_of(data: DataConfig) -> Rows | DataError:
    """The rows of data that lie here, or on the Hub."""
    from sweeper.cli.display import shown
    from sweeper.cli.inputs import said_if_long
    from trainers.data.sources import DataError, read_rows

    found = read_data(data)
    if found is not None:
        return found
    try:
        with said_if_long(f"Reading {shown(data.path)} from the Hub ..."):
            return read_rows(data)
    except DataError as error:
        return error


def folded(text: str, width: int) -> str:
    """The text, safe for a terminal and folded to its width; further lines are indented."""
    from sweeper.cli.display import shown

    indent = " " * (len(text) - len(text.lstrip()) + 2)
    return fill(shown(text), width, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)


def say(text: str) -> None:
    """Print a line of a plan or of what was found, folded to the screen."""
    from sweeper.cli.display import Screen

    console = Screen()
    console.print(folded(text, console.width), soft_wrap=True, markup=False)


def print_check(found: DataCheck, data: str, model: str | None) -> None:
    """Print what was found in a data set, folded to the screen."""
    from sweeper.cli.display import Screen, shown

    console = Screen()

    def say(text: str, style: str | None = None) -> None:
        console.print(folded(text, console.width), style=style, soft_wrap=True, markup=False)

    for section in found.sections:
        say(section.title, "bold")
        for line in section.lines:
            say(f"  {line}")
    if found.advice:
        say("What to do", "bold")
        for line in found.advice:
            say(f"  - {line}")
    if found.unusable:
        say("No run could use it", "bold red")
        for line in found.unusable:
            say(f"  - {line}")
        return
    of = ["--model", model] if model else []
    words = ["sweeper", "init", "mine.yaml", *of, "--data", data]
    console.print(f"A study of it: {shown(shlex.join(words))}", soft_wrap=True, markup=False)
    words = ["sweeper", "tune", *(of or ["--model", "MODEL"]), "--data", data, "--hours", "8"]
    console.print(f"Or all in one, within hours: {shown(shlex.join(words))}", soft_wrap=True, markup=False)
