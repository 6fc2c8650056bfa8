"""What the guide claims of each loss, as data: its word, and what would support or refute it; knows no results.

Every claim is put to one test that a study can hold, or says why no study of this project can. What a test needs is a
scenario of the right kind (`Situation`), a confirm phase, an unbiased arm or timed steps;
`dashboards/guide/verdicts.py` looks for them in a study's records.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from studies.records import DataConfig, Scalar
from studies.records.world_units import SOURCE
from studies.schema.types import Scenario

Column = Literal["Speed", "Stability", "Best for", "Text"]
Situation = Literal["clean", "flipped", "unflipped", "biased", "shuffled", "small", "worse", "better"]
"""Kinds of scenarios: the data as they are; labels flipped by chance; what is the same as one of these without flips;
labels flipped towards the longer answer; rejected answers of other prompts, where the prompt decides what an answer is
worth; few pairs; pairs from a worse or a better writer.
"""

FEW_PAIRS = 256
# Settings of a scenario that leave it of its kind: how long it is trained.
_LONGER = frozenset({"max_steps", "num_train_epochs"})
_FLIPS = ("label_flip", "flip_by")


@dataclass(frozen=True)
class Against:
    """The loss does better than `other` in a situation, by the study's objective, on the confirm phase's runs.

    `other`: a loss, or None for the study's baseline. `minus`: the situation whose difference is subtracted, so that
    what is compared is how much each loses from there to here. `expect`: 1 for better, -1 for worse. `metric`: what the
    study must choose its configs by, where it is not gold that the claim is about. Better than a sibling supports
    nothing by itself: the loss must be no worse than the baseline too.
    """

    situation: Situation
    other: str | None = None
    minus: Situation | None = None
    expect: Literal[1, -1] = 1
    metric: str | None = None


@dataclass(frozen=True)
class Unbeaten:
    """No other loss of the study does better in a situation, by the objective, on the confirm phase's runs."""

    situation: Situation


@dataclass(frozen=True)
class Pace:
    """A step takes as long as the baseline's (within 3 %) or less; `slower`: longer. Needs timed steps."""

    slower: bool = False


@dataclass(frozen=True)
class Reliable:
    """At most 2 % of the configs of the unbiased arm fail (exact limits)."""


@dataclass(frozen=True)
class FailsLess:
    """A smaller share of the unbiased arm's configs fails than of `than`'s: the baseline, or any other loss."""

    than: Literal["baseline", "any other"] = "baseline"


Test = Against | Unbeaten | Pace | Reliable | FailsLess


@dataclass(frozen=True)
class Claim:
    """One claim of the guide.

    `loss`: the TRL loss that it is about; `words`: the guide's own; `means`: what is put to the test, as a sentence;
    `test`: None where it cannot be tested here, and `reason` says why, or what is known without a measurement; of a
    test, what its scenario must be like.
    """

    id: str
    loss: str
    column: Column
    words: str
    means: str
    test: Test | None
    reason: str = ""


_FAST = "a step takes no longer than one of the baseline"
_GOOD = "at most 2 % of its configs fail over the study's space"


def _row(
    loss: str, speed: Test | None, stability: Test, stability_word: str, best_for: Claim, speed_word: str = "Fast"
) -> tuple[Claim, ...]:
    """A row of the guide's table."""
    better = "fewer of its configs fail than of " + ("any other loss" if stability == FailsLess("any other") else "DPO")
    return (
        Claim(
            f"{loss}-speed",
            loss,
            "Speed",
            speed_word,
            "a step takes longer than one of the baseline" if speed_word == "Medium" else _FAST,
            speed,
            "" if speed else "it is what the others are compared with",
        ),
        Claim(
            f"{loss}-stability",
            loss,
            "Stability",
            stability_word,
            _GOOD if isinstance(stability, Reliable) else better,
            stability,
        ),
        best_for,
    )


def _best_for(loss: str, words: str, means: str, test: Test | None, reason: str = "") -> Claim:
    return Claim(f"{loss}-best-for", loss, "Best for", words, means, test, reason)


_NO_ARCHITECTURE = "a study has one base model: run it once for each and compare the tables"

