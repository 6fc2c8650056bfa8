"""The comparison as a person reads it: at most eight columns, the best first, and the words below that they need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dashboards.analysis.speed import SAME, Paces
from dashboards.statistics.estimates import Estimate
from dashboards.tables.cells import Cells, speed_cell
from dashboards.tables.numbers import number, to_error, with_sign
from dashboards.tuned.answer import Answer, reason_to_avoid
from dashboards.tuned.losses import Tuned, TunedLoss, nats
from dashboards.tuned.samples.contests import as_rate
from dashboards.tuned.samples.opinions import (
    LESS,
    WON,
    both_at,
    opinion_cells,
    opinion_columns,
    opinion_notes,
    rate_notes,
)
from dashboards.tuned.yours import Yours
from studies.records import METRICS, Scalar
from studies.text.plural import so_many

_NORMAL = 0.25  # samples whose length is within it of the untrained model's need no column
_OWN = "†"  # at one of a model from elsewhere, which is read where that is
_SHORT_NAMES = {"learning_rate": "rate", "label_smoothing": "smoothing", "discopop_tau": "tau"}
LOSS, GAIN, WORKED, DRIFT, LENGTH, VERDICT, USED = (
    "Loss", "Gain", "Worked", "Drift", "Length", "Verdict", "Settings used"
)  # fmt: skip
# What goes first where the screen is narrow; the answer has the settings of the loss to use.
LEAST = (LENGTH, USED, DRIFT, WORKED)


def short_cells(found: Tuned, answer: Answer) -> Cells:
    """A row a loss: the one to use, then as `by_verdict`. What ranks them stands before the gain, which does not."""
    differences = [*(loss.difference for loss in found.losses), *(one.difference for one in found.yours)]
    against = [f"vs {found.baseline}"] if any(one is not None for one in differences) else []
    lengths = [LENGTH] if _has_lengths(found) else []
    header = [LOSS, VERDICT, *against, _gain_name(found), *opinion_columns(found), WORKED, DRIFT, *lengths, USED]
    rows = [_row(loss, found, answer, bool(against), bool(lengths)) for loss in by_verdict(found, answer)]
    return Cells(header, [*rows, *(_yours(one, found, bool(against), bool(lengths)) for one in found.yours)])


def yours_named(one: Yours, found: Tuned) -> str:
    """A model from elsewhere, with its digest where others have its name."""
    alike = sum(other.name == one.name for other in found.yours) > 1
    return f"yours: {one.name}" + (f" ({one.content.removeprefix('sha256:')[:6]})" if alike else "")


def _yours(one: Yours, found: Tuned, against: bool, lengths: bool) -> list[str]:
    """As it is: not tuned, so without settings, and not ranked."""
    return [
        yours_named(one, found),
        one.missing or "as exported",
        *([_signed(one.difference, found) + _OWN if one.difference else "-"] if against else []),
        _gain(one.gain, found),
        *("-" for _ in opinion_columns(found)),
        "-",
        "-" if one.drift is None else f"{one.drift:.1f}",
        *(["-" if one.length is None else f"{one.length:.1f}x"] if lengths else []),
        "-",
    ]


def _has_lengths(found: Tuned) -> bool:
    """Whether some loss writes at another length than the untrained model, of those that do not mostly break."""
    sound = [loss.length for loss in found.losses if sum(loss.broken.values()) * 2 <= loss.tried]
    return any(abs((length or 1.0) - 1.0) >= _NORMAL for length in (*sound, *(one.length for one in found.yours)))


def ranked(found: Tuned) -> list[TunedLoss]:
    """The losses by their gain, those without one last."""
    return sorted(found.losses, key=lambda loss: -loss.gained.value if loss.gained else float("inf"))


def by_verdict(found: Tuned, answer: Answer) -> list[TunedLoss]:
    """The one to use first, then those as good, the undecided, and those to avoid; in each the most gain at equal drift
    first.
    """

    def place(loss: TunedLoss) -> tuple[int, float]:
        groups = (loss.variant == answer.use, loss.variant in answer.as_good, loss.variant not in answer.avoid, True)
        more = 0.0 if loss.difference is None else loss.difference.estimate.value
        return groups.index(True), -more

    return sorted(ranked(found), key=place)


def _row(loss: TunedLoss, found: Tuned, answer: Answer, against: bool, lengths: bool) -> list[str]:
    named = loss.losses in ((loss.variant,), ())
    return [
        loss.variant if named else f"{loss.variant} ({'+'.join(loss.losses)})",
        verdict(loss, found, answer),
        *([_against(loss, found)] if against else []),
        _gain(loss.gained, found),
        *opinion_cells(found, loss.variant),
        "-" if loss.any_setting is None and not loss.worked else f"{loss.worked}/{loss.tried}",
        "-" if loss.drift is None else f"{loss.drift:.1f}",
        *(["-" if loss.length is None else f"{loss.length:.1f}x"] if lengths else []),
        used(loss),
    ]


def _gain_name(found: Tuned) -> str:
    return WON if found.is_rate else GAIN


def _gain(gain: Estimate | None, found: Tuned) -> str:
    if gain is None:
        return "-"
    if found.is_rate:
        return _with_limits(as_rate(gain), 100.0, "%")
    return _with_limits(gain, 100.0, "%") if found.unit == "U" else _with_limits(gain, 1.0)


def _against(loss: TunedLoss, found: Tuned) -> str:
    if loss.difference is None:
        return "-"
    less = "" if loss.compared_at in (None, found.drift) else LESS
    if loss.met is not None:
        value = loss.difference.estimate
        return f"{_with_limits(as_rate(value), 100.0, '%')}{_alone(value)}{less}"
    return _signed(loss.difference.estimate, found) + less


def _signed(value: Estimate, found: Tuned) -> str:
    return with_sign(_with_limits(value, 100.0 if found.unit == "U" or found.is_rate else 1.0)) + _alone(value)


def _alone(value: Estimate) -> str:
    """Of how many replicates a number is that has no interval."""
    return f" (n={value.blocks})" if value.low is None else ""


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
    if loss.variant in answer.avoid and (reason := reason_to_avoid(found, loss)) is not None:
        return f"avoid: {reason.word}"
    if loss.gained is None:
        return loss.missing
    if found.is_weak and loss.judged:
        return "weak: not ranked"
    if loss.variant in answer.undecided:
        return "undecided" if answer.use else "works; not ranked"
    if loss.variant in answer.as_good:
        return "as good"
    return "no gain" if loss.gained is not None and loss.gained.value <= 0 else "not ranked"


def used(loss: TunedLoss) -> str:
    """The settings, short: `rate 8e-4, beta .24`."""
    return ", ".join(f"{_SHORT_NAMES.get(name, name)} {_value(value)}" for name, value in loss.settings.items()) or "-"


def _value(value: Scalar) -> str:
    if not isinstance(value, float):
        return str(value)
    if 0 < abs(value) < 0.01:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.2g}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.2g}"


def short_notes(conditions: Sequence[Tuned]) -> list[str]:
    """What the columns mean, in as few lines as can be, below the tables of all conditions."""
    found = _in_all(conditions)
    if found.is_rate:
        against, *rest = rate_notes(found)
        return [against + _from_fewer(found), *rest, *opinion_notes(found), *_design_notes(found)]
    about = METRICS[found.metric].what if found.metric in METRICS else found.metric
    gain = "as a share of the best that is possible" if found.unit == "U" else about
    where = f" at {nats(found.drift)}" if found.drift and found.unit == "U" else ""
    lines = []
    if any(loss.difference is not None for loss in found.losses):
        points = ", in percentage points" if found.unit == "U" else ""
        only = "Only this compares losses: exported steps (Gain) differ in drift." if _stops(found) else ""
        paired = "" if both_at(found) else ", replicate by replicate" if found.planned else ""
        more = f"how much more it gains{points}{paired}{both_at(found)}"
        lines.append(" ".join(filter(None, (f"vs {found.baseline}: {more}.", (only + _from_fewer(found)).strip()))))
    weak = f" Weak: {'samples do not decide' if found.judge else 'no samples were judged'}." if found.is_weak else ""
    choice = "each replicate's choice" if found.planned else "what would be exported"
    lines.append(
        f"Gain: of {choice} over the untrained model{_stops(found)}, {gain}{where}. [a, b]: 95% interval.{weak}"
    )
    return lines + opinion_notes(found) + _design_notes(found)


def _design_notes(found: Tuned) -> list[str]:
    """How the runs were laid out, and what the other columns mean."""
    lines = []
    if found.planned:
        whole = f"{found.whole} of " if found.whole < found.planned else ""
        lines.append(
            f"{whole}{found.planned} replicates{' are whole' if whole else ''}: in each, every loss tries "
            f"{so_many(found.settings, 'setting')} on one random part of the data (a draw), and the best that did not "
            f"break is trained and judged on another. Settings used: the median replicate's."
        )
    elif all(not loss.judged for loss in found.losses):
        lines.append("Of several settings the best is shown, by the number that chose it: too good on average.")
    if found.planned and not found.has_new_pairs:
        lines.append("Draws are random parts of the same pairs: intervals speak of other parts, not of other data.")
    length = " Length: of samples, beside the untrained model's." if _has_lengths(found) else ""
    lines.append(
        "Worked: settings that gained and did not break (NaN, repeated words, preferences the wrong way, other "
        f"lengths). Drift: KL from the untrained model in nats{_stops(found) or ', at the end'}.{length}"
    )
    return lines + (_yours_notes(found) if found.yours else [])


def _in_all(conditions: Sequence[Tuned]) -> Tuned:
    """The last of them with the losses of all, each by its name and condition: what notes say of single losses."""
    last = conditions[-1]
    if len(conditions) == 1:
        return last
    losses = [replace(loss, variant=f"{loss.variant} in {of.condition}") for of in conditions for loss in of.losses]
    return replace(last, losses=tuple(losses))


def _stops(found: Tuned) -> str:
    """Where runs are as they would be exported, "" where that is their end."""
    return ", at the exported step" if found.drift and found.planned else ""


def _from_fewer(found: Tuned) -> str:
    """Which differences rest on fewer replicates than were planned: in the others one of the two had nothing to judge,
    or its evaluations jump over the drift.
    """
    of = {loss.variant: loss.difference.estimate.blocks for loss in found.losses if loss.difference is not None}
    less = [f"{name} {n}" for name, n in of.items() if n < found.planned == found.whole]
    why = "broke or jump the drift" if found.drift else "broke"
    return f" By fewer than {found.planned} replicates (others {why}): {', '.join(less)}." if less else ""


def _yours_notes(found: Tuned) -> list[str]:
    """What a row of a model from elsewhere is, and what nobody can know of it."""
    place = "at its own drift" if found.yours[0].at_own_drift else "as both end"
    rate = f"its win rate against the untrained model less {found.baseline}'s, in points, " if found.is_rate else ""
    against = f" vs {found.baseline} ({_OWN}): {rate}{place}." if any(one.difference for one in found.yours) else ""
    apart = [f" {yours_named(one, found)}: {one.apart}, so no difference is told." for one in found.yours if one.apart]
    learnt = (
        " Draws of the embedded world have tastes of their own, and a model trained on one meets the others by chance."
        if found.has_new_pairs
        else " Where it was trained on these data, it has seen pairs that judge it."
    )
    return [
        "yours: models that no run here trained, judged on the draws that judge the losses. They were not tuned here, "
        f"and are not ranked.{against}{''.join(apart)}{learnt}"
    ]


def speed_line(speed: Paces) -> str:
    """In a sentence, whose steps take longer than the baseline's, or that none do."""
    timed = {name: pace.loss for name, pace in speed.of.items() if pace.loss is not None}
    by_word: dict[str, list[str]] = {}
    for name, one in timed.items():
        by_word.setdefault(one.word, []).append(f"{name} {one.ratio.value:.3f}")
    if by_word.keys() == {"as fast"}:
        return f"Speed: a step of every loss is as fast as one of {speed.baseline}, within {100 * (SAME - 1):.0f}%."
    said = "; ".join(f"{word}: {', '.join(names)}" for word, names in by_word.items())
    return f"Speed, a step beside one of {speed.baseline}: {said}."


