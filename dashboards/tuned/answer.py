"""What a comparison says, in a paragraph that a person can act on. By rules, from the runs that judged.

- Use: of the losses not shown worse than the best by more than the tie width, and not to be avoided, the most forgiving
  of those that are shown to gain more at settings picked at random than the baseline; where there is none, the
  baseline, or the highest gain where it is not among them. Nothing is named where none is shown to gain three tie
  widths over the untrained model, or where no run judged.
- Avoid: what breaks at most of its settings or when it is judged, is shown worse than another, or is fragile.
- Open: what is neither shown as good as the one to use nor apart from it; and the command that would settle it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dashboards.statistics.compare import ALPHA, POWER, SEEN
from dashboards.statistics.estimates import FEWEST_BLOCKS, Estimate
from dashboards.statistics.power import tie_power
from dashboards.statistics.replicated.stability import BREAKS_MORE, Stability
from dashboards.tuned.amounts import at_most, share, what_to_try
from dashboards.tuned.losses import Tuned, TunedLoss
from dashboards.tuned.samples.opinions import said_by_others, weakness, would_take
from studies.records import Scalar
from studies.text.plural import so_many

MOST_REPLICATES = 24  # tasks of the embedded world, and more than most can afford elsewhere
_HALF = 0.5


@dataclass(frozen=True)
class Settle:
    """What would settle what is open: settings of the study for one more `sweeper run`, and what that costs."""

    overrides: tuple[str, ...]
    runs: int
    minutes: float | None
    to: str


@dataclass(frozen=True)
class Answer:
    """`use`: the loss to use, None where none can be named. `as_good`: shown to be as good; `avoid`: loss -> why;
    `undecided`: what these runs cannot tell from it. `sentences`: all of it, to be read. `start`: with which to start,
    with its settings, where what decides is too weak to name one.
    """

    use: str | None
    settings: dict[str, Scalar]
    step: int | None
    gain: Estimate | None
    as_good: tuple[str, ...]
    avoid: dict[str, str]
    undecided: tuple[str, ...]
    settle: Settle | None
    sentences: tuple[str, ...]
    start: str | None = None

    @property
    def text(self) -> str:
        """The paragraph."""
        return " ".join(self.sentences)


@dataclass(frozen=True)
class Cost:
    """What more replicates cost: `runs` of one, over all conditions; `seconds` from the end of one run to the next,
    None where unknown; `instead`: settings of the study that replicates stand in the place of, and which must go.
    """

    runs: int
    seconds: float | None = None
    instead: tuple[str, ...] = ()


def answer(found: Tuned, tie_within: float | None, cost: Cost) -> Answer:
    """What a comparison says. `tie_within`: the largest gain that does not matter, in its unit."""
    judged = [loss for loss in found.losses if loss.judged >= FEWEST_BLOCKS]
    if found.best is None or not judged or not found.best.kept:
        return _unjudged(found, cost)
    kept = [loss for loss in found.losses if loss.variant in found.best.kept]
    gained = [loss for loss in kept if _is_seen(loss.gained, tie_within)]
    settle, avoid = _settle(found, tie_within, cost), _avoid(found)
    if all(loss.gained is None for loss in kept):
        return _unknown_start(found, kept, avoid)
    fit = [loss for loss in gained if loss.variant not in avoid]
    if not fit:
        return _nothing(found, kept, bool(gained), settle, would_take(found, tie_within))
    use = _choose(found, fit)
    if found.is_weak:
        return _weak(found)
    others = [loss.variant for loss in kept if loss is not use and loss.variant not in avoid]
    as_good = tuple(name for name in others if found.are_tied(use.variant, name))
    undecided = tuple(name for name in others if name not in as_good)
    sentences = [
        so_far(found) + _used(found, use),
        *_at_edge(use),
        *_beside(found, use.variant, as_good, undecided, tie_within),
    ]
    sentences += said_by_others(found, use.variant)
    sentences += _settling(found, settle, tie_within) if undecided else []
    sentences += _avoided(avoid)
    return Answer(
        use.variant, dict(use.settings), use.step, use.gained, as_good, avoid, undecided, settle, tuple(sentences)
    )


def _is_seen(gain: Estimate | None, tie_within: float | None) -> bool:
    """Whether a gain over the untrained model is established: by three tie widths, or above 0 where there is none."""
    return gain is not None and gain.low is not None and gain.low > SEEN * (tie_within or 0.0)


def _choose(found: Tuned, kept: Sequence[TunedLoss]) -> TunedLoss:
    """The most forgiving of the losses as good as the best where that is shown, else the baseline, else the one that
    gains most.
    """
    forgiving = [loss for loss in kept if loss.stability is not None and loss.stability.word == "Better"]
    if forgiving:
        return max(forgiving, key=lambda loss: loss.any_setting.value if loss.any_setting else 0.0)
    plain = [loss for loss in kept if loss.variant == found.baseline]
    return plain[0] if plain else max(kept, key=lambda loss: loss.gained.value if loss.gained else 0.0)


@dataclass(frozen=True)
class Avoid:
    """Why a loss is to be avoided, in a word for its row and in the answer's."""

    word: Literal["breaks", "worse", "fragile", "no gain"]
    why: str


