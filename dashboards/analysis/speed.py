"""What was measured of the speed of steps -> a word on each variant; knows no claims and no page.

Two methods: the time of the loss alone over a whole step decides, whole steps are the check. Ordinary runs train beside
others and are no timings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from dashboards.statistics.estimates import Estimate
from studies.design.speed import Asked
from studies.records.speed import Ratio, Speed, Timings

SAME: Final = 1.03
PaceWord = Literal["as fast", "faster", "slower", "inconclusive"]


@dataclass(frozen=True)
class Timed:
    """The time of a step over that of the baseline's by one method, and what its interval shows."""

    ratio: Estimate
    word: PaceWord

    @property
    def said(self) -> str:
        """Word, ratio and interval."""
        return f"{self.word} {said(self.ratio)}"


@dataclass(frozen=True)
class Pace:
    """How fast a step of a variant is. `seconds`: of one alone on one thread; `loss`: against the baseline from the
    loss alone, None for the baseline itself; `check`: from whole steps, where the study asks for that.
    """

    seconds: float
    loss: Timed | None
    check: Timed | None


@dataclass(frozen=True)
class Paces:
    """The measurement that answers a study: of each variant (`of`), of the baseline against itself (`null`, and
    `null_check` from whole steps), where, when and for how many seconds; `failed`: why others have no pace.
    """

    baseline: str
    of: Mapping[str, Pace]
    null: Timed
    null_check: Timed | None
    seconds: float
    device: str
    machine: Mapping[str, str]
    date: str
    failed: Mapping[str, str]


def said(ratio: Estimate) -> str:
    """A ratio with its interval, to a thousandth of a step."""
    return f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


def paces(measured: Sequence[Speed], asked: Asked | None) -> Paces | None:
    """The newest of the measurements that answers what is asked; None where there is none."""
    found = [one for one in measured if asked is not None and one.asked == asked.digest]
    return _paces(found[-1]) if found else None


def outdated(measured: Sequence[Speed], asked: Asked | None) -> list[str]:
    """That a measurement answers something else, in a sentence, where none answers what is asked."""
    if not measured or paces(measured, asked) is not None:
        return []
    return ["The speed was measured with other variants or settings and is not shown: `sweeper run` measures it again."]


def _paces(speed: Speed) -> Paces:
    steps = {} if speed.steps is None else _words(speed.steps)
    of = {
        name: Pace(speed.step_seconds * timed.ratio.value, timed, steps.get(name))
        for name, timed in _words(speed.losses).items()
    }
    return Paces(
        baseline=speed.baseline,
        of={speed.baseline: Pace(speed.step_seconds, None, None), **of},
        null=_timed(speed.losses.null, speed.losses.rounds, is_sound=True),
        null_check=None if speed.steps is None else _timed(speed.steps.null, speed.steps.rounds, is_sound=True),
        seconds=speed.losses.seconds,
        device=speed.device,
        machine=speed.machine,
        date=speed.date,
        failed=speed.failed,
    )


def _words(timings: Timings) -> dict[str, Timed]:
    """Of every variant. Where the baseline is shown to be slower or faster than itself, nothing is shown of any."""
    null, rounds = timings.null, timings.rounds
    is_sound = _word(null) in ("as fast", "inconclusive")
    return {name: _timed(ratio, rounds, is_sound) for name, ratio in timings.ratios.items()}


def _timed(ratio: Ratio, rounds: int, is_sound: bool) -> Timed:
    estimate = Estimate(ratio.value, rounds, ratio.low, ratio.high, None)
    return Timed(estimate, _word(ratio) if is_sound else "inconclusive")


def _word(ratio: Ratio) -> PaceWord:
    """`as fast`: the whole interval is within 3 %; `slower`, `faster`: it is on one side of the baseline."""
    if ratio.low > 1 / SAME and ratio.high < SAME:
        return "as fast"
    return "slower" if ratio.low > 1 else "faster" if ratio.high < 1 else "inconclusive"
