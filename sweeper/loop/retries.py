"""What follows when a run ended badly: whether it is tried again, when and how, and whether any other run could train.

Two places answer a want of memory, as two things can happen. A pack that meets it goes on in its own process with fewer
runs or smaller parts (`trainers.dpo`, `trainers.pack.growth`): its runs keep the steps that they have. What comes here
could not: a process that the system ended for it has nobody left to decide, and TRL's own loop cannot be cut once it
trains. Such runs begin again with less, and what is learnt of their kind holds for all workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, product
from typing import Any, Final

from studies.losses.batch_splitting import can_be_cut
from studies.records import CONSEQUENCES, Cause, RunConfig, Scalar, State, digest
from studies.spec import FloatRange, IntRange, ResolvedVariant, StudySpec, Values, resolve_run
from trainers.interface import HANGS_ON, OF_ROWS, SETTINGS, Placement, pack_key

# Put off until the same command is given again: nothing is known of the run.
PUT_OFF = frozenset({Cause.USER_STOP})
_MOST_NUMBERS: Final = 64
"""A whole-number knob of more values counts as a range of any numbers."""
# Of a run, and not of what it is: the commit that a name stands for, and what it draws its numbers by.
_OWN: Final = frozenset({"model_revision", "seed"})


@dataclass(frozen=True)
class Retries:
    """How often a run is tried when it is the machine that fails, and the seconds before the second try.

    Every further try waits twice as long as the one before.
    """

    attempts: int = 3
    seconds: float = 5.0


@dataclass(frozen=True)
class Attempt:
    """One attempt at a run: its number, how often the machine has failed it, when and how it may be trained, whether
    with half the micro-batch for want of memory.
    """

    number: int = 1
    failures: int = 0
    not_before: float = 0.0
    placement: Placement = field(default_factory=Placement)
    halved: bool = False


class Attempts:
    """Decides on further tries, and remembers which kinds of runs need to train fewer together."""

    def __init__(self, retries: Retries) -> None:
        self._retries = retries
        self._most_together: dict[str, int] = {}

    def placement(self, config: RunConfig, own: Placement) -> Placement:
        """How the run is to train: as its try says, in no bigger pack than runs like it have had the memory for."""
        most = self._most_together.get(pack_key(config), own.together)
        return replace(own, together=min(own.together, most))

    def after(self, this: Attempt, config: RunConfig, cause: Cause, together: int, now: float) -> Attempt | None:
        """The next try at a run that ended for this cause beside `together - 1` others; None: that was the last.

        What memory was too small for is first trained in packs of half the size, then, alone, once with half the
        micro-batch where the loss allows it. What went down with others has its last try alone: one run may take all
        of its pack with it, as one whose ids lie outside of an embedding does on a GPU.
        """
        again = replace(this, number=this.number + 1, not_before=now)
        consequence = CONSEQUENCES[cause]
        if consequence.smaller:
            return self._smaller(again, config, together)
        if not consequence.retried or this.failures + 1 >= self._retries.attempts:
            return None
        if together > 1 and is_machine(cause) and this.failures + 2 == self._retries.attempts:
            alone = replace(this.placement, together=min(1, this.placement.together), begin=None)
            again = replace(again, placement=alone)
        wait = self._retries.seconds * 2.0**this.failures
        return replace(again, failures=this.failures + 1, not_before=now + wait)

    def _smaller(self, this: Attempt, config: RunConfig, together: int) -> Attempt | None:
        placement = this.placement
        if together > 1:
            kind, most = pack_key(config), together // 2
            self._most_together[kind] = min(most, self._most_together.get(kind, most))
            return replace(this, placement=replace(placement, together=min(most, placement.together)))
        split = 2 * placement.split
        if this.halved or not can_be_cut(config.settings, split):
            return None
        return replace(this, placement=replace(placement, split=split), halved=True)


def describe(this: Attempt, again: Attempt, cause: Cause) -> str:
    """What is done differently in the next try, for MLflow and for people."""
    before, after = this.placement, again.placement
    if again.halved and not this.halved:
        return f"{cause}: tried again with half the micro-batch and twice the accumulation"
    if after.together < before.together or CONSEQUENCES[cause].smaller:
        return f"{cause}: tried again with {after.together} together" if after.together > 1 else f"{cause}: tried alone"
    return f"{cause}: tried again"


def is_machine(cause: Cause) -> bool:
    """Whether the worker may be to blame: it died or could not work, and nobody asked it to go."""
    consequence = CONSEQUENCES[cause]
    return consequence.told is State.FAIL and consequence.retried and cause is not Cause.PREEMPTED


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
