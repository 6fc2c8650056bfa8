"""The figures that the answer rests on: how much more each loss gains than the baseline, which ranks them; what each
gains as it is exported; and its gain along the training against the drift.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from dashboards.figures.figure import (
    BASELINE,
    BELOW,
    INK,
    QUIET,
    Figure,
    Look,
    Missing,
    Scales,
    Series,
    drawing,
    fixed_ticks,
    label,
    small_multiples,
    svg_of,
)
from dashboards.figures.material import Material
from dashboards.figures.outcome import others
from dashboards.statistics.estimates import FEWEST_BLOCKS, block_mean
from dashboards.tables.short import by_verdict, ranked, verdict
from dashboards.tuned.answer import Answer
from dashboards.tuned.losses import Tuned, TunedLoss, nats
from dashboards.tuned.samples.contests import as_rate
from dashboards.tuned.samples.opinions import LESS
from studies.records import RunRecord, State
from studies.records.paths import joined, read_at, start_of
from studies.text.plural import so_many

NARROW = 4.3
"""Inches: it stands beside a table, and is read on a phone."""
_LEFT, _RIGHT, _TOP, _BOTTOM, _ROW = 1.1, 0.72, 0.42, 0.5, 0.235
_SHORT_LABEL, _SHORT_WORDS = 16, 44
_VERDICT, _VERDICT_WORDS = 1.0, 17
_USE, _AVOID, _OTHER, _UNJUDGED = "use", "avoid", "other", "not judged"
# Told apart by their form, since colours tell the losses.
_MARKS = {_USE: "D", _OTHER: "o", _AVOID: "X", _UNJUDGED: "o"}
_STEPS = 41


def gains(material: Material, scenario: str, name: str) -> Figure | Missing:
    """What each loss gains over the untrained model, the best first, as in the short table."""
    title = "What each loss gains"
    told = material.told(scenario)
    if told is None or all(loss.gained is None for loss in told[0].losses):
        return Missing(name, title, f"no loss of {scenario} has a gain over the untrained model")
    found, answer = told
    rows = by_verdict(found, answer)
    dots = [_each(loss) for loss in rows]
    times = 100.0 if found.unit == "U" else 1.0
    height = _TOP + _ROW * len(rows) + _BOTTOM
    with drawing(NARROW, height) as canvas:
        axes = canvas.add_axes(
            (_LEFT / NARROW, _BOTTOM / height, 1 - (_LEFT + _RIGHT) / NARROW, 1 - (_TOP + _BOTTOM) / height)
        )
        low, high = _across(rows, dots, times)
        axes.set_xlim(low, high)
        axes.axvline(0.0, color=QUIET, lw=0.7, ls=(0, (1, 2)))
        axes.grid(axis="y", color="#eeeeee", lw=0.6)
        for i, (loss, of) in enumerate(zip(rows, dots, strict=True)):
            _gain(
                axes, i, loss, [times * gain for gain in of], _kind(loss, answer), times, material.looks[loss.variant]
            )
        fixed_ticks(axes, [label(loss.variant, _SHORT_LABEL) for loss in rows])
        for text, loss in zip(axes.get_yticklabels(), rows, strict=True):
            text.set_fontweight("bold" if loss.variant == answer.use else "normal")
        axes.text(1.03, -0.75, "worked", transform=axes.get_yaxis_transform(), va="bottom", color=QUIET, fontsize=7.5)
        axes.set_xlabel(_axis(material, found), fontsize=8.0)
        kinds = {_kind(loss, answer) for loss in rows if loss.gained is not None or loss.variant in answer.avoid}
        _key(axes, kinds)
        svg = svg_of(canvas, name)
    return Figure(name, title, _gains_caption(found, dots), svg)


def _axis(material: Material, found: Tuned) -> str:
    unit = "% of the best possible" if found.unit == "U" else material.measured
    at = f", at {nats(found.drift)}" if found.drift else ""
    return f"gain over untrained ({unit}{at})"


def _each(loss: TunedLoss) -> list[float]:
    """The gain of every run that judges the loss, in the scale's unit; none where there is one alone."""
    return list(loss.each) if loss.gained is not None and len(loss.each) > 1 else []


