"""What the terminal shows of a plan, a sweep in progress and its status; reads types, computes nothing of its own."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.file_proxy import FileProxy
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from dashboards.analysis.failures import failed_lines, summary, tell
from dashboards.tables.funnels import funnel_notes
from studies.design.counts import planned_runs
from studies.design.points import UNBIASED
from studies.records import PROBE, RunRecord
from studies.schema.replicates import by_condition
from studies.spec import Study
from studies.text.plural import so_many
from studies.text.redact import redact
from studies.text.visible import visible, visible_lines
from sweeper.documents.status import ENDS, ended_runs, not_needed, status_counts
from sweeper.folder.events import Heartbeat, Line, PhaseBegan, SweepBegan
from sweeper.loop.progress import Progress
from sweeper.measuring.verify import Verification
from sweeper.planning.plan import Plan, show_knobs

# How often progress is printed where there is no terminal: after another fifth of the time, within these limits.
LINE_SECONDS, LINE_SHARE, MOST_LINE_SECONDS = 15.0, 0.2, 600.0
SAME_SECONDS = 60.0  # until a line is printed again that says what the last one did: a sign of life
SILENT_SECONDS = 2.0
_OPENING = "opening the stores"
_PHASES = {  # in which no progress is told, or not at once
    "measure": "measuring finished runs again",
    "train": "starting workers",
    "verify": "training finished runs again alone",
    "report": "drawing the table and the report",
}
POINTS_SHOWN = 16  # trials of a variant that `plan` lists one by one


class Screen(Console):
    """Standard output as rich writes it, in which only rich's own characters act on a terminal."""

    def __init__(self) -> None:
        super().__init__(file=getattr(sys.stdout, "rich_proxied_file", sys.stdout), highlight=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """See `Console.render`."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


class _Above(FileProxy):
    """What others print meanwhile, put above the progress without the styles and links that rich would read in it."""

    def write(self, text: str) -> int:
        super().write(visible_lines(redact(text)))
        return len(text)


class Display:
    """Progress of a sweep: one live line on a terminal, a printed line every now and then elsewhere."""

    def __init__(self, study: str, console: Console) -> None:
        self._study, self._console = study, console
        lives = console.is_terminal and not console.is_dumb_terminal  # where a line can be written anew
        self._live = Live(console=console, refresh_per_second=4) if lives else None
        self._redirected = ExitStack()
        self._began = time.monotonic()
        self._printed_at, self._doing, self._since = 0.0, "", 0.0
        self._printed = ""

    def __enter__(self) -> Display:
        if self._live is not None:
            self._redirected.enter_context(redirect_stdout(_Above(self._console, sys.stdout)))
            self._redirected.enter_context(redirect_stderr(_Above(self._console, sys.stderr)))
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._redirected.close()

    def say(self, text: str) -> None:
        """Print a line above the progress."""
        self._console.print(shown(text), soft_wrap=True, markup=False)

    def event(self, line: Line) -> None:
        """Show what the sweep does where no run trains, and for how long; a thread of the sweep's calls it."""
        match line.event:
            case SweepBegan():
                self._doing, self._since = _OPENING, time.monotonic()
            case PhaseBegan(phase=phase):
                self._doing, self._since = _PHASES.get(phase, ""), time.monotonic()
        if not self._doing:
            return
        if self._live is not None:
            self._live.update(_Since(self._study, self._doing, self._since))
        elif isinstance(line.event, Heartbeat) and time.monotonic() - self._since > SILENT_SECONDS:
            self._print_rarely(f"{self._doing} ({time.monotonic() - self._since:.0f} s)")

    def _print_rarely(self, text: str) -> None:
        """Print a line where there is no terminal."""
        if self._line_is_due():
            self._printed_at, self._printed = time.monotonic(), text
            self._console.print(f"{self._study}: {text}", soft_wrap=True, markup=False)

    def progress(self, progress: Progress) -> None:
        """Show where the sweep is."""
        self._doing = ""
        text = shown(describe(progress))
        if self._live is not None:
            grid = Table.grid(padding=(0, 1))
            bar = ProgressBar(total=max(progress.planned, 1), completed=progress.done, width=24)
            grid.add_row(Text(self._study, style="bold"), bar, text)
            self._live.update(grid)
        elif self._line_is_due(SAME_SECONDS if text == self._printed else LINE_SECONDS) or (
            text != self._printed and progress.done >= progress.planned
        ):
            self._printed_at, self._printed = time.monotonic(), text
            self._console.print(f"{self._study}: {text}", soft_wrap=True, markup=False)

    def _line_is_due(self, least: float = LINE_SECONDS) -> bool:
        now = time.monotonic()
        wait = min(max(LINE_SHARE * (now - self._began), least), MOST_LINE_SECONDS)
        return now - self._printed_at > wait


@dataclass(frozen=True)
class _Since:
    """What is done and for how long, as it is when it is drawn."""

    study: str
    doing: str
    since: float

    def __rich__(self) -> Text:
        return Text(f"{self.study}  {self.doing} ({timedelta(seconds=round(time.monotonic() - self.since))})")


def both(one: Callable[[Line], None], other: Callable[[Line], None]) -> Callable[[Line], None]:
    """Tell two of every event."""

    def tell(line: Line) -> None:
        one(line)
        other(line)

    return tell


def shown(text: str) -> str:
    """The text as a terminal may have it: without secrets, and without characters that would act on the terminal."""
    return visible(redact(text))


def describe(progress: Progress) -> str:
    """One line: runs done, in training, failed, the best so far, time left."""
    parts = [f"{progress.done}/{progress.planned} {progress.what}", f"{progress.training} in training"]
    one = sum(number for failure, number in progress.failures.items() if failure.by_config) == 1
    failed = tell(progress.failures, failed=f"failed by {'its' if one else 'their'} settings")
    parts += [failed] if failed else []
    if progress.best is not None:
        variant, knobs, value = progress.best
        parts.append(f"best {value:.3g} by {variant} ({knobs})" if knobs else f"best {value:.3g} by {variant}")
    if progress.seconds_left is not None and progress.done < progress.planned:
        parts.append(f"{timedelta(seconds=round(progress.seconds_left))} left")
    parts += [progress.doing] if progress.doing else []
    return ", ".join(parts)


def print_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], console: Console, spare: Collection[str] = ()
) -> None:
    """A table that no screen is too narrow for: names are broken over lines, never cut off, numbers stay whole, and
    columns of `spare` that hold nothing but 0 are left out where there is no room for them.
    """
    table = [list(map(shown, line)) for line in (header, *rows)]
    for name in spare:
        here = table[0].index(name)
        if _wide(table) > console.width and all(line[here] == "0" for line in table[1:]):
            table = [[*line[:here], *line[here + 1 :]] for line in table]
    laid = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in zip(*table, strict=True):
        words = not all(cell[:1].isdecimal() or not cell for cell in column[1:])
        justify: Literal["left", "right"] = "left" if words else "right"
        laid.add_column(column[0], overflow="fold", no_wrap=not words, justify=justify)
    for line in table[1:]:
        laid.add_row(*map(Text, line))
    console.print(laid)


