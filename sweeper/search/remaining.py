"""What a stratum has tried and what is left to try. Pure: the same for every search, whatever chooses its points."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from studies.design.points import (
    ADAPTIVE,
    FIXED,
    UNBIASED,
    Config,
    Point,
    all_points,
    axes,
    config_of,
    config_of_knobs,
    joint_quota,
    planned_points,
    quota,
    size_of,
)
from studies.records import Scalar, digest
from studies.schema.replicates import cell_of
from studies.spec import ResolvedVariant, StudySpec, in_scenario

# Variant and config: what a stratum tries once.
Place = tuple[str, Config]


@dataclass
class Remaining:
    """What a stratum has tried (`tried`), the points of the study that it has not (`planned`, with their variants), and
    how many trials of the sampler's choice are left (`adaptive`). In `mode: search` a stratum holds all variants, else
    one.
    """

    spec: StudySpec
    arms: Mapping[str, ResolvedVariant]
    tried: set[Place]
    planned: list[tuple[str, Point]]
    adaptive: int

    def __bool__(self) -> bool:
        """Whether a trial is left that was not begun."""
        return bool(self.planned or self.adaptive)

    def clear(self) -> None:
        """Leave nothing that was not begun."""
        self.planned, self.adaptive = [], 0

    def take_planned(self, paused: Collection[str]) -> tuple[str, Point] | None:
        """The next planned point of a variant that is not paused, which is left no more."""
        planned = next((entry for entry in self.planned if entry[0] not in paused), None)
        if planned is not None:
            self.planned.remove(planned)
        return planned

    def take_adaptive(self, paused: Collection[str]) -> bool:
        """Whether the sampler may choose one more trial, which is left no more."""
        if self.adaptive == 0 or not self.free(paused):
            return False
        self.adaptive -= 1
        return True

    def add(self, variant: str, knobs: Mapping[str, Scalar]) -> None:
        """Count a config as tried."""
        self.tried.add((variant, config_of_knobs(self.arms[variant], knobs)))

    def free(self, paused: Collection[str]) -> list[str]:
        """Variants, none of them paused, whose space holds a config that was not tried."""
        return [name for name in self.arms if name not in paused and self.untried(name) is not None]

    def untried(self, variant: str, near: Mapping[str, Scalar] | None = None) -> Mapping[str, Scalar] | None:
        """A point of the variant's space that was not tried, the first from `near` on; None where there is none."""
        arm = self.arms[variant]
        over = axes(self.spec, arm)
        if near is None and over and size_of(over) > len(self.tried):
            return {}  # whichever it is
        points = all_points(arm, over, near)
        return next((p for p in points if (variant, config_of(arm, p)) not in self.tried), None)

    def turn_of(self, number: int, free: list[str]) -> str:
        """The variant of a trial where no sampler chooses it: drawn at random among the free ones."""
        return free[int(digest([self.spec.sampler_seed, number]), 16) % len(free)]


class Turns:
    """Whose turn it is: strata one after the other, so that a sweep stopped early is still a fair comparison; those of
    a study's first replicates before all others, so that it has whole ones.
    """

    def __init__(self, scenarios: Mapping[str, str]) -> None:
        """`scenarios`: of each stratum, by its name."""
        groups: dict[int, list[str]] = {}
        for name, scenario in scenarios.items():
            groups.setdefault(cell_of(scenario).number or 0, []).append(name)
        self._groups = [groups[number] for number in sorted(groups)]

    def __iter__(self) -> Iterator[str]:
        """Every stratum once. The one that a caller stops at comes last of its group from then on."""
        for group in self._groups:
            for _ in range(len(group)):
                group.append(group.pop(0))
                yield group[-1]


def adaptive_phase(spec: StudySpec) -> str:
    """The phase of the trials that the sampler chooses."""
    return UNBIASED if spec.sampler == "random" else ADAPTIVE


def remaining_in(
    spec: StudySpec, scenario: str, arms: Mapping[str, ResolvedVariant], tried: Mapping[Place, str]
) -> Remaining:
    """What is left in the stratum of these variants. `tried`: places with the phase of their trials."""
    here = in_scenario(spec, scenario)
    if here.mode == "search":
        known = [(name, Point(FIXED, dict(point))) for name, arm in arms.items() for point in arm.points]
        total = joint_quota(here, arms)
    else:
        ((name, arm),) = arms.items()
        known = [(name, point) for point in planned_points(here, arm)]
        total = quota(here, arm)
    places = {(name, config_of(arms[name], point.params)): (name, point) for name, point in reversed(known)}
    planned = [places[place] for place in reversed(places) if place not in tried]
    chosen = [place for place, phase in tried.items() if phase == adaptive_phase(spec) and place not in places]
    return Remaining(spec, arms, set(tried), planned, max(total - len(places) - len(chosen), 0))
