"""The comparison as a person reads it: at most eight columns, the best first, and the words below that they need."""

from __future__ import annotations

from collections.abc import Sequence

from dashboards.analysis.speed import Paces
from dashboards.statistics.estimates import Estimate
from dashboards.tables.cells import Cells, speed_cell
from dashboards.tables.numbers import number, to_error
from dashboards.tuned.answer import Answer
from dashboards.tuned.losses import Tuned, TunedLoss, nats
from studies.records import METRICS, Scalar

_BAR = 5  # characters of a whole gain
_EIGHTHS = " ▏▎▍▌▋▊▉"
_SHORT_NAMES = {"learning_rate": "rate", "label_smoothing": "smoothing", "discopop_tau": "tau"}
LOSS, GAIN, WORKED, DRIFT, LENGTH, VERDICT, USED = (
    "Loss", "Gain", "Worked", "Drift", "Length", "Verdict", "Settings used"
)  # fmt: skip
# What goes first where the screen is narrow.
LEAST = (LENGTH, DRIFT, WORKED, USED)


def short_cells(found: Tuned, answer: Answer) -> Cells:
    """A row a loss, by gain; those without one last."""
    against = [f"vs {found.baseline}"] if any(loss.difference is not None for loss in found.losses) else []
    header = [LOSS, GAIN, *against, WORKED, DRIFT, LENGTH, VERDICT, USED]
    top = max((loss.gain.value for loss in found.losses if loss.gain), default=0.0)
    return Cells(header, [_row(loss, found, answer, bool(against), top) for loss in ranked(found)])


def ranked(found: Tuned) -> list[TunedLoss]:
    """The losses by their gain, those without one last."""
    return sorted(found.losses, key=lambda loss: -loss.gain.value if loss.gain else float("inf"))


def _row(loss: TunedLoss, found: Tuned, answer: Answer, against: bool, top: float) -> list[str]:
    named = loss.losses in ((loss.variant,), ())
    return [
        loss.variant if named else f"{loss.variant} ({'+'.join(loss.losses)})",
        _gain(loss.gain, found, top),
        *([_against(loss, found)] if against else []),
        f"{loss.worked}/{loss.tried}",
        number(loss.drift),
        "-" if loss.length is None else f"{loss.length:.1f}x",
        verdict(loss, found, answer),
        used(loss),
    ]


def _gain(gain: Estimate | None, found: Tuned, top: float) -> str:
    if gain is None:
        return "-"
    if found.unit != "U":
        return _with_limits(gain, 1.0)
    bar = _bar(gain.value / max(top, 1.0))
    return f"{bar} {_with_limits(gain, 100.0, '%')}"


def _bar(share: float) -> str:
    eighths = round(max(0.0, min(share, 1.0)) * _BAR * 8)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (_EIGHTHS[rest] if rest else "")).ljust(_BAR)


def without_bar(cell: str) -> str:
    """A cell without its bar, where a figure stands beside the table."""
    return cell.lstrip(f"█{_EIGHTHS}")


def _against(loss: TunedLoss, found: Tuned) -> str:
    if loss.difference is None:
        return "-"
    times = 100.0 if found.unit == "U" else 1.0
    value = loss.difference.estimate
    sign = "+" if value.value > 0 else ""
    at = "" if loss.compared_at in (None, found.drift) else f" at {loss.compared_at:g}"
    return f"{sign}{_with_limits(value, times)}{at}"


def _with_limits(value: Estimate, times: float, unit: str = "") -> str:
    if value.low is None or value.high is None:
        return f"{value.value * times:.0f}{unit}" if times == 100.0 else number(value.value)
    half = (value.high - value.low) / 2 * times
    middle, low, high = (
        (f"{v * times:.0f}" if times == 100.0 else to_error(v, half)) for v in (value.value, value.low, value.high)
    )
    return f"{middle}{unit} [{low}, {high}]"


