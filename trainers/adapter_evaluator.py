"""Measures finished runs again from the adapters, or the samples, that they left, and models from elsewhere; trains
nothing.

A trainer as executors know one, so that the work goes where runs are trained. Knows no store.
"""

from __future__ import annotations

import traceback
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from peft import PeftModel
from transformers import PreTrainedModel
from trl import ModelConfig

from studies.records import EVALUATOR_FACT, JUDGE_CONTENT_FACT, JUDGE_FACT, Cause, RunResult, Scalar
from trainers.components.outcome import outcome_of
from trainers.components.settings import parse_settings, run_settings
from trainers.components.worker_cache import WorkerCache
from trainers.evaluation.evaluate import Evaluation, NonFinite, ReferenceNumbers, evaluate
from trainers.interface import Decision, Job, Stopped, WorkQueue
from trainers.judge_samples import SampleJudge
from trainers.models.bases import ADAPTER as ADAPTER_CONFIG
from trainers.models.bases import UnusableModel
from trainers.models.merged import load_model, usable, with_adapter
from trainers.run_folder.failures import cause_of, told
from trainers.run_folder.results import ADAPTER, adapter_files


class AdapterEvaluator:
    """Evaluates the adapter in a job's folder, or the job's own model, as the job's config says, or has judges look at
    the samples that a folder keeps; see `trainers.interface.Trainer`.

    Writes nothing into the folder but what judges gave. The result has the measurements of the end of the training, of
    samples those of every evaluation.
    """

    def __init__(self) -> None:
        datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()
        self._queue: WorkQueue | None = None
        self._cache, self._judges = WorkerCache(look=self._look), SampleJudge()

    def train(self, job: Job, queue: WorkQueue) -> None:
        """Measure one run. What the judge or the data refuse is a result; what the machine does is raised."""
        self._queue = queue
        try:
            result = self._judges.judge(job) if job.from_samples else self._from_adapter(job)
        except NonFinite as error:
            result = RunResult(key=job.config.key, cause=Cause.NON_FINITE, message=str(error))
        except Stopped:
            result = RunResult(key=job.config.key, cause=Cause.USER_STOP, message="stopped as it was measured")
        except Exception as error:
            if cause_of(error) is not Cause.REFUSED:
                raise
            traceback.print_exc()
            result = RunResult(key=job.config.key, cause=Cause.REFUSED, message=told(error))
        queue.finish(result)

    def _look(self, key: str) -> None:
        """Raises Stopped where the queue stops the run."""
        if self._queue is not None and self._queue.decision(key) is Decision.STOP:
            raise Stopped

    def _from_adapter(self, job: Job) -> RunResult:
        found, facts, reference = self._measure(job)
        # How a run of the study failed stays as its training found it; of a model from elsewhere nobody has looked.
        cause, why = (Cause.FINISHED, "") if job.model is None else outcome_of(found.measurements, reference)
        return RunResult(
            key=job.config.key,
            cause=cause,
            message=why,
            measurements=found.measurements,
            facts=facts,
            samples=found.samples,
        )

    def _measure(self, job: Job) -> tuple[Evaluation, dict[str, Scalar], ReferenceNumbers]:
        """What is measured and shown, facts (who measured it, the untrained model's gold), and that model's numbers."""
        config, settings = job.config, run_settings(job)
        args, model_args = parse_settings(settings, job.folder / "trainer", config.seed)
        model, tokenizer = self._cache.base(settings, args, model_args)
        pairs = self._cache.pairs(config, settings, tokenizer)
        reference = self._cache.numbers(config, settings, args, model, tokenizer, pairs)
        try:
            policy, base = _policy(job, model, model_args)
            precision = torch.float16 if args.fp16 else torch.bfloat16
            with torch.autocast(args.device.type, precision, enabled=bool(args.bf16 or args.fp16)):
                look = partial(self._look, config.key)
                of_run = (pairs, config.evaluation, reference)
                measured = evaluate(policy, tokenizer, *of_run, reference_model=base, look=look)
            _take_off(policy)
        except BaseException:
            self._cache.drop_base()  # it may carry half an adapter
            raise
        if isinstance(policy, PeftModel) and _changes_base(policy):
            self._cache.drop_base()
        by = {name: pairs.facts[name] for name in (JUDGE_FACT, JUDGE_CONTENT_FACT) if name in pairs.facts}
        return measured, {**by, EVALUATOR_FACT: config.evaluator, **reference.facts}, reference


def _policy(job: Job, base: PreTrainedModel, model_args: ModelConfig) -> tuple[torch.nn.Module, PreTrainedModel | None]:
    """What is measured, and its reference where that is not itself with its adapter off."""
    if job.model is None:
        adapter = job.folder / ADAPTER
        ours, _ = adapter_files(job.folder)
        if adapter / "adapter_config.json" not in ours:
            raise ValueError(f"{adapter} holds no adapter but a whole model: only adapters can be measured again")
        with usable(str(adapter)):
            return PeftModel.from_pretrained(base, str(adapter)), None
    if (Path(job.model) / ADAPTER_CONFIG).is_file():
        return with_adapter(base, Path(job.model)), None
    with usable(job.model):
        kinds = {"attn_implementation": model_args.attn_implementation, "dtype": model_args.dtype}
        model = load_model(job.model, None, {"trust_remote_code": False, "device_map": None, **kinds})
        own, its = (m.get_output_embeddings().weight.shape[0] for m in (base, model))
        if own != its:
            raise UnusableModel(
                f"model {job.model}: it tells {its} tokens apart and the study's base {own}, and a distance between "
                "the two needs the same: take a study with its base"
            )
        return model.to(base.device), base


def _take_off(policy: torch.nn.Module) -> None:
    if isinstance(policy, PeftModel):
        policy.unload()


def _changes_base(policy: PeftModel) -> bool:
    """Whether the base is another once the adapter is taken off: PEFT leaves modules that were trained whole in it, and
    some ways to begin an adapter take a part of the weights out.
    """
    config: Any = policy.active_peft_config
    begun = getattr(config, "init_lora_weights", True)
    return bool(getattr(config, "modules_to_save", None)) or begun not in (True, False, None, "gaussian", "orthogonal")
