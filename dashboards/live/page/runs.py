"""Runs of a study: their learning curves, which failed and why, and the ends of logs."""

from __future__ import annotations

import os
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from nicegui import run, ui

from dashboards.live.page import charts
from dashboards.live.page.parts import Desk, heading, muted
from dashboards.live.reading.words import words
from dashboards.live.views import Figures, RunLine
from dashboards.store.connection import StoreError
from dashboards.store.histories import load_curves
from studies.text.files import open_file

MOST_CHOSEN: Final = 6
TAIL_BYTES: Final = 1 << 14
LOGS: Final = "logs"


def chosen_runs(found: Figures, desk: Desk) -> None:
    """The curves of some runs, chosen by name; the newest are there first."""
    labels = {one.run_id: one.label for one in reversed(found.runs)}
    if not labels:
        muted("No run has begun.")
        return
    first = list(labels)[: min(3, len(labels))]
    with ui.row().classes("w-full gap-2"):
        runs = ui.select(labels, value=first, multiple=True, label=f"runs ({MOST_CHOSEN} at most)", with_input=True)
        runs.classes("grow").props("use-chips dense")
        name = ui.select(list(dict.fromkeys(found.names)), value=found.names[0], label="metric").props("dense")
    place = ui.column().classes("w-full")

    async def draw() -> None:
        chosen = list(runs.value)[:MOST_CHOSEN]
        try:
            curves = await run.io_bound(load_curves, desk.uri, chosen, [name.value])
        except StoreError as error:
            place.clear()
            with place:
                muted(words(error))
            return
        shown = {labels[one]: curves[one][name.value] for one in chosen if name.value in curves.get(one, {})}
        place.clear()
        with place:
            if shown:
                ui.echart(charts.curves(shown, words(name.value))).classes("w-full h-80")
            else:
                muted(f"None of these runs has logged {name.value}.")

    runs.on_value_change(draw)
    name.on_value_change(draw)
    with place:
        ui.button("draw the curves", on_click=draw).props("outline no-caps dense")


def failed_runs(found: Figures | None, desk: Desk, name: str) -> None:
    """Which runs failed, by cause, with what each said and its page."""
    failed: dict[str, list[RunLine]] = defaultdict(list)
    for one in found.runs if found is not None else ():
        if one.failure is not None:
            failed[one.failure].append(one)
    if not failed:
        return
    heading("Failed or stopped")
    glance = desk.watcher.seen.study(name)
    for cause, runs in failed.items():
        with ui.expansion(f"{cause}: {len(runs)}").classes("w-full").props("dense"):
            for one in runs[:100]:
                with ui.row().classes("items-baseline gap-2"):
                    page = desk.mlflow_page(glance, one.run_id) if glance is not None else None
                    if page is not None:
                        ui.link(one.label, page, new_tab=True).classes("link")
                    else:
                        ui.label(one.label)
                    if one.message:
                        muted(one.message)
            if len(runs) > 100:
                muted(f"and {len(runs) - 100} more, in MLflow")


def log_tail(desk: Desk, name: str) -> None:
    """The end of a worker's log, followed while it is open."""
    with ui.expansion("Logs of workers").classes("w-full").props("dense") as opened:
        choice = ui.select([], label="log").classes("w-64").props("dense")
        text = ui.label("").classes("mono pre text-xs w-full")

    async def show() -> None:
        if not opened.value:
            return
        folder = await run.io_bound(desk.run_folder, name)
        names = [] if folder is None else await run.io_bound(logs, folder)
        if names != choice.options:
            choice.set_options(names, value=choice.value if choice.value in names else (names or [None])[0])
        if folder is not None and choice.value is not None:
            text.set_text(await run.io_bound(tail, folder, choice.value))

    opened.on_value_change(show)
    choice.on_value_change(show)
    ui.timer(2.0, show)


def logs(folder: Path) -> list[str]:
    """The names of the logs of a run folder."""
    with suppress(OSError):
        return sorted(file.name for file in (folder / LOGS).iterdir() if file.suffix == ".log")
    return []


def tail(folder: Path, name: str) -> str:
    """The end of one of them, without secrets. `name`: one of `logs`."""
    if name not in logs(folder):
        return ""
    try:
        with open_file(folder / LOGS / name, os.O_RDONLY) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(size - TAIL_BYTES, 0))
            found: Any = file.read(TAIL_BYTES)
    except OSError as error:
        return words(error)
    return words(found.decode(errors="replace")) or "(empty)"
