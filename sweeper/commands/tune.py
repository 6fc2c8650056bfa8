"""`sweeper tune`: knows the study file again that it wrote, and says in a few sentences what a plan takes and shows."""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from studies.records import EMBEDDED, digest
from studies.text.files import open_file
from studies.text.plural import duration_in_words, so_many
from sweeper.commands.starter.design import MEASURED_SHARE, Design, timed
from sweeper.commands.starter.judge import NOBODY, NamedJudge
from sweeper.measuring.run_time import RunTime

_MOST_LONGER: Final = 80  # steps of a tenth, up to two thousand times as long
_MOST_HEAD: Final = 4000  # bytes in which a file says who wrote it


@dataclass(frozen=True)
class Asked:
    """What the command was given."""

    model: str
    data: str
    hours: float
    gpus: int | None = None
    output: str | None = None
    judge: NamedJudge = NOBODY

    @property
    def seconds(self) -> float:
        """The hours, in seconds."""
        return self.hours * 3600

    @property
    def digest(self) -> str:
        """Of all that the study was designed from; the file that it lies in is no part of it."""
        return digest([self.model, self.data, self.hours, self.gpus, *([self.judge.text] if self.judge.text else [])])

    @property
    def file(self) -> Path:
        """The study file: the one that is named, or one named after model and data, in the folder that is named."""
        given = self.output
        if given is not None and not given.endswith("/") and not Path(given).is_dir():
            return Path(given)
        parts = [Path(self.model).name, *([Path(self.data).name.split(".")[0]] if self.data != EMBEDDED else [])]
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", "-".join(parts)).strip("-")
        return Path(given or "") / f"{name[:60] or 'tune'}.yaml"

    def beside(self, hours: float) -> Path:
        """A study file for other hours: of another name, as studies have theirs, in a folder for its own best.yaml."""
        length = f"{round(60 * hours)}min" if hours < 2 else f"{hours:g}h".replace(".", "-")
        name = f"{self.file.stem}-{length}"
        return self.file.with_name(name) / f"{name}{self.file.suffix}"

    @property
    def command(self) -> str:
        """The command, to copy."""
        options = {
            "--model": self.model,
            "--data": self.data,
            "--hours": f"{self.hours!r}".removesuffix(".0"),
            "--gpus": self.gpus,
        }
        options |= self.judge.options
        words = [w for name, value in options.items() if value is not None for w in (name, str(value))]
        return shlex.join(["sweeper", "tune", *words, *(["--output", self.output] if self.output else [])])

    def head(self, speed: str) -> tuple[str, ...]:
        """What the file says of itself: by it the command knows it again. `speed`: what a speed test has found."""
        return (
            "A study that `sweeper tune` wrote. Change what you like; the same command goes on with it:",
            f"    {self.command}",
            f"arguments: {self.digest}",
            f"speed test: {speed}",
        )


def why_not_ours(file: Path, asked: Asked) -> str | None:
    """Why the command cannot go on with a file that is there, None where it wrote it for these arguments."""
    try:
        with open_file(file, 0, links=True) as content:
            head = content.read(_MOST_HEAD).decode(errors="replace")
    except OSError as error:
        return f"{file}: {error.strerror}."
    found = re.search(r"^# arguments: (\w+)$", head, re.MULTILINE)
    if found is not None and found[1] == asked.digest:
        return None
    hours = re.search(r"^# .*sweeper tune .*--hours (\d+(?:\.\d+)?(?:e[+-]?\d+)?)(?= |$)", head, re.MULTILINE)
    if found is not None and hours is not None and found[1] == replace(asked, hours=float(hours[1])).digest:
        return (
            f"{file} is the study for --hours {hours[1]}: go on with it by these hours, or have one designed for "
            f"{asked.hours:g} hours beside it with --output {shlex.quote(str(asked.beside(asked.hours)))}."
        )
    who = "was written by another `sweeper tune` command, which its head tells" if found else "is not of this command"
    return f"{file} {who}: give another file with --output, or go on with it by `sweeper run {shlex.quote(str(file))}`."


def speed_lines(found: RunTime, design: Design) -> str:
    """What a speed test has found, for the study that was designed by it."""
    each = found.of_run(design.steps, design.measurements, design.runs)
    run = f"{each:.1g} seconds" if each < 1 else duration_in_words(each)
    return f"with {so_many(found.workers, 'worker')} at once, a run takes one of them {run}"


def too_few_hours(asked: Asked, smallest: Design, spent: float) -> str:
    """Why the hours do for no study, and how many would. `spent`: seconds that it took to find out."""
    takes = f"{duration_in_words(smallest.seconds)} on {smallest.machine.in_words}"
    hours = 1.1 * (smallest.seconds / MEASURED_SHARE + spent) / 3600
    return (
        f"--hours {asked.hours:g}: too few. The smallest study that compares losses takes about {takes}: "
        f"{_sizes(smallest)}. Nothing was written; give --hours {rounded_up(hours)}."
    )


def rounded_up(hours: float) -> str:
    """Hours as they are given on the command line, in two digits."""
    digits = 10.0 ** (math.floor(math.log10(hours)) - 1)
    return f"{math.ceil(hours / digits) * digits:.2g}"


def plan_lines(design: Design, file: Path, power: str, more: str) -> list[str]:
    """The plan in a few sentences, with what it can conclude and, where that is nothing, what would show `more`."""
    takes = f", about {duration_in_words(design.seconds)} on {design.machine.in_words}" if design.seconds else ""
    can = power.partition(" Of stability")[0]
    lines = [f"Plan ({file}): {_sizes(design)}{takes}.", *design.told, f"What it can conclude: {can}"]
    if can.startswith("This plan can show no difference"):
        lines.append(f"What would show more: {more}. It trains nevertheless; Ctrl-C ends it.")
    if design.names_none:
        lines.append(
            "No judge is given, so the answer ranks losses and names no winner: --judge-model ORG/REWARD-MODEL or "
            "--judge-function MODULE:NAME names one."
        )
    return lines


def what_shows_more(whole: Design, asked: Asked, run_time: RunTime, replicates: int | None) -> str:
    """What would show a difference that matters, where from so many replicates on one is found. `whole`: the study that
    more than the hours may do for; they are spent on losses, settings and steps before replicates.
    """
    if replicates is None:
        return "more held-out pairs or prompts a draw (data.eval_rows), of data that have them"
    if replicates > whole.most_replicates:
        return f"data with more prompts, as these do for {so_many(whole.most_replicates, 'replicate')}"
    longer = (asked.hours * 1.1**more for more in range(_MOST_LONGER))
    enough = (h for h in longer if timed(whole, run_time, h * 3600 - run_time.spent).replicates >= replicates)
    found = next(enough, None)
    if found is None:
        return "many more hours"
    more_hours = rounded_up(found)
    return f"`--hours {more_hours} --output {shlex.quote(str(asked.beside(float(more_hours))))}`"


def _sizes(design: Design) -> str:
    losses = f"{', '.join(design.variants[:-1])} and {design.variants[-1]}"
    return (
        f"{losses}, each tuned by {so_many(design.trials, 'setting')} on one draw of the pairs and judged on another, "
        f"{so_many(design.replicates, 'time')}: {so_many(design.runs, 'run')}"
    )