def _wide(table: Sequence[Sequence[str]]) -> int:
    """The characters of the table's widest line, with a gap of two after each column."""
    return sum(max(map(cell_len, column)) + 2 for column in zip(*table, strict=True))


def print_plan(plan: Plan, console: Console) -> None:
    """Every variant with its space, its trials and what was left out or is warned of."""
    say = partial(console.print, soft_wrap=not console.is_terminal)  # lines stay whole in a file or a pipe
    say(f"[bold]{plan.study}[/bold]  {_plain(plan.question)}")
    for arm in plan.arms:
        fixed = f"  fixed: {_plain(show_knobs(arm.fixed))}" if arm.fixed else ""
        losses = "" if arm.losses == (arm.name,) else f" ({' + '.join(arm.losses)})"
        say(f"\n[bold]{arm.name}[/bold]{losses}{fixed}")
        for name, text in arm.space.items():
            say(f"  {name}: {_plain(text)}")
        for i, (phase, knobs) in enumerate(arm.points[:POINTS_SHOWN]):
            given = "" if phase == UNBIASED else f"  [dim]{phase}[/dim]"
            say(f"    trial {i}: {_plain(show_knobs(knobs)) or 'as fixed above'}{given}")
        if len(arm.points) > POINTS_SHOWN:
            say(f"    ... and {len(arm.points) - POINTS_SHOWN} more")
        if arm.adaptive:
            say(f"    {so_many(arm.adaptive, 'trial')} that TPE chooses from results")
        if arm.fewer:
            say(f"    {arm.fewer}")
        for name, reason in arm.left_out.items():
            say(f"  left out: {name}: {_plain(reason)}")
        if arm.expected:
            say(f"  control: {_plain(arm.expected)}")
        for warning in arm.warnings:
            say(f"  [yellow]warning:[/yellow] {_plain(warning)}")
    for line in describe_brackets(plan):
        say(line)
    say("")
    for scenario in plan.scenarios:
        each = f" x {so_many(scenario.runs_per_trial, 'run')}" if scenario.runs_per_trial > 1 else ""
        confirm = f", {scenario.confirm_runs} of them to retest the best on fresh data" if scenario.confirm_runs else ""
        settings = f"; {_plain(show_knobs(scenario.settings))}" if scenario.settings else ""
        times = f"{scenario.replicates} times " if scenario.replicates else ""
        trials = f"{times}{so_many(scenario.trials, 'trial')}{each} of {so_many(scenario.variants, 'variant')}"
        say(f"{scenario.name}: {trials}: {so_many(scenario.runs, 'run')}{confirm}{settings}")
    if plan.fewer:
        say(f"{plan.fewer}.")
    joint = "; one joint search over all variants" if plan.mode == "search" else ""
    say(f"{so_many(plan.runs, 'run')} of {plan.steps} in all{joint}. Nothing was trained and nothing was written.")
    for line in (plan.speed, plan.power):
        if line:
            say(_plain(line))


