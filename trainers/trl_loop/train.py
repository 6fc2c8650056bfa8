"""Trains one run by TRL's own loop, `DPOTrainer.train`."""

from __future__ import annotations

import copy
import math
import shutil
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftConfig
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import DPOConfig, ModelConfig, get_peft_config

from studies.losses.batch_splitting import cut
from studies.records import (
    ALONE_FACT,
    EVALUATOR_FACT,
    PRECOMPUTE,
    UNSAVED_FACT,
    Cause,
    RunResult,
    Scalar,
    Shown,
)
from studies.text.files import is_folder
from trainers.components.gradient_balance import balance
from trainers.components.keep_samples import keep_samples
from trainers.components.outcome import CURVE, START_METRICS, memory, outcome_of, speed
from trainers.components.restore_base import code_as_before, restore_base, take_back, tensors_of
from trainers.components.settings import cut_facts, hardware_facts, parse_settings, run_settings
from trainers.components.start_check import Gap, measured_gaps, pairs_of, precision_of, training_gap
from trainers.components.worker_cache import WorkerCache
from trainers.data.pairs import JudgeError, Pairs
from trainers.evaluation.evaluate import NonFinite, ReferenceNumbers, evaluate
from trainers.evaluation.policies import Look, on_they_go, one_policy
from trainers.interface import Decision, Doing, Job, Stopped, WorkQueue
from trainers.models import accelerator
from trainers.models.rotary import COUPLED_ROWS, begin_anew, couples_rows, longest_row
from trainers.multi_lora.adapters import twin
from trainers.reference.log_probs import draws_in_training, is_fixed
from trainers.run_folder.failures import cause_of, told
from trainers.run_folder.progress import Progress
from trainers.run_folder.results import CHECKPOINTS
from trainers.trl_loop.checkpoints import Keeper, KeptDPOTrainer, last_checkpoint, restore_reference


def train_alone(job: Job, queue: WorkQueue, cache: WorkerCache, keep_every: float) -> RunResult:
    """Train one run by TRL's own loop, from its last checkpoint where there is one. Raises what TRL or the data refuse.

    `keep_every`: seconds between checkpoints. They stay where the run is stopped or what it trains on fails.
    """
    setup = _set_up(job, cache)
    config, job = job.config, setup.job
    kept = last_checkpoint(job.folder / CHECKPOINTS, config.key)
    watch = _Watch(job, setup.pairs, setup.tokenizer, setup.numbers, queue, kept.progress if kept else Progress(0))
    keeper = Keeper(config.key, watch.progress, kept, keep_every)
    tensors = tensors_of(setup.model)
    try:
        trainer = _make_trainer(setup, cache, watch, keeper)
        balanced = balance(trainer, config, watch.gradient_norms)
        watch.gradient_norms = balanced.norms
        if setup.fixed:
            trainer.train_dataset = cache.with_reference(config.key, trainer, job.folder.parent / "reference")
            trainer.precompute_ref_logps = True
        if kept is not None:
            restore_reference(kept, trainer)
        begin_anew(trainer.model)
        accelerator.begin_peak_of_process()
        with code_as_before(setup.model):
            trainer.train(resume_from_checkpoint=str(kept.path) if kept else None)
        end = watch.progress(trainer.state.global_step)
        cause, message = watch.outcome(trainer.model)
        to_its_end = cause is Cause.FINISHED or (cause is Cause.REFUSED and end.step >= trainer.state.max_steps)
        unsaved = _save(trainer.model, job.folder / "adapter") if job.keep_adapter and to_its_end else {}
    except BaseException:
        if setup.peft_config is None:
            cache.drop_base()
        elif not setup.args.use_liger_kernel:
            take_back(setup.model, tensors, cache)  # it may carry half an adapter
        raise
    if not setup.args.use_liger_kernel or setup.peft_config is None:
        restore_base(trainer.model, cache)
    cost = speed(end.step_seconds, end.train_seconds, end.evaluation_seconds, end.tokens)
    measured = (*end.measurements, *cost, memory(accelerator.peak_memory()))
    return RunResult(
        key=config.key,
        cause=cause,
        message=message,
        measurements=tuple(m for m in measured if math.isfinite(m.value)),
        curve=end.curve,
        facts={**setup.facts(cache), **balanced.facts, **end.start, **unsaved, "steps": end.step},
        adapter="adapter" if is_folder(job.folder / "adapter") else None,
        samples=watch.samples,
    )


