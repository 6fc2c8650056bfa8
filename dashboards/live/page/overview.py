"""All studies at a glance."""

from __future__ import annotations

from nicegui import ui

from dashboards.live.page.parts import Desk, Part, clock, command, failures, follow, frame, muted, progress, state_chip
from dashboards.live.page.parts import table as text_table
from dashboards.live.views import Glance, Seen
from dashboards.report.progress import ENDS, StatusCounts


def overview(desk: Desk) -> None:
    """Draw the page of all studies."""
    with frame("studies", desk):
        part = Part(lambda seen: (seen.problem, tuple(one.name for one in seen.studies)), lambda _: _cards(desk))
        follow(desk, [part])


def _cards(desk: Desk) -> None:
    """A card a study, each kept up to date by itself."""
    seen = desk.watcher.seen
    if seen.problem:
        ui.label(seen.problem).classes("text-negative wrap")
    if not seen.studies:
        muted("No study is kept here yet. Start one in a terminal; it appears here by itself:")
        command("sweeper run quickstart")
    parts = []
    for glance in seen.studies:
        with ui.card().classes("w-full"):
            parts.append(Part(_of(glance.name), lambda found: _card(found, desk)))
    follow(desk, parts)


def _of(name: str):  # type: ignore[no-untyped-def]
    def found(seen: Seen) -> Glance | None:
        return seen.study(name)

    return found


def _card(glance: Glance | None, desk: Desk) -> None:
    if glance is None:
        return
    with ui.row().classes("items-center gap-2 w-full"):
        ui.link(glance.name, f"/study/{glance.name}").classes("text-lg font-bold link")
        state_chip(glance)
        if glance.paused:
            ui.chip(f"paused: {', '.join(sorted(glance.paused))}", icon="pause", color="warning").props("dense")
        ui.space()
        page = desk.mlflow_page(glance)
        if page is not None:
            ui.link("in MLflow", page, new_tab=True).classes("link text-sm")
    if glance.question:
        ui.label(glance.question).classes("wrap")
    progress(glance)
    facts(glance)
    if glance.counts is not None:
        with ui.expansion("by variant and scenario").classes("w-full").props("dense"):
            counts_table(glance.counts)


def facts(glance: Glance) -> None:
    """Best so far, failures, who runs it, and what to do where nobody does."""
    if glance.reading:
        muted(f"Reading the runs: {glance.reading}")
    if glance.problem:
        ui.label(glance.problem).classes("text-negative wrap")
    if glance.answer is not None and glance.answer.best:
        ui.label(f"Best: {glance.answer.best}").classes("wrap")
    broken = failures(glance.counts.failures if glance.counts is not None else {})
    if broken:
        ui.label(f"Failures: {broken}").classes("wrap")
    if glance.sweep is not None:
        muted(f"{glance.sweep.said} (on {glance.sweep.host})")
    elif glance.changed:
        muted(f"last change {clock(glance.changed)}")
    if goes_on(glance):
        if glance.state == "dead":
            ui.label("The sweep is gone. Finished runs are kept; this goes on with it:").classes("text-negative")
        else:
            muted("Something is left to train. This goes on with it:")
        command(glance.again)


def goes_on(glance: Glance) -> bool:
    """Whether somebody has to start a sweep for what is left."""
    if glance.state == "running":
        return False
    return glance.state == "dead" or (glance.counts is not None and glance.counts.missing > 0)


def counts_table(counts: StatusCounts) -> None:
    """The runs of each variant in each scenario by how they ended."""
    several = len({stratum.scenario for stratum in counts.strata}) > 1
    header = ["variant", *(["scenario"] if several else []), *ENDS, "planned"]
    rows = [
        [
            s.variant,
            *([s.scenario] if several else []),
            *(str(s.of(end)) for end in ENDS),
            "-" if s.planned is None else str(s.planned),
        ]
        for s in counts.strata
    ]
    text_table(header, rows)