def reason_to_avoid(found: Tuned, loss: TunedLoss) -> Avoid | None:
    """Why a loss is to be avoided; None where nothing speaks against it."""
    beaten = found.best.beaten.get(loss.variant) if found.best and not found.is_weak else None
    broken, settings = sum(loss.broken.values()), so_many(loss.tried, "setting")
    if loss.tried and broken > _HALF * loss.tried:
        rest = loss.tried - loss.worked - broken
        less = f", {rest} gained nothing" if rest > 0 and loss.any_setting is not None else ""
        return Avoid("breaks", f"{broken} of its {settings} broke{less}")
    if beaten is not None:
        more = share(found, beaten.difference)
        lost = f"loses to {beaten.by} at {more}" if found.is_rate else f"gains less than {beaten.by}, by {more}"
        return Avoid("worse", lost)
    if fragile := _fragile(found, loss.stability):
        return Avoid("fragile", fragile)
    if loss.broke_again > _HALF * loss.judged:
        return Avoid("breaks", f"broke when judged in {loss.broke_again} of {so_many(loss.judged, 'draw')}")
    if loss.tried and not loss.worked and loss.any_setting is not None and not found.is_weak:
        return Avoid("no gain", f"none of its {settings} gained anything")
    return None


def _fragile(found: Tuned, stable: Stability | None) -> str:
    """Why a loss is fragile, "" where it is not; by a weak measure only what breaks counts, and not what gains less."""
    if stable is None or stable.word != "Poor":
        return ""
    breaks = stable.p_many is not None and stable.p_many < ALPHA
    return stable.reason if not found.is_weak else BREAKS_MORE if breaks else ""


def _avoid(found: Tuned) -> dict[str, str]:
    reasons = {loss.variant: reason_to_avoid(found, loss) for loss in found.losses}
    return {variant: reason.why for variant, reason in reasons.items() if reason is not None}


# ---- sentences ----------------------------------------------------------------------------------------------------


def so_far(found: Tuned) -> str:
    """What goes before a word on losses while replicates are missing, "" where none are."""
    if found.whole == found.planned:
        return ""
    return f"So far, by {found.whole} of {so_many(found.planned, 'replicate')} (it may still change): "


def _used(found: Tuned, use: TunedLoss) -> str:
    stop = f", stop at step {use.step}" if use.step else ""
    middle = ", the median replicate's choice" if found.planned and (use.settings or stop) else ""
    settings = f" ({_settings(use)}{stop}{middle})" if use.settings or stop else ""
    gain = share(found, use.gained) if use.gained else "nothing"
    tuned = f"Tuned with {so_many(found.settings, 'setting')} a draw, it" if found.planned else "It"
    over = f"on {so_many(use.judged, 'fresh draw')} of the data"
    if use.gained is not None and found.planned and use.gained.blocks < use.judged:
        over = f"on {use.gained.blocks} of {so_many(use.judged, 'fresh draw')} of the data (it broke on the others)"
    where = f", {nats_about(use.drift)} from the start" if use.drift is not None else ""
    gains = f"beats the untrained model at {gain}" if found.is_rate else f"gains {gain} over the untrained model"
    use_it = "use" if so_far(found) else "Use"
    return f"{use_it} {use.variant}{settings}: {_why(found, use)}. {tuned} {gains} {over}{where}."


_NOT_BEATEN = "no other loss is shown to gain enough more to matter"


def _why(found: Tuned, use: TunedLoss) -> str:
    if _forgives(use):
        more = f"a setting picked at random gains more than one of {found.baseline}"
        return f"{_NOT_BEATEN}, and it forgives the most: {more}"
    if use.variant == found.baseline:
        return f"{_NOT_BEATEN}, so the baseline stays"
    if use.difference is not None and use.difference.word == "better":
        return f"shown better than {found.baseline}"
    return "the highest gain of those that can be compared"


