"""All studies at a glance."""

from __future__ import annotations

import json
from collections.abc import Hashable
from dataclasses import replace
from typing import Final

from nicegui import ui

from dashboards.live.page.parts import (
    Desk,
    Part,
    clock,
    command,
    failures,
    follow,
    frame,
    muted,
    part_of,
    progress,
    state_chip,
    table,
)
from dashboards.live.reading.words import words
from dashboards.live.views import Glance, Seen
from dashboards.report.progress import ENDS, StatusCounts

# Addresses of MLflow's pages, as `sweeper open` gives them, lead here where the page stands in the place of MLflow.
MLFLOW_LINKS: Final = (
    "<script>if (location.hash.startsWith('#/experiments/')) location.replace(%s + location.hash)</script>"
)


def overview(desk: Desk) -> None:
    """Draw the page of all studies."""
    ui.add_head_html(MLFLOW_LINKS % json.dumps(f"{desk.mlflow}/"))
    with frame("studies", desk):
        follow(desk, [Part(lambda seen: seen.problem, _problem), Part(studies_of, lambda _: _cards(desk))])


def studies_of(seen: Seen) -> frozenset[str]:
    """Which studies have a card. Cards stay in their places when studies change, so that what is open stays open."""
    return frozenset(one.name for one in seen.studies)


def _problem(problem: str) -> None:
    if problem:
        ui.label(problem).classes("text-negative wrap")


def _cards(desk: Desk) -> None:
    """A card a study, each kept up to date by itself."""
    seen = desk.watcher.seen
    if not seen.studies:
        muted("No study is kept here yet. Start one in a terminal; it appears here by itself:")
        command("sweeper run quickstart")
    parts = []
    for glance in seen.studies:
        with ui.card().classes("w-full gap-2"):
            parts += at_a_glance(glance.name, desk)
            with ui.expansion("by variant and scenario").classes("w-full").props("dense"):
                parts.append(part_of(glance.name, lambda one: one.counts, counts_table))
    follow(desk, parts)


def at_a_glance(name: str, desk: Desk) -> list[Part]:
    """What a study is, how far it is, what is best and who runs it, each part drawn anew by itself."""
    return [
        part_of(name, _title_key, lambda glance: _title(glance, desk)),
        part_of(name, lambda glance: (_without_time(glance), glance.counts), progress),
        part_of(name, _facts_key, _facts),
        part_of(name, who, lambda glance: muted(who(glance))),
    ]


def _title_key(glance: Glance) -> Hashable:
    how = None if glance.sweep is None else glance.sweep.how
    return glance.state, how, glance.paused, glance.page, glance.question, glance.material


def _title(glance: Glance, desk: Desk) -> None:
    with ui.row().classes("items-center gap-2 w-full"):
        ui.link(glance.name, f"/study/{glance.name}").classes("text-lg font-bold link")
        state_chip(glance)
        for variant in sorted(glance.paused):
            ui.chip(f"{variant} paused", icon="pause", color="warning").props("dense").classes("q-px-sm")
        ui.space()
        page = desk.mlflow_page(glance)
        if page is not None:
            ui.link("runs in MLflow", page, new_tab=True).classes("link text-sm")
    if glance.question:
        ui.label(glance.question).classes("wrap")
    if glance.material:
        muted(glance.material)


def _without_time(glance: Glance) -> object:
    """What the sweep tells, without what changes every second."""
    return None if glance.sweep is None else (glance.state, replace(glance.sweep, said="", silent=0.0))


def _facts_key(glance: Glance) -> object:
    counted = None if glance.counts is None else (failures(glance.counts), goes_on(glance), trains_elsewhere(glance))
    best = (glance.answer and (glance.answer.best, glance.answer.said), glance.sweep and glance.sweep.best)
    return glance.state, glance.reading, glance.problem, best, counted, glance.again


def _facts(glance: Glance) -> None:
    """The first so far, failures, and what to do where nobody trains what is left."""
    if glance.reading:
        muted(f"Reading the runs: {glance.reading}")
    if glance.problem:
        ui.label(glance.problem).classes("text-negative wrap")
    if glance.answer is not None and glance.answer.best:
        ui.label(_best(glance.answer.best, glance.state)).classes("wrap font-medium")
    elif glance.sweep is not None and glance.sweep.best is not None and glance.sweep.best[2] is not None:
        variant, scenario, value = glance.sweep.best
        ui.label(f"Best run so far: {words(variant)} in {words(scenario)}, {value:.3g}").classes("wrap font-medium")
    if glance.answer is not None and not glance.answer.best and glance.answer.said:
        ui.label(glance.answer.said).classes("wrap")
    broken = "" if glance.counts is None else failures(glance.counts)
    if broken:
        ui.label(broken).classes("wrap")
    if trains_elsewhere(glance):
        muted("Runs are in training, of a sweep that is not seen from here: it may train elsewhere.")
    elif goes_on(glance):
        if glance.state == "dead":
            ui.label("The sweep is gone. Finished runs are kept; this goes on with it:").classes("text-negative")
        else:
            muted("Something is left to train. This goes on with it:")
        command(glance.again)


def _best(said: str, state: str) -> str:
    """The line at the top; while runs are still to come, what it names is so for now."""
    return f"So far: {said[0].lower()}{said[1:]}" if state == "running" and said.startswith("Use") else said


def who(glance: Glance) -> str:
    """Who runs it where, or when it was last run."""
    owner = f"of {glance.owner} in {glance.folder}" if glance.owner else ""
    if glance.sweep is not None:
        return f"{glance.sweep.said} ({owner or f'on {glance.sweep.host}'})"
    last = f"last change {clock(glance.changed)}" if glance.changed else ""
    return ", ".join(filter(None, (last, owner)))


def trains_elsewhere(glance: Glance) -> bool:
    """Whether a sweep that is not seen from here may train it: the store has runs of it in training."""
    counts = glance.counts
    return glance.state == "unknown" and counts is not None and any(stratum.training for stratum in counts.strata)


def goes_on(glance: Glance) -> bool:
    """Whether somebody has to start a sweep for what is left."""
    if glance.state == "running" or trains_elsewhere(glance):
        return False
    return glance.state == "dead" or (glance.counts is not None and glance.counts.missing > 0)


def counts_table(glance: Glance) -> None:
    """The runs of each variant in each scenario by how they ended."""
    if glance.counts is None:
        return muted_nothing()
    _counts(glance.counts)


def muted_nothing() -> None:
    """What stands where nothing is known yet."""
    muted("Its runs are not read yet.")


def _counts(counts: StatusCounts) -> None:
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
    table(header, rows)
