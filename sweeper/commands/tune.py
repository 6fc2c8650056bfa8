"""`sweeper tune`: recognises the study file that it wrote, and says after a speed test how many replicates the hours do
for.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dashboards.statistics.estimates import FEWEST_BLOCKS
from studies.records import EMBEDDED, digest
from studies.schema.replicates import as_in_file, with_replicates
from studies.spec import Study
from studies.text.files import open_file, write_whole
from studies.text.plural import so_many
from sweeper.commands.starter.design import Design
from sweeper.commands.starter.judge import NOBODY, NamedJudge
from sweeper.commands.starter.text import duration, replicates_line
from sweeper.loop.progress import Progress

_UNTESTED: Final = re.compile(r"^# speed test: not made; (\d+) replicates are a guess, (\d+) the most$", re.MULTILINE)
_WHY: Final = "each loss is tuned and judged so often, on fresh draws"
_MOST_HEAD: Final = 4000  # bytes in which a file says who wrote it
_REPLICATES: Final = re.compile(r"^replicates: \d+.*$", re.MULTILINE)


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

    @property
    def command(self) -> str:
        """The command, to copy."""
        options = {"--model": self.model, "--data": self.data, "--hours": f"{self.hours:g}", "--gpus": self.gpus}
        options |= self.judge.options
        words = [w for name, value in options.items() if value is not None for w in (name, str(value))]
        return shlex.join(["sweeper", "tune", *words, *(["--output", self.output] if self.output else [])])

    def head(self, design: Design) -> tuple[str, ...]:
        """What the file says of itself: by it the command knows it again."""
        return (
            "A study that `sweeper tune` wrote. Change what you like; the same command goes on with it:",
            f"    {self.command}",
            f"arguments: {self.digest}",
            f"speed test: not made; {design.replicates} replicates are a guess, {design.most_replicates} the most",
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
    who = "was written by another `sweeper tune` command, which its head tells" if found else "is not of this command"
    return f"{file} {who}: give another file with --output, or go on with it by `sweeper run {shlex.quote(str(file))}`."


def untested(text: str) -> tuple[int, int] | None:
    """The replicates that a file was written with, and how many its data do for, where no speed test has settled it."""
    found = _UNTESTED.search(text)
    return None if found is None else (int(found[1]), int(found[2]))


@dataclass(frozen=True)
class Speed:
    """What a speed test found: so many runs trained in so many seconds, `a_run` each with all devices together (None:
    none came to its end); `allowed`: replicates that the hours do for.
    """

    trained: int
    seconds: float
    a_run: float | None
    allowed: int

    def in_words(self, hours: float, before: int, now: int) -> str:
        """A sentence for the screen and the head of the file."""
        if self.a_run is None:
            return f"no run ended in {self.seconds:.0f} s; {so_many(now, 'replicate')}, as the hours may do for no more"
        told = f"{so_many(self.trained, 'run')} in {self.seconds:.0f} s, so that one takes {self.a_run:.2g} s in all"
        if self.allowed < now:
            return f"{told}: {duration(hours)} may not do for the least, {now} replicates"
        kept = f"the {before} replicates that were guessed" if now == before else f"{now} replicates, not {before}"
        return f"{told}: {duration(hours)} do for {kept}"


class SpeedTest:
    """Watches the first runs of a study until it is known how many replicates the hours do for: by their time alone, so
    that no result has a say in it.
    """

    def __init__(self, seconds: float, losses: int, trials: int, began: float) -> None:
        """`seconds`: that the sweep may take from `began` on, on the monotonic clock."""
        self._seconds, self._losses, self._trials, self._began = seconds, losses, trials, began
        self._from: float | None = None
        self._before, self._seen = 0, False
        self.found: Speed | None = None

    def look(self, progress: Progress, now: float) -> bool:
        """Take in how far the sweep is; whether that is enough."""
        if self.found is not None:
            return False
        if self._from is None:
            begins = progress.training or (self._seen and progress.done > self._before)
            self._from, self._before, self._seen = now if begins else None, progress.done, True
            return False
        trained, spent = progress.done - self._before, now - self._from
        steady = spent >= min(_STEADY_SECONDS, 0.05 * self._seconds)
        share = spent / self._seconds
        enough = (
            (steady and trained >= self._losses * self._trials)
            or (share >= 0.25 and trained >= self._losses)
            or (share >= 0.5 and trained > 0)
        )
        if enough:
            self.settle(trained, progress.training, now)
        return enough

    def settle(self, trained: int, training: int, now: float) -> None:
        """Say what was found. Runs in training are half done in the middle."""
        spent = now - (self._began if self._from is None else self._from)
        done = trained + 0.5 * training
        a_run = spent / done if trained else None
        left = 0.9 * (self._seconds - (now - self._began)) - _ENDS
        allowed = 0 if a_run is None else int((left / a_run + done) / (self._losses * (self._trials + 1)))
        self.found = Speed(trained, spent, a_run, allowed)


_STEADY_SECONDS: Final = 30.0  # until packs have found their size
_ENDS: Final = 40.0  # seconds for the start of workers, timing the losses and the table


def chosen_replicates(speed: Speed, most: int) -> int:
    """As many as the hours do for, at most what the data give, and no fewer than can show anything."""
    return min(max(speed.allowed, FEWEST_BLOCKS), most)


def tested(text: str, told: str, replicates: int) -> str:
    """The file once a speed test was made."""
    text = _UNTESTED.sub(lambda _: f"# speed test: {told}", text, count=1)
    return _REPLICATES.sub(replicates_line(replicates, _WHY), text, count=1)


class Tuning:
    """A study of `file` whose number of replicates is settled while its first runs train."""

    def __init__(self, asked: Asked, file: Path, guess: int, most: int, losses: int, trials: int, began: float) -> None:
        """`guess`: replicates that the file was written with; `most`: that its data do for."""
        self._asked, self._file, self._guess, self._most = asked, file, guess, most
        self._test = SpeedTest(asked.seconds, losses, trials, began)
        self.replicates = min(guess, FEWEST_BLOCKS)

    def first(self, study: Study) -> Study:
        """The study with the replicates that it begins with: the fewest that can show anything."""
        return _with(study, self.replicates)

    def settled(self, study: Study) -> Study:
        """The study with the replicates that it has by now."""
        return _with(study, self.replicates)

    def look(self, progress: Progress, now: float) -> str:
        """Take in how far the sweep is; what to tell once that is enough, then the file says it too."""
        return self._told() if self._test.look(progress, now) else ""

    def settle(self, trained: int, now: float) -> str:
        """The same once all runs have ended that were asked for, where it was not known before."""
        if self._test.found is not None:
            return ""
        self._test.settle(trained, 0, now)
        return self._told()

    def _told(self) -> str:
        assert self._test.found is not None
        self.replicates = chosen_replicates(self._test.found, self._most)
        told = self._test.found.in_words(self._asked.hours, self._guess, self.replicates)
        write_whole(self._file, tested(self._file.read_text(encoding="utf-8"), told, self.replicates))
        return told


def _with(study: Study, replicates: int) -> Study:
    spec = as_in_file(study.spec).model_copy(update={"replicates": replicates})
    return Study(with_replicates(spec), study.variants)


def plan_lines(design: Design, file: Path, power: str) -> list[str]:
    """The plan in a few sentences, with what it can conclude."""
    losses = f"{', '.join(design.variants[:-1])} and {design.variants[-1]}"
    minutes = design.seconds * design.runs / design.machine.workers / 60
    takes = so_many(max(round(minutes), 1), "minute")
    guess = f", by a guess {takes} on {design.machine.in_words}" if design.seconds else ""
    return [
        f"Plan ({file}): {losses}, each tuned by {design.trials} settings on one draw of the pairs and judged on "
        f"another, {design.replicates} times: {so_many(design.runs, 'run')}{guess}.",
        *design.told,
        f"What it can conclude: {power.partition(' Of stability')[0]}",
    ]
