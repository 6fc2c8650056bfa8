"""What the guide claims of each loss, as data: its word, and what a study must hold to test it; knows no results.

A study names in `claims` those that it was designed for, and is refused where it lacks what their test needs. A claim
is about a loss beside the study's baseline, and its test says what would support or refute it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Column = Literal["Speed", "Stability", "Best for", "Text"]
Writer = Literal["better", "worse"]

FEWEST_CHECKPOINTS = 8
"""Evaluations along a training from which a fall is read."""


@dataclass(frozen=True)
class Pace:
    """A step takes as long as the baseline's (within 3 %) or less; `slower`: longer."""

    slower: bool = False


@dataclass(frozen=True)
class Forgives:
    """What a setting picked at random gains, and how often one breaks. Good: no worse than the baseline's; Better: more
    than the baseline's; Best: more than any other loss's.
    """

    word: Literal["Good", "Better", "Best"]


@dataclass(frozen=True)
class AmongBest:
    """Tuned, it is not shown worse than the best, and no other loss may gain more by a tenth of what is possible."""


@dataclass(frozen=True)
class FallsLess:
    """Trained on, gold falls less from its peak to the end, at the same settings."""


@dataclass(frozen=True)
class LosesLess:
    """Gold at equal drift falls less with the share of flipped labels, at the same settings."""


@dataclass(frozen=True)
class Gains:
    """At the same settings it gains more at equal drift; the study gives few pairs."""


@dataclass(frozen=True)
class TellsApart:
    """Tuned for it, more single answers are told right at equal drift."""


@dataclass(frozen=True)
class LessDrift:
    """Tuned for it, a share of held-out pairs has a margin at less drift."""


@dataclass(frozen=True)
class Matches:
    """Beside the baseline it gains more on pairs of this writer than of the other, and with its own no less."""

    writer: Writer

    @property
    def other(self) -> Writer:
        return "worse" if self.writer == "better" else "better"


@dataclass(frozen=True)
class SuitsAnother:
    """Beside the baseline it gains more on another architecture than on the study's own, and there no less."""


@dataclass(frozen=True)
class Learns:
    """Held-out pairs have a positive margin at the end, whatever the setting."""


Test = (
    Pace
    | Forgives
    | AmongBest
    | FallsLess
    | LosesLess
    | Gains
    | TellsApart
    | LessDrift
    | Matches
    | SuitsAnother
    | Learns
)


@dataclass(frozen=True)
class Claim:
    """One claim of the guide.

    `loss`: the TRL loss that it is about; `words`: the guide's own; `means`: what is put to the test, as a sentence;
    `test`: None where none can be made, and `reason` says why, or what is known without a measurement.
    """

    id: str
    loss: str
    column: Column
    words: str
    means: str
    test: Test | None
    reason: str = ""


_RELATIVE = "known without a measurement: it is what the others are compared with"


def _pace(loss: str, words: str = "Fast") -> Claim:
    slower = words == "Medium"
    means = f"a step takes {'longer than' if slower else 'no longer than'} one of the baseline"
    return Claim(f"{loss}-speed", loss, "Speed", words, means, Pace(slower))


def _stability(loss: str, word: Literal["Good", "Better", "Best"] = "Good") -> Claim:
    means = {
        "Good": "a setting picked at random gains about as much as the baseline's, and breaks no more often",
        "Better": "a setting picked at random gains more than the baseline's, and breaks no more often",
        "Best": "a setting picked at random gains more than any other loss's",
    }
    return Claim(f"{loss}-stability", loss, "Stability", word, means[word], Forgives(word))


def _best_for(loss: str, words: str, means: str, test: Test) -> Claim:
    return Claim(f"{loss}-best-for", loss, "Best for", words, means, test)


CLAIMS: tuple[Claim, ...] = (
    Claim("sigmoid-speed", "sigmoid", "Speed", "Fast", "a step takes no longer than others'", None, _RELATIVE),
    Claim(
        "sigmoid-stability", "sigmoid", "Stability", "Good",
        "a setting picked at random gains something, and few break", Forgives("Good"),
    ),
    _best_for("sigmoid", "General use", "tuned on clean pairs it is not shown worse than the best", AmongBest()),
    _pace("ipo"),
    _stability("ipo", "Better"),
    _best_for(
        "ipo", "Overfitting issues", "trained on for long on few pairs, its gold falls less than the baseline's",
        FallsLess(),
    ),
    _pace("hinge"),
    _stability("hinge"),
    _best_for(
        "hinge", "Margin objectives", "with beta 1/m, held-out pairs have a margin of m nats at less drift",
        LessDrift(),
    ),
    _pace("robust"),
    _stability("robust", "Best"),
    _best_for("robust", "Noisy data", "at equal drift it loses less gold to flipped labels", LosesLess()),
    _pace("bco_pair", "Medium"),
    _stability("bco_pair"),
    _best_for(
        "bco_pair", "Binary classification", "at equal drift it tells more single answers right, good from bad",
        TellsApart(),
    ),
    _pace("discopop"),
    _stability("discopop"),
    _best_for(
        "discopop", "New architectures",
        "beside the baseline it gains more on another architecture than on that of the other studies, and is no worse "
        "there",
        SuitsAnother(),
    ),
    _pace("apo_zero"),
    _stability("apo_zero"),
    _best_for(
        "apo_zero", "Model quality matching",
        "beside the baseline it gains more where the pairs are better than the model than where they are worse, and "
        "is no worse there", Matches("better"),
    ),
    _pace("apo_down"),
    _stability("apo_down"),
    _best_for(
        "apo_down", "Model quality matching",
        "beside the baseline it gains more where the pairs are worse than the model than where they are better, and "
        "is no worse there", Matches("worse"),
    ),
    Claim(
        "discopop-text", "discopop", "Text", "discopop_tau=0.05", "at tau 0.05 it learns the preferences", Learns(),
    ),
    Claim(
        "sppo_hard-text", "sppo_hard", "Text", "sparse data", "on few pairs it gains more at equal drift", Gains(),
    ),
    Claim(
        "aot-text", "aot", "Text", "Unpaired data", "it takes data that are not paired", None,
        "known without a measurement: in TRL `aot` is the paired form and takes pairs; `aot_unpaired` is the other",
    ),
    Claim(
        "robust-smoothing-text", "robust", "Text", "0.5: Maximum noise tolerance",
        "with label_smoothing 0.5 it bears the most noise", None,
        "known without a measurement: at 0.5 the loss divides by zero, which a study file refuses",
    ),
)  # fmt: skip

BY_ID: Mapping[str, Claim] = {claim.id: claim for claim in CLAIMS}
