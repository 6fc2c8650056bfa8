"""The types of a study file: what a user can write, and an arm made whole from it.

Knows nothing of files, of Optuna, MLflow or torch. What a value may be is checked in `studies/checks/study.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Tag, field_validator, model_validator

from studies.records import DataConfig, EvaluationConfig, Frozen, Scalar
from studies.schema.normalize import normal_study, seconds
from studies.text.mistakes import Mistake, as_mistakes

# A scrambled Sobol sequence draws its scrambling for all dimensions at once, so a column keeps its numbers when a
# knob is added only if the number of columns never changes.
MOST_AXES = 32


class Part(Frozen):
    """A part of a study file: numbers in it are finite."""

    model_config = ConfigDict(allow_inf_nan=False)


class FloatRange(Part):
    """A continuous setting: `low` to `high`, both included, on a log scale where `log`."""

    type: Literal["float"] = "float"
    low: float
    high: float
    log: bool = False


class IntRange(Part):
    """A whole-number setting: `low` to `high`, both included."""

    type: Literal["int"] = "int"
    low: int
    high: int
    log: bool = False


class Values(Part):
    """A setting with listed values."""

    type: Literal["values"] = "values"
    values: tuple[Scalar, ...]


class Simplex(Part):
    """The weights of a mixture of K losses: K numbers of 0 or more with sum 1, searched as K-1 numbers.

    `corners`: the pure losses are among the points that are tried.
    """

    type: Literal["simplex"] = "simplex"
    corners: bool = False


def _kind(value: Any) -> str:
    """The distribution that a mapping describes where it does not say its `type`."""
    if isinstance(value, Mapping):
        return str(value.get("type") or ("values" if "values" in value else "float"))
    return str(getattr(value, "type", "float"))


Distribution = Annotated[
    Annotated[FloatRange, Tag("float")]
    | Annotated[IntRange, Tag("int")]
    | Annotated[Values, Tag("values")]
    | Annotated[Simplex, Tag("simplex")],
    Discriminator(_kind),
]


Outcome = Literal["fails", "non_finite", "inverted", "collapsed", "no_gain"]


class Expectation(Part):
    """What must come out of a variant wherever the whole procedure is right, which makes it a control.

    `outcome`: a failure of the training (fails: any), or `no_gain`, that the mean is no better than the untrained
    model. `equals`: another variant whose numbers it must give again run by run, to `within` a step (0: exactly).
    One of the two is given; `expect: inverted` in a file is `expect: {outcome: inverted}`.
    """

    outcome: Outcome | None = None
    equals: str | None = None
    within: float = 0.0


class Variant(Part):
    """A loss or mixture as the file gives it: `base` merges over the study's base, `space` over its space, key by key.

    `points` alone, without a space of its own, are all that is tried of it: the shared space is not sampled for it.
    `balance: gradient` says that the weights of a mixture, wherever they are given, are shares of the gradient: every
    run measures how large each loss's gradient is before training and divides by it, since weights as TRL takes them
    say little where one loss pulls many times as hard as another.
    """

    loss_type: tuple[str, ...] | None = None
    loss_weights: tuple[float, ...] | None = None
    balance: Literal["gradient"] | None = None
    base: Mapping[str, Any] = {}
    space: Mapping[str, Distribution | None] = {}
    points: tuple[Mapping[str, Scalar], ...] = ()
    expect: Expectation | None = None


class Runs(Part):
    """The runs of every trial: one for each block, which is a draw of the data, and seed."""

    blocks: tuple[int, ...] = (0,)
    seeds: tuple[int, ...] = (0,)


class Rungs(Part):
    """Synchronous successive halving, in `mode: search`: the runs of a bracket pause after the shares `at` of their
    steps, and the best 1/`eta` of their trials go on. `bracket`: trials that are decided on together (None: four
    times as many as leave one that trains to its end).
    """

    # Measured on the embedded world, 200 configs: gold ranks them after half of the steps as at the end (Spearman .91,
    # the best five among the first 26), after a third it does not (.41, 66). See tests/benchmarks/time_to_best.py.
    at: tuple[float, ...] = (0.5,)
    eta: int = 3
    bracket: int | None = None


class Confirm(Part):
    """The retest: the best `top` trials of each variant in a scenario, trained again on fresh blocks and seeds.

    `kl`: budgets in nats a sequence; with them it is, for each, the best trial whose mean KL keeps it.
    """

    top: int = 1
    kl: tuple[float, ...] = ()
    blocks: tuple[int, ...] = (1, 2, 3, 4, 5)
    seeds: tuple[int, ...] = (0,)


class Scenario(Part):
    """A condition of the data or of the training: each field, where given, replaces the study's own.

    `base`: settings for every variant, such as more steps; not knobs of a loss. `variants`: those that take part;
    `trials`: of each of them; `runs` and `confirm`: which blocks and seeds.
    """

    label_flip: float | None = None
    flip_by: Literal["chance", "length"] | None = None
    rejected_from: Literal["own", "another", "model"] | None = None
    rows: int | None = None
    pairs_from: Literal["same", "better", "worse"] | None = None
    base: Mapping[str, Any] = {}
    variants: tuple[str, ...] | None = None
    trials: int | None = None
    runs: Runs | None = None
    confirm: Confirm | None = None

    @property
    def data(self) -> dict[str, Scalar]:
        """What it changes of `DataConfig`, by name."""
        given = {name: getattr(self, name) for name in DATA_FIELDS}
        return {name: value for name, value in given.items() if value is not None}


DATA_FIELDS = ("label_flip", "flip_by", "rejected_from", "rows", "pairs_from")
"""The fields of a scenario that are fields of `DataConfig`."""


class Probe(Part):
    """The check on the speed of steps: in each of `rounds`, whole steps of every variant in random order and back.
    `steps` was of an earlier version, which timed runs of so many; it is read and means nothing.
    """

    rounds: int = 100
    steps: int | None = None


MOST_DRIFT = 0.7
"""Nats a token beyond which a config is too far from the start to be the best. Taken from the embedded world, where 8
nats on answers of 11.5 tokens are far from all text; not calibrated on real models, so a study of one does well to set
its own bound.
"""


class Objective(Part):
    """The measurement that decides which trial is best, and the bounds that a trial must keep.

    `tie_within`: the largest difference that does not matter, in the metric's unit: two variants are called a tie
    where their difference is shown to be smaller. Gold in the embedded world has its own, .03 of the oracle's gain.
    `unbounded`: bounds that stand in every study and are switched off here; drift, the only one, is `drift`. Samples
    of half or twice the reference's length, and those that repeat themselves, are failures of their run (`Failure`).
    `at_drift`: nats a sequence at which the metric is read on the way there, by the evaluations at `evaluate.at`, in
    place of its value at the end (see `studies.records.paths`): so losses are compared at equal drift.
    """

    metric: str = "ranking_gain"
    direction: Literal["maximize", "minimize"] = "maximize"
    constraints: Mapping[str, Mapping[str, float]] = {}
    tie_within: float | None = None
    at_drift: float | None = None
    unbounded: tuple[Literal["drift"], ...] = ()

    @property
    def drift(self) -> float | None:
        """The most nats a token that a policy may be from the start where the study bounds neither `kl` nor
        `kl_per_token` itself; None where it does, reads the metric at a drift, or switches the bound off.
        """
        own = any("max" in self.constraints.get(metric, {}) for metric in ("kl", "kl_per_token"))
        return None if own or self.at_drift is not None or "drift" in self.unbounded else MOST_DRIFT

    def within_kl(self, budget: float) -> Objective:
        """The same with another bound on the KL, in nats a sequence."""
        kl = {**self.constraints.get("kl", {}), "max": budget}
        return self.model_copy(update={"constraints": {**self.constraints, "kl": kl}})


class Budget(Part):
    """`trials` of each variant in a scenario (in `mode: search`, in all); `wall_clock` of one `sweeper run` and
    `per_run` of one run, in seconds or as `12h`, `30m`, `45s`; `gpu_hours` of all sweeps of the study, each hour in
    which a worker trains being one.
    """

    trials: int = 8
    wall_clock: float | None = None
    gpu_hours: float | None = None
    per_run: float | None = None

    @field_validator("wall_clock", "per_run", mode="before")
    @classmethod
    def _duration(cls, value: Any) -> Any:
        return seconds(value)


class SlurmJobs(Part):
    """How `--executor slurm` asks for workers: a job of one GPU for each, by `sbatch`. `partition`, `account`, `qos`,
    `gres`, `constraint` and `mem` are its options; `time` is the longest a job may take, in seconds or as `8h`, and
    `cpus` are those of a worker. `setup`: lines of shell before the worker starts, with its command in `"$@"`, so that
    `module load cuda` loads what it needs and `set -- apptainer exec --nv dpo.sif "$@"` runs it in a container.
    `python`: the interpreter there, where it is not the sweep's own.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: float | None = None
    gres: str | None = "gpu:1"
    constraint: str | None = None
    cpus: int = 4
    mem: str | None = None
    setup: tuple[str, ...] = ()
    python: str | None = None

    @field_validator("time", mode="before")
    @classmethod
    def _duration(cls, value: Any) -> Any:
        return seconds(value)


