"""The acts that steer a study: stop, pause, try again, extend, clone a variant; each with its command and answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from nicegui import run, ui

from dashboards.live.page.overview import goes_on, muted_nothing, trains_elsewhere
from dashboards.live.page.parts import Desk, clock, command, follow, heading, muted, part_of, table
from dashboards.live.ports import Act, Edit, Run, Version
from dashboards.live.reading.words import spaced
from dashboards.live.views import Glance
from studies.records import Failure
from studies.requests import Extend, Pause, Resume, Retry, Stop, Take

HOURS: Final = "budget.wall_clock"
MORE: Final = {
    "budget.trials": "trials of each variant",
    "replicates": "replicates",
    HOURS: "hours by the clock of a sweep",
    "budget.gpu_hours": "GPU hours of all its sweeps",
}


def steer(desk: Desk, name: str) -> None:
    """Draw the acts of a study, and what became of those so far."""
    parts = [
        part_of(name, _runs_where, lambda one: _sweep(desk, one)),
        part_of(name, lambda one: (pausable(one), one.paused), lambda one: _variants(desk, one)),
        part_of(name, _ends, lambda one: _again(desk, one)),
        part_of(name, lambda one: one.state == "running", lambda one: _more(desk, one)),
        part_of(name, variants_of, lambda one: _clone(desk, one)),
    ]
    heading("Acts so far")
    parts.append(part_of(name, lambda one: (len(desk.acted), one.happening.answered), lambda one: _history(desk, one)))
    for what, line in desk.also:
        muted(what)
        command(line)
    follow(desk, parts)


def variants_of(glance: Glance) -> tuple[str, ...]:
    """The variants of a study, in the order of its file."""
    return () if glance.counts is None else tuple(dict.fromkeys(one.variant for one in glance.counts.strata))


def pausable(glance: Glance) -> tuple[str, ...]:
    """The variants that may be paused or resumed: where nothing trains or is left to, those alone that are paused."""
    variants, counts = variants_of(glance), glance.counts
    if glance.state == "running" or trains_elsewhere(glance) or (counts is not None and counts.missing):
        return variants
    return tuple(variant for variant in variants if variant in glance.paused)


def _runs_where(glance: Glance) -> object:
    return glance.state, glance.counts and glance.counts.missing == 0, trains_elsewhere(glance)


def _ends(glance: Glance) -> object:
    return glance.state == "running", glance.counts and (glance.counts.failures, glance.counts.stopped)


def _sweep(desk: Desk, glance: Glance) -> None:
    if glance.counts is None:
        return muted_nothing()
    with ui.row().classes("gap-2 items-center"):
        if glance.state == "running":
            _button(desk, glance.name, "stop when the runs in training end", Stop(), "stop")
            _button(
                desk,
                glance.name,
                "stop now",
                Stop(now=True),
                "dangerous",
                sure="Stop each run at its next step? Its state is kept: the same command goes on.",
            )
            file = desk.watcher.told.file(glance.name)
            if file is not None and file.endswith((".yaml", ".yml")):
                _button(desk, glance.name, f"take {file} as it is now", Take(file), "sync")
        elif trains_elsewhere(glance):
            muted("It may train elsewhere: the sweep is steered where it runs.")
        elif goes_on(glance):
            start = "Train what is missing, in a process of its own?"
            _button(desk, glance.name, "go on", Run(), "play_arrow", sure=start)
            muted("Trains what is missing." if glance.counts.missing else "It died before it had told its answer.")
        else:
            muted("Nothing is missing.")
    if glance.state == "running":
        muted(
            "Nothing is lost either way: runs that are stopped go on from their last step. Afterwards a button here "
            "goes on with the sweep, as does this in the terminal's folder:"
        )
        command(glance.again)


def _variants(desk: Desk, glance: Glance) -> None:
    shown = pausable(glance)
    if not shown:
        return
    heading("Variants")
    with ui.row().classes("items-center gap-2"):
        for variant in shown:
            if variant in glance.paused:
                _button(desk, glance.name, f"resume {variant}", Resume(variant), "play_arrow")
            else:
                _button(desk, glance.name, f"pause {variant}", Pause(variant), "pause")
    muted("Of a paused variant no more runs begin, now and in later sweeps; those in training go on.")


def _again(desk: Desk, glance: Glance) -> None:
    causes = {} if glance.counts is None else {**glance.counts.failures, **glance.counts.stopped}
    if not causes:
        return
    heading("Failed runs, once more")
    with ui.row().classes("items-center gap-2"):
        for cause, number in causes.items():
            act = Retry((cause,))
            if glance.state == "running":
                _button(desk, glance.name, f"retry {number} {spaced(cause)}", act, "replay")
            else:
                command(desk.hands.command(glance.name, act))
    if any(failure in causes for failure in Failure if failure.by_config):
        muted("What failed by its settings fails so again, unless data, model or program have changed.")


def _more(desk: Desk, glance: Glance) -> None:
    """More of what there is: in the study file, whose next version the sweep takes, or for this sweep alone."""
    heading("More trials, replicates or hours")
    with ui.row().classes("items-end gap-2"):
        what = ui.select(MORE, value="budget.trials", label="up to").classes("w-64")
        number = ui.number("how many", min=1, step=1, precision=0).classes("w-32")

        def shown() -> Version:
            wanted = f"{number.value:.0f}" if number.value else ""
            return desk.hands.more(glance.name, what.value, f"{wanted}{'h' if wanted and what.value == HOURS else ''}")

        _change_button(desk, glance.name, shown, "change the file")
        if glance.state == "running":

            def asked() -> Act | None:
                value = int(number.value) if number.value else None
                key = str(what.value).removeprefix("budget.")
                return None if value is None or key not in ("trials", "replicates") else Extend(**{key: value})

            _button(desk, glance.name, "extend this sweep", asked, "add")
    if glance.state == "running":
        muted("In the file it is for all later commands too; the change is shown before it is written.")


def _clone(desk: Desk, glance: Glance) -> None:
    """A copy of a variant with other settings, as the next version of the study file."""
    variants = list(variants_of(glance))
    if not variants:
        return
    heading("Clone a variant with other settings")
    with ui.row().classes("items-end gap-2 w-full"):
        of = ui.select(variants, value=variants[0], label="variant").classes("w-40")
        name = ui.input("name of the copy", value=f"{variants[0]}_2").classes("w-40")
        setting = ui.input("setting", value="beta").classes("w-32")
        value = ui.input("value").classes("w-32")

        def shown() -> Version:
            settings = {setting.value.strip(): value.value.strip()}
            return desk.hands.clone(glance.name, of.value, name.value.strip(), settings)

        _change_button(desk, glance.name, shown, "show the change")


def _change_button(desk: Desk, name: str, version: Callable[[], Version], text: str) -> None:
    """A button that shows the next version of the study file, with another that writes it."""

    async def preview() -> None:
        found = await run.io_bound(version)
        with button.client, ui.dialog() as dialog, ui.card().classes("w-full max-w-3xl gap-1"):
            _version(desk, name, found, dialog)
        dialog.open()

    button = ui.button(text, on_click=preview, icon="difference", color=None)
    button.props("outline no-caps").classes("act")


def _version(desk: Desk, name: str, found: Version, dialog: ui.dialog) -> None:
    """The next version as a diff, and the button that writes it."""
    for problem in found.problems:
        ui.label(problem).classes("text-negative wrap")
    for line in found.diff:
        colour = "plus" if line.startswith("+") else "minus" if line.startswith("-") else "muted"
        ui.label(line).classes(f"mono pre text-xs {colour}")
    if not found.problems:
        muted(f"{found.file} becomes this; what it was is kept as {found.kept_as}. A sweep that runs goes on with it.")
    with ui.row():
        if not found.problems:
            _button(desk, name, f"write {found.file}", found.edit, "save", then=dialog.close)
        ui.button("leave it", on_click=dialog.close).props("flat no-caps")


def _button(
    desk: Desk,
    study: str,
    text: str,
    act: Act | Callable[[], Act | None],
    icon: str,
    sure: str | None = None,
    then: Callable[[], None] = lambda: None,
) -> None:
    """A button that carries out an act, and says what became of it. `sure`: what is asked before; `then`: what is done
    after.
    """

    async def do() -> None:
        wanted = act() if callable(act) else act
        if wanted is None:
            ui.notify("Say how many trials or replicates.", type="warning")
            return
        button.disable()
        try:
            done = await run.io_bound(desk.do, study, wanted)
        finally:
            if not button.is_deleted:
                button.enable()
        kind = "positive" if done.outcome == "done" else "negative"
        with button.client:
            ui.notify(done.message, type=kind, multi_line=True)
        then()

    async def ask() -> None:
        if sure is None:
            return await do()
        line = "" if callable(act) else await run.io_bound(desk.hands.command, study, act)
        if button.is_deleted:
            return
        with button.client, ui.dialog() as dialog, ui.card():
            ui.label(sure)
            if not callable(act) and not isinstance(act, Edit):
                muted(line)
            with ui.row():
                ui.button("yes", on_click=lambda: dialog.submit(True)).props("no-caps")
                ui.button("no", on_click=lambda: dialog.submit(False)).props("flat no-caps")
        if await dialog:
            await do()

    button = ui.button(text, icon=icon, color=None, on_click=ask).props("outline no-caps").classes("act")


def _history(desk: Desk, glance: Glance) -> None:
    """Every act with its time, what became of it, and its command, the newest first."""
    mine = [one for one in desk.acted if one.study == glance.name]
    ours = {one.done.id for one in mine if one.done.id}
    rows: list[tuple[float, str, str, str]] = [
        (one.at, one.command, one.done.outcome, one.done.message) for one in mine
    ]
    rows += [(one.at, one.ask, one.outcome, one.message) for one in glance.happening.answered if one.id not in ours]
    if not rows:
        muted("None.")
        return
    shown = [(clock(at), *rest) for at, *rest in sorted(rows, reverse=True)[:50]]
    table(("when", "act", "outcome", "answer"), shown)
