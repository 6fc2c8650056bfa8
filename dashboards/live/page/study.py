"""One study: its answer, its figures, its runs, samples of them, and the acts that steer it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from nicegui import ui

from dashboards.live.page import charts
from dashboards.live.page.overview import counts_table, facts, goes_on
from dashboards.live.page.parts import Desk, Part, clock, follow, frame, heading, muted, progress, state_chip, table
from dashboards.live.page.runs import chosen_runs, failed_runs, log_tail
from dashboards.live.page.samples import samples
from dashboards.live.page.steer import steer
from dashboards.live.views import Figures, Glance, Happening, Seen, Table

Of = Callable[[Seen], Any]
TABS = ("answer", "figures", "runs", "samples", "steer")


def study_page(name: str, desk: Desk) -> None:
    """Draw the page of a study."""

    def of(field: str) -> Of:
        def found(seen: Seen) -> Any:
            glance = seen.study(name)
            return None if glance is None else getattr(glance, field)

        return found

    def head(seen: Seen) -> Glance | None:
        return seen.study(name)

    with frame(name, desk):
        if desk.watcher.seen.study(name) is None:
            muted(f"No study {name} is known yet; it is shown as soon as it is.")
        top = Part(head, lambda glance: _head(glance, desk))
        with ui.tabs().classes("w-full").props("dense align=left no-caps outside-arrows mobile-arrows") as tabs:
            for tab in TABS:
                ui.tab(tab)
        with ui.tab_panels(tabs, value="answer").classes("w-full bg-transparent").props("keep-alive"):
            with ui.tab_panel("answer").classes("p-0"):
                answer = Part(of("answer"), lambda found: _answer(found, desk, name))
            with ui.tab_panel("figures").classes("p-0"):
                figures = Part(of("figures"), lambda found: _figures(found, desk, name))
            with ui.tab_panel("runs").classes("p-0"):
                now = Part(of("happening"), _now)
                counted = Part(of("counts"), lambda counts: counts_table(counts) if counts is not None else None)
                failed = Part(of("figures"), lambda found: failed_runs(found, desk, name))
                log_tail(desk, name)
            with ui.tab_panel("samples").classes("p-0"):
                samples(desk, name)
            with ui.tab_panel("steer").classes("p-0"):
                steer(desk, name)
        follow(desk, [top, answer, figures, now, counted, failed])


def _head(glance: Glance | None, desk: Desk) -> None:
    if glance is None:
        return
    with ui.row().classes("items-center gap-2 w-full"):
        ui.label(glance.name).classes("text-xl font-bold").props('role="heading" aria-level="1"')
        state_chip(glance)
        for variant in sorted(glance.paused):
            ui.chip(f"{variant} paused", icon="pause", color="warning").props("dense")
        ui.space()
        page = desk.mlflow_page(glance)
        if page is not None:
            ui.link("runs in MLflow", page, new_tab=True).classes("link text-sm")
    if glance.question:
        ui.label(glance.question).classes("wrap")
    progress(glance)
    facts(glance)
    for note in glance.notes if not goes_on(glance) else ():
        muted(note)


def _answer(answer: Any, desk: Desk, name: str) -> None:
    if answer is None:
        muted("Its runs are not read yet.")
        return
    several = len(answer.tables) > 1
    for one in answer.tables:
        if several:
            heading(one.condition)
        ui.label(one.answer).classes("text-base wrap")
        _table(one, desk, name)
        if any(bar.value is not None for bar in one.bars):
            height = 110 + 26 * len(one.bars)
            ui.echart(charts.gains(one.bars, one.unit)).classes("w-full").style(f"height: {height}px")
    for note in answer.notes:
        muted(note)


def _table(one: Table, desk: Desk, name: str) -> None:
    table(one.header, one.rows)
    glance = desk.watcher.seen.study(name)
    pages = [
        (row[0], desk.mlflow_page(glance, runs[0]))
        for row, runs in zip(one.rows, one.runs, strict=False)
        if runs and glance is not None
    ]
    if pages:
        with ui.row().classes("items-center gap-2"):
            muted("judging runs in MLflow:")
            for variant, page in pages:
                if page is not None:
                    ui.link(variant, page, new_tab=True).classes("link text-sm")


def _figures(found: Figures | None, desk: Desk, name: str) -> None:
    if found is None:
        muted("Its runs are not read yet.")
        return
    colours = charts.colours_of(list(dict.fromkeys(run.variant for run in found.runs)))
    heading(f"{found.metric} against drift")
    if found.points:
        ui.echart(charts.reward_and_drift(found.points, found.metric, colours)).classes("w-full h-96")
        muted(f"{found.about}. A dot a finished run, a triangle one that broke. Click a name to leave it out.")
    else:
        muted("No finished run tells both.")
    heading("Learning curves")
    chosen_runs(found, desk)
    if found.heats:
        heading("Two settings")
        place = ui.column().classes("w-full")

        def draw(variant: str) -> None:
            place.clear()
            shown = next(heat for heat in found.heats if heat.variant == variant)
            with place:
                ui.echart(charts.heat(shown, found.metric)).classes("w-full h-96")
                muted(f"mean {found.metric} of the runs in each bin, too good where it was chosen by it")

        names = [heat.variant for heat in found.heats]
        choice = ui.select(names, value=names[0], label="variant", on_change=lambda event: draw(event.value))
        choice.classes("w-48")
        draw(names[0])


def _now(found: Happening | None) -> None:
    if found is None or not (found.training or found.spans or found.workers):
        muted("Nothing trains now.")
        return
    heading("In training")
    rows = [
        (
            run.worker,
            f"{run.variant} t{run.trial} {run.scenario} b{run.block} s{run.seed}",
            clock(run.since),
            str(run.step),
            ", ".join(f"{name} {value:.3g}" for name, value in list(run.metrics.items())[:4]),
        )
        for run in found.training
    ]
    table(("worker", "run", "since", "step", "last logged"), rows) if rows else muted("Nothing trains now.")
    if found.spans:
        heading("Workers over time")
        colours = charts.colours_of(list(dict.fromkeys(span.variant for span in found.spans)))
        height = 130 + 28 * len({span.worker for span in found.spans})
        chart = ui.echart(charts.timeline(found.spans[-400:], time.time(), colours))
        chart.classes("w-full").style(f"height: {height}px")