class Resources(Part):
    """Worker processes (None: one per GPU, else one per CPU core), runs that a worker trains together (None: it finds
    out; 0: each by TRL's own loop), GPUs that one run takes, and names of environment variables that workers get
    beside those that training reads, such as the key that a judge of one's own needs.

    A run that the machine fails is tried `attempts` times in all, again after `retry_after` seconds, then after twice
    as many.

    `slurm`: what workers of `--executor slurm` ask for. `address`: where workers on other machines find the sweep, as
    `HOST` or `HOST:PORT` (None: at any address of this machine, and a free port).
    """

    workers: int | None = None
    together: int | None = None
    gpus_per_run: int = 1
    env: tuple[str, ...] = ()
    attempts: int = 3
    retry_after: float = 5.0
    slurm: SlurmJobs = SlurmJobs()
    address: str | None = None

    @field_validator("retry_after", mode="before")
    @classmethod
    def _duration(cls, value: Any) -> Any:
        return seconds(value)


class Output(Part):
    """Where runs are kept and whose adapters: best (of each variant in a scenario), all or none."""

    folder: str = "runs"
    keep: Literal["best", "all", "none"] = "best"


class Notify(Part):
    """The words of a command that is run when a sweep has ended: whole, stopped, out of its budget, or failed. It gets
    what happened as JSON on its standard input. No shell reads it; one that is wanted is named: `[sh, -c, '...']`.
    """

    command: tuple[str, ...]


