"""A study's baseline as TRL sets it up for training, and the tasks that are timed on it; measures nothing itself."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import torch
from torch import Tensor, nn
from trl import DPOConfig, get_peft_config

from studies.records import RunConfig
from trainers.components.settings import parse_settings, run_settings
from trainers.components.worker_cache import WarmDPOTrainer, WorkerCache
from trainers.data.tables import as_table
from trainers.interface import Job, Placement
from trainers.speed.rounds import Task

_BATCHES: Final = 4
_SPREAD: Final = 0.05  # of log-probs around the untrained model's, in nats a token: at a margin of 0 nothing is learnt
# What `DPOTrainer.__init__` takes from its arguments for `_compute_loss`, which reads the rest from `args` itself.
_OF_LOSS: Final = ("beta", "label_smoothing", "ld_alpha", "f_divergence_type", "f_alpha_divergence_coef")

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Bench:
    """The trainer of the baseline, its model ready to be trained, some batches with the reference's log-probs, and a
    trainer for each variant that differs in its loss alone. `together`: micro-batches of a step.
    """

    trainer: WarmDPOTrainer
    model: nn.Module
    heads: Mapping[str, WarmDPOTrainer]
    batches: Sequence[Batch]
    together: int

    def losses(self) -> dict[str, Task]:
        """Variant -> TRL's code of its loss, forward and backward, on the log-probs of a batch, which are fixed."""
        batch = self.batches[0]
        fixed = self._fixed(batch)
        return {name: _loss_task(head, fixed, batch) for name, head in self.heads.items()}

    def micro_batch(self, name: str, batch: Batch) -> Task:
        """The part of a step that comes once for each micro-batch: forward, loss and backward."""
        head = self.heads[name]

        def task() -> None:
            head.training_step(self.model, dict(batch))

        return task

    def update(self) -> None:
        """The part of a step that comes once. The learning rate is 0: no task must find another model than the last."""
        trainer, args = self.trainer, self.trainer.args
        if args.max_grad_norm:
            trainer.accelerator.clip_grad_norm_(self.model.parameters(), args.max_grad_norm)
        trainer.optimizer.step()
        self.model.zero_grad()

    def whole_steps(self, batch: Batch) -> dict[str, Task]:
        """Variant -> a whole optimizer step, each micro-batch of which is this batch."""

        def task(name: str) -> Task:
            part = self.micro_batch(name, batch)

            def step() -> None:
                for _ in range(self.together):
                    part()
                self.update()

            return step

        return {name: task(name) for name in self.heads}

    def _fixed(self, batch: Batch) -> SimpleNamespace:
        """What the model gives TRL's code for a batch, cut off from the model, the log-probs a little spread."""
        given: list[Any] = []

        def keep(**inputs: Any) -> Any:
            given.append(self.model(**inputs))
            return given[0]

        self.trainer._compute_loss(keep, dict(batch), False)
        return SimpleNamespace(**{name: _cut_off(value) for name, value in vars(given[0]).items()})


def _cut_off(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    if not value.requires_grad:
        return value.detach()
    with torch.no_grad():
        spread = _SPREAD * torch.randn_like(value) * (value != 0)  # 0: no token of an answer
    return (value.detach() + spread).requires_grad_()


def _loss_task(head: WarmDPOTrainer, fixed: SimpleNamespace, batch: Batch) -> Task:
    leaves = [value for value in vars(fixed).values() if isinstance(value, Tensor) and value.requires_grad]

    def task() -> None:
        head._compute_loss(lambda **_: fixed, batch, False).backward()
        for leaf in leaves:
            leaf.grad = None

    return task


def make_bench(runs: Mapping[str, RunConfig], baseline: str, bf16: bool | None, folder: Path) -> Bench:
    """Load the baseline's model and data, as a run of it would, and construct its trainer. `folder` is for TRL's own
    files. Raises what a run would be refused for.
    """
    own = runs[baseline]
    others = {name: _arguments(config, bf16, folder)[1] for name, config in runs.items()}
    settings, args = _arguments(own, bf16, folder)  # last: accelerate forgets the device of a trainer that is there
    model_args = parse_settings(settings, folder, own.seed)[1]
    cache = WorkerCache()
    model, tokenizer = cache.base(settings, args, model_args)
    pairs = cache.pairs(own, settings, tokenizer)
    rows = pairs.train[: _BATCHES * args.per_device_train_batch_size]
    with cache.just_loaded():
        trainer = WarmDPOTrainer(
            model=model,
            ref_model=None,
            args=args,
            train_dataset=as_table(rows),
            processing_class=tokenizer,
            quantization_config=None,
            peft_config=get_peft_config(model_args),
        )
    trainer.precompute_ref_logps = True
    trained = _as_in_training(trainer)
    batches = []
    for batch in islice(trainer.get_train_dataloader(), _BATCHES):
        inputs = trainer._prepare_inputs(batch)
        chosen, rejected = trainer.compute_ref_log_probs(trainer.model, inputs)
        batches.append({**inputs, "ref_chosen_logps": chosen, "ref_rejected_logps": rejected})
    heads = {name: _head(trainer, of_variant) for name, of_variant in others.items()}
    return Bench(trainer, trained, heads, batches, args.gradient_accumulation_steps)


def _arguments(config: RunConfig, bf16: bool | None, folder: Path) -> tuple[dict[str, Any], DPOConfig]:
    job = Job(config, folder, placement=Placement(together=0, bf16=bf16))
    settings = {**run_settings(job), "sync_ref_model": False}  # with which the model would have to be there twice
    # The reference's log-probs are put into each batch: where TRL is told so, it loads no reference. With an adapter
    # it has none, and would hash the whole model.
    settings["precompute_ref_log_probs"] = not settings.get("use_peft", False)
    return settings, parse_settings(settings, folder, config.seed)[0]


def _as_in_training(trainer: WarmDPOTrainer) -> nn.Module:
    """The model with its optimizer as `Trainer.train` sets them up."""
    args, model = trainer.args, trainer.model
    model.train()
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs or {"use_reentrant": False})
    trainer.create_optimizer()
    for group in trainer.optimizer.param_groups:
        group["lr"] = 0.0
    trained: nn.Module
    trained, trainer.optimizer = trainer.accelerator.prepare(model, trainer.optimizer)
    trainer.model_wrapped = trained
    trainer.current_gradient_accumulation_steps = args.gradient_accumulation_steps
    return trained


def _head(trainer: WarmDPOTrainer, args: DPOConfig) -> WarmDPOTrainer:
    """The same trainer with the loss of other arguments."""
    head = copy.copy(trainer)
    head.args = args
    head.loss_types, head.loss_weights = args.loss_type, args.loss_weights or [1.0] * len(args.loss_type)
    for name in _OF_LOSS:
        setattr(head, name, getattr(args, name))
    head._metrics = {mode: defaultdict(list) for mode in ("train", "eval")}
    return head
