"""Options of figures, as ECharts reads them: no JavaScript of ours, and tooltips that are text, not HTML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from dashboards.live.views import WON, Bar, Heat, Point, Span, Table

# Told apart by people who see few colours, on white and on black: of Okabe and Ito, then of Tol.
COLOURS: Final = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#B8A800", "#7F7F7F"),
    *("#8F7FEE", "#AA4499", "#44AA99", "#999933"),
)
GREY: Final = "#8a8a93"
STROKES: Final = ("solid", "dashed", "dotted")
MOST_ROWS: Final = 60  # of the time line
FAR: Final = 5.0  # times the upper quartile of the drifts of runs that did not break
Options = dict[str, Any]
Curve = Sequence[tuple[float, float]]


def gains(bars: Sequence[Bar], unit: str) -> Options:
    """What each loss gains, with its interval; the first on top."""
    name = unit if unit == WON else f"gain, {unit}"
    return _with_intervals(bars, name, scale=unit == WON)  # 0: untrained


def beside(one: Table) -> Options:
    """What each loss has more than the baseline, with its interval, about a line at no difference; the first on top."""
    points = f"points more than {one.baseline}, at the same drift" if one.unit.startswith("%") else None
    name = f"% won against {one.baseline}" if one.is_rate else points or f"more than {one.baseline}, {one.unit}"
    return _with_intervals(one.beside, name, scale=True, same=50.0 if one.is_rate else 0.0)


def marks(bars: Sequence[Bar], baseline: str = "") -> str:
    """What the marks mean of `gains`, and of `beside` a `baseline`."""
    shown = [bar for bar in bars if bar.value is not None]
    said = ["Dot: a loss"]
    said += ["bar: its 95 % interval"] if any(bar.low is not None for bar in shown) else []
    said += [f"dashed line: {baseline}, which the others are compared with"] if baseline else []
    said += ["grey triangle: a loss to avoid"] if any(map(_is_avoided, shown)) else []
    return f"{'; '.join(said)}."


def _is_avoided(bar: Bar) -> bool:
    return bar.verdict.startswith("avoid")


def _with_intervals(bars: Sequence[Bar], name: str, *, scale: bool, same: float | None = None) -> Options:
    """A dot and an interval a loss. `same`: where a line stands; the axis takes it in by a point that is not seen."""
    shown = [bar for bar in reversed(bars) if bar.value is not None]
    lines: list[Any] = []
    for i, bar in enumerate(shown):
        if bar.low is not None and bar.high is not None:
            lines += [[_short(bar.low), i], [_short(bar.high), i], [None, None]]
    values = [
        {"name": f"{b.variant}: {b.verdict}", "value": [_short(b.value), i],
         **({"symbol": "triangle", "itemStyle": {"color": GREY}} if _is_avoided(b) else {})}
        for i, b in enumerate(shown)
    ]  # fmt: skip
    line = [] if same is None else [
        {"type": "scatter", "data": [[same, 0]], "symbolSize": 0, "silent": True,
         "markLine": {"data": [{"xAxis": same}], "symbol": "none", "silent": True, "label": {"show": False},
                      "lineStyle": {"color": GREY, "type": "dashed"}}}
    ]  # fmt: skip
    return _base(legend=False) | {
        "xAxis": _axis("value", name, scale=scale),
        "yAxis": _axis("category", "", data=[bar.variant for bar in shown]),
        "series": [
            {"type": "line", "name": "95 % interval", "data": lines, "symbol": "none", "silent": True,
             "lineStyle": {"width": 4, "color": COLOURS[5]}, "connectNulls": False},
            {"type": "scatter", "name": "loss", "data": values, "symbolSize": 14, "itemStyle": {"color": COLOURS[0]}},
            *line,
        ],
    }  # fmt: skip


def reward_and_drift(points: Sequence[Point], metric: str, colours: Mapping[str, str]) -> Options:
    """Every finished run: how far it went, and what it gained."""
    series = []
    for variant, colour in colours.items():
        mine = [point for point in points if point.variant == variant]
        data = [
            {
                "name": f"{p.label}{' (broke)' if p.failed else ''}",
                "value": [_short(p.drift), _short(p.value)],
                "symbol": "triangle" if p.failed else "circle",
            }
            for p in mine
        ]
        series.append({"type": "scatter", "name": variant, "data": data, "symbolSize": 9,
                       "itemStyle": {"color": colour, "opacity": 0.75}})  # fmt: skip
    return _base() | {
        "xAxis": _axis("value", "distance from the original model (KL), nats", scale=True),
        "yAxis": _upright(_axis("value", metric, scale=True)),
        "series": series,
        "dataZoom": [{"type": "inside"}, {"type": "inside", "orient": "vertical"}],
    }


def near(points: Sequence[Point]) -> list[Point]:
    """The points without those that lie so far outside that the others would be one spot."""
    drifts = sorted(point.drift for point in points if not point.failed)
    if not drifts:
        return list(points)
    most = FAR * max(drifts[3 * (len(drifts) - 1) // 4], 0.1)  # nats: below that all are near
    return [point for point in points if point.drift <= most]


def side_by_side(spans: Sequence[Span]) -> list[tuple[str, list[Span]]]:
    """A row of spans for each that a worker trains at once: its worker, and spans that do not overlap; where those are
    too many, a row a worker.
    """
    rows: list[tuple[str, list[Span]]] = []
    for worker in sorted({span.worker for span in spans}):
        mine: list[list[Span]] = []
        for span in sorted((span for span in spans if span.worker == worker), key=lambda one: one.begin):
            ends = [row for row in mine if row[-1].end is not None and row[-1].end <= span.begin]
            if ends:
                ends[0].append(span)
            else:
                mine.append([span])
        rows += [(worker, row) for row in mine]
    if len(rows) > MOST_ROWS:
        return [(worker, [span for name, row in rows if name == worker for span in row]) for worker in dict(rows)]
    return rows


def curves(found: Mapping[str, tuple[str, Curve]], name: str, colours: Mapping[str, str]) -> Options:
    """A metric over the steps of some runs, each by its variant's colour; of one variant the second is dashed."""
    series: list[Options] = []
    drawn: Counter[str] = Counter()
    for label, (variant, curve) in found.items():
        stroke, colour = STROKES[drawn[variant] % len(STROKES)], colours.get(variant, GREY)
        drawn[variant] += 1
        series.append({"type": "line", "name": label, "data": [[x, _short(y)] for x, y in curve],
                       "showSymbol": len(curve) < 30, "lineStyle": {"color": colour, "type": stroke},
                       "itemStyle": {"color": colour}})  # fmt: skip
    return _base() | {
        "tooltip": {"trigger": "axis", "renderMode": "richText"},
        "xAxis": _axis("value", "step"),
        "yAxis": _upright(_axis("value", name, scale=True)),
        "series": series,
        "dataZoom": [{"type": "inside"}],
    }


