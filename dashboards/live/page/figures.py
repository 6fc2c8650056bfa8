"""The figures of a study: made once and filled again, so that what somebody has chosen or zoomed into stays."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from nicegui import run, ui

from dashboards.live.page import charts
from dashboards.live.page.parts import Desk, heading, muted
from dashboards.live.reading.words import measure_words, words
from dashboards.live.views import Figures, Glance, Point
from dashboards.store.connection import StoreError
from dashboards.store.histories import load_curves
from studies.text.plural import so_many

MOST_CHOSEN: Final = 6
MOST_CHOICES: Final = 1000  # the newest runs, to choose from
MOST_POINTS: Final = 3000  # the newest; a browser draws no more of them while they change
# What means the same in every loss; what TRL logs as loss and rewards scales with the loss and with beta.
COMPARABLE: Final = ("gold", "win_rate", "ranking_gain", "kl", "reward_accuracy")


class FiguresView:
    """Reward against drift, learning curves of chosen runs, and a heat map of two settings."""

    def __init__(self, desk: Desk, name: str) -> None:
        self._desk, self._name = desk, name
        self._found: Figures | None = None
        heading("Reward against drift")
        self._scatter = ui.echart({}, on_point_click=self._clicked).classes("w-full h-96")
        self._about = muted("Its runs are not read yet.")
        self._far = ui.checkbox("", on_change=self._draw_scatter).props("dense")
        self._far.set_visibility(False)
        self._clicked_row = ui.row().classes("items-center gap-2")
        heading("Learning curves")
        with ui.row().classes("w-full gap-2 items-end"):
            self._runs: Any = ui.select({}, multiple=True, label=f"runs, {MOST_CHOSEN} at most", with_input=True)
            self._runs.classes("grow min-w-64").props("use-chips dense")
            self._metric: Any = ui.select({}, label="metric").classes("w-48").props("dense")
        self._curves = ui.echart({}).classes("w-full h-80")
        self._curves_said = muted("")
        heading("Two settings")
        self._variant: Any = ui.select([], label="variant and condition", on_change=self._draw_heat)
        self._variant.classes("w-64").props("dense")
        self._heat = ui.echart({}).classes("w-full h-96")
        muted("Mean of the runs in each bin: too good where it was chosen by this very number.")
        self._runs.on_value_change(self._draw_curves)
        self._metric.on_value_change(self._draw_curves)

    async def show(self) -> None:
        """Fill the figures, where there is something new."""
        glance = self._desk.watcher.seen.study(self._name)
        found = None if glance is None else glance.figures
        if found is None or found is self._found:
            return
        first, self._found = self._found is None, found
        self._draw_scatter()
        labels = choices(found)
        kept = [one for one in self._runs.value or [] if one in labels]
        self._runs.set_options(labels, value=first_chosen(found) if first or (self._runs.value and not kept) else kept)
        names = list(dict.fromkeys(found.names))
        first_shown = next((name for name in COMPARABLE if name in names), names[0])
        self._metric.set_options(
            {name: measure_words(name) for name in names},
            value=self._metric.value if self._metric.value in names else first_shown,
        )
        heats = [heat.name for heat in found.heats]
        variant = self._variant.value if self._variant.value in heats else next(iter(heats), None)
        self._variant.set_options(heats, value=variant)
        self._draw_heat()
        await self._draw_curves()

    def _draw_scatter(self) -> None:
        if self._found is None:
            return
        found, points = self._found, self._found.points[-MOST_POINTS:]
        colours = charts.colours_of(one.variant for one in found.runs)
        _fill(self._scatter, charts.reward_and_drift(self._points(), found.metric, colours))
        outside = set(points) - set(charts.near(points))
        self._far.set_text(f"also {so_many(len(outside), 'run')} far outside, {_broken(outside)} of them broken")
        self._far.set_visibility(bool(outside))
        broken = _broken(self._points())
        triangles = f", a triangle one that broke ({broken} here), where it could still be measured" if broken else ""
        newest = f" The newest {MOST_POINTS:,} of {len(found.points):,}." if len(found.points) > MOST_POINTS else ""
        self._about.set_text(
            f"{found.metric}: {found.about}, at the end of a run{triangles}. A dot a finished run. "
            f"Click a name above to leave it out, a dot for its run.{newest}"
        )

    def _points(self) -> list[Point]:
        """The runs that are drawn: the newest, those far outside where somebody wants them."""
        points = [] if self._found is None else list(self._found.points[-MOST_POINTS:])
        return points if self._far.value else charts.near(points)

    async def _draw_curves(self) -> None:
        if self._found is None:
            return
        chosen, name = list(self._runs.value or [])[:MOST_CHOSEN], str(self._metric.value)
        labels, reader = choices(self._found), self._desk.watcher.beside.reader
        try:
            curves = await run.io_bound(load_curves, self._desk.uri, chosen, [name], reader) or {}
        except StoreError as error:
            self._curves_said.set_text(words(error))
            return
        variants = {one.run_id: one.variant for one in self._found.runs}
        known = [one for one in chosen if name in curves.get(one, {}) and one in labels]
        shown = {labels[one]: (variants[one], curves[one][name]) for one in known}
        _fill(self._curves, charts.curves(shown, measure_words(name), charts.colours_of(variants.values())))
        self._curves.set_visibility(bool(shown))
        self._curves_said.set_text("" if shown else f"None of these runs has logged {measure_words(name)}.")

    def _draw_heat(self) -> None:
        shown = [heat for heat in (self._found.heats if self._found else ()) if heat.name == self._variant.value]
        if shown and self._found is not None:
            _fill(self._heat, charts.heat(shown[0], self._found.metric))

    def _clicked(self, event: Any) -> None:
        """Name the run of a dot, with its page."""
        if self._found is None:
            return
        mine = [point for point in self._points() if point.variant == event.series_name]
        glance: Glance | None = self._desk.watcher.seen.study(self._name)
        if not 0 <= event.data_index < len(mine) or glance is None:
            return
        point = mine[event.data_index]
        self._clicked_row.clear()
        with self._clicked_row:
            ui.label(point.label).classes("text-sm")
            page = self._desk.mlflow_page(glance, point.run_id)
            if page is not None:
                ui.link("in MLflow", page, new_tab=True).classes("link text-sm")


def _broken(points: Iterable[Point]) -> int:
    return sum(point.failed for point in points)


def choices(found: Figures, *, finished: bool = False) -> dict[str, str]:
    """The newest runs to choose from, by id; `finished`: those alone that came to their end."""
    runs = [one for one in found.runs if one.finished or not finished]
    return {
        one.run_id: f"{one.label} (broke)" if one.failure is not None and one.finished else one.label
        for one in reversed(runs[-MOST_CHOICES:])
    }


def first_chosen(found: Figures) -> list[str]:
    """The newest finished runs, one of each variant, of which curves are shown at first."""
    newest = {one.variant: one.run_id for one in found.runs[-MOST_CHOICES:] if one.finished}
    return list(newest.values())[:MOST_CHOSEN]


def _fill(chart: ui.echart, options: charts.Options) -> None:
    chart.options.clear()
    chart.options.update(options)
    chart.update()