def nats_about(drift: float) -> str:
    """A mean drift in words."""
    return f"{drift:.1f} nats on average"


def _forgives(use: TunedLoss) -> bool:
    return use.stability is not None and use.stability.word == "Better"


def _at_edge(use: TunedLoss) -> list[str]:
    """That a wider range may hold a better setting."""
    said = []
    for edge in use.edges:
        end = "high" if edge.end == "highest" else "low"
        more = "" if edge.wider is None else f" (--set space.{edge.knob}.{end}={edge.wider:g})"
        said.append(f"Its best {edge.knob} was the {edge.end} tried: a wider range may hold a better{more}.")
    return said


def _beside(
    found: Tuned, use: str, as_good: Sequence[str], undecided: Sequence[str], tie_within: float | None
) -> list[str]:
    said = []
    if as_good:
        one = len(as_good) == 1
        limits, verb = ("its 90% interval", "is") if one else ("their 90% intervals", "are")
        apart = at_most(found, max(found.tie(use, name) for name in as_good), tie_within or 0.0)
        said.append(f"{_list(as_good)} {verb} as good: {apart} by {limits} (the table's: 95%).")
    if undecided:
        said.append(f"Not told apart from it by these runs: {_list(undecided)}.")
    return said


def _avoided(avoid: dict[str, str]) -> list[str]:
    return [f"Avoid {'; '.join(f'{name} ({why})' for name, why in avoid.items())}."] if avoid else []


def _settling(found: Tuned, settle: Settle | None, tie_within: float | None) -> list[str]:
    """What would settle what is open: more replicates where these do, else what a win rate would take."""
    would = would_take(found, tie_within) if settle is None else ""
    return [would or _settled(found, settle)]


def _settled(found: Tuned, settle: Settle | None) -> str:
    if settle is None:
        return f"To settle that would take more than {MOST_REPLICATES} replicates." if found.planned else ""
    time = "" if settle.minutes is None else f", about {_minutes(settle.minutes)}"
    how = " ".join(f"--set {override}" for override in settle.overrides)
    return f"To {settle.to}, add {how} to `sweeper run` ({so_many(settle.runs, 'more run')}{time})."


def _unknown_start(found: Tuned, kept: Sequence[TunedLoss], avoid: dict[str, str]) -> Answer:
    """Of a metric of which nobody knows what the untrained model has."""
    names = tuple(loss.variant for loss in kept if loss.variant not in avoid)
    sentence = (
        f"What the untrained model has of {found.metric} is not known, so no gain can be told and no loss is named. "
        f"Not shown worse than the best: {_list(names) if names else 'none'}."
    )
    return Answer(None, {}, None, None, names, {}, (), None, (sentence,))


def _weak(found: Tuned) -> Answer:
    """Of a measure that looks at no sample: which losses break, and where to start, and no winner."""
    avoid = _avoid(found)
    names = [loss.variant for loss in found.losses if loss.variant not in avoid]
    sound = [loss for loss in found.losses if loss.variant not in avoid and loss.settings]
    start = next((loss for loss in sound if loss.variant == found.baseline), sound[0] if sound else None)
    said = [*weakness(found), *said_by_others(found, None)]
    if start is not None:
        stop = f", stop at step {start.step}" if start.step else ""
        said.append(f"Start with {start.variant} ({_settings(start)}{stop}).")
    said += _avoided(avoid)
    begun = (None, {}, None) if start is None else (start.variant, dict(start.settings), start.step)
    return Answer(None, begun[1], begun[2], None, (), avoid, tuple(names), None, tuple(said), start=begun[0])


def _nothing(found: Tuned, kept: Sequence[TunedLoss], is_seen: bool, settle: Settle | None, would: str) -> Answer:
    """Of losses that gain nothing, or (`is_seen`) of which those that do are to be avoided."""
    gains = [loss.gained for loss in kept if loss.gained is not None]
    best = max(gains, key=lambda gain: gain.value, default=None)
    gain = "" if best is None else f": the best gain over the untrained model is {share(found, best)}"
    if best is not None and found.is_rate:
        gain = f": the best of them beats the untrained model at {share(found, best)}"
    sentence = f"Nothing was learnt that can be seen{gain}. No loss is named. {what_to_try(found, kept)}"
    if is_seen:
        narrow = "Narrow the ranges (space) to settings that worked."
        sentence = f"Every loss that gains something is to be avoided{gain}. No loss is named. {narrow}"
    said = (sentence, *said_by_others(found, None), *([would] if would else []), *_avoided(_avoid(found)))
    return Answer(None, {}, None, best, (), _avoid(found), (), settle, said)