@dataclass(frozen=True)
class _Setup:
    """One run before its trainer is made. `asked`: whether its settings ask TRL to precompute the reference log-probs;
    `coupled`: rows change each other's numbers; `fixed`: the reference log-probs depend on the row alone.
    """

    job: Job
    settings: Mapping[str, Any]
    args: DPOConfig
    model_args: ModelConfig
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    pairs: Pairs
    numbers: ReferenceNumbers
    peft_config: PeftConfig | None
    asked: bool
    coupled: bool
    fixed: bool

    def facts(self, cache: WorkerCache) -> dict[str, Scalar]:
        """What the run records of its data, base and hardware."""
        facts = {**self.pairs.facts, **self.numbers.facts, **cache.base_facts}
        facts |= {**hardware_facts(self.args, self.model_args), **cut_facts(self.job, self.args)}
        facts[EVALUATOR_FACT] = self.job.config.evaluator
        if self.coupled:
            facts |= {ALONE_FACT: COUPLED_ROWS, **({PRECOMPUTE: False} if self.asked else {})}
        return facts


def _set_up(job: Job, cache: WorkerCache) -> _Setup:
    """Load the run's base and data, and decide how micro-batches and reference log-probs are computed."""
    config = job.config
    settings = cut(run_settings(job), job.placement.split)
    args, model_args = parse_settings(settings, job.folder / CHECKPOINTS, config.seed)
    model, tokenizer = cache.base(settings, args, model_args)
    coupled = couples_rows(model, longest_row(args))
    if coupled:  # in parts, a micro-batch would have other numbers
        job = replace(job, placement=replace(job.placement, split=1))
        args, model_args = parse_settings(run_settings(job), job.folder / CHECKPOINTS, config.seed)
        args.model_init_kwargs = None
    pairs = cache.pairs(config, settings, tokenizer)
    numbers = cache.numbers(config, settings, args, model, tokenizer, pairs)
    peft_config = get_peft_config(model_args)
    if args.use_liger_kernel and peft_config is not None:
        model = twin(model)  # whose layers get other code; the base that others use keeps its own
    fixed = is_fixed(model, args, adapter=peft_config is not None)
    asked = args.precompute_ref_log_probs
    if peft_config is not None or coupled:
        args.precompute_ref_log_probs = False  # the store does it; TRL would hash the whole model
    return _Setup(job, settings, args, model_args, model, tokenizer, pairs, numbers, peft_config, asked, coupled, fixed)


def _make_trainer(setup: _Setup, cache: WorkerCache, watch: _Watch, keeper: Keeper) -> KeptDPOTrainer:
    """TRL's trainer for the run, as `trl dpo` makes it, with `watch` and `keeper` as callbacks."""
    config, settings, args = setup.job.config, setup.settings, setup.args
    ref_model = _reference(setup.model, args, cache) if setup.peft_config is None else None
    with cache.just_loaded():
        trainer = KeptDPOTrainer(
            model=setup.model,
            ref_model=ref_model,
            args=args,
            train_dataset=cache.training_rows(config, settings, setup.pairs),
            processing_class=setup.tokenizer,
            quantization_config=None,
            peft_config=setup.peft_config,
            callbacks=[watch, keeper],
        )
    keeper.trainer = watch.trainer = trainer
    watch.reference_model = trainer.ref_model  # None with PEFT, where the reference is the adapter off
    trainer.remove_callback(transformers.PrinterCallback)
    cache.keep_rows(config, settings, trainer)
    return trainer


def _reference(model: PreTrainedModel, args: DPOConfig, cache: WorkerCache) -> PreTrainedModel | None:
    """The reference of full fine-tuning where TRL could not load it by the model's name: an adapter was merged in."""
    return copy.deepcopy(model) if cache.base_facts and not args.precompute_ref_log_probs else None