def _plain(text: str) -> str:
    """Text of a study within console markup, as it stands."""
    return escape(shown(text))


def print_failed(study: Study, records: Sequence[RunRecord], console: Console) -> None:
    """Every run that failed, those that failed alike together, with one message and one log; last, how many."""
    for line in failed_lines(records, console.width):
        console.print(shown(line), soft_wrap=True, markup=False)
    console.print(f"{len(ended_runs(records))} of {so_many(planned_runs(study), 'planned run')} have ended.")
    console.print(f"{summary(records) or 'No run that is recorded failed'}.", soft_wrap=True, markup=False)


def describe_brackets(plan: Plan) -> list[str]:
    """How many trials go how far, and the training that this saves; what fails before can only save more."""
    if not plan.brackets:
        return []
    stages = [f"step {step}" for step in plan.rungs] + ["the end"]
    lines = ["\nRungs: the trials of a bracket train side by side, and the best of them go on."]
    for bracket, number in Counter(plan.brackets).items():
        way = ", ".join(f"{n} to {stage}" for n, stage in zip(bracket.trials, stages, strict=True))
        lines.append(f"  {so_many(number, 'bracket')} of {so_many(bracket.trials[0], 'trial')}: {way}")
    paused = max(b.trials[0] for b in plan.brackets) * plan.scenarios[0].runs_per_trial
    steps, whole = (sum(getattr(b, name) for b in plan.brackets) for name in ("steps", "whole"))
    lines.append(
        f"  {so_many(steps, 'training step')} in place of {whole} (one run a trial): {1 - steps / whole:.0%} "
        f"saved. On disk at most {so_many(paused, 'paused run')}, each three times its "
        "adapter's size."
    )
    return lines


def print_verification(verified: Verification, console: Console) -> None:
    """What the runs that were trained again alone measure, beside what the sweep has."""
    rows = []
    for f in verified.findings:
        error = "" if f.error is None else f"{f.error:.2g}"
        difference = f"{f.alone - f.swept:+.2g}"
        run = (f.config.variant, str(f.config.trial))
        rows.append([*run, f.metric, f"{f.swept:.5g}", f"{f.alone:.5g}", difference, error])
    header = ("variant", "trial", "metric", "in the sweep", "alone", "difference", "standard error")
    print_table(header, rows, console)
    for key, reason in verified.failed.items():
        console.print(f"run {key} could not be trained again: {shown(reason)}", soft_wrap=True, markup=False)
    measured = [f for f in verified.findings if f.error is not None]
    apart = sum(not f.within_error for f in measured)
    runs = len({f.config.key for f in verified.findings})
    console.print(
        f"{so_many(runs, 'run')} trained again by TRL's own loop: {apart} of {len(measured)} measurements with a "
        "standard error are further apart than it."
    )


def print_status(study: Study, records: Sequence[RunRecord], console: Console) -> None:
    """Counts by stratum and how runs ended, seconds a run, and the time that the missing runs would take one by one;
    then what failed or was stopped.
    """
    counts = status_counts(study, records)
    several = len(by_condition(study.spec.scenarios)) > 1
    rows = [
        [
            *(of.variant, *[of.scenario] * several, *(str(of.of(end)) for end in ENDS)),
            "shared" if of.planned is None else str(of.planned),
        ]
        for of in counts.strata
    ]
    header = ["variant", *["scenario"] * several, *ENDS, "planned"]
    print_table(header, rows, console, spare=("training", "untrained", "stopped", "failed"))
    if counts.seconds_per_run is not None and counts.seconds_left is not None:
        left = timedelta(seconds=round(counts.seconds_left))
        console.print(
            f"{so_many(counts.ended, 'run')} ended, {counts.seconds_per_run:.1f} s a run; {counts.missing} missing, "
            f"{left} of one worker's time."
        )
    else:
        console.print(f"{so_many(counts.ended, 'run')} ended; {counts.missing} missing.")
    for line in [*filter(None, [not_needed(study, records)]), *funnel_notes([r for r in records if r.phase != PROBE])]:
        console.print(shown(line), soft_wrap=True, markup=False)
    failed = summary(records)
    if failed:
        console.print(f"{failed}: `sweeper status --failed` says which and why.", soft_wrap=True, markup=False)
    if counts.stopped:
        console.print("stopped: " + ", ".join(f"{n} {cause}" for cause, n in counts.stopped.items()))