CLAIMS: tuple[Claim, ...] = (
    *_row(
        "sigmoid", None, Reliable(), "Good",
        _best_for("sigmoid", "General use", "no other loss does better on clean data", Unbeaten("clean")),
    ),
    *_row(
        "ipo", Pace(), FailsLess(), "Better",
        _best_for(
            "ipo", "Overfitting issues", "trained to memorisation on few pairs it does better than the baseline",
            Against("small"),
        ),
    ),
    *_row(
        "hinge", Pace(), Reliable(), "Good",
        _best_for(
            "hinge", "Margin objectives",
            "within the KL budget, more held-out pairs reach a margin (`evaluate.margin`) than with the baseline",
            Against("clean", metric="margin_share"),
        ),
    ),
    *_row(
        "robust", Pace(), FailsLess("any other"), "Best",
        _best_for(
            "robust", "Noisy data", "it loses less to flipped labels than the baseline",
            Against("flipped", minus="unflipped"),
        ),
    ),
    *_row(
        "bco_pair", Pace(slower=True), Reliable(), "Good",
        _best_for(
            "bco_pair", "Binary classification",
            "it loses less than the baseline where good and bad answers are paired at random across prompts",
            Against("shuffled", minus="clean"),
            "rejected_from: another, where the prompt decides what an answer is worth",
        ),
        "Medium",
    ),
    *_row(
        "discopop", Pace(), Reliable(), "Good",
        _best_for("discopop", "New architectures", "it does better on other architectures", None, _NO_ARCHITECTURE),
    ),
    *_row(
        "apo_zero", Pace(), Reliable(), "Good",
        _best_for(
            "apo_zero", "Model quality matching",
            "with pairs better than the model's own it does better than apo_down", Against("better", "apo_down"),
        ),
    ),
    *_row(
        "apo_down", Pace(), Reliable(), "Good",
        _best_for(
            "apo_down", "Model quality matching",
            "with pairs worse than the model's own it does better than apo_zero", Against("worse", "apo_zero"),
        ),
    ),
    Claim(
        "sppo_hard-text", "sppo_hard", "Text", "sparse data", "on few pairs it does better than the baseline",
        Against("small"),
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


def situations(scenarios: Mapping[str, Scenario], source: str = "") -> dict[Situation, tuple[str, ...]]:
    """Which of a study's scenarios are of which kind; one that changes several things at once is of none.

    `source` of the pairs, as `studies.records.world_units.source_of` says it: where the embedded world's gold ignores
    the prompt, an answer of another prompt is as bad as a pair's own, and nothing is shuffled.
    """
    found: dict[Situation, list[str]] = {}
    conditions = {name: _condition(scenario) for name, scenario in scenarios.items()}
    for name, (changed, base) in conditions.items():
        flips = {key: changed[key] for key in _FLIPS if key in changed}
        rest = {key: value for key, value in changed.items() if key not in flips}
        same = [other for other, condition in conditions.items() if condition == (rest, base)]
        if flips and (same or not rest):
            kind: Situation | None = "biased" if flips.get("flip_by") == "length" else "flipped"
        else:
            kind = _kind(changed) if base.keys() <= _LONGER else None
        if kind is not None and (kind != "shuffled" or source != SOURCE):
            found.setdefault(kind, []).append(name)
        if kind == "flipped" and same:
            found.setdefault("unflipped", []).extend(same)
    return {kind: tuple(dict.fromkeys(names)) for kind, names in found.items()}


def _condition(scenario: Scenario) -> tuple[dict[str, Scalar], dict[str, object]]:
    """What a scenario changes of the data and of the training."""
    plain = DataConfig()
    changed = {key: value for key, value in scenario.data.items() if value != getattr(plain, key)}
    return changed, dict(scenario.base)


def _kind(changed: Mapping[str, object]) -> Situation | None:
    """The kind of a scenario without flips by what it changes of the data."""
    match changed:
        case {} if not changed:
            return "clean"
        case {"rejected_from": "another", **rest} if not rest:
            return "shuffled"
        case {"rows": int(rows), **rest} if not rest and rows <= FEW_PAIRS:
            return "small"
        case {"pairs_from": "worse", **rest} if not rest:
            return "worse"
        case {"pairs_from": "better", **rest} if not rest:
            return "better"
    return None


def guide_words(loss: str) -> dict[Column, str]:
    """The guide's words of a loss by column; {} for a loss that its table does not have."""
    return {claim.column: claim.words for claim in CLAIMS if claim.loss == loss and claim.column != "Text"}