NOT_WRITTEN = ("notices", "contents")
"""The fields of `StudySpec` that no study file has."""


class StudySpec(Part):
    """A whole study file. Only `study`, `base` and `variants` must be given.

    `claims`: the guide's that it is designed to test, by their ids (see `studies.losses.guide`).
    `replicates`: how many times every scenario is tuned and judged, each time on pairs of its own, in the place of
    `runs.blocks` and `confirm` (see `studies.schema.replicates`).

    `mode`: `compare` gives every variant the same number of trials; `search` is one joint search for the best config
    at least cost. `base`: flat names of TRL's `DPOConfig` and `ModelConfig`, or the path of a TRL YAML. `variants`:
    what is compared, by a name of your own. `space`: by setting, what is tried of it wherever it acts. `baseline`: the
    variant that the others are compared with. `sampler` chooses the points, from `sampler_seed`. `question` and
    `study` are words: what is asked, and the name of the whole. `trainer`: `dpo`, or `module:Class` of your own.

    `evaluation` is written as `evaluate` in the file. Not written by the user: `notices`, what loading translated or
    left out, and `contents`, what the files and Hub repositories hold that the study names, as far as somebody has
    looked (source, in words -> content, see `studies.schema.contents`).
    """

    study: str
    question: str = ""
    claims: tuple[str, ...] = ()
    mode: Literal["compare", "search"] = "compare"
    trainer: str = "dpo"
    base: Mapping[str, Any]
    data: DataConfig = DataConfig()
    baseline: str | None = None
    variants: Mapping[str, Variant]
    space: Mapping[str, Distribution] = {}
    sampler: Literal["sobol", "grid", "random", "tpe", "sobol+tpe"] = "sobol"
    sampler_seed: int = 0
    scenarios: Mapping[str, Scenario] = {"clean": Scenario()}
    runs: Runs = Runs()
    rungs: Rungs | None = None
    confirm: Confirm | None = None
    replicates: int | None = None
    probe: Probe | None = None
    evaluation: EvaluationConfig = EvaluationConfig()
    objective: Objective = Objective()
    budget: Budget = Budget()
    resources: Resources = Resources()
    output: Output = Output()
    notify: Notify | None = None
    notices: tuple[str, ...] = ()
    contents: Mapping[str, str] = {}

    @model_validator(mode="before")
    @classmethod
    def _normal(cls, value: Any) -> Any:
        return normal_study(value) if isinstance(value, Mapping) else value


class ResolvedVariant(Frozen):
    """A variant made whole: its losses, what is fixed, and the space and points of its own strata.

    `settings` are flat TRL names (base and variant merged, `loss_type` and `loss_weights` included). `space` holds
    only knobs that act on its losses, in the order of the study's shared space and then its own; a simplex stands
    there under `loss_weights`. `left_out` says, per knob, why a shared knob is not in it. `balance`: see `Variant`.
    """

    name: str
    losses: tuple[str, ...]
    settings: Mapping[str, Any]
    space: Mapping[str, Distribution]
    points: tuple[Mapping[str, Scalar], ...]
    left_out: Mapping[str, str]
    warnings: tuple[str, ...]
    balance: Literal["gradient"] | None = None


class StudyError(Exception):
    """A study file that cannot be run; `problems` holds every mistake, one sentence or two each, `mistakes` the same
    in parts.
    """

    def __init__(self, problems: Sequence[str | Mistake]) -> None:
        self.mistakes = as_mistakes(problems)
        self.problems = tuple(one.message for one in self.mistakes)
        super().__init__("\n".join(self.problems))
