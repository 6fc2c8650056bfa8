"""What writers and readers of results share: run configs, measurements, states, causes, metric names.

Knows nothing of how a run is trained, where it is stored or how it is shown.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

Scalar = float | int | str | bool | None

PROBE = "probe"
"""The arm of runs that were timed alone, in turn with those of the other variants; they say nothing of quality."""

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

# Bumped whenever a number that `trainers/evaluation/evaluate.py` reports would change for the same adapter.
EVALUATOR = "evaluator-3"
# Of format 1. Stands in every run's key, as it did when the evaluator belonged to it: a newer one makes no other run.
FIRST_EVALUATOR = "evaluator-3"


SAMPLES = "samples.json"  # name of the artifact of a run that keeps a few samples

COMMIT = "commit:"
"""Begins the content of what lies on the Hub: the commit that its name and revision stood for."""


class State(StrEnum):
    """The state of a run, in Optuna's words."""

    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAIL = "FAIL"


class Cause(StrEnum):
    """Why an attempt at a run ended."""

    FINISHED = "finished"
    NON_FINITE = "non_finite"
    INVERTED = "inverted"
    COLLAPSED = "collapsed"
    OUT_OF_GPU_MEMORY = "out_of_gpu_memory"
    OUT_OF_HOST_MEMORY = "out_of_host_memory"
    TIME_LIMIT = "time_limit"
    USER_STOP = "user_stop"
    WORKER_LOST = "worker_lost"
    PREEMPTED = "preempted"
    INFRASTRUCTURE = "infrastructure"
    REFUSED = "refused"
    PAUSED = "paused"


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


@dataclass(frozen=True)
class Metric:
    """A named number of a run. `comparable` says whether it means the same for every loss and beta."""

    unit: str
    comparable: bool
    better: str | None
    what: str


METRICS: Mapping[str, Metric] = {
    "gold": Metric("gold", True, "maximize", "gold reward of samples, by the data or a judge, mean over prompts"),
    "gold_per_token": Metric("gold/token", True, "maximize", "gold reward of samples over their tokens"),
    "kl": Metric("nats/sequence", True, "minimize", "sequence KL to the reference on samples, Rao-Blackwellised"),
    "kl_per_token": Metric("nats/token", True, "minimize", "kl over the mean length of the samples"),
    "margin": Metric("nats", True, "maximize", "beta-free log-ratio margin on held-out pairs"),
    "margin_share": Metric("share", True, "maximize", "held-out pairs whose margin is at least evaluate.margin"),
    "chosen_shift": Metric("nats", True, None, "log-ratio of the chosen side on held-out pairs"),
    "rejected_shift": Metric("nats", True, None, "log-ratio of the rejected side on held-out pairs"),
    "accuracy": Metric("share", True, "maximize", "held-out pairs ranked right relative to the reference, ties 1/2"),
    "ranking_gain": Metric(
        "share", True, "maximize", "held-out pairs ranked right by length-normalised log-prob, less the reference's"
    ),
    "length_ratio": Metric("ratio", True, None, "mean length of samples over the reference's"),
    "entropy": Metric("nats/token", True, None, "entropy of the policy along its own samples"),
    "distinct": Metric("share", True, "maximize", "distinct bigrams over bigrams in all samples"),
    "train_accuracy": Metric("share", True, None, "accuracy on a fixed part of the training pairs, as labelled"),
    "length_baseline": Metric("share", True, None, "accuracy of 'pick the longer answer' on held-out pairs"),
    "steps_per_second": Metric("1/s", True, "maximize", "optimizer steps a second, first steps dropped"),
    "tokens_per_second": Metric("1/s", True, "maximize", "non-padding tokens trained a second"),
    "peak_memory": Metric("MiB", True, "minimize", "peak memory: of the device on a GPU, of the process on a CPU"),
    "train_seconds": Metric("s", True, "minimize", "wall time of training"),
    "evaluation_seconds": Metric("s", True, None, "wall time of the evaluations"),
    "loss": Metric("loss", False, "minimize", "training loss as TRL logs it; its scale depends on loss and beta"),
    "eval_loss": Metric("loss", False, "minimize", "TRL's evaluation loss; its scale depends on loss and beta"),
    "grad_norm": Metric("norm", False, None, "gradient norm before clipping"),
    "learning_rate": Metric("1", True, None, "learning rate at the step"),
    "reward_margin": Metric("beta*nats", False, None, "rewards/margins as TRL logs them; scaled by beta"),
    "reward_accuracy": Metric("share", False, None, "rewards/accuracies as TRL logs them; ties count as wrong"),
}

