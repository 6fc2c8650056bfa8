"""One run as a member of a pack: its parts, its progress and its result."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from peft import PeftConfig
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel
from trl import DPOConfig, DPOTrainer, ModelConfig, get_peft_config

from studies.records import EVALUATOR_FACT, Cause, Measurement, RunResult, Scalar, Shown
from studies.text.files import is_folder
from trainers.components.gradient_balance import Balance, balance
from trainers.components.keep_samples import keep_samples
from trainers.components.outcome import memory, outcome_of, speed
from trainers.components.restore_base import restore_base, take_back, tensors_of
from trainers.components.settings import cut_facts, hardware_facts, parse_settings, run_settings
from trainers.components.start_check import Gap
from trainers.components.worker_cache import LaidOut, WarmDPOTrainer, WorkerCache
from trainers.data.pairs import Pairs
from trainers.evaluation.evaluate import Evaluation, NonFinite, ReferenceNumbers
from trainers.interface import Job
from trainers.models.rotary import COUPLED_ROWS, couples_rows, longest_row
from trainers.multi_lora.flat import Adapter, Unpackable
from trainers.pack.state import Moments, RunState, Unlogged, load_state
from trainers.pack.stock_setup import Part, PreparedRun, prepare, set_up
from trainers.reference.log_probs import is_fixed
from trainers.run_folder.progress import Progress


class Tally(NamedTuple):
    """What a run has counted by some moment, `Member`'s fields of these names."""

    sums: Tensor
    sound: Tensor
    batches: float
    tokens: int
    window: float


