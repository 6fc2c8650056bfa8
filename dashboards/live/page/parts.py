"""Small parts that the views are made of. Every text goes to the page as text: none is read as HTML or Markdown."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from nicegui import ui

from dashboards.live.ports import Act, Done, Hands
from dashboards.live.reading.watcher import Watcher
from dashboards.live.reading.words import why
from dashboards.live.views import Glance, Seen
from dashboards.report.progress import StatusCounts
from studies.records import Failure
from studies.text.plural import so_many

LATE_SECONDS: Final = 60.0
STATES: Final = {
    "running": ("running", "positive", "play_circle"),
    "ended": ("not running", "grey-7", "check_circle"),
    "dead": ("died", "negative", "error"),
    "unknown": ("no sweep seen from here", "grey-7", "help"),
}
# Grey that is read on white and on black.
STYLE: Final = """
.muted { color: #71717a } .body--dark .muted { color: #a1a1aa }
.mono { font-family: ui-monospace, monospace; overflow-wrap: anywhere }
.pre { white-space: pre-wrap }
.q-table td, .q-table th { padding: 4px 8px } .q-table td { white-space: normal }
.q-table th:first-child, .q-table td:first-child { position: sticky; left: 0; z-index: 1; background: inherit }
.q-table tr { background: #fff } .body--dark .q-table tr { background: #1d1d1d }
.wrap { overflow-wrap: anywhere }
:focus-visible { outline: 2px solid #0b69b7; outline-offset: 2px }
.q-btn:focus-visible { box-shadow: 0 0 0 3px #0b69b7 }  /* its class takes the outline */
.body--dark :focus-visible { outline-color: #7cc4ff } .q-header :focus-visible { outline-color: #fff }
.body--dark .q-btn:focus-visible { box-shadow: 0 0 0 3px #7cc4ff }
a.link, .act { color: #0b69b7 } .body--dark a.link, .body--dark .act { color: #7cc4ff }
.plus { color: #15803d } .minus { color: #b91c1c }
.body--dark .plus { color: #4ade80 } .body--dark .minus { color: #f87171 }
.nicegui-content { padding: 12px; align-items: stretch }
"""


@dataclass(frozen=True)
class Acted:
    """An act from this page: when, what in words, its command, and what became of it."""

    at: float
    study: str
    command: str
    done: Done


@dataclass(frozen=True)
class Desk:
    """What every view of this process works with. `acted`: the acts so far, the newest last; `also`: other programs
    that show these stores, and their commands.
    """

    watcher: Watcher
    hands: Hands
    uri: str
    folder: Path
    mlflow: str
    acted: list[Acted]
    also: tuple[tuple[str, str], ...] = ()

    def run_folder(self, study: str) -> Path | None:
        """The folder of a study's runs; None where it is not here."""
        return self.watcher.told.folders().get(study)

    def mlflow_page(self, glance: Glance, run_id: str | None = None) -> str | None:
        """The address of the study's MLflow page, or of one of its runs."""
        if glance.page is None:
            return None
        page = glance.page if run_id is None else f"{glance.page.partition('/runs')[0]}/runs/{run_id}"
        return f"{self.mlflow}{page}"

    def do(self, study: str, act: Act) -> Done:
        """Carry out an act, which may take seconds, and remember what became of it."""
        done = self.hands.do(study, act)
        self.acted.append(Acted(time.time(), study, self.hands.command(study, act), done))
        self.watcher.wake()
        return done


class Part:
    """A part of the page that is drawn anew when what it shows has changed, and only then."""

    def __init__(self, of: Callable[[Seen], Any], draw: Callable[[Any], None], classes: str = "w-full") -> None:
        self._of, self._draw, self._shown = of, draw, object()
        self._place = ui.column().classes(f"{classes} gap-2 items-stretch")

    def show(self, seen: Seen) -> None:
        """Draw it, where it is not as it stands."""
        found = self._of(seen)
        if found != self._shown:
            self._place.clear()
            with self._place:
                self._draw(found)
            self._shown = found  # what could not be drawn is drawn again


@dataclass(frozen=True)
class _Keyed:
    """A study, of which only the key tells whether it has to be drawn anew."""

    key: Any
    glance: Glance = field(compare=False)


def part_of(name: str, key: Callable[[Glance], Any], draw: Callable[[Glance], None]) -> Part:
    """A part that shows something of a study; `key`: what it shows."""

    def of(seen: Seen) -> _Keyed | None:
        glance = seen.study(name)
        return None if glance is None else _Keyed(key(glance), glance)

    return Part(of, lambda found: None if found is None else draw(found.glance))


def follow(desk: Desk, parts: Sequence[Part]) -> None:
    """Keep the parts up to date as long as the page is open."""
    shown: list[tuple[int, int]] = []

    def show() -> None:
        seen = desk.watcher.seen
        if [(seen.number, len(desk.acted))] != shown:
            acts = len(desk.acted)
            for part in parts:
                part.show(seen)
            shown[:] = [(seen.number, acts)]

    show()
    ui.timer(1.0, show)


@contextmanager
def frame(title: str, desk: Desk) -> Iterator[None]:
    """The page around a view: its head, and who watches."""
    ui.add_css(STYLE)
    ui.colors(primary="#1f5f99")  # dark enough for white text
    ui.page_title(f"{title} - sweeper")
    desk.watcher.open(client := ui.context.client)
    client.on_delete(lambda: desk.watcher.close(client))
    with ui.header().classes("items-center gap-3 py-2"):
        ui.link("sweeper", "/").classes("text-lg font-bold text-white no-underline")
        ui.label(title).classes("text-white wrap")
        ui.space()
        ui.link("MLflow", f"{desk.mlflow}/", new_tab=True).classes("text-white")
    with ui.column().classes("w-full max-w-6xl mx-auto gap-2 items-stretch"):
        late = ui.label("").classes("text-negative wrap")
        ui.timer(5.0, lambda: late.set_text(lateness(desk.watcher, time.time())))
        yield


def lateness(watcher: Watcher, now: float) -> str:
    """What to say where the page does not stand for now; "" where it does."""
    if now - watcher.looked_at <= LATE_SECONDS:
        return watcher.failed
    return f"{watcher.failed} Not looked at since {time.strftime('%H:%M', time.localtime(watcher.looked_at))}.".strip()


def state_chip(glance: Glance) -> None:
    """Whether a sweep trains it."""
    word, colour, icon = STATES[glance.state]
    if glance.sweep is not None and glance.state == "ended":
        word = glance.sweep.how or word
    ui.chip(word, icon=icon, color=colour, text_color="white").props("dense").classes("q-px-sm")


def progress(glance: Glance) -> None:
    """How far it is, as a bar and in words."""
    sweep, counts = glance.sweep, glance.counts
    done, planned, what = 0, 0, "runs"
    runs_now = sweep is not None and sweep.what == "runs" and glance.state == "running"
    if sweep is not None and sweep.planned and (runs_now or counts is None):
        done, planned, what = sweep.done, sweep.planned, sweep.what
    elif counts is not None:
        done, planned = counts.ended, counts.ended + counts.missing
    if planned:
        bar = ui.linear_progress(done / planned, show_value=False, size="10px").props("instant-feedback rounded")
        bar.props(f'aria-label="{done} of {planned} done"')
    words = [f"{done:,} of {planned:,} {what}"] if planned else [f"{glance.runs:,} runs recorded"]
    if glance.state == "running" and sweep is not None:
        words += [f"{sweep.training} in training"] if sweep.training else []
        if sweep.seconds_left is not None:
            words.append(f"about {duration(sweep.seconds_left)} left, until {_later(sweep.seconds_left)}")
        elif runs_now and planned > done:
            words.append("time left: known after the first runs")
        words += [f"now: {sweep.what}, {sweep.done} of {sweep.planned}"] if not runs_now and sweep.planned else []
    if glance.state != "running" and counts is not None and counts.missing and counts.seconds_left is not None:
        words.append(f"{duration(counts.seconds_left)} left with one worker alone")
    ui.label(", ".join(words)).classes("text-sm")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> ui.table:
    """A table of texts."""
    columns = [
        {"name": str(i), "label": name, "field": str(i), "align": "left", "sortable": False}
        for i, name in enumerate(header)
    ]
    found = [{"id": n, **{str(i): cell for i, cell in enumerate(row)}} for n, row in enumerate(rows)]
    made = ui.table(columns=columns, rows=found, row_key="id", pagination=0 if len(rows) <= 100 else 25)
    return made.classes("w-full").props("flat dense bordered" + (" hide-pagination" if len(rows) <= 100 else ""))


def command(text: str) -> None:
    """A line for a terminal, to copy."""
    with ui.row().classes("items-center gap-1 no-wrap"):
        ui.label(text).classes("mono text-sm")
        copy = ui.button(icon="content_copy", color=None, on_click=lambda: ui.clipboard.write(text)).classes("act")
        copy.props('flat dense size=sm aria-label="copy the command"')


def muted(text: str) -> ui.label:
    """What is read second."""
    return ui.label(text).classes("text-sm muted wrap")


def heading(text: str) -> None:
    """The title of a part."""
    ui.label(text).classes("text-base font-bold").props('role="heading" aria-level="2"')


def duration(seconds: float) -> str:
    """A time as people say it: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def clock(at: float) -> str:
    """When something was, in this machine's time."""
    form = "%H:%M:%S" if time.time() - at < 86_400 else "%Y-%m-%d %H:%M"
    return time.strftime(form, time.localtime(at))


def _later(seconds: float) -> str:
    """When it will be in so many seconds, in this machine's time."""
    form = "%H:%M" if seconds < 12 * 3600 else "%a %H:%M"
    return time.strftime(form, time.localtime(time.time() + seconds))


_SPEAKS: Final = {Failure.DIVERGED, Failure.INVERTED, Failure.COLLAPSED, Failure.DRIFTED}
"""What a loss does to a model, and no machine."""


def failures(counts: StatusCounts) -> str:
    """How many runs failed, of which variants, why, and whether somebody must do something; "" where none did."""
    said = []
    for by_settings, how in ((True, "failed by {} settings"), (False, "could not be trained")):
        kinds = {kind: n for kind, n in counts.failures.items() if n and Failure(kind).by_config is by_settings}
        of: Counter[str] = Counter()
        for stratum in counts.strata:
            of[stratum.variant] += stratum.failed if by_settings else stratum.untrained
        whose = ", ".join(f"{variant} {number}" for variant, number in of.most_common() if number)
        why_all = "; ".join(f"{number} {why(kind)}" for kind, number in kinds.items())
        failed = sum(kinds.values())
        what = how.format("its" if failed == 1 else "their")
        then = " That counts against the losses; nothing is to be mended." if kinds and kinds.keys() <= _SPEAKS else ""
        said += [f"{so_many(failed, 'run')} {what} ({whose}): {why_all}.{then}"] if kinds else []
    return " ".join(said)
