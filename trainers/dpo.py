"""One run at a time through TRL's `DPOTrainer`, read top to bottom; knows no search, store or executor.

What successive runs share (base model, tokenised pairs, the reference's numbers) stays loaded in the worker.
"""

from __future__ import annotations

import math
import os
import resource
import shutil
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # DPOTrainer.__init__ sends it otherwise

import datasets
import torch
import transformers
from peft import PeftModel
from transformers import (
    AutoTokenizer,
    HfArgumentParser,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import DPOConfig, DPOTrainer, ModelConfig, get_peft_config, get_quantization_config
from trl.trainer.utils import create_model_from_path

from studies.records import Cause, Measurement, RunConfig, RunResult, Scalar, digest
from trainers.data import DataError, Pairs, load_pairs
from trainers.evaluate import NonFinite, ReferenceNumbers, evaluate, reference_numbers
from trainers.interface import Decision, Job, Report
from trainers.reference import ReferenceStore, is_fixed, model_digest, with_reference_log_probs
from trainers.results import write_result
from trainers.world.paths import model_path

CURVE_POINTS = 24  # logged points of a training curve
WARM_UP_STEPS = 5  # first steps left out of the speed, at most a quarter of them
CURVE = {
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "rewards/margins": "reward_margin",
    "rewards/accuracies": "reward_accuracy",
}


@dataclass
class _Warm:
    """What the worker keeps from one run to the next. Each is dropped when another is needed."""

    base: tuple[str, PreTrainedModel, PreTrainedTokenizerBase] | None = None
    pairs: tuple[str, Pairs] | None = None
    tokenised: tuple[str, datasets.Dataset] | None = None
    references: dict[str, ReferenceNumbers] = field(default_factory=dict)
    model_digest: str = ""
    log_probs: ReferenceStore | None = None


class DPOTrainerWorker:
    """Trains DPO runs, one after the other; see `trainers.interface.Trainer`."""

    def __init__(self) -> None:
        datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()
        self._warm = _Warm()

    def train(self, jobs: Sequence[Job], report: Report) -> list[RunResult]:
        """Train each job in turn. What diverges, or what TRL refuses, is a result; what the machine does is raised."""
        return [self._train_one(job, report) for job in jobs]

    def _train_one(self, job: Job, report: Report) -> RunResult:
        job.folder.mkdir(parents=True, exist_ok=True)
        try:
            result = self._run(job, report)
        except torch.OutOfMemoryError as error:
            self._warm = _Warm()
            result = RunResult(key=job.config.key, cause=Cause.OUT_OF_MEMORY, message=str(error))
        except (DataError, ValueError, TypeError, NotImplementedError) as error:  # how TRL refuses settings
            traceback.print_exc()
            result = RunResult(key=job.config.key, cause=Cause.REFUSED, message=str(error))
        finally:
            shutil.rmtree(job.folder / "trainer", ignore_errors=True)
        write_result(job.folder, result)
        return result

    def _run(self, job: Job, report: Report) -> RunResult:
        config = job.config
        settings = {**hardware_settings(), **config.settings}
        args, model_args = parse_settings(settings, job.folder / "trainer", config.seed)
        model, tokenizer = self._base(settings, args, model_args)
        pairs = self._pairs(config, settings, tokenizer)
        reference = self._reference(config, settings, args, model, tokenizer, pairs)
        watch = _Watch(config, pairs, tokenizer, reference, report)
        peft_config = get_peft_config(model_args)
        fixed = is_fixed(model, args, adapter=peft_config is not None)
        if peft_config is not None:
            args.precompute_ref_log_probs = False  # `_use_stored_reference` does it; TRL would hash the whole model
        try:
            trainer = _WarmDPOTrainer(
                model=model,
                args=args,
                train_dataset=self._training_rows(config, settings, pairs),
                processing_class=tokenizer,
                quantization_config=None,
                peft_config=peft_config,
                callbacks=[watch],
            )
            watch.reference_model = trainer.ref_model  # None with PEFT, where the reference is the adapter off
            trainer.remove_callback(transformers.PrinterCallback)
            # Only what tokenising made: precomputed reference log-probs depend on more than the data.
            tokenised = trainer.train_dataset.select_columns(["prompt_ids", "chosen_ids", "rejected_ids"])
            self._warm.tokenised = (_data_key(config, settings), tokenised)
            if fixed:
                self._use_stored_reference(trainer, job.folder.parent / "reference")
            started = time.perf_counter()
            trainer.train()
            seconds = time.perf_counter() - started - watch.evaluation_seconds
            cause, message = watch.verdict(trainer.model)
            if job.keep_adapter and cause is Cause.FINISHED:
                trainer.model.save_pretrained(job.folder / "adapter")
        except BaseException:
            self._warm.base = None  # it may carry half an adapter
            raise
        self._reset(trainer.model)
        measured = (*watch.measurements, *watch.speed(seconds), *_memory())
        facts = {**pairs.facts, **_hardware_facts(args, model_args), "steps": trainer.state.global_step}
        return RunResult(
            key=config.key,
            cause=cause,
            message=message,
            measurements=tuple(m for m in measured if math.isfinite(m.value)),
            curve=tuple(watch.curve),
            facts=facts,
            adapter="adapter" if (job.folder / "adapter").is_dir() else None,
        )

    def _base(
        self, settings: Mapping[str, Any], args: DPOConfig, model_args: ModelConfig
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The base model as `trl dpo` would load it, from the last run where it is the same."""
        path = resolve_model(str(model_args.model_name_or_path))
        key = digest([path, {k: settings.get(k) for k in _MODEL_SETTINGS}])
        if self._warm.base is None or self._warm.base[0] != key:
            self._warm = _Warm()
            kwargs: dict[str, Any] = {
                "revision": model_args.model_revision,
                "trust_remote_code": args.trust_remote_code,
                "attn_implementation": model_args.attn_implementation,
                "dtype": model_args.dtype,
                **(args.model_init_kwargs or {}),
            }
            quantization = get_quantization_config(model_args)
            if quantization is not None:
                kwargs["quantization_config"] = quantization
            model = create_model_from_path(path, **kwargs)
            tokenizer = AutoTokenizer.from_pretrained(
                path, revision=model_args.model_revision, trust_remote_code=args.trust_remote_code
            )
            if tokenizer.pad_token is None:
                tokenizer.pad_token = tokenizer.eos_token
            if getattr(model, "hf_device_map", None) is None:  # else it is placed, and a quantized one cannot be moved
                model.to(args.device)
            self._warm.base, self._warm.model_digest = (key, model, tokenizer), model_digest(model)
        args.model_init_kwargs = None
        return self._warm.base[1], self._warm.base[2]

    def _pairs(self, config: RunConfig, settings: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Pairs:
        key = _data_key(config, settings)
        if self._warm.pairs is None or self._warm.pairs[0] != key:
            self._warm.pairs = (key, load_pairs(config.data, config.block, tokenizer))
        return self._warm.pairs[1]

    def _training_rows(self, config: RunConfig, settings: Mapping[str, Any], pairs: Pairs) -> datasets.Dataset:
        key = _data_key(config, settings)
        if self._warm.tokenised is not None and self._warm.tokenised[0] == key:
            return self._warm.tokenised[1]
        return datasets.Dataset.from_list(list(pairs.train))

    def _reference(
        self,
        config: RunConfig,
        settings: Mapping[str, Any],
        args: DPOConfig,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        pairs: Pairs,
    ) -> ReferenceNumbers:
        """The untrained model's numbers on the evaluation data: once per base, pairs, evaluation and precision.

        In the precision that the policy is measured in: the Trainer puts the policy's forward under autocast, and an
        untrained adapter must show no shift.
        """
        key = digest([_data_key(config, settings), config.evaluation.model_dump(mode="json"), args.bf16, args.fp16])
        if key not in self._warm.references:
            precision = torch.float16 if args.fp16 else torch.bfloat16
            with torch.autocast(args.device.type, precision, enabled=bool(args.bf16 or args.fp16)):
                self._warm.references[key] = reference_numbers(model, tokenizer, pairs, config.evaluation)
        return self._warm.references[key]

    def _use_stored_reference(self, trainer: _WarmDPOTrainer, folder: Path) -> None:
        """Give the trainer its reference log-probs from the store in `folder`, which the runs of a study share."""
        if self._warm.log_probs is None or self._warm.log_probs.folder != folder:
            self._warm.log_probs = ReferenceStore(folder)
        policy = trainer.model
        with policy.disable_adapter() if isinstance(policy, PeftModel) else nullcontext():
            trainer.train_dataset = with_reference_log_probs(
                trainer.train_dataset, policy, self._warm.model_digest, trainer.args, self._warm.log_probs
            )
        trainer.precompute_ref_logps = True

    def _reset(self, policy: torch.nn.Module) -> None:
        """Give the next run the base model as it was before this one."""
        if not isinstance(policy, PeftModel):
            self._warm.base = None  # full fine-tuning changed the base itself
            return
        policy.disable_input_require_grads()
        base = policy.unload()
        base.gradient_checkpointing_disable()


class _WarmDPOTrainer(DPOTrainer):  # type: ignore[misc]
    """DPOTrainer that takes rows which an earlier DPOTrainer of the same data has tokenised already."""

    def _prepare_dataset(
        self,
        dataset: datasets.Dataset,
        processing_class: PreTrainedTokenizerBase,
        args: DPOConfig,
        dataset_name: str,
    ) -> datasets.Dataset:
        if "prompt_ids" in dataset.column_names:
            return dataset
        return super()._prepare_dataset(dataset, processing_class, args, dataset_name)

    def _precompute_ref_logps(self, dataset: datasets.Dataset, name: str, batch_size: int) -> datasets.Dataset:
        """Leave TRL's own cache alone; `DPOTrainerWorker._use_stored_reference` adds the columns."""
        return dataset


class _Watch(TrainerCallback):  # type: ignore[misc]
    """The one callback: reports the curve, evaluates where the config says, stops what diverges or is stopped."""

    def __init__(
        self,
        config: RunConfig,
        pairs: Pairs,
        tokenizer: PreTrainedTokenizerBase,
        reference: ReferenceNumbers,
        report: Report,
    ) -> None:
        self._config, self._pairs, self._tokenizer, self._reference = config, pairs, tokenizer, reference
        self._report = report
        self._evaluation_steps: frozenset[int] = frozenset()
        self.curve: list[tuple[int, Mapping[str, float]]] = []
        self.measurements: list[Measurement] = []
        self.evaluation_seconds = 0.0
        self.reference_model: torch.nn.Module | None = None
        self._cause = Cause.FINISHED
        self._message = ""
        self._step_seconds: list[float] = []
        self._step_started = 0.0
        self._tokens = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        shares = (*self._config.evaluation.at, 1.0)
        self._evaluation_steps = frozenset(max(1, round(share * state.max_steps)) for share in shares)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._step_started = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._step_seconds.append(time.perf_counter() - self._step_started)
        if state.global_step in self._evaluation_steps and self._cause is Cause.FINISHED:
            self._evaluate(kwargs["model"], state.global_step, control)

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
        self._tokens = logs.get("num_tokens", self._tokens)
        point = {ours: float(logs[theirs]) for theirs, ours in CURVE.items() if theirs in logs}
        bad = [name for name, value in point.items() if not math.isfinite(value)]
        if bad:
            self._end(Cause.NON_FINITE, f"{', '.join(bad)} not finite at step {state.global_step}", control)
        finite = {name: value for name, value in point.items() if math.isfinite(value)}
        self.curve.append((state.global_step, finite))
        if self._report(self._config.key, state.global_step, finite) is not Decision.CONTINUE:
            self._end(Cause.USER_STOP, f"stopped at step {state.global_step}", control)

    def verdict(self, model: torch.nn.Module) -> tuple[Cause, str]:
        """Why the run ended. A run that trained to its end may still have failed, by its last evaluation."""
        if self._cause is Cause.FINISHED and not all(
            bool(torch.isfinite(p).all()) for p in model.parameters() if p.requires_grad
        ):
            return Cause.NON_FINITE, "trained weights are not finite"
        if self._cause is Cause.FINISHED:
            return judge(self.measurements, self._reference)
        return self._cause, self._message

    def speed(self, seconds: float) -> tuple[Measurement, ...]:
        """Steps and non-padding tokens a second from the median step after warm-up, and the wall time."""
        step = len(self._step_seconds)
        timed = sorted(self._step_seconds[min(WARM_UP_STEPS, step // 4) :])
        found = [Measurement("train_seconds", seconds, step=step)]
        found.append(Measurement("evaluation_seconds", self.evaluation_seconds, step=step))
        if timed:
            median = timed[len(timed) // 2]
            found.append(Measurement("steps_per_second", 1.0 / median, step=step))
            if self._tokens:
                found.append(Measurement("tokens_per_second", self._tokens / step / median, step=step))
        return tuple(found)

    def _evaluate(self, model: torch.nn.Module, step: int, control: TrainerControl) -> None:
        started = time.perf_counter()
        was_training = model.training
        model.eval()
        try:
            self.measurements += evaluate(
                model,
                self._tokenizer,
                self._pairs,
                self._config.evaluation,
                self._reference,
                reference_model=self.reference_model,
                step=step,
            )
        except NonFinite as error:
            self._end(Cause.NON_FINITE, str(error), control)
        finally:
            model.train(was_training)
        self.evaluation_seconds += time.perf_counter() - started

    def _end(self, cause: Cause, message: str, control: TrainerControl) -> None:
        if self._cause is Cause.FINISHED:
            self._cause, self._message = cause, message
        control.should_training_stop = True


def judge(measurements: Sequence[Measurement], reference: ReferenceNumbers) -> tuple[Cause, str]:
    """Whether a finished run inverted the preferences or collapsed, by its last evaluation.

    Collapsed: samples under a quarter as long as the reference's, half as many distinct bigrams, or a quarter of its
    entropy. Inverted: held-out accuracy below one half and the margin below zero by two standard errors each, and
    quality (gold where there is one, else ranking_gain) worse than the reference's by as much; accuracy alone
    misfires on labels that carry no signal.
    """
    last = {m.name: m for m in sorted(measurements, key=lambda m: m.step)}
    floors = {
        "length_ratio": 0.25,
        "distinct": 0.5 * reference.distinct,
        "entropy": 0.25 * reference.entropy,
    }
    low = [
        f"{n} {last[n].value:.3g} < {floor:.3g}" for n, floor in floors.items() if n in last and last[n].value < floor
    ]
    if low:
        return Cause.COLLAPSED, "; ".join(low)
    quality = "gold" if "gold" in last else "ranking_gain"
    start = {"accuracy": 0.5, "margin": 0.0, quality: reference.gold or 0.0 if quality == "gold" else 0.0}
    worse = [n for n, v in start.items() if n in last and last[n].value < v - 2 * (last[n].error or 0.0)]
    if len(worse) == len(start):
        return Cause.INVERTED, "; ".join(f"{n} {last[n].value:.3g} < {start[n]:.3g}" for n in start)
    return Cause.FINISHED, ""


def resolve_model(name: str) -> str:
    """Path or Hub id of a model; `embedded` is the tiny one that ships with the project."""
    return str(model_path()) if name == "embedded" else name


def hardware_settings() -> dict[str, Any]:
    """TRL settings that depend on the hardware, where the study does not give them.

    TRL's defaults (bf16, gradient checkpointing) raise or waste time on a CPU. On a GPU they stay as they are
    where it can do bf16.
    """
    if torch.cuda.is_available():
        return {} if torch.cuda.is_bf16_supported() else {"bf16": False, "fp16": True}
    on_cpu = not torch.backends.mps.is_available()
    return {"bf16": False, "fp16": False, "use_cpu": on_cpu, "gradient_checkpointing": False}


def parse_settings(settings: Mapping[str, Any], folder: Path, seed: int) -> tuple[DPOConfig, ModelConfig]:
    """TRL's own types from flat settings, with its reporting, saving and progress bars off."""
    flat = {
        **settings,
        "seed": seed,
        "output_dir": str(folder),
        "report_to": "none",
        "save_strategy": "no",
        "eval_strategy": "no",
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,  # on, it would log a NaN loss as 0
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    modules = flat.get("lora_target_modules")
    if isinstance(modules, str):
        flat["lora_target_modules"] = [modules]
    parser = HfArgumentParser((DPOConfig, ModelConfig))
    known = {name for kind in (DPOConfig, ModelConfig) for name in kind.__dataclass_fields__}
    args, model_args = parser.parse_dict({k: v for k, v in flat.items() if k in known})
    if args.max_steps > 0:
        args.logging_steps = max(1, args.max_steps // CURVE_POINTS)
    return args, model_args


# What a loaded base model depends on. PEFT freezes the base that it wraps, so full fine-tuning takes another one.
_MODEL_SETTINGS = (
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


def _data_key(config: RunConfig, settings: Mapping[str, Any]) -> str:
    """What the tokenised training rows depend on, beside the tokenizer, which changes with the base."""
    limits = [settings.get(name) for name in ("max_length", "truncation_mode", "pad_token")]
    return digest([config.data.model_dump(mode="json"), config.block, limits])


def _memory() -> tuple[Measurement, ...]:
    """Peak memory in MiB: allocated on the GPU by this run, or resident in this process since it started."""
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 2**20
        torch.cuda.reset_peak_memory_stats()
    else:
        scale = 2**20 if sys.platform == "darwin" else 2**10
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale
    return (Measurement("peak_memory", peak),)


def _hardware_facts(args: DPOConfig, model_args: ModelConfig) -> dict[str, Scalar]:
    """What `export` must write down so that the run can be repeated on this kind of hardware."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else str(args.device)
    return {
        "device": device,
        "bf16": bool(args.bf16),
        "fp16": bool(args.fp16),
        "use_cpu": bool(args.use_cpu),
        "gradient_checkpointing": bool(args.gradient_checkpointing),
        "dtype": str(model_args.dtype),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def load_adapter(config: RunConfig, adapter: Path) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """The trained policy of a finished run: its base model with the adapter at `adapter`."""
    args, model_args = parse_settings({**hardware_settings(), **config.settings}, adapter.parent / "trainer", 0)
    path = resolve_model(str(model_args.model_name_or_path))
    base = create_model_from_path(path, dtype=model_args.dtype, trust_remote_code=args.trust_remote_code)
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=args.trust_remote_code)
    return PeftModel.from_pretrained(base, str(adapter)), tokenizer