@dataclass
class Member:
    """A run in training. `step` optimizer steps are done, and `micro` micro-batches of the next one.

    `sums` [3] are loss, reward margin and reward accuracy since the last logged step, kept on the device with `norm`,
    the last gradient norm, and `sound`, whether all gradients were finite: reading them makes the host wait.
    """

    job: Job
    run: PreparedRun
    pairs: Pairs
    data: LaidOut
    numbers: ReferenceNumbers
    facts: Mapping[str, Scalar]
    sums: Tensor
    norm: Tensor
    sound: Tensor
    gradient_norms: tuple[float, ...] = ()  # before training, where the loss's weights rest on them
    step: int = 0
    micro: int = 0
    curve: list[tuple[int, Mapping[str, float]]] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    samples: tuple[Shown, ...] = ()  # of the last evaluation
    cause: Cause | None = None
    message: str = ""
    logged: int = 0  # the step of the last point of the curve
    batches: float = 0.0  # micro-batches since then
    window: float = 0.0  # and this run's share of the seconds
    step_seconds: list[float] = field(default_factory=list)
    train_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    tokens: int = 0
    peak: float = 0.0  # MiB, the most that was taken while it was in the pack
    together: int = 1  # the most runs that it has trained beside, itself counted
    before_step: Tally | None = None  # what was counted when its unfinished step began
    begun: bool = False  # whether its first micro-batch has been looked at
    start: dict[str, Scalar] = field(default_factory=dict)  # facts of before the first step
    kept_at: float = field(default_factory=time.monotonic)  # when its state was last written, or it began

    @property
    def key(self) -> str:
        """The run's key."""
        return self.job.config.key

    @property
    def part(self) -> Part:
        """What goes through the model next."""
        return self.run.steps[self.step][self.micro]

    @property
    def last_step(self) -> int:
        """The step at which the run ends or pauses."""
        return min(len(self.run.steps), self.job.pause_at or len(self.run.steps))

    @property
    def precision(self) -> torch.dtype | None:
        """Of autocast, the same for all runs of a pack; None for none."""
        return torch.bfloat16 if self.run.args.bf16 else None

    @property
    def at_step(self) -> bool:
        """Whether it has just finished a step: at no other moment does it log, measure, pause or end."""
        return self.micro == 0 and self.step > self.logged

    @property
    def logs(self) -> bool:
        """Whether its curve gets a point now."""
        every = max(1, int(self.run.args.logging_steps))
        return self.at_step and (self.step % every == 0 or self.step == self.last_step)

    @property
    def measures(self) -> bool:
        """Whether it is measured now."""
        shares = (*self.job.config.evaluation.at, 1.0)
        steps = {max(1, round(share * len(self.run.steps))) for share in shares} | {self.last_step}
        measured = any(m.step == self.step for m in self.measurements)  # before it paused here
        return self.cause is None and self.micro == 0 and self.step in steps and not measured

    @property
    def leaves(self) -> bool:
        """Whether it has ended, well or badly, or pauses."""
        return self.cause is not None or (self.micro == 0 and self.step >= self.last_step)

    @property
    def tally(self) -> Tally:
        """What it has counted so far. Its tensors are never changed in place."""
        return Tally(self.sums, self.sound, self.batches, self.tokens, self.window)

    def count(self, tally: Tally) -> None:
        """Count a micro-batch, the first of a step or a further one: `tally` is what comes out."""
        if self.micro == 0:
            self.before_step = self.tally
        self.sums, self.sound, self.batches, self.tokens, self.window = tally
        self.micro += 1

    def begin_step_again(self) -> None:
        """Forget the micro-batches of its unfinished step, and what was counted of them."""
        if self.micro and self.before_step is not None:
            self.sums, self.sound, self.batches, self.tokens, self.window = self.before_step
        self.micro = 0

    def end(self, cause: Cause, message: str) -> None:
        """End the run here; the first cause stands."""
        if self.cause is None:
            self.cause, self.message = cause, message

    def note(self, gap: Gap | None) -> None:
        """Record that policy and reference are apart before the first step; end the run where it is by too much."""
        self.start |= gap.facts if gap else {}
        if gap and gap.is_far:
            self.end(Cause.REFUSED, str(gap))

    def add_point(self, sums: Sequence[float]) -> dict[str, float]:
        """Add the finite numbers since the last point to the curve, and give them; end the run where one is not finite.

        `sums`: of loss, reward margin and reward accuracy, then the last gradient norm, and 1 where all gradients were
        finite.
        """
        loss, margin, accuracy, norm, sound = sums
        steps = self.step - self.logged
        values = {
            "loss": loss / steps,
            "grad_norm": norm,
            "learning_rate": self.run.learning_rates[self.step - 1],
            "reward_margin": margin / self.batches,
            "reward_accuracy": accuracy / self.batches,
        }
        self.step_seconds += [self.window / steps] * steps
        self.logged, self.batches, self.window = self.step, 0.0, 0.0
        self.sums = torch.zeros_like(self.sums)
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad or not sound:
            what = f"{', '.join(bad)} not finite at" if bad else "a gradient was not finite by"
            self.end(Cause.NON_FINITE, f"{what} step {self.step}")
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        self.curve.append((self.step, finite))
        return finite

    def add_evaluation(self, measured: Evaluation | Exception) -> None:
        """Record an evaluation after this step; end the run where it could not be measured."""
        if isinstance(measured, NonFinite):
            self.end(Cause.NON_FINITE, str(measured))
        elif isinstance(measured, Exception):
            self.end(Cause.REFUSED, str(measured))
        else:
            self.measurements += [replace(m, step=self.step) for m in measured.measurements]
            self.samples = measured.samples
            keep_samples(self.job, self.pairs, self.numbers, measured, self.step)

    def resume(self, state: RunState) -> None:
        """Go on from the kept state of an earlier attempt."""
        progress, unlogged = state.progress, state.unlogged
        self.begun, self.start = progress.step > 0, dict(progress.start)
        self.step, self.logged = progress.step, unlogged.logged
        self.curve, self.measurements = list(progress.curve), list(progress.measurements)
        self.train_seconds, self.evaluation_seconds = progress.train_seconds, progress.evaluation_seconds
        self.step_seconds, self.tokens = list(progress.step_seconds), progress.tokens
        self.sums, self.sound = self.sums.new_tensor(unlogged.sums), self.sound.new_tensor(unlogged.sound)
        self.batches, self.window = unlogged.batches, unlogged.seconds

    def state(self, moments: Moments) -> RunState:
        """The state that the run can go on from, between two of its steps."""
        progress = Progress(
            step=self.step,
            curve=tuple(self.curve),
            measurements=tuple(self.measurements),
            train_seconds=self.train_seconds,
            evaluation_seconds=self.evaluation_seconds,
            step_seconds=tuple(self.step_seconds),
            tokens=self.tokens,
            gradient_norms=self.gradient_norms,
            start=self.start,
        )
        sums = tuple(float(value) for value in self.sums.tolist())
        unlogged = Unlogged(self.logged, sums, self.batches, self.window, bool(self.sound))
        return RunState(self.key, progress, moments, unlogged)

    def result(self) -> RunResult:
        """The result of a run that leaves."""
        paused = self.cause is None and self.step < len(self.run.steps)
        if paused:
            cause, message = Cause.PAUSED, f"paused after step {self.step} of {len(self.run.steps)}"
        elif self.cause is not None:
            cause, message = self.cause, self.message
        else:
            cause, message = outcome_of(self.measurements, self.numbers)
        cost = speed(self.step_seconds, self.train_seconds, self.evaluation_seconds, self.tokens)
        measured = (*self.measurements, *cost, memory(self.peak))
        return RunResult(
            key=self.key,
            cause=cause,
            message=message,
            measurements=tuple(m for m in measured if math.isfinite(m.value)),
            curve=tuple(self.curve),
            facts={**self.facts, **self.start, "steps": self.step, "together": self.together},
            adapter="adapter" if is_folder(self.job.folder / "adapter") else None,
            samples=self.samples,
        )


