"""What writers and readers of results share: run configs, measurements, states, causes, metric names.

Knows nothing of how a run is trained, where it is stored or how it is shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, Field

from studies.records.configs import Frozen, Scalar
from studies.records.metrics import Measurement, evaluator
from studies.records.outcomes import CONSEQUENCES, Cause, Failure, State

PROBE = "probe"
"""The arm of runs that were timed alone, in turn with those of the other variants; they say nothing of quality."""

ELSEWHERE = "elsewhere"
"""The arm, and in MLflow the kind, of what was measured of a model that no run of the study trained; and the role of
that model among its sources."""

DATA_DIGEST = "digest"  # a run's pairs, see `trainers.data.pairs.Pairs`
# A run's gold is by this judge, absent where it is the data's own, which held this, where that is known; the version of
# the evaluator.
JUDGE_FACT, JUDGE_CONTENT_FACT, EVALUATOR_FACT = "judge", "judge_content", "evaluator"

# Of a run with `balance`, followed by the name of a loss: the norm of its gradient before training, and the weight that
# TRL was given for it.
NORM_FACT, WEIGHT_FACT = "gradient_norm.", "loss_weight."

APART_FACT = "apart_at_start"
"""Followed by where: how far policy and reference were apart before the first step, where it was more than rounding."""
ALONE_FACT = "alone_because"
"""Why a run could not share its passes with others, where that was found out."""
PRECOMPUTE = "precompute_ref_log_probs"
"""TRL's setting, and the fact of a run for which it was turned off: its reference is no function of the row."""
# Of a run that was trained and measured: why its adapter, or its result, could not be written. Of one that was refused:
# which of its inputs could not be used (model or data), as every other run with it would find.
UNSAVED_FACT, UNUSABLE_FACT = "unsaved", "unusable"
# Of a run whose base is an adapter that was merged into the model below it: which, into what.
MERGED_FACT = "merged"


SAMPLES = "samples.json"  # name of the artifact of a run that keeps a few samples


LENGTHS = (0.5, 2.0)  # length_ratio outside of it is drift


def failures_of(cause: Cause | None, metrics: Mapping[str, float]) -> tuple[Failure, ...]:
    """All that a run shows which ended for this cause with these last measurements, its cause first; () where it has
    not failed.

    Drift is no cause of its own: ipo at beta .1 and learning rate 1e-2 ends at 265 nats and 2.7 times the length with
    its training complete. What could not be trained says nothing of the loss, whatever was measured before.
    """
    if cause is None:
        return ()
    failure = CONSEQUENCES[cause].failure
    if failure is not None and not failure.by_config:
        return (failure,)
    ratio = metrics.get("length_ratio", 1.0)
    drifted = math.isfinite(ratio) and not LENGTHS[0] <= ratio <= LENGTHS[1]
    return (*([failure] if failure else []), *([Failure.DRIFTED] if drifted else []))


class Shown(Frozen):
    """What the untrained and the trained model write under one prompt, by the same random numbers.

    `gold_before` and `gold_after`: what the two are worth, where the data has a reward; `cut_before`, `cut_after`:
    whether they were cut off at the length cap.
    """

    prompt: str
    before: str
    after: str
    gold_before: float | None = None
    gold_after: float | None = None
    cut_before: bool = False
    cut_after: bool = False


class RunResult(Frozen):
    """What a worker writes as `result.json` when an attempt at a run ends, and sends to the sweep.

    `samples`: a few of the last evaluation's, to be read.
    """

    key: str
    cause: Cause
    message: str = ""
    measurements: tuple[Measurement, ...] = ()
    curve: tuple[tuple[int, Mapping[str, float]], ...] = ()
    facts: Mapping[str, Scalar] = {}
    adapter: str | None = None
    samples: tuple[Shown, ...] = ()

    @property
    def state(self) -> State:
        """The state that the cause leads to."""
        return CONSEQUENCES[self.cause].told

    @property
    def failure(self) -> Failure | None:
        """As what the run has failed, None where it has not."""
        return next(iter(failures_of(self.cause, {name: m.value for name, m in self.final().items()})), None)

    def final(self) -> Mapping[str, Measurement]:
        """The last measurement of each name."""
        return {m.name: m for m in sorted(self.measurements, key=lambda m: m.step)}


def _without_rounding(version: str) -> str:
    return version.partition(".")[0]


class Measurer(Frozen):
    """Who gave numbers of a run: the evaluator's version, without what it changed by rounding alone; of gold also the
    judge (None: the data themselves), and what it held, where that is known.
    """

    evaluator: Annotated[str, AfterValidator(_without_rounding)] = Field(
        default_factory=evaluator, validate_default=True
    )
    judge: str | None = None
    content: str | None = None


class Numbers(Frozen):
    """What one measurer found of a run: its gold (`gold`), or all else that an evaluator gives.

    `facts`: those that go with it; `samples`: name of the artifact that keeps its samples.
    """

    by: Measurer
    gold: bool
    metrics: Mapping[str, float] = {}
    errors: Mapping[str, float] = {}
    halves: Mapping[str, tuple[float, float]] = {}
    curves: Mapping[str, tuple[tuple[int, float], ...]] = {}
    curve_halves: Mapping[str, tuple[tuple[int, float, float], ...]] = {}
    facts: Mapping[str, str] = {}
    samples: str = SAMPLES


class RunRecord(Frozen):
    """One run as it is read back from the store: what tables are made of.

    `halves`: of the metrics that are means over samples, the same mean over one half of the samples and over the
    other, so that what is chosen on one half can be read on the other. `curves`: of what was evaluated at several
    steps, (step, value) in order; `curve_halves`: of those of them that have halves, (step, one half, the other).
    `question`: what it answers, see `studies.design.identity`, and `content`: what its sources held, by role; a run of
    format 1 tells neither. `measured`: who gave its numbers, and `judged`: who its gold; `former`: what others had
    found before them; `samples`: name of the artifact that keeps its samples. `started` and `ended`: seconds since
    1970.
    """

    run_id: str
    key: str
    study: str
    variant: str
    scenario: str
    trial: int
    block: int
    seed: int
    attempt: int
    state: State
    cause: Cause | None
    phase: str
    knobs: Mapping[str, Scalar]
    metrics: Mapping[str, float]
    errors: Mapping[str, float]
    halves: Mapping[str, tuple[float, float]] = {}
    curves: Mapping[str, tuple[tuple[int, float], ...]] = {}
    curve_halves: Mapping[str, tuple[tuple[int, float, float], ...]] = {}
    facts: Mapping[str, str]
    question: str | None = None
    content: Mapping[str, str] = {}
    measured: Measurer = Field(default_factory=Measurer)
    judged: Measurer = Field(default_factory=Measurer)
    former: tuple[Numbers, ...] = ()
    samples: str = SAMPLES
    started: float | None = None
    ended: float | None = None

    @property
    def failures(self) -> tuple[Failure, ...]:
        """All that the run shows, see `failures_of`; none while it trains."""
        return () if self.state is State.RUNNING else failures_of(self.cause, self.metrics)

    @property
    def failure(self) -> Failure | None:
        """As what the run is counted as failed, None where it has not."""
        failures = self.failures
        return failures[0] if failures else None