def verdict(loss: TunedLoss, found: Tuned, answer: Answer) -> str:
    """A word or two, that the answer's paragraph says more of."""
    if loss.variant == answer.use:
        return "use"
    if loss.variant in answer.avoid:
        broken = sum(loss.broken.values())
        return "avoid: breaks" if broken * 2 > loss.tried else "avoid: worse" if loss.gain else "avoid"
    if loss.missing:
        return loss.missing
    if loss.variant in answer.open:
        return "undecided" if answer.use else "works; not ranked"
    if loss.variant in answer.as_good:
        return "as good"
    return "no gain" if loss.gain is not None and loss.gain.value <= 0 else "not ranked"


def used(loss: TunedLoss) -> str:
    """The settings, short: `rate 8e-4, beta .24, step 60`."""
    said = [f"{_SHORT_NAMES.get(name, name)} {_value(value)}" for name, value in loss.settings.items()]
    return ", ".join([*said, *([f"step {loss.step}"] if loss.step else [])]) or "-"


def _value(value: Scalar) -> str:
    if not isinstance(value, float):
        return str(value)
    if 0 < abs(value) < 0.01:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.2g}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.2g}"


def short_notes(found: Tuned) -> list[str]:
    """What the columns mean, in as few lines as can be."""
    about = METRICS[found.metric].what if found.metric in METRICS else found.metric
    gain = "as a share of the best that is possible" if found.unit == "U" else about
    at = f" where a run is {nats(found.drift)} from its start" if found.drift else ""
    lines = [f"Gain: over the untrained model, {gain}{at}. [a, b]: 95% interval."]
    if found.planned:
        lines.append(
            f"{found.whole} of {found.planned} replicates are whole: in each, every loss tries {found.settings} "
            "settings on one draw of the data and its best is judged on another."
        )
    elif all(not loss.judged for loss in found.losses):
        lines.append("Of several settings the best is shown, by the number that chose it: too good on average.")
    lines.append("Worked: settings that gained and did not break. Drift: nats from the start. Length: of samples.")
    return lines


def long_cells(found: Tuned, speed: Paces | None) -> Cells:
    """All that replicates say of each loss, a row each, as in the short table; `speed`: of its steps."""
    against = f"vs {found.baseline}" if found.baseline else "Difference"
    header = [
        LOSS, "Judged", GAIN, against, "p (Holm)", "Word", "Any setting gains", "Stability", "Broke",
        "Good rates (decades)", DRIFT, LENGTH, *(["Speed"] if speed else []), USED,
    ]  # fmt: skip
    return Cells(header, [_long_row(loss, found, speed) for loss in ranked(found)])


def _long_row(loss: TunedLoss, found: Tuned, speed: Paces | None) -> list[str]:
    difference, stable = loss.difference, loss.stability
    return [
        loss.variant,
        f"{loss.judged} of {found.planned}",
        loss.missing or without_bar(_gain(loss.gain, found, 1.0)),
        _against(loss, found),
        "-" if difference is None or difference.p_holm is None else f"{difference.p_holm:.2g}",
        "-" if difference is None else difference.instead or difference.word,
        without_bar(_gain(loss.any_setting, found, 1.0)),
        "-" if stable is None else ": ".join(filter(None, (stable.word or "no word", stable.reason))),
        ", ".join(f"{n} {kind}" for kind, n in loss.broken.items()) or "0",
        "-" if loss.good_rates is None else _with_limits(loss.good_rates, 1.0),
        number(loss.drift),
        "-" if loss.length is None else f"{loss.length:.2f}x",
        *([speed_cell(speed.of.get(loss.variant))] if speed else []),
        used(loss),
    ]


LONG_NOTES = (
    "Judged: replicates in which what the loss chose was trained again on another draw. p: of the difference, "
    "corrected for the number of losses. Any setting gains: one picked at random, 0 where it broke; Stability: that "
    "against the baseline's. Broke: settings that diverged, inverted, collapsed or drifted by their end. Good rates: "
    "decades of learning rate that gain nearly as much as the best.",
)


def by_width(cells: Cells, fits: Sequence[int], width: int) -> Cells:
    """The cells without the columns that a screen has no room for. `fits`: the least width of each column."""
    room = dict(zip(cells.header, fits, strict=True))
    dropped: list[str] = []
    for name in LEAST:
        if sum(room[n] + 2 for n in cells.header if n not in dropped) <= width:
            break
        dropped.append(name)
    return cells.columns([i for i, name in enumerate(cells.header) if name not in dropped])
