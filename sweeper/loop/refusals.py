"""Whether runs that were refused before their first step leave any that could train; knows no store and no executor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, product
from typing import Any, Final

from studies.records import RunConfig, Scalar, digest
from studies.spec import FloatRange, IntRange, ResolvedVariant, StudySpec, Values, resolve_run
from trainers.interface import HANGS_ON, OF_ROWS, SETTINGS

_MOST_NUMBERS: Final = 64
"""A whole-number knob of more values counts as a range of any numbers."""
# Of a run, and not of what it is: the commit that a name stands for, and what it draws its numbers by.
_OWN: Final = frozenset({"model_revision", "seed"})


class Refusals:
    """What runs of a study were refused for, and whether that holds for all of its runs.

    A refusal holds for the runs that have the same of what it hangs on (`trainers.interface.HANGS_ON`). Where that is
    any setting, numbers that a range varies do not count: they say how a run trains, hardly whether it can begin.
    """

    def __init__(
        self, spec: StudySpec, arms_in: Mapping[str, Mapping[str, ResolvedVariant]], blocks: Mapping[str, Sequence[int]]
    ) -> None:
        """`arms_in`: the variants of each scenario; `blocks`: those of its runs."""
        self._spec, self._arms_in, self._blocks = spec, arms_in, blocks
        self._refused: set[tuple[str, str]] = set()

    def note(self, config: RunConfig, of: str) -> None:
        """A run was refused for this of it."""
        of = of if of in HANGS_ON else SETTINGS
        arm = self._arms_in[config.scenario][config.variant]
        self._refused.add((of, _input(of, config.scenario, config.block, arm, config.settings)))

    @property
    def hold_for_all(self) -> bool:
        """Whether every run that the study may ask for is refused by one of them."""
        kinds = {of for of, _ in self._refused}
        return all(
            any((of, _input(of, scenario, block, arm, settings)) in self._refused for of in kinds)
            for scenario, arms in self._arms_in.items()
            for arm in arms.values()
            for settings in self._settings(arm, scenario, kinds)
            for block in self._blocks[scenario]
        )

    def _settings(self, arm: ResolvedVariant, scenario: str, kinds: set[str]) -> Iterator[Mapping[str, Any]]:
        """The settings of the runs of an arm, as far as they differ in what refusals of these kinds hang on."""
        names = {name for of in kinds for name in HANGS_ON[of] or arm.space}
        first: dict[str, Scalar] = {}
        listed: dict[str, Sequence[Scalar]] = {}
        for name, distribution in arm.space.items():
            values = _values(distribution)
            if values and name in names:
                listed[name] = values
            elif values or isinstance(distribution, FloatRange | IntRange):
                first[name] = distribution.low if isinstance(distribution, FloatRange | IntRange) else values[0]
        searched = ({**first, **dict(zip(listed, values, strict=True))} for values in product(*listed.values()))
        for point in chain(searched if arm.space or not arm.points else (), arm.points):
            yield resolve_run(self._spec, arm, scenario, trial=0, knobs=point, block=0, seed=0).settings


def _values(distribution: Any) -> Sequence[Scalar]:
    """All values of a knob where they are few; () for a range or a simplex."""
    if isinstance(distribution, Values):
        return distribution.values
    if isinstance(distribution, IntRange) and distribution.high - distribution.low < _MOST_NUMBERS:
        return range(distribution.low, distribution.high + 1)
    return ()


def _input(of: str, scenario: str, block: int, arm: ResolvedVariant, settings: Mapping[str, Any]) -> str:
    """What a refusal `of` a run hangs on, as a digest."""
    names = HANGS_ON[of]
    if names is None:
        free = {name for name, distribution in arm.space.items() if not _values(distribution)}
        names = tuple(sorted(set(settings) - free))
    rows = (scenario, block) if of in OF_ROWS else ()
    return digest([rows, {name: settings.get(name) for name in names if name not in _OWN}])
