"""One study: its answer, its figures, its runs, samples of them, and the acts that steer it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from nicegui import ui

from dashboards.live.page import charts
from dashboards.live.page.figures import FiguresView
from dashboards.live.page.overview import at_a_glance, counts_table, muted_nothing
from dashboards.live.page.parts import Desk, Part, clock, follow, frame, heading, muted, part_of, table
from dashboards.live.page.runs import failed_runs, failure_lines, log_tail
from dashboards.live.page.samples import samples
from dashboards.live.page.steer import steer
from dashboards.live.reading.figures import named
from dashboards.live.views import Bar, Glance, Happening, Table

MOST_SPANS = 400  # the newest, drawn
TABS = ("answer", "figures", "runs", "samples", "steer")


def study_page(name: str, desk: Desk) -> None:
    """Draw the page of a study."""
    with frame(name, desk):
        known = Part(lambda seen: seen.study(name) is not None, lambda found: None if found else _unknown(name))
        parts = [known, *at_a_glance(name, desk)]
        with ui.tabs().classes("w-full").props("dense align=left no-caps outside-arrows mobile-arrows") as tabs:
            for tab in TABS:
                ui.tab(tab)
        with ui.tab_panels(tabs, value="answer").classes("w-full bg-transparent").props("keep-alive"):
            with ui.tab_panel("answer").classes("p-0"):
                parts.append(part_of(name, lambda one: (one.answer, one.notes), lambda one: _answer(one, desk)))
            with ui.tab_panel("figures").classes("p-0 gap-2"):
                figures = FiguresView(desk, name)
            with ui.tab_panel("runs").classes("p-0 gap-2"):
                heading("Runs by how they ended")
                parts.append(part_of(name, lambda one: one.counts, counts_table))
                parts.append(part_of(name, failure_lines, lambda one: failed_runs(one, desk)))
                parts.append(part_of(name, lambda one: one.happening, lambda one: _now(one.happening)))
                log_tail(desk, name)
            with ui.tab_panel("samples").classes("p-0"):
                samples(desk, name)
            with ui.tab_panel("steer").classes("p-0"):
                steer(desk, name)
        follow(desk, parts)
        ui.timer(1.0, figures.show)


def _unknown(name: str) -> None:
    muted(f"No study {name} is known yet; it is shown as soon as it is. `sweeper run` starts one.")


def _answer(glance: Glance, desk: Desk) -> None:
    answer = glance.answer
    if answer is None:
        return muted_nothing()
    several = len(answer.tables) > 1
    for one in answer.tables:
        if several:
            heading(one.condition)
        ui.label(one.answer).classes("text-base wrap")
        _table(one, desk, glance)
        if any(bar.low is not None for bar in one.beside):
            ui.label(f"How much more each gains than {one.baseline}").classes("font-medium")
            _intervals(charts.beside(one), one.beside, one.baseline)
        elif any(bar.value is not None for bar in one.bars) and not one.beside:
            ui.label("What each gains").classes("font-medium")
            _intervals(charts.gains(one.bars, one.unit), one.bars)
    for note in (*answer.notes, *(note for note in glance.notes if note not in answer.notes)):
        muted(note)


def _intervals(drawn: charts.Options, bars: Sequence[Bar], baseline: str = "") -> None:
    ui.echart(drawn).classes("w-full").style(f"height: {110 + 26 * len(bars)}px")
    muted(charts.marks(bars, baseline))


def _table(one: Table, desk: Desk, glance: Glance) -> None:
    table(one.header, one.rows)
    pages = [(row[0], desk.mlflow_page(glance, runs[0])) for row, runs in zip(one.rows, one.runs, strict=False) if runs]
    if pages:
        with ui.row().classes("items-center gap-2"):
            muted("judging runs in MLflow:")
            for variant, page in pages:
                if page is not None:
                    ui.link(variant, page, new_tab=True).classes("link text-sm")


def _now(found: Happening) -> None:
    if not (found.training or found.spans or found.workers):
        muted("Nothing trains now.")
        return
    heading("In training")
    rows = [
        (
            run.worker,
            named(run.variant, run.scenario, run.trial, run.block, run.seed),
            clock(run.since),
            str(run.step),
            ", ".join(f"{name} {value:.3g}" for name, value in list(run.metrics.items())[:4]),
        )
        for run in found.training
    ]
    if rows:
        table(("worker", "run", "since", "step", "last logged"), rows).style("max-height: 22rem")
    else:
        muted("Nothing trains now.")
    if found.spans:
        heading("Workers over time")
        colours = charts.colours_of(span.variant for span in found.spans)
        lanes = charts.side_by_side(found.spans[-MOST_SPANS:])
        chart = ui.echart(charts.timeline(lanes, time.time(), colours))
        chart.classes("w-full").style(f"height: {110 + 14 * len(lanes)}px")
        muted("A bar a run, under its worker; runs of a pack train side by side.")
