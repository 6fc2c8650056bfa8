"""Which stages there are, in order of value, what each is to say, and how long it may take; loads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Stage:
    """`module`: of this package, that measures it, with a model of this `shape`. `seconds`: what it is expected to
    take on a GPU. `decides`: the lines that it must have written; they are printed again at the end.
    """

    name: str
    module: str
    seconds: float
    decides: tuple[str, ...]
    shape: str = "135m"


_PACK: Final = ("setup", "pack", "profile", "waits", "attention by", "stock", "ratio")
_SAMPLING: Final = ("sampled", "sampled with cuDNN", "sampled at once", "scored", "evaluated")
FIRST: Final = (
    Stage("environment", "environment", 35, ("device", "kernels chosen", "attention", "launch", "doctor")),
    Stage("pack-135m", "packs", 95, _PACK),
    Stage("parity", "parity", 80, ("float32", "bf16", "float64", "repeated")),
    Stage("quickstart", "quickstart", 70, ("run", "table", "export")),
    Stage("sampling-135m", "samples", 45, _SAMPLING),
    Stage("ladder-135m", "rungs", 90, ("rung",)),
)
SECOND: Final = (
    Stage("pack-1b", "packs", 70, _PACK, "1b"),
    Stage("memory", "limited", 50, ("limited",)),
    Stage("ladder-1b", "rungs", 90, ("rung",), "1b"),
    Stage("sampling-1b", "samples", 40, _SAMPLING, "1b"),
    Stage("tests", "suite", 90, ("marked gpu", "of packs")),
)
STAGES: Final = {stage.name: stage for stage in (*FIRST, *SECOND)}
GROUPS: Final = {"first": FIRST, "second": SECOND}


def chosen(names: Sequence[str]) -> list[Stage]:
    """The stages of these names, of stages or groups, each once and in the order named."""
    found = [stage for name in names for stage in GROUPS.get(name, [STAGES[name]] if name in STAGES else [])]
    return list(dict.fromkeys(found))


def limit(stage: Stage, following: Sequence[Stage], left: float) -> float | None:
    """Seconds that a stage may take of those that are left; None where they are too few for it.

    What follows keeps the time that it needs, as far as there is enough, the first in order of value first. Of what is
    spare then the stage may take as much again as it needs, or half: so one that hangs costs no other.
    """
    spare = left - stage.seconds
    if spare < 0:
        return None
    for other in following:
        spare -= other.seconds if other.seconds <= spare else 0
    return stage.seconds + min(spare, max(stage.seconds, spare / 2))
