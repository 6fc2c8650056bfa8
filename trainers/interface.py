"""The contract between a trainer and whoever runs it; loads no torch and knows no store, search or executor."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol, cast

from studies.records import RunConfig, RunResult, digest


class Decision(StrEnum):
    """What a trainer must do after a report."""

    CONTINUE = "continue"
    PAUSE = "pause"
    STOP = "stop"


class Stopped(Exception):
    """The queue stops a run while it is made ready or measured: what is half done of that is thrown away."""


@dataclass(frozen=True)
class Placement:
    """How runs use a device, where their own settings leave it open.

    `together`: how many train in one pack at most; 0 is TRL's own loop. `split`: a micro-batch goes through the model
    in so many parts. `checkpointing`: gradient checkpointing (None: the run's own setting, or TRL's default). None of
    these changes a number beyond rounding. `bf16`: the precision (None: the run's own setting, or the hardware's
    default).

    `begin`: None: a pack is as large as `together` says; else it begins with so many runs (0: nothing is known yet, so
    with one) and takes in more, up to `together`, while the time a run falls and memory allows. `workers`: how many
    share the machine's memory; `sharing`: how many of them share one GPU.
    """

    together: int = 1
    split: int = 1
    checkpointing: bool | None = None
    bf16: bool | None = None
    begin: int | None = None
    workers: int = 1
    sharing: int = 1


@dataclass(frozen=True)
class Timing:
    """What training showed of one placement. `seconds`: of a pass, for each run in it; `memory`: peak, in MiB; None for
    both: it did not fit.
    """

    placement: Placement
    seconds: float | None
    memory: float | None


@dataclass(frozen=True)
class Sizing:
    """What a worker has learnt from runs in training of how many train together best, and what that rests on.

    `setup_seconds`: of one run, and where there was but one, of what a worker does once as well; `passes`:
    micro-batches, or parts of them, of one run, 0 where unknown; `limit`: the memory that it keeps below, in MiB, None
    where unknown.
    """

    device: str
    chosen: Placement
    timings: tuple[Timing, ...]
    setup_seconds: float
    passes: int
    limit: float | None
    reason: str = ""

    @property
    def best(self) -> Timing | None:
        """Of the chosen size; None where too few passes had it."""
        return next((t for t in self.timings if t.placement.together == self.chosen.together and t.seconds), None)

    @property
    def seconds_per_run(self) -> float | None:
        """Seconds of the worker's time that one run takes to be made ready and trained; measuring it comes on top. None
        where that is not known.
        """
        best = self.best
        if best is None or best.seconds is None or self.passes == 0:
            return None
        return self.setup_seconds + self.passes * best.seconds


MEASURING_UNTRAINED: Final = "measuring the untrained model"
LOADING, READING, REFERENCE = "loading the model", "reading the data", "reference log-probs"
OF_A_DRAW: Final = (READING, REFERENCE, MEASURING_UNTRAINED)
"""What a worker does once for each draw of the data, before its first run of it trains."""


@dataclass(frozen=True)
class Doing:
    """News of a worker: what it does while no run of its reports, in words; "": training. What follows a colon says how
    far it is.
    """

    what: str


@dataclass(frozen=True)
class Sized:
    """News of a worker: it trains up to `together` runs of this `pack_key` at once from now on. `sizing`: what it has
    learnt of them; None while it tries sizes.
    """

    like: str
    together: int
    sizing: Sizing | None


News = Doing | Sized


@dataclass(frozen=True)
class Job:
    """One run to train: its config, the folder that is its own, and whether its adapter is kept there, and all samples
    of its evaluations.

    `pause_at`: the step after which it pauses and keeps its state in the folder (None: it trains to its end); a job
    whose folder holds a paused state goes on from there. `time_limit`: seconds after which it is stopped (None: never).
    `model`: folder of an adapter or a model from elsewhere, which evaluators measure in the place of the run's own.
    `attempt`: its number among the sweep's attempts at the run. `trainer`: another one than the worker's own, for what
    is no run of the sweep; the worker lets go of its own for that.

    Of what is measured again: `from_samples`: from the samples that its folder keeps, and not from its adapter;
    `against`: folders of runs with samples that a pairwise judge compares them with.
    """

    config: RunConfig
    folder: Path
    keep_adapter: bool = True
    keep_samples: bool = False
    from_samples: bool = False
    against: tuple[Path, ...] = ()
    placement: Placement = Placement()
    pause_at: int | None = None
    time_limit: float | None = None
    model: str | None = None
    attempt: int = 1
    trainer: str | None = None


class WorkQueue(Protocol):
    """Where a trainer takes jobs and hands in what becomes of them."""

    def take(self, like: str) -> Job | None:
        """A job that waits and has this `pack_key`, now the trainer's to train; None where there is none now."""
        ...

    def report(self, key: str, step: int, metrics: Mapping[str, float]) -> Decision:
        """Tell a logged step of a run, at most once a logging step, and hear what `decision` says. Cheap."""
        ...

    def decision(self, key: str) -> Decision:
        """What must become of a run now; asked after every optimizer step, and between two passes that measure, so that
        a stop waits for no more. Cheap.
        """
        ...

    def finish(self, result: RunResult) -> None:
        """Hand in the result of a run, which ends the trainer's work on it."""
        ...

    def tell(self, news: News) -> None:
        """Say how the work goes. Cheap."""
        ...


