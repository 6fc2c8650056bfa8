"""Whether a run that ended badly is tried again, when and how. Knows no store, no search and no executor.

Two places answer a want of memory, as two things can happen. A pack that meets it goes on in its own process with fewer
runs or smaller parts (`trainers.dpo`, `trainers.pack.growth`): its runs keep the steps that they have. What comes here
could not: a process that the system ended for it has nobody left to decide, and TRL's own loop cannot be cut once it
trains. Such runs begin again with less, and what is learnt of their kind holds for all workers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from studies.losses.batch_splitting import can_be_cut
from studies.records import CONSEQUENCES, Cause, RunConfig, State
from trainers.interface import Placement, pack_key

# Put off until the same command is given again: nothing is known of the run.
PUT_OFF = frozenset({Cause.USER_STOP})


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
        micro-batch where the loss allows it.
        """
        again = replace(this, number=this.number + 1, not_before=now)
        consequence = CONSEQUENCES[cause]
        if consequence.smaller:
            return self._smaller(again, config, together)
        if not consequence.retried or this.failures + 1 >= self._retries.attempts:
            return None
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
