"""How runs end: states, causes, and what follows from each cause."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    """The state of a run, in Optuna's words."""

    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAIL = "FAIL"


class Cause(StrEnum):
    """Why an attempt at a run ended."""

    FINISHED = "finished"
    """The run came to its end."""
    NON_FINITE = "non_finite"
    """Loss or weights became no numbers: it diverged."""
    INVERTED = "inverted"
    """It prefers the rejected answers."""
    COLLAPSED = "collapsed"
    """Its samples are empty or repeat themselves."""
    OUT_OF_GPU_MEMORY = "out_of_gpu_memory"
    """It does not fit on the GPU, alone and in parts."""
    OUT_OF_HOST_MEMORY = "out_of_host_memory"
    """It does not fit into the machine's memory, alone and in parts."""
    TIME_LIMIT = "time_limit"
    """`budget.per_run` or another limit ended it."""
    USER_STOP = "user_stop"
    """Somebody stopped it."""
    WORKER_LOST = "worker_lost"
    """Its worker process was killed or is gone."""
    PREEMPTED = "preempted"
    """Its worker was told to go, as clusters do."""
    INFRASTRUCTURE = "infrastructure"
    """A device, a disk or the network failed."""
    REFUSED = "refused"
    """Model, data, judge or settings cannot be trained so; its message says why."""
    PAUSED = "paused"
    """It ended at a rung, and others went on."""


class Failure(StrEnum):
    """What a failed run did or met, in one word: all that anybody calls failed is one of these, and nothing else is.

    `by_config`: its settings did it, which tables count against the loss. The others could not be trained: nothing is
    known of their loss, and everybody must be told. What was merely stopped, by a limit, a user or at a rung, has not
    failed.
    """

    DIVERGED = "diverged"
    INVERTED = "inverted"
    COLLAPSED = "collapsed"
    DRIFTED = "drifted"
    OUT_OF_GPU_MEMORY = "out_of_gpu_memory"
    OUT_OF_HOST_MEMORY = "out_of_host_memory"
    REFUSED = "refused"
    WORKER_LOST = "worker_lost"
    PREEMPTED = "preempted"
    INFRASTRUCTURE = "infrastructure"

    @property
    def by_config(self) -> bool:
        return self not in (Failure.REFUSED, Failure.WORKER_LOST, Failure.PREEMPTED, Failure.INFRASTRUCTURE)

    @property
    def meaning(self) -> str:
        """What a run has done that failed so by its settings; "" for others."""
        return _MEANINGS.get(self, "")


_MEANINGS: Mapping[Failure, str] = {
    Failure.DIVERGED: "its loss or its weights became no numbers",
    Failure.INVERTED: "it prefers the rejected answers",
    Failure.COLLAPSED: "its samples are empty or repeat themselves",
    Failure.DRIFTED: "its samples are half or twice as long as the untrained model's",
    Failure.OUT_OF_GPU_MEMORY: "it does not fit on the GPU, alone and in parts",
    Failure.OUT_OF_HOST_MEMORY: "it does not fit into the machine's memory, alone and in parts",
}


class Consequence(NamedTuple):
    """What follows from a cause: what Optuna is told, whether the run is tried again, and as what it has failed.

    `smaller`: tried again as long as less memory can be tried.
    """

    told: State
    retried: bool = False
    failure: Failure | None = None
    smaller: bool = False

    @property
    def infeasible(self) -> bool:
        """Whether Optuna is told with a violated constraint."""
        return self.failure is not None and self.failure.by_config

    @property
    def instability(self) -> bool:
        """Whether it speaks against the loss, and not only for more memory."""
        return self.infeasible and not self.smaller


# A FAIL is invisible to Optuna's TPE, so what the *configuration* did is told as
# PRUNED with a violated constraint, and FAIL is kept for what the *machine* did.
CONSEQUENCES: Mapping[Cause, Consequence] = {
    Cause.FINISHED: Consequence(State.COMPLETE),
    Cause.NON_FINITE: Consequence(State.PRUNED, failure=Failure.DIVERGED),
    Cause.INVERTED: Consequence(State.PRUNED, failure=Failure.INVERTED),
    Cause.COLLAPSED: Consequence(State.PRUNED, failure=Failure.COLLAPSED),
    Cause.OUT_OF_GPU_MEMORY: Consequence(State.PRUNED, failure=Failure.OUT_OF_GPU_MEMORY, smaller=True),
    Cause.OUT_OF_HOST_MEMORY: Consequence(State.PRUNED, failure=Failure.OUT_OF_HOST_MEMORY, smaller=True),
    Cause.TIME_LIMIT: Consequence(State.PRUNED),
    Cause.USER_STOP: Consequence(State.PRUNED),
    Cause.WORKER_LOST: Consequence(State.FAIL, retried=True, failure=Failure.WORKER_LOST),
    Cause.PREEMPTED: Consequence(State.FAIL, retried=True, failure=Failure.PREEMPTED),
    Cause.INFRASTRUCTURE: Consequence(State.FAIL, retried=True, failure=Failure.INFRASTRUCTURE),
    # At a rung. The run goes on from its kept state where it is among the best; else this is how it ends.
    Cause.PAUSED: Consequence(State.PRUNED),
    # TRL or the data refused what the study asks for: another try would end the same.
    Cause.REFUSED: Consequence(State.FAIL, failure=Failure.REFUSED),
}