def make_member(job: Job, cache: WorkerCache) -> Member:
    """Set the run up by stock TRL and take from it what a pack needs.

    Raises Unpackable for a run that must train alone, and what TRL or the data refuse (ValueError and the like).
    """
    config = job.config
    settings = run_settings(job)
    args, model_args = parse_settings(settings, job.folder / "trainer", config.seed)
    model, tokenizer = cache.base(settings, args, model_args)
    peft_config = _require_packable(model, args, model_args, cache)
    args.precompute_ref_log_probs = False  # the store does it; TRL would hash the whole model
    pairs = cache.pairs(config, settings, tokenizer)
    numbers = cache.numbers(config, settings, args, model, tokenizer, pairs, packed=True)
    tensors = tensors_of(model)

    def make(adapter: PeftConfig) -> WarmDPOTrainer:
        with cache.just_loaded():
            return WarmDPOTrainer(
                model=model,
                args=args,
                train_dataset=cache.training_rows(config, settings, pairs),
                processing_class=tokenizer,
                quantization_config=None,
                peft_config=adapter,
            )

    try:
        measured = config.balance is not None  # by passes through its layers
        trainer, initial = set_up(make, peft_config, args.seed, cache.drawings, inject=measured)
        cache.keep_rows(config, settings, trainer)
        balanced = _balanced(trainer, job)
        run = prepare(trainer, initial, DPOTrainer, job.placement.split)
    except BaseException:
        take_back(model, tensors, cache)  # it may carry half an adapter
        raise
    restore_base(trainer.model, cache)
    dtype = torch.promote_types(next(iter(run.adapter.values())).a.dtype, torch.float32)
    data = cache.laid_out(config, settings, trainer, job.folder.parent / "reference", dtype, run.rows(job.pause_at))
    zero = torch.zeros((), dtype=dtype, device=args.device)
    facts = {**pairs.facts, **numbers.facts, **cache.base_facts, **hardware_facts(args, model_args)}
    facts |= {**cut_facts(job, args), **balanced.facts, EVALUATOR_FACT: config.evaluator}
    return Member(
        job=job,
        run=run,
        pairs=pairs,
        data=data,
        numbers=numbers,
        facts=facts,
        sums=zero.new_zeros(3),
        norm=zero,
        sound=torch.ones((), dtype=torch.bool, device=args.device),
        gradient_norms=balanced.norms,
    )


def _require_packable(
    model: PreTrainedModel, args: DPOConfig, model_args: ModelConfig, cache: WorkerCache
) -> PeftConfig:
    """The run's PEFT configuration. Raises Unpackable where base or settings make it train alone."""
    peft_config = get_peft_config(model_args)
    if peft_config is None:
        raise Unpackable("full fine-tuning changes the base itself")
    if args.use_liger_kernel:
        raise Unpackable("use_liger_kernel puts other code into the model, which all runs share")
    if cache.draws:
        raise Unpackable("loading its model draws random numbers, so that each seed has a base of its own")
    if couples_rows(model, longest_row(args)):
        raise Unpackable(COUPLED_ROWS)
    if not is_fixed(model, args, adapter=True):
        raise Unpackable("its reference log-probs are not a function of the row")
    return peft_config


def _balanced(trainer: DPOTrainer, job: Job) -> Balance:
    """See `balance`; a run that resumes keeps its weights to the last digit."""
    kept = load_state(job.folder, job.config.key) if job.config.balance else None
    norms = kept.progress.gradient_norms if kept else ()
    place = job.placement
    return balance(trainer, job.config, norms, split=place.split, checkpointing=bool(place.checkpointing))


def save_adapter(member: Member, adapter: Adapter) -> None:
    """Write the adapter into the run's folder as PEFT's `save_pretrained` does, for `PeftModel.from_pretrained`."""
    folder = member.job.folder / "adapter"
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, lora in adapter.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = lora.a.cpu().contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = lora.b.cpu().contiguous()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config: PeftConfig = member.run.peft_config
    training, config.inference_mode = config.inference_mode, True
    try:
        config.save_pretrained(str(folder))
    finally:
        config.inference_mode = training
