"""What the model wrote before and after training, side by side."""

from __future__ import annotations

from nicegui import run, ui

from dashboards.live.page.figures import choices
from dashboards.live.page.parts import Desk, muted
from dashboards.live.reading.words import words
from dashboards.store.connection import StoreError
from dashboards.store.histories import load_samples
from studies.records import Shown


def samples(desk: Desk, name: str) -> None:
    """Choose a run, and read its samples."""
    choice = ui.select({}, label="run", with_input=True).classes("w-full").props("dense")
    place = ui.column().classes("w-full gap-3")
    with place:
        muted("The samples of a run before and after its training stand here, where it keeps some.")

    def fill() -> None:
        glance = desk.watcher.seen.study(name)
        found = None if glance is None else glance.figures
        options = {} if found is None else choices(found, finished=True)
        if options != choice.options:
            choice.set_options(options, value=choice.value if choice.value in options else next(iter(options), None))

    async def show() -> None:
        if choice.value is None:
            return
        try:
            reader = desk.watcher.beside.reader
            found = await run.io_bound(load_samples, desk.uri, [choice.value], desk.folder, {}, reader) or {}
            shown, problem = found.get(choice.value, ()), ""
        except StoreError as error:
            shown, problem = (), words(error)
        place.clear()
        with place:
            if not shown:
                muted(problem or "This run keeps no samples.")
            for one in shown:
                _pair(one)

    choice.on_value_change(show)
    fill()
    ui.timer(3.0, fill)


def _pair(one: Shown) -> None:
    with ui.card().classes("w-full"):
        ui.label(words(one.prompt)).classes("font-bold pre wrap")
        with ui.element("div").classes("grid grid-cols-1 md:grid-cols-2 gap-4 w-full"):
            for title, text, gold, cut in (
                ("before", one.before, one.gold_before, one.cut_before),
                ("after", one.after, one.gold_after, one.cut_after),
            ):
                with ui.column().classes("gap-1"):
                    worth = "" if gold is None else f", true reward {gold:.2f}"
                    muted(f"{title}{worth}{', cut off at the length cap' if cut else ''}")
                    ui.label(words(text)).classes("pre wrap")