def _kind(loss: TunedLoss, answer: Answer) -> str:
    if loss.variant == answer.use:
        return _USE
    if loss.variant in answer.avoid:
        return _AVOID
    return _OTHER if loss.judged >= FEWEST_BLOCKS else _UNJUDGED


def _across(rows: Sequence[TunedLoss], dots: Sequence[Sequence[float]], times: float) -> tuple[float, float]:
    """What of the gains is shown: all that is above 0, and a little below it, or one loss would press all others."""
    known = [e for loss in rows if (e := loss.gained) is not None]
    ends = [v for e in known for v in (e.value, e.low, e.high) if v is not None]
    values = [times * v for v in [0.0, *ends, *(gain for of in dots for gain in of)]]
    high = max(values)
    low = max(min(values), -BELOW * high) if high > 0 else min(values)
    room = 0.06 * (high - low) or 1.0
    return low - room, high + room


def _gain(axes: Axes, at: int, loss: TunedLoss, dots: Sequence[float], kind: str, times: float, look: Look) -> None:
    """A row: the mean with its interval, single runs below it, and how many settings worked."""
    low = axes.get_xlim()[0]
    if loss.gained is None:
        words, across = label(loss.missing or "no gain was measured", _SHORT_WORDS), axes.get_yaxis_transform()
        axes.text(0.08, at, words, transform=across, va="center", color=QUIET, fontsize=7.0)
        if kind == _AVOID:
            axes.plot([0.03], [at], ls="", marker=_MARKS[kind], ms=6.5, color=look.colour, transform=across)
    else:
        inside = [x for x in dots if x >= low]
        axes.plot(inside, [at + 0.3] * len(inside), ls="", marker="o", ms=2.8, mew=0, alpha=0.45, color=look.colour)
        if loss.gained.low is not None and loss.gained.high is not None:
            ends = [times * loss.gained.low, times * loss.gained.high]
            axes.plot(ends, [at, at], color=look.colour, lw=1.8, solid_capstyle="butt")
        value = times * loss.gained.value
        beyond = value < low
        face = "white" if kind == _UNJUDGED else look.colour
        marker = "<" if beyond else _MARKS[kind]
        size = 7.5 if kind == _AVOID else 6.0
        axes.plot(
            [low if beyond else value], [at], ls="", marker=marker, ms=size, mfc=face, mec=look.colour, clip_on=False
        )
    axes.text(1.03, at, f"{loss.worked} of {loss.tried}", transform=axes.get_yaxis_transform(), va="center", color=INK)


def _key(axes: Axes, kinds: set[str]) -> None:
    """What the marks mean, of those that are there."""
    for kind, marker in _MARKS.items():
        if kind in kinds:
            face = "white" if kind == _UNJUDGED else QUIET
            axes.plot([], [], ls="", marker=marker, ms=5.5, mfc=face, mec=QUIET, label=kind)
    axes.legend(
        loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=4, frameon=False, fontsize=7.5, handletextpad=0.1,
        columnspacing=0.9, borderaxespad=0.1,
    )  # fmt: skip


def _gains_caption(found: Tuned, dots: Sequence[Sequence[float]]) -> str:
    judged = [loss for loss in found.losses if loss.judged]
    parts = []
    if judged and found.planned:
        parts.append("Mean gain of the runs that judged what each loss chose, a replicate each.")
    elif judged:
        parts.append("Mean gain of each loss's best config on fresh draws of the data.")
    else:
        parts.append("Not judged: the best of several settings by the number that chose it, too good on average.")
    if any(loss.gained is not None and loss.gained.low is not None for loss in found.losses):
        parts.append("Bars: 95 % t intervals.")
    if any(dots):
        parts.append("Faint dots: single runs.")
    parts.append("Worked: settings that gained and did not break.")
    return " ".join(parts)


# ---- beside the baseline --------------------------------------------------------------------------------------------


