"""What every figure has in common: its type, its colours, and how a matplotlib figure becomes SVG. Knows no runs.

Matplotlib is used through its objects alone: no window system, and nothing of it is left changed for its other users.
"""

from __future__ import annotations

import io
import math
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

with chdir(sys.prefix):  # it reads a matplotlibrc of the working folder, wherever else its settings lie
    import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from dashboards.statistics.estimates import Floats
from studies.text.plural import so_many
from studies.text.redact import redact

WIDTH: Final = 9.0
"""Inches of a figure."""
LONGEST_LABEL, LONGEST_TITLE = 26, 80
BELOW: Final = 0.6
MOST_BEHIND: Final = 300
"""Points of another variant behind a panel's own: each is drawn once in every panel."""
INK: Final = "#222222"
FAINT: Final = "#c9c9c9"
QUIET: Final = "#767676"
# Okabe and Ito's colours for all kinds of colour vision, less their yellow, which a white page swallows.
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
BASELINE: Final = "#000000"
MARKERS: Final = "osD^vPX"
DASHES: Final = ("-", (0, (4, 1.5)), (0, (1, 1.2)))
_STYLE: Final[Mapping[str, Any]] = {
    "font.size": 8.0,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.5,
    "axes.edgecolor": QUIET,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "text.parse_math": False,  # names of variants and knobs are shown as they are
    "lines.linewidth": 1.3,
    "figure.facecolor": "white",
    "svg.fonttype": "none",  # text stays text: it can be searched, copied and read aloud
    "axes.unicode_minus": False,
}


@dataclass(frozen=True)
class Figure:
    """A finished figure. `name`: of its file, letters, digits, dashes; `svg`: a whole SVG document.

    `caption` says what is drawn, from how many runs, and how to read it.
    """

    name: str
    title: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Missing:
    """A figure that the study has nothing for; `reason` says what it would take."""

    name: str
    title: str
    reason: str


@dataclass(frozen=True)
class Look:
    """How a variant is drawn, in every figure alike."""

    colour: str
    marker: str
    dash: Any


