"""Settings that variants share, over replicates: numbers of their runs, and sums of them by replicate. Pure.

Where several variants try the same settings, a difference is taken setting by setting and averaged within the
replicate, which is the unit. Nothing is imputed: a setting that one of them cannot be read at is left out, and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from studies.records import PROBE, RunRecord, State
from studies.schema.replicates import cell_of

Place = tuple[int, int]
"""A replicate, and the number of a setting in it."""
Runs = Mapping[Place, RunRecord]


@dataclass(frozen=True)
class Shared:
    """`of`: replicate -> mean over its settings; `read`: settings that are in it, of `planned`."""

    of: Mapping[int, float]
    read: int
    planned: int

    @property
    def left_out(self) -> str:
        """How many settings could not be read, in words; "" where all could."""
        missing = self.planned - self.read
        return f"{missing} of {self.planned} settings broke, never got there or jumped over it" if missing else ""


def tried(records: Iterable[RunRecord], variant: str, condition: str) -> dict[Place, RunRecord]:
    """The runs of a variant's settings that came to an end, those that judged left out."""
    found = {}
    for run in sorted(records, key=lambda r: r.run_id):
        cell = cell_of(run.scenario)
        mine = run.variant == variant and cell.condition == condition and cell.number is not None
        if mine and run.phase not in ("confirm", PROBE) and run.state in (State.COMPLETE, State.PRUNED):
            found[cell.number or 0, run.trial] = run
    return found


def shared(terms: Iterable[tuple[float, Runs]], value: Callable[[RunRecord], float | None]) -> Shared:
    """The weighted sum of a number over several groups of runs, at the settings that it can be read at in all."""
    given = list(terms)
    groups = [{place: v for place, run in runs.items() if (v := value(run)) is not None} for _, runs in given]
    known = set.intersection(*map(set, groups))
    planned = set().union(*(runs for _, runs in given))
    sums: dict[int, list[float]] = {}
    for place in sorted(known):
        whole = sum(weight * values[place] for (weight, _), values in zip(given, groups, strict=True))
        sums.setdefault(place[0], []).append(whole)
    return Shared({replicate: sum(of) / len(of) for replicate, of in sums.items()}, len(known), len(planned))