def ranking(material: Material, scenario: str, name: str) -> Figure | Missing:
    """How much more each loss gains than the baseline, both at one drift, the best first, with its verdict."""
    told = material.told(scenario)
    title = f"How much more each loss gains than {told[0].baseline if told else 'the baseline'}"
    if told is None or all(loss.difference is None for loss in told[0].losses):
        return Missing(name, title, f"no loss of {scenario} was judged beside a baseline")
    found, answer = told
    rows, times = by_verdict(found, answer), 100.0 if found.unit == "U" or found.is_rate else 1.0
    same, within = (50.0 if found.is_rate else 0.0), times * (material.scale.tie_within or 0.0)
    shown = [_beside(loss, found.is_rate, times) for loss in rows]
    height = _TOP + _ROW * len(rows) + _BOTTOM
    with drawing(NARROW, height) as canvas:
        axes = canvas.add_axes(
            (_LEFT / NARROW, _BOTTOM / height, 1 - (_LEFT + _VERDICT) / NARROW, 1 - (_TOP + _BOTTOM) / height)
        )
        axes.axvspan(same - within, same + within, color="#eeeeee", lw=0)
        axes.axvline(same, color=QUIET, lw=0.7, ls=(0, (1, 2)))
        for i, (loss, of) in enumerate(zip(rows, shown, strict=True)):
            colour, kind = material.looks[loss.variant].colour, _kind(loss, answer)
            if of is not None and (ends := [end for end in of[1:] if end is not None]):
                axes.plot(ends, [i] * len(ends), color=colour, lw=1.8, solid_capstyle="butt")
            at = same if loss.variant == found.baseline else None if of is None else of[0]
            if at is not None:
                axes.plot([at], [i], ls="", marker=_MARKS[kind], ms=7.5 if kind == _AVOID else 6.0, color=colour)
            word = label(verdict(loss, found, answer), _VERDICT_WORDS)
            axes.text(1.03, i, word, transform=axes.get_yaxis_transform(), va="center", color=INK, fontsize=7.5)
        axes.margins(x=0.08)
        starred = [LESS if _is_at_less(loss, found) else "" for loss in rows]
        fixed_ticks(axes, [label(loss.variant, _SHORT_LABEL) + star for loss, star in zip(rows, starred, strict=True)])
        for text, loss in zip(axes.get_yticklabels(), rows, strict=True):
            text.set_fontweight("bold" if loss.variant == answer.use else "normal")
        axes.set_xlabel(_beside_axis(material, found), fontsize=8.0)
        svg = svg_of(canvas, name)
    return Figure(name, title, _ranking_caption(found, within, times), svg)


def _beside(loss: TunedLoss, is_rate: bool, times: float) -> tuple[float, float | None, float | None] | None:
    """What a loss has more than the baseline, with its limits, as the short table has it."""
    if loss.difference is None:
        return None
    more = loss.difference.estimate
    shown = as_rate(more) if is_rate else more
    low, high = (None if limit is None else times * limit for limit in (shown.low, shown.high))
    return times * shown.value, low, high


def _beside_axis(material: Material, found: Tuned) -> str:
    if found.is_rate:
        return f"% won against {found.baseline}"
    unit = "points of the best possible" if found.unit == "U" else material.measured
    less = f"; {LESS} at less" if any(_is_at_less(loss, found) for loss in found.losses) else ""
    at = f", at {nats(found.drift)}{less}" if found.drift else ""
    return f"more than {found.baseline} ({unit}{at})"


def _is_at_less(loss: TunedLoss, found: Tuned) -> bool:
    """Whether it is compared at a smaller drift than the others, as the short table marks it."""
    return loss.difference is not None and loss.compared_at not in (None, found.drift)


def _ranking_caption(found: Tuned, within: float, times: float) -> str:
    parts = ["Mean difference of the runs that judged, paired by their draws of the data."]
    if any(loss.difference is not None and loss.difference.estimate.low is not None for loss in found.losses):
        parts.append("Bars: 95 % t intervals.")
    if within:
        points = " points" if times == 100.0 else ""
        parts.append(
            f"Grey: differences below {within:g}{points}, which do not matter; as good is a loss whose 90 % interval, "
            "shorter than its bar, lies within."
        )
    if any(_is_at_less(loss, found) for loss in found.losses):
        parts.append(f"{LESS} Not all runs come that far: compared at the largest drift that all of both reach.")
    return " ".join(parts)


# ---- along the training -------------------------------------------------------------------------------------------