def looks(variants: Sequence[str], baseline: str | None) -> dict[str, Look]:
    """A look for each variant: black for the baseline, colours for the others, other dashes when colours come again."""
    others = [name for name in variants if name != baseline]
    found = {
        name: Look(
            COLOURS[i % len(COLOURS)], MARKERS[1 + i % (len(MARKERS) - 1)], DASHES[i // len(COLOURS) % len(DASHES)]
        )
        for i, name in enumerate(others)
    }
    return {name: found.get(name, Look(BASELINE, MARKERS[0], "-")) for name in variants}


@contextmanager
def drawing(width: float, height: float) -> Iterator[Canvas]:
    """An empty figure of so many inches, in the house style while the block lasts. `svg_of` belongs into the block."""
    style: Any = dict(_STYLE)  # matplotlib types the names of settings one by one
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # text stays text: the browser has them
        yield Canvas(figsize=(width, height))


def svg_of(canvas: Canvas, name: str) -> str:
    """The figure as an SVG document that is the same for the same content; ids begin with `name`."""
    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        canvas.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", out.getvalue(), flags=re.DOTALL)
    text = re.sub(r"<!DOCTYPE[^>]*>\s*", "", text)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", text)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)


def label(text: str, longest: int = LONGEST_LABEL) -> str:
    """A name as it may stand in a picture: one line, without secrets (nobody could tell them once cut), and short."""
    plain = "".join(c if c.isprintable() else " " for c in redact(text)).strip()
    return plain if len(plain) <= longest else plain[: longest - 1] + "…"


def slug(text: str) -> str:
    """A name as part of a file's."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-.")[:40] or "x"


# ---- axes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scales:
    """What the two axes show, and how x is drawn. `zero`: what lies at 0 of y, drawn as a line; `ticks`: of x.
    `floored`: y begins at most `BELOW` of what is above 0 below it, since a loss that falls apart would press all
    others flat; what is lower is drawn at the foot.

    `root`: by its square root, which shows a KL of 0 to 2 beside one of 80 (as in 2210.10760).
    """

    x: str
    y: str
    x_scale: Literal["linear", "log", "root"] = "linear"
    zero: str = ""
    ticks: Sequence[float] = ()
    floored: bool = False


def log_ticks(axis: Any, low: float, high: float) -> None:
    """Ticks of a logarithmic axis as plain numbers: at 1, 2 and 5 in each decade, or at decades only where many."""
    decades = math.log10(max(high / low, 1.0 + 1e-9))
    subs = (1.0, 2.0, 5.0) if decades < 1.6 else (1.0, 3.0) if decades < 2.6 else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def grid(
    rows: int, columns: int, *, each: float, left: float = 0.62, bottom: float = 0.5
) -> tuple[float, Mapping[str, float]]:
    """Height in inches of a figure of `rows` of panels, `each` inches high, and its margins as shares of it."""
    top, between = 0.3, 0.42
    height = top + rows * each + (rows - 1) * between + bottom
    return height, {
        "left": left / WIDTH,
        "right": 1 - 0.12 / WIDTH,
        "bottom": bottom / height,
        "top": 1 - top / height,
        "hspace": between / each,
        "wspace": 0.14 if columns > 1 else 0.0,
    }


@dataclass(frozen=True)
class Series:
    """What one variant has in a figure of small panels.

    `line`: (x, y) in order; `low` and `high`: its band, as long as the line; `bars`: (x, y, low, high), points with an
    interval; `points`: (x, y); `failed`: x of configs that failed, None where that is not known: they are marked at the
    panel's foot. `note` stands above the panel, `levels` are values to compare with.
    """

    variant: str
    title: str
    line: Sequence[tuple[float, float]] = ()
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    bars: Sequence[tuple[float, float, float, float]] = ()
    points: Sequence[tuple[float, float]] = ()
    failed: Sequence[float | None] = ()
    note: str = ""
    levels: Sequence[tuple[str, float]] = ()


def small_multiples(
    series: Sequence[Series],
    styles: Mapping[str, Look],
    baseline: str | None,
    scales: Scales,
    name: str,
    adorn: Callable[[Axes, Series], None] = lambda axes, series: None,
) -> str:
    """A panel for each series, all with the same axes: its own in colour, the others' grey behind it, and the
    baseline's line dashed in black. Twelve losses in one panel could not be told apart.
    """
    columns = min(4, max(len(series), 1)) if len(series) != 5 else 3
    rows = math.ceil(len(series) / columns)
    height, margins = grid(rows, columns, each=1.5 if columns > 2 else 2.2)
    with drawing(WIDTH, height) as canvas:
        panels = canvas.subplots(rows, columns, sharex=True, sharey=True, squeeze=False, gridspec_kw=dict(margins))
        limits = _limits(series, scales)
        for i, axes in enumerate(panels.flat):
            if i >= len(series):
                axes.set_visible(False)
                continue
            _panel(axes, series[i], series, styles, baseline, scales, limits)
            adorn(axes, series[i])
            if i + columns >= len(series):
                axes.tick_params(labelbottom=True)
        canvas.supxlabel(label(scales.x, LONGEST_TITLE), fontsize=8.5, y=0.08 / height, va="bottom")
        canvas.supylabel(label(scales.y, LONGEST_TITLE), fontsize=8.5, x=0.06 / WIDTH, ha="left")
        return svg_of(canvas, name)


def _panel(
    axes: Axes,
    own: Series,
    series: Sequence[Series],
    styles: Mapping[str, Look],
    baseline: str | None,
    scales: Scales,
    limits: tuple[tuple[float, float], tuple[float, float]],
) -> None:
    (left, right), (low, high) = limits
    _scale_x(axes, scales, left, right)
    axes.set(xlim=(left, right), ylim=(low, high))
    axes.yaxis.set_major_locator(MaxNLocator(5, min_n_ticks=2))
    look = styles[own.variant]
    axes.set_title(label(own.title), color=look.colour, fontweight="bold", loc="left", pad=3)
    if scales.zero:
        axes.axhline(0.0, color=QUIET, lw=0.6, ls=(0, (1, 2)))
    for other in series:
        if other is own:
            continue
        if other.line:
            axes.plot(*zip(*other.line, strict=True), color=FAINT, lw=0.8, zorder=1)
        elif other.points:
            few = other.points[:: -(-len(other.points) // MOST_BEHIND)]
            axes.plot(*zip(*few, strict=True), ls="", marker="o", ms=1.8, mew=0, color=FAINT, zorder=1)
    reference = next((s for s in series if s.variant == baseline and s is not own and s.line), None)
    if reference is not None:
        axes.plot(*zip(*reference.line, strict=True), color=BASELINE, lw=0.9, ls=(0, (3, 2)), zorder=2)
    _own(axes, own, look, (left, right), low, high)


def _own(axes: Axes, own: Series, look: Look, across: tuple[float, float], foot: float, top: float) -> None:
    """The panel's own series."""
    for text, level in own.levels:
        axes.axhline(level, color=QUIET, lw=0.8, ls=(0, (3, 2)), zorder=2)
        axes.text(1.0, level, label(text), transform=axes.get_yaxis_transform(), ha="right", va="bottom", fontsize=6.5)
    if own.line:
        x, y = zip(*own.line, strict=True)
        axes.plot(x, y, color=look.colour, zorder=4)
        if own.low:
            axes.fill_between(x, own.low, own.high, color=look.colour, alpha=0.22, lw=0, zorder=3)
    inside = [(x, y) for x, y in own.points if y >= foot]
    below = [(x, foot) for x, y in own.points if y < foot]
    if below:
        axes.plot(
            *zip(*below, strict=True), ls="", marker="v", ms=4, mfc="white", mec=look.colour, clip_on=False, zorder=6
        )
    if inside:
        axes.plot(
            *zip(*inside, strict=True),
            ls="",
            marker=look.marker,
            ms=3.4,
            mew=0,
            alpha=0.85,
            color=look.colour,
            zorder=4,
        )
    for x0, y0, low, high in own.bars:
        axes.plot([x0, x0], [low, high], color=look.colour, lw=1.2, zorder=5)
        axes.plot([x0], [y0], ls="", marker=look.marker, ms=3.5, mfc="white", mec=look.colour, zorder=5)
    _failed(axes, own.failed, look, across, (foot, top))
    if own.note:
        axes.set_title(own.note, loc="right", fontsize=6.5, color=QUIET, pad=3)


def _failed(
    axes: Axes, failed: Sequence[float | None], look: Look, across: tuple[float, float], up: tuple[float, float]
) -> None:
    """A cross for each failed config at the panel's foot; those whose place is not known are stacked on its left."""
    known = [min(max(x, across[0]), across[1]) for x in failed if x is not None]
    unknown = len(failed) - len(known)
    step = (up[1] - up[0]) * min(0.06, 1 / max(unknown, 1))
    x = known + [across[0]] * unknown
    y = [up[0]] * len(known) + [up[0] + step * i for i in range(unknown)]
    if x:
        axes.plot(x, y, ls="", marker="x", ms=4, mew=1.0, color=look.colour, clip_on=False, zorder=6)


def _scale_x(axes: Axes, scales: Scales, low: float, high: float) -> None:
    match scales.x_scale:
        case "log":
            axes.set_xscale("log")
            log_ticks(axes.xaxis, low, high)
        case "root":
            axes.set_xscale("function", functions=(_root, _square))
            places = [0.0]
            for place in sorted(m * 10**e for e in range(-3, 5) for m in (1, 2, 5)):
                if place <= high and place**0.5 - places[-1] ** 0.5 > 0.17 * high**0.5:
                    places.append(place)
            axes.xaxis.set_major_locator(FixedLocator(places))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        case "linear":
            axes.xaxis.set_major_locator(MaxNLocator(5, min_n_ticks=2))
    if scales.ticks:
        axes.xaxis.set_major_locator(FixedLocator(list(scales.ticks)))


def _root(values: Floats) -> Floats:
    return np.sign(values) * np.sqrt(np.abs(values))


def _square(values: Floats) -> Floats:
    return np.sign(values) * np.square(values)


def spread_by_ratio(values: Sequence[float]) -> bool:
    """Whether values fill a logarithmic axis more evenly than a linear one: their median is nearer to its middle."""
    low, middle, high = (float(v) for v in np.quantile(values, [0.0, 0.5, 1.0]))
    if low <= 0 or high < 5 * low:
        return False
    linear = abs((middle - low) / (high - low) - 0.5)
    return abs(math.log(middle / low) / math.log(high / low) - 0.5) < linear


def _limits(series: Sequence[Series], scales: Scales) -> tuple[tuple[float, float], tuple[float, float]]:
    """Of x and y, over everything that is drawn, with some room; y begins a little lower for the marks of failures."""
    xs = [x for s in series for x in [*(p[0] for p in [*s.line, *s.points, *s.bars]), *(f for f in s.failed if f)]]
    ys = [y for s in series for y in [*(p[1] for p in [*s.line, *s.points]), *s.low, *s.high]]
    ys += [y for s in series for bar in s.bars for y in bar[1:]] + [y for s in series for _, y in s.levels]
    ys += [0.0] if scales.zero else []
    left, right = _room(xs, log=scales.x_scale == "log")
    if scales.x_scale == "root":  # the room that a small part of a root takes is none
        left, right = -0.001 * max(xs, default=1.0), right
    low, high = _room(ys, log=False)
    return (left, right), (max(low, -BELOW * high) if scales.floored and high > 0 else low, high)


def _room(values: Sequence[float], *, log: bool, share: float = 0.07) -> tuple[float, float]:
    """Lowest and highest of the values, with room around them."""
    known = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
    if not known:
        return (1.0, 10.0) if log else (0.0, 1.0)
    low, high = min(known), max(known)
    if log:
        factor = max((high / low) ** share, 1.1)
        return low / factor, high * factor
    room = share * (high - low) or 0.1 * abs(high) or 1.0
    return low - room, high + room


def floored(series: Sequence[Series], scales: Scales) -> str:
    """What a caption says of points at the foot, "" where there is none."""
    foot = _limits(series, scales)[1][0]
    below = sum(y < foot for s in series for _, y in s.points)
    return f" Open triangles at the foot: {so_many(below, 'config')} further below." if below else ""


def fixed_ticks(axes: Axes, names: Sequence[str]) -> None:
    """Rows of names down the left side, the first at the top."""
    axes.yaxis.set_major_locator(FixedLocator(list(range(len(names)))))
    axes.set_yticklabels([label(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