def _save(policy: Any, folder: Path) -> dict[str, Scalar]:
    """Write what was trained into the folder; where that fails, the fact that says why: the numbers are there."""
    try:
        policy.save_pretrained(folder)
    except Exception as error:
        traceback.print_exc()
        shutil.rmtree(folder, ignore_errors=True)  # half of it is no adapter
        return {UNSAVED_FACT: told(error)}
    return {}


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Reports the curve, evaluates where the config says, stops what diverges or is told to stop."""

    def __init__(
        self,
        job: Job,
        pairs: Pairs,
        tokenizer: PreTrainedTokenizerBase,
        reference: ReferenceNumbers,
        queue: WorkQueue,
        before: Progress,
    ) -> None:
        self._job, self._config = job, job.config
        self._pairs, self._tokenizer, self._reference = pairs, tokenizer, reference
        self._queue, self._before = queue, before
        self._evaluation_steps: frozenset[int] = frozenset()
        self._curve = list(before.curve)
        self._measurements = list(before.measurements)
        self.samples: tuple[Shown, ...] = ()  # of the last evaluation, which every run that comes to its end makes
        self._evaluation_seconds = before.evaluation_seconds
        self._step_seconds = list(before.step_seconds)
        self._tokens = before.tokens
        self.gradient_norms = before.gradient_norms
        self.reference_model: torch.nn.Module | None = None
        self.trainer: KeptDPOTrainer | None = None
        self._start: dict[str, Scalar] = dict(before.start)
        self._cause = Cause.FINISHED
        self._message = ""
        self._started = self._step_started = 0.0

    def progress(self, step: int) -> Progress:
        """How far the run is after so many steps, what an earlier attempt had done included."""
        before = self._before
        evaluated = self._evaluation_seconds - before.evaluation_seconds
        return Progress(
            step=step,
            curve=tuple(self._curve),
            measurements=tuple(self._measurements),
            train_seconds=before.train_seconds + time.perf_counter() - self._started - evaluated,
            evaluation_seconds=self._evaluation_seconds,
            step_seconds=tuple(self._step_seconds),
            tokens=self._tokens,
            gradient_norms=self.gradient_norms,
            start=self._start,
        )

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        shares = (*self._config.evaluation.at, 1.0)
        self._evaluation_steps = frozenset(max(1, round(share * state.max_steps)) for share in shares)
        self._started = time.perf_counter()
        if state.global_step == 0:
            self._measure_start(args, kwargs["model"], control)
        if state.global_step in self._evaluation_steps and all(m.step != state.global_step for m in self._measurements):
            self._evaluate(kwargs["model"], state.global_step, control)  # it was stopped before that

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._step_started = time.perf_counter()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == 0:
            self._look_at_start(args, kwargs["model"], control)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        accelerator.wait()
        self._step_seconds.append(time.perf_counter() - self._step_started)
        due = state.global_step in self._evaluation_steps
        # A run that is stopped where it is to be measured is measured when it goes on, unless what it is measured
        # against moves at the end of this very step: that one is stopped a step later.
        decision = self._queue.decision(self._config.key)
        if not (due and args.sync_ref_model):
            self._stop_if_told(decision, state, control)
        if due and self._cause is Cause.FINISHED:
            # Not the last step's, from which the loop would not go on, nor what would be measured against another.
            cut = state.global_step < state.max_steps and not args.sync_ref_model
            self._evaluate(kwargs["model"], state.global_step, control, self._look if cut else on_they_go)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        logs = logs or {}
        if "loss" not in logs:  # the summary at the end
            return
        self._tokens = int(logs.get("num_tokens", self._tokens))
        point = {ours: float(logs[theirs]) for theirs, ours in CURVE.items() if theirs in logs}
        bad = [name for name, value in point.items() if not math.isfinite(value)]
        if bad:
            self._end(Cause.NON_FINITE, f"{', '.join(bad)} not finite at step {state.global_step}", control)
        finite = {name: value for name, value in point.items() if math.isfinite(value)}
        self._curve.append((state.global_step, finite))
        self._stop_if_told(self._queue.report(self._config.key, state.global_step, finite), state, control)

    def outcome(self, model: torch.nn.Module) -> tuple[Cause, str]:
        """Why the run ended. A run that trained to its end may still have failed, by its last evaluation."""
        if self._cause is Cause.FINISHED and not all(
            bool(torch.isfinite(p).all()) for p in model.parameters() if p.requires_grad
        ):
            return Cause.NON_FINITE, "trained weights are not finite"
        if self._cause is Cause.FINISHED:
            return outcome_of(self._measurements, self._reference)
        return self._cause, self._message

    def _stop_if_told(self, decision: Decision, state: TrainerState, control: TrainerControl) -> None:
        """Stop here, with a checkpoint, where the queue stops the run; at its last step the run finishes instead."""
        if decision is not Decision.CONTINUE and self._cause is Cause.FINISHED and state.global_step < state.max_steps:
            self._end(Cause.USER_STOP, f"stopped at step {state.global_step}", control)
            control.should_save = True

    def _measure_start(self, args: DPOConfig, model: torch.nn.Module, control: TrainerControl) -> None:
        """Hold the policy against the reference's numbers that it will be measured with."""
        policies, numbers = one_policy(model, self.reference_model), self._reference
        precision = precision_of(model, args)
        self._note(measured_gaps(policies, [numbers.held_out], [numbers.tokens.held_out], precision)[0], control)

    def _look_at_start(self, args: DPOConfig, model: torch.nn.Module, control: TrainerControl) -> None:
        """Hold the first micro-batch, before the first step, against the reference's log-probs. Not where passes draw
        random numbers: there stock training begins apart.
        """
        trainer = self.trainer
        reference = one_policy(model, self.reference_model).reference
        if trainer is None or trainer.first is None or draws_in_training(model, args):
            return
        metrics = trainer._metrics["train"]
        rewards = [metrics[name][0] for name in START_METRICS]
        size = max(abs(metrics[name][0]) for name in ("logps/chosen", "logps/rejected"))
        pairs = pairs_of(**{name: tensor.tolist() for name, tensor in trainer.first.items()})
        self._note(training_gap(rewards, args.beta, size, pairs, reference, precision_of(model, args)), control)

    def _note(self, gap: Gap | None, control: TrainerControl) -> None:
        self._start |= gap.facts if gap else {}
        if gap and gap.is_far:
            self._end(Cause.REFUSED, str(gap), control)

    def _look(self) -> None:
        """Raises Stopped where the queue stops the run."""
        if self._queue.decision(self._config.key) is Decision.STOP:
            raise Stopped

    def _evaluate(self, model: torch.nn.Module, step: int, control: TrainerControl, look: Look = on_they_go) -> None:
        started = time.perf_counter()
        was_training = model.training
        model.eval()
        self._queue.tell(Doing("measuring 1 run"))
        try:
            measured = evaluate(
                model,
                self._tokenizer,
                self._pairs,
                self._config.evaluation,
                self._reference,
                reference_model=self.reference_model,
                step=step,
                look=look,
            )
            self._measurements += measured.measurements
            self.samples = measured.samples
            keep_samples(self._job, self._pairs, self._reference, measured, step)
        except Stopped:  # it is measured when it goes on
            self._end(Cause.USER_STOP, f"stopped as it was measured after step {step}", control)
            control.should_save = True
        except NonFinite as error:
            self._end(Cause.NON_FINITE, str(error), control)
        except JudgeError as error:
            self._end(Cause.REFUSED, str(error), control)
        except Exception as error:
            if cause_of(error) is not Cause.REFUSED:
                raise
            traceback.print_exc()
            self._end(Cause.REFUSED, f"it cannot be measured after step {step}: {told(error)}", control)
        finally:
            self._queue.tell(Doing(""))
            model.train(was_training)
        self._evaluation_seconds += time.perf_counter() - started

    def _end(self, cause: Cause, message: str, control: TrainerControl) -> None:
        if self._cause is Cause.FINISHED:
            self._cause, self._message = cause, message
        control.should_training_stop = True