def heat(found: Heat, metric: str) -> Options:
    """The mean objective over two settings; a bin without a number was tried, and all its runs broke."""
    means = [mean for *_, mean, _ in found.cells if mean is not None]
    data = [[x, y, "-" if mean is None else _short(mean)] for x, y, mean, _ in found.cells]
    return _base(legend=False) | {
        "tooltip": {"renderMode": "richText", "formatter": f"{metric}: {{c}}"},
        "xAxis": _axis("category", found.x, data=list(found.columns)),
        "yAxis": _upright(_axis("category", found.y, data=list(found.rows))),
        "grid": {"left": 16, "right": 96, "top": 36, "bottom": 40, "containLabel": True},
        "visualMap": {
            "min": _short(min(means, default=0.0)),
            "max": _short(max(means, default=1.0)),
            "calculable": True,
            "precision": 2,
            "orient": "vertical",
            "right": 0,
            "top": "middle",
            "itemHeight": 180,
            "textStyle": {"color": GREY},
            "inRange": {"color": ["#440154", "#31688e", "#35b779", "#fde725"]},
        },
        "series": [{"type": "heatmap", "data": data, "label": {"show": True, "fontSize": 11}}],
    }


def timeline(rows: Sequence[tuple[str, Sequence[Span]]], now: float, colours: Mapping[str, str]) -> Options:
    """What each worker trained when. `rows`: of `side_by_side`, the first on top."""
    data: dict[str, list[Any]] = {}
    names: list[str] = []
    for worker, spans in rows:
        row = len(rows) - 1 - len(names)
        names.append("" if any(worker == before for before, _ in rows[: len(names)]) else worker)
        for span in spans:
            end = now if span.end is None else span.end
            data.setdefault(span.variant, []).extend(
                [[round(span.begin * 1000), row], [round(end * 1000), row], [None, None]]
            )
    series = [
        {"type": "line", "name": variant, "data": points, "symbol": "none", "connectNulls": False,
         "lineStyle": {"width": 9, "color": colours.get(variant, GREY), "cap": "butt"},
         "itemStyle": {"color": colours.get(variant, GREY)}}
        for variant, points in data.items()
    ]  # fmt: skip
    return _base() | {
        "xAxis": _axis("time", ""),
        "yAxis": _axis("category", "", data=names[::-1]) | {"axisTick": {"show": False}},
        "series": series,
        "dataZoom": [{"type": "inside"}],
        "tooltip": {"show": False},
    }


def colours_of(variants: Iterable[str]) -> dict[str, str]:
    """A colour for each variant, by the order of their names: the same in every figure that has the same variants."""
    return {variant: _colour(i) for i, variant in enumerate(sorted(set(variants)))}


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def _base(*, legend: bool = True) -> Options:
    return {
        "animation": False,
        "backgroundColor": "transparent",
        "textStyle": {"color": GREY},
        "tooltip": {"renderMode": "richText", "formatter": "{b}\n{c}", "confine": True},
        "legend": {"show": legend, "type": "scroll", "top": 0, "textStyle": {"color": GREY}},
        "grid": {"left": 16, "right": 24, "top": 52, "bottom": 40, "containLabel": True},
    }


def _upright(axis: Options) -> Options:
    """A vertical axis: its name lies above it, where no label can meet it."""
    return axis | {"nameLocation": "end", "nameGap": 12, "nameTextStyle": {"color": GREY, "align": "left"}}


def _axis(kind: str, name: str, *, scale: bool = False, data: Sequence[str] = ()) -> Options:
    axis: Options = {
        "type": kind,
        "name": name,
        "nameLocation": "middle",
        "nameGap": 28,
        "scale": scale,
        "axisLabel": {"color": GREY, "hideOverlap": True},
        "nameTextStyle": {"color": GREY},
        "splitLine": {"lineStyle": {"color": GREY, "opacity": 0.25}},
    }
    return axis | ({"data": list(data)} if data else {})


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