def _unjudged(found: Tuned, cost: Cost) -> Answer:
    """Of a study in which nothing was trained again on fresh pairs, or too little: no winner."""
    tried = sum(loss.tried for loss in found.losses)
    if not tried:
        return Answer(None, {}, None, None, (), {}, (), None, ("Nothing is known yet: no run has ended.",))
    if found.planned:
        return _too_few(found)
    gains = {loss.variant: loss.gained for loss in found.losses if loss.gained is not None and loss.gained.value > 0.0}
    avoid = _avoid(found) if gains else {}
    settle = _settle(found, None, cost)
    again = max((loss.judged for loss in found.losses), default=0)
    sentences = [
        f"These {so_many(tried, 'setting')} rank no losses: their best were judged on {so_many(again, 'fresh draw')}, "
        f"and {FEWEST_BLOCKS} at least are compared."
        if again
        else f"These {so_many(tried, 'setting')} rank no losses: each number is the best of those that were tried, by "
        "the draw of the data that chose it, and another draw moves it."
    ]
    if not gains:
        sentences.append("No loss gained anything over the untrained model.")
    sentences += _avoided(avoid)
    start = next((loss for loss in found.losses if loss.variant == found.baseline and loss.variant in gains), None)
    if start is not None and start.variant not in avoid:
        sentences.append(f"Start with {start.variant} ({_settings(start)}).")
    if settle is not None:
        sentences.append(_settled(found, settle))
    return Answer(None, {}, None, None, (), avoid, tuple(gains), settle, tuple(sentences))


def _too_few(found: Tuned) -> Answer:
    """Of a study with replicates of which too few are whole, or whose losses share none."""
    why = f"{found.whole} of {so_many(found.planned, 'replicate')} {'is' if found.whole == 1 else 'are'} whole"
    if len(found.losses) < 2:
        said = f"No loss is named: there is one alone ({why})"
    elif found.planned < FEWEST_BLOCKS:
        said = f"No loss is named: {why}, and {FEWEST_BLOCKS} at least are compared; run it with --set replicates=8"
    elif found.whole < found.planned:
        said = f"No loss is named yet: {why}, and {FEWEST_BLOCKS} at least are compared; the same command goes on"
    else:
        reasons = [f"{loss.variant} {loss.missing}" for loss in found.losses if loss.missing]
        said = f"No two losses can be compared ({'; '.join(reasons) or 'nothing was measured'})"
    avoid = _avoid(found) if any(loss.worked for loss in found.losses) else {}
    return Answer(None, {}, None, None, (), avoid, (), None, (f"{said}.", *_avoided(avoid)))


# ---- what would settle it -----------------------------------------------------------------------------------------


def _settle(found: Tuned, tie_within: float | None, cost: Cost) -> Settle | None:
    """The replicates that would decide what is open: enough that losses which are equal are shown so in 80 of 100
    cases, at the spread that was seen; eight where there are none yet.
    """
    if not found.planned:
        wanted, have, to = 8, 0, "learn which is better on fresh draws"
    else:
        needed = _replicates_needed(found, tie_within)
        if needed is None:
            return None
        wanted, have, to = needed, found.planned, "settle that"
    runs = (wanted - have) * cost.runs
    if runs <= 0:
        return None
    minutes = None if cost.seconds is None else runs * cost.seconds / 60.0
    return Settle((*cost.instead, f"replicates={wanted}"), runs, minutes, to)


def _replicates_needed(found: Tuned, tie_within: float | None) -> int | None:
    avoided = _avoid(found)
    spreads = [
        loss.difference.spread
        for loss in found.losses
        if loss.variant not in avoided
        and loss.difference is not None
        and loss.difference.word == "inconclusive"
        and loss.difference.spread
    ]
    if not spreads or tie_within is None:
        return min(2 * found.planned, MOST_REPLICATES)
    spread = sorted(spreads)[len(spreads) // 2]
    enough = (n for n in range(found.planned + 1, MOST_REPLICATES + 1) if tie_power(n, spread, tie_within) >= POWER)
    return next(enough, None)


# ---- words --------------------------------------------------------------------------------------------------------


def _settings(loss: TunedLoss) -> str:
    return ", ".join(f"{name} {value:.2g}" if isinstance(value, float) else f"{name} {value}"
                     for name, value in loss.settings.items())  # fmt: skip


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _minutes(minutes: float) -> str:
    if minutes < 90:
        return so_many(max(round(minutes), 1), "minute")
    return f"{minutes / 60:.1f} hours"