def long_cells(found: Tuned, speed: Paces | None) -> Cells:
    """All that replicates say of each loss, a row each, as in the short table; `speed`: of its steps."""
    against = f"vs {found.baseline}" if found.baseline else "Difference"
    header = [
        LOSS, "Judged", _gain_name(found), "At equal drift", against, "p (Holm)", "Word", "Any setting gains",
        "Stability", "Broke", "Good rates (decades)", DRIFT, LENGTH, *(["Speed"] if speed else []), USED,
    ]  # fmt: skip
    return Cells(header, [_long_row(loss, found, speed) for loss in ranked(found)])


def _long_row(loss: TunedLoss, found: Tuned, speed: Paces | None) -> list[str]:
    difference, stable = loss.difference, loss.stability
    return [
        loss.variant,
        f"{loss.judged} of {found.planned}",
        _gain(loss.gained, found),
        loss.missing or _gain(loss.gain, found),
        _against(loss, found),
        "-" if difference is None or difference.p_holm is None else f"{difference.p_holm:.2g}",
        "-" if difference is None else difference.instead or difference.word,
        _gain(loss.any_setting, found),
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


def notes_without(notes: Sequence[str], left_out: Sequence[str]) -> list[str]:
    """The notes less the sentences on columns that are left out, each of which begins with its column's name."""
    kept = [
        ". ".join(part for part in note.removesuffix(".").split(". ") if part.split(":")[0] not in left_out)
        for note in notes
    ]
    lines = [f"{note}." for note in kept if note]
    return [*lines, f"On a wider screen also: {', '.join(left_out)}."] if left_out else list(notes)