class Trainer(Protocol):
    """Trains runs. One object lives as long as its worker and keeps what runs share (base model, data)."""

    def train(self, job: Job, queue: WorkQueue) -> None:
        """Train `job`, and jobs taken from the queue together with it; return when all of them are handed in.

        What a run does never raises: it is a result with a cause. What the machine does (lost files, no device) may
        raise; the jobs that were not handed in have then failed.
        """
        ...


# Name in the study file -> "module:class". Modules are imported only where a run is trained.
TRAINERS: Mapping[str, str] = {
    "dpo": "trainers.dpo:DPOTrainerWorker",
    "formula": "trainers.formula:FormulaTrainer",
}


def load_trainer(name: str) -> Trainer:
    """The trainer called `name`: one of TRAINERS, or `module:Class` for one's own.

    Raises KeyError for a name that is neither, ImportError or AttributeError for a class that is not there.
    """
    module, _, attribute = (name if ":" in name else TRAINERS[name]).partition(":")
    return cast(Trainer, getattr(importlib.import_module(module), attribute)())


# What a loaded base model depends on. PEFT freezes the base that it wraps, so full fine-tuning takes another one.
MODEL_SETTINGS = (
    "model_name_or_path",
    "use_peft",
    "model_revision",
    "trust_remote_code",
    "attn_implementation",
    "dtype",
    "model_init_kwargs",
    "load_in_4bit",
    "load_in_8bit",
    "bnb_4bit_quant_type",
    "use_bnb_nested_quant",
    "bnb_4bit_quant_storage",
)
# What else the runs of a pack have in common: they go through one forward pass of one shape and one precision.
_SHARED_SETTINGS = (
    *MODEL_SETTINGS,
    *("max_length", "truncation_mode", "pad_token", "per_device_train_batch_size"),
    *("bf16", "fp16", "tf32", "use_cpu", "gradient_checkpointing", "gradient_checkpointing_kwargs"),
)

# What a run that no other try can make ready is refused for, as `UNUSABLE_FACT` says it.
MODEL, DATA, JUDGE = "model", "data", "judge"
ADAPTER, OPTIMIZER, SCHEDULE, SETTINGS = "adapter", "optimizer", "schedule", "settings"
HANGS_ON: Mapping[str, tuple[str, ...] | None] = {
    **dict.fromkeys((MODEL, DATA, JUDGE), _SHARED_SETTINGS),
    ADAPTER: (
        *_SHARED_SETTINGS,
        *("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_target_parameters"),
        *("lora_modules_to_save", "lora_task_type", "use_rslora", "use_dora"),
    ),
    OPTIMIZER: (*_SHARED_SETTINGS, "optim", "optim_args", "optim_target_modules"),
    SCHEDULE: (
        *("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "warmup_ratio", "max_steps", "num_train_epochs"),
        "optim",
    ),
    SETTINGS: None,
}
"""The settings that decide on each of these (None: all), so that runs with the same are refused for the same."""
OF_ROWS = frozenset({MODEL, DATA, JUDGE, SETTINGS})
"""Those that may also hang on the rows of a run: on its scenario and block."""


def pack_key(config: RunConfig) -> str:
    """Runs with the same key can train in one pack, as far as their configs can tell."""
    shared = [config.settings.get(name) for name in _SHARED_SETTINGS]
    return digest([config.trainer, shared, config.data.max_length, config.evaluation.model_dump(mode="json")])