JUDGED = frozenset({"gold", "gold_per_token"})
"""Metrics that hang on who judges samples, and on the evaluator that draws them."""
MEASURED = JUDGED | {
    *("kl", "kl_per_token", "margin", "margin_share", "chosen_shift", "rejected_shift", "accuracy", "ranking_gain"),
    *("length_ratio", "entropy", "distinct", "train_accuracy", "length_baseline"),
}
"""Metrics that the evaluator gives. The others are what a training costs and logs."""


@dataclass(frozen=True)
class Measurement:
    """One measured number of a run.

    `error` is the standard error over evaluation samples, where there is one; `halves` the same number on each of two
    fixed halves of the samples, so that what is chosen by one can be read off the other.
    """

    name: str
    value: float
    error: float | None = None
    step: int = 0
    halves: tuple[float, float] | None = None


class Frozen(BaseModel):
    """Base of the types that cross a border as JSON: unknown keys are refused, fields cannot be assigned."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataConfig(Frozen):
    """The preference pairs of one run: where from, how many, how long, and what a scenario does to them.

    `rows`/`eval_rows`: pairs kept (None: all / a tenth, at most 1000). Lengths are in tokens. `label_flip` is the
    share of *training* pairs whose chosen and rejected answers are exchanged, and `flip_by` which: any, or those whose
    rejected answer is the longer one first, as by a labeller who prefers length. `rejected_from`: whether a training
    pair keeps its rejected answer or is dealt one of another prompt. For the embedded world only: `rejected_from:
    model`, a sample of the untrained model for the same prompt, which is what good answers alone leave one to do
    (SPIN, arXiv 2401.01335); `pairs_from`, whether the pairs come from the model itself or a better or worse writer;
    and `gold`, whether the true worth of an answer is the task's alone or hangs on the prompt too.
    `bad_rows`: whether a row that teaches nothing or cannot be read refuses the data, or is left out and counted.
    `columns`: where the data has other names for `prompt`, `chosen` and `rejected`, those (of `prompt` null: there is
    none, it is the common beginning of the answers).

    A default here says what was done before there was the field, and stays: `RunConfig.key` leaves defaults out.
    """

    path: str = "embedded"
    name: str | None = None
    revision: str | None = None
    split: str = "train"
    eval_split: str | None = None
    rows: int | None = None
    eval_rows: int | None = None
    max_prompt_length: int | None = None
    max_completion_length: int | None = None
    max_length: int | None = 1024
    label_flip: float = 0.0
    flip_by: Literal["chance", "length"] = "chance"
    rejected_from: Literal["own", "another", "model"] = "own"
    pairs_from: str = "same"
    gold: Literal["task", "prompt"] = "task"
    bad_rows: Literal["refuse", "drop"] = "refuse"
    columns: Mapping[Literal["prompt", "chosen", "rejected"], str | None] = {}


class Judge(Frozen):
    """Who says what a sample is worth where the data do not: exactly one of a reward model and a Python function.

    `reward_model`: Hub id or folder of a sequence classifier. Prompt and completion go to it as one text, messages
    through its own chat template; `max_length`: tokens of it, the last ones of a longer text (None: what the model
    takes); `batch_size`: texts in a forward pass; `label`: the class, by name or number, whose output is the reward
    (None: the only one, or the second of two). The output is a logit where there is one class or they do not exclude
    one another, else the log-odds of the class in nats. `trust_remote_code`: run the code that lies with it.
    `function`: `module:name`, found from the working folder and called as TRL's reward functions are
    (`trl/trainer/grpo_trainer.py`), by name and with nothing else: `name(prompts=[...], completions=[...])` gives a
    number for each. `revision`: of the reward model; of a function, a mark of its version that changes with its code.
    """

    reward_model: str | None = None
    function: str | None = None
    revision: str | None = None
    label: int | str | None = None
    max_length: int | None = None
    batch_size: int = 16
    trust_remote_code: bool = False

    @property
    def name(self) -> str:
        """All of it that changes a number, in words: what tells one judge from another."""
        who = f"reward model {self.reward_model}" if self.reward_model else f"function {self.function}"
        given = {"revision": self.revision, "label": self.label, "max_length": self.max_length}
        return ", ".join([who, *(f"{key} {value}" for key, value in given.items() if value is not None)])


class EvaluationConfig(Frozen):
    """What is measured of a trained adapter, and when.

    `at`: shares of the training steps at which it is measured (1.0 is always among them). `prompts`: prompts
    sampled once each; `max_new_tokens`: length cap of a sample; `pairs`: held-out pairs used (None: all).
    `batch_size`: most rows in a forward pass, which bounds memory; where a row takes little, more go in one.
    `margin`: nats from which on a pair counts in `margin_share`; `judge`: gives samples their gold reward where the
    data have none. Defaults stay, as in `DataConfig`.
    """

    at: tuple[float, ...] = (1.0,)
    prompts: int = 256
    max_new_tokens: int = 256
    pairs: int | None = None
    batch_size: int = 64
    margin: float = 2.0
    judge: Judge | None = None


class RunConfig(Frozen):
    """One training of a trial, fully resolved: nothing that changes its numbers lies outside of it.

    `settings` are flat TRL names, those that `export` writes; `knobs` names the ones that the study varies. `balance`:
    the `loss_weights` among the settings are shares of the gradient before training, from which the trainer makes the
    weights (None: they are the weights). `content`: what its sources hold, by role (see `studies.schema.contents`), as
    far as it is known; `judge_content`: what its judge does.
    """

    study: str
    variant: str
    scenario: str
    trial: int
    block: int
    seed: int
    trainer: str = "dpo"
    settings: Mapping[str, Any]
    knobs: Mapping[str, Scalar]
    data: DataConfig
    evaluation: EvaluationConfig
    evaluator: str = Field(default_factory=lambda: EVALUATOR)
    judge_content: str | None = None
    balance: Literal["gradient"] | None = None
    content: Mapping[str, str] = {}

    @property
    def key(self) -> str:
        """Digest of all that determines what is trained, as 12 hexadecimal digits: the run's identity.

        Data, evaluation and balance count by what differs from their defaults, so that a field which they get later,
        and which a run does not use, leaves it the run that it was. Where content is known it counts, and not the path
        that it lies at. Who measures and judges does not count: that makes no other adapter.
        """
        return self._digest(self.evaluation.model_copy(update={"judge": None}))

    @property
    def earlier_keys(self) -> frozenset[str]:
        """Keys that the run may have in a store of format 1, which knew no content and counted the judge."""
        bare = self.model_copy(update={"content": {}})
        return frozenset({bare.key, bare._digest(self.evaluation)})

    def _digest(self, evaluation: EvaluationConfig) -> str:
        determined_by = self.model_dump(mode="json", include={"trainer", "settings", "block", "seed"})
        determined_by["evaluator"] = FIRST_EVALUATOR
        determined_by |= self.model_dump(mode="json", include={"balance"}, exclude_defaults=True)
        here = {role: text for role, text in self.content.items() if not text.startswith(COMMIT)}
        if here:  # a commit stands among the settings or the data, as their revision
            determined_by["content"] = here
        for name, part in (("data", self.data), ("evaluation", evaluation)):
            determined_by[name] = part.model_dump(mode="json", exclude_defaults=True)
        if "base" in here:
            del determined_by["settings"]["model_name_or_path"]
        for role, name in (("data", "path"), ("eval_data", "eval_split")):
            if role in here:
                del determined_by["data"][name]
        return digest(determined_by)

    @property
    def stratum(self) -> str:
        """Name of the Optuna study that this run's trial belongs to."""
        return f"{self.study}/{self.variant}/{self.scenario}"


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


class Measurer(Frozen):
    """Who gave numbers of a run: the evaluator's version; of gold also the judge (None: the data themselves), and what
    it held, where that is known.
    """

    evaluator: str = Field(default_factory=lambda: EVALUATOR)
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
    arm: str
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
        return next(iter(self.failures), None)


def digest(value: Any) -> str:
    """First 12 hexadecimal digits of the SHA-256 of `value` written as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
