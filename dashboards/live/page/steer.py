"""The acts that steer a study: stop, pause, try again, extend, clone a variant; each with its command and answer."""

from __future__ import annotations

from collections.abc import Callable

from nicegui import run, ui

from dashboards.live.page.parts import Desk, Part, clock, command, follow, heading, muted, table
from dashboards.live.ports import Act, Edit, Extend, Pause, Resume, Retry, Run, Stop, Version
from dashboards.live.views import Glance, Seen


def steer(desk: Desk, name: str) -> None:
    """Draw the acts of a study, and what became of those so far."""

    def acts(seen: Seen) -> object:
        glance = seen.study(name)
        if glance is None:
            return None
        counts = glance.counts
        variants = () if counts is None else tuple(dict.fromkeys(one.variant for one in counts.strata))
        failed = () if counts is None else tuple((counts.failures | counts.stopped).items())
        return glance.state, variants, glance.paused, failed

    def history(seen: Seen) -> object:
        glance = seen.study(name)
        return len(desk.acted), None if glance is None else glance.happening.answered

    drawn = Part(acts, lambda _: _acts(desk, name))
    heading("Acts so far")
    past = Part(history, lambda _: _history(desk, name))
    for what, line in desk.also:
        muted(what)
        command(line)
    follow(desk, [drawn, past])


def _acts(desk: Desk, name: str) -> None:
    glance = desk.watcher.seen.study(name)
    if glance is None or glance.counts is None:
        muted("Its runs are not read yet.")
        return
    running = glance.state == "running"
    with ui.row().classes("gap-2 items-center"):
        if running:
            _button(desk, name, "stop when the runs in training end", Stop(), "stop")
            _button(desk, name, "stop now", Stop(now=True), "dangerous", sure="Stop each run at its next step?")
        else:
            _button(desk, name, "go on", Run(), "play_arrow", sure="Train what is missing, in a process of its own?")
    _variants(desk, glance)
    _again(desk, glance, running)
    if running:
        _extend(desk, name)
    _clone(desk, glance)


def _variants(desk: Desk, glance: Glance) -> None:
    heading("Variants")
    assert glance.counts is not None
    for variant in dict.fromkeys(stratum.variant for stratum in glance.counts.strata):
        with ui.row().classes("items-center gap-2"):
            if variant in glance.paused:
                _button(desk, glance.name, f"resume {variant}", Resume(variant), "play_arrow")
                muted("paused: no more of its runs begin, now and in later sweeps")
            else:
                _button(desk, glance.name, f"pause {variant}", Pause(variant), "pause")


def _again(desk: Desk, glance: Glance, running: bool) -> None:
    assert glance.counts is not None
    causes = glance.counts.failures | glance.counts.stopped
    if not causes:
        return
    heading("Failed runs, once more")
    with ui.row().classes("items-center gap-2"):
        for cause, number in causes.items():
            act = Retry((cause,))
            if running:
                _button(desk, glance.name, f"retry {number} {cause}", act, "replay")
            else:
                command(desk.hands.command(glance.name, act))


def _extend(desk: Desk, name: str) -> None:
    heading("More of it")
    with ui.row().classes("items-center gap-2"):
        what = ui.select(
            {"trials": "trials of each stratum", "replicates": "replicates"}, value="trials", label="up to"
        )
        number = ui.number("how many", min=1, step=1, precision=0).classes("w-32")

        def asked() -> Act | None:
            value = int(number.value) if number.value else None
            return None if value is None else Extend(**{what.value: value})

        _button(desk, name, "extend", asked, "add")


def _clone(desk: Desk, glance: Glance) -> None:
    """A copy of a variant with other settings, as the next version of the study file."""
    heading("Clone a variant with other settings")
    assert glance.counts is not None
    variants = list(dict.fromkeys(stratum.variant for stratum in glance.counts.strata))
    with ui.row().classes("items-end gap-2 w-full"):
        of = ui.select(variants, value=variants[0], label="variant").classes("w-40")
        name = ui.input("name of the copy", value=f"{variants[0]}_2").classes("w-40")
        setting = ui.input("setting", value="beta").classes("w-32")
        value = ui.input("value").classes("w-32")
    place = ui.column().classes("w-full gap-1")

    async def preview() -> None:
        settings = {setting.value.strip(): value.value.strip()}
        found = await run.io_bound(desk.hands.clone, glance.name, of.value, name.value.strip(), settings)
        place.clear()
        with place:
            _version(desk, glance.name, found)

    ui.button("show the change", on_click=preview, icon="difference").props("outline no-caps dense")


def _version(desk: Desk, name: str, found: Version) -> None:
    """The next version as a diff, and the button that writes it."""
    for problem in found.problems:
        ui.label(problem).classes("text-negative wrap")
    for line in found.diff:
        colour = "plus" if line.startswith("+") else "minus" if line.startswith("-") else "muted"
        ui.label(line).classes(f"mono pre text-xs {colour}")
    if not found.problems:
        muted(f"{found.file} becomes this; what it was is kept as {found.kept_as}.")
        _button(desk, name, f"write {found.file}", found.edit, "save")


def _button(
    desk: Desk, study: str, text: str, act: Act | Callable[[], Act | None], icon: str, sure: str | None = None
) -> None:
    """A button that carries out an act, and says what became of it. `sure`: what is asked before."""

    async def do() -> None:
        wanted = act() if callable(act) else act
        if wanted is None:
            ui.notify("Say how many.", type="warning")
            return
        button.disable()
        done = await run.io_bound(desk.do, study, wanted)
        if not button.is_deleted:
            button.enable()
        kind = "positive" if done.outcome == "done" else "negative"
        with button.client:
            ui.notify(done.message, type=kind, multi_line=True)

    async def ask() -> None:
        if sure is None:
            return await do()
        with ui.dialog() as dialog, ui.card():
            ui.label(sure)
            if not callable(act) and not isinstance(act, Edit):
                muted(desk.hands.command(study, act))
            with ui.row():
                ui.button("yes", on_click=lambda: dialog.submit(True)).props("no-caps")
                ui.button("no", on_click=lambda: dialog.submit(False)).props("flat no-caps")
        if await dialog:
            await do()

    button = ui.button(text, icon=icon, on_click=ask).props("outline no-caps dense")


def _history(desk: Desk, name: str) -> None:
    """Every act with its time, what became of it, and its command, the newest first."""
    glance = desk.watcher.seen.study(name)
    mine = [one for one in desk.acted if one.study == name]
    ours = {one.done.id for one in mine if one.done.id}
    rows = [(one.at, one.command, one.done.outcome, one.done.message) for one in mine]
    answered = () if glance is None else glance.happening.answered
    rows += [(one.at, one.ask, one.outcome, one.message) for one in answered if one.id not in ours]
    if not rows:
        muted("None.")
        return
    shown = [(clock(at), *rest) for at, *rest in sorted(rows, reverse=True)[:50]]
    table(("when", "act", "outcome", "answer"), shown)
