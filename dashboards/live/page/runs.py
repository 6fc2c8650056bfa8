"""Runs of a study: which failed and why, and the ends of the logs."""

from __future__ import annotations

import os
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from nicegui import run, ui

from dashboards.live.page.parts import Desk, heading, muted
from dashboards.live.reading.words import why, words
from dashboards.live.views import Glance, RunLine
from studies.text.files import open_file

TAIL_BYTES: Final = 1 << 14
LOGS: Final = "logs"
FEW: Final = 5  # runs of one cause, which are shown at once


def failure_lines(glance: Glance) -> tuple[RunLine, ...]:
    """The runs that failed or were stopped."""
    return tuple(one for one in (glance.figures.runs if glance.figures is not None else ()) if one.failure is not None)


def failed_runs(glance: Glance, desk: Desk) -> None:
    """Which runs failed, by cause, with what each said and its page."""
    failed: dict[str, list[RunLine]] = defaultdict(list)
    for one in failure_lines(glance):
        failed[one.failure or ""].append(one)
    if not failed:
        return
    heading("Failed or stopped")
    for cause, runs in failed.items():
        with ui.expansion(f"{len(runs)} {why(cause)}", value=len(runs) <= FEW).classes("w-full").props("dense"):
            for one in runs[:100]:
                with ui.row().classes("items-baseline gap-2"):
                    page = desk.mlflow_page(glance, one.run_id)
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