def paths(material: Material, scenario: str, name: str) -> Figure | Missing:
    """The gain of the judging runs along their training, against how far they are from the start."""
    metric = material.scale.metric
    title = f"{metric.capitalize()} along the training, at equal drift"
    told = material.told(scenario)
    lines = {loss.variant: lines_of(material, loss) for loss in ranked(told[0])} if told else {}
    lines = {variant: of for variant, of in lines.items() if of}
    if not lines:
        return Missing(name, title, f"it takes evaluate.at with several steps, and {metric} before training")
    series = [mean_path(variant, of) for variant, of in lines.items()]
    in_u = material.scale.unit == "U"
    gained = f"gain (of the oracle's at {material.scale.budget} nats)" if in_u else f"gain in {metric}"
    scales = Scales("KL to the untrained model (nats a sequence)", gained, "root", "untrained", floored=True)

    def adorn(axes: Axes, own: Series) -> None:
        for line in lines[own.variant]:
            axes.plot(*zip(*line, strict=True), color=material.looks[own.variant].colour, lw=0.6, alpha=0.45, zorder=3)
        if material.drift is not None:
            axes.axvline(material.drift, color=BASELINE, lw=0.8, ls=(0, (4, 2)), zorder=2)

    svg = small_multiples(series, material.looks, material.comparison.baseline, scales, name, adorn)
    return Figure(name, title, _paths_caption(material, lines), svg)


def lines_of(material: Material, loss: TunedLoss) -> list[list[tuple[float, float]]]:
    """(KL, gain) along the training of each run that judges the loss, from the untrained model on."""
    found = []
    for run in (material.runs[run_id] for run_id in loss.run_ids if run_id in material.runs):
        start = start_of(material.scale.metric, run.facts)
        path = _path(run, material.scale.metric)
        if start is None or len(path) < 2:
            continue
        zero, *values = material.scale.in_unit([start, *(value for _, _, value in path)], run)
        gained = [material.scale.sign * (value - zero) for value in values]
        found.append([(0.0, 0.0), *zip([max(kl, 0.0) for _, kl, _ in path], gained, strict=True)])
    return found


def _path(run: RunRecord, metric: str) -> Sequence[tuple[int, float, float]]:
    return joined(run.curves.get("kl", ()), run.curves.get(metric, ())) if run.state is State.COMPLETE else ()


def mean_path(variant: str, lines: Sequence[Sequence[tuple[float, float]]]) -> Series:
    """The mean over runs at each drift that all of them get to, each read as the objective is; its 95 % band."""
    reach = min(max(kl for kl, _ in line) for line in lines)
    drifts = [min(float(root**2), reach) for root in np.linspace(0.0, reach**0.5, _STEPS)[1:]] if reach > 0.0 else []
    steps = [[(i, kl, gain) for i, (kl, gain) in enumerate(line[1:], start=1)] for line in lines]
    middle, low, high = [(0.0, 0.0)], [0.0], [0.0]
    for drift in drifts:
        values = [reading.value for path in steps if (reading := read_at(path, drift, 0.0)) is not None]
        if len(values) < len(lines):  # the mean of the others would be that of other runs
            break
        at = block_mean({i: [value] for i, value in enumerate(values)})
        middle.append((drift, at.value))
        low.append(at.value if at.low is None else at.low)
        high.append(at.value if at.high is None else at.high)
    banded = len(lines) >= FEWEST_BLOCKS
    note = so_many(len(lines), "run")
    return Series(variant, variant, middle, low if banded else (), high if banded else (), note=note)


def _paths_caption(material: Material, lines: dict[str, list[list[tuple[float, float]]]]) -> str:
    parts = [
        f"Gain of {so_many(sum(map(len, lines.values())), 'run')} that judge the losses, at every evaluation of their "
        "training; thick: their mean as far as all of them get."
    ]
    if any(len(of) >= FEWEST_BLOCKS for of in lines.values()):
        parts.append("Bands: 95 % t intervals.")
    if material.drift is not None:
        parts.append(
            f"Dashed line: {nats(material.drift)}, where gains are read: what a loss gains is bought with drift, so "
            "losses are compared where they paid the same."
        )
    parts.append(others(material))
    return " ".join(part for part in parts if part)
