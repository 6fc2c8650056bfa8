"""The weights of a mixture whose `loss_weights` are shares of the gradient, measured on a trainer before it trains.

Knows TRL's trainer and the rows of its first steps; no pack, no loop and no store.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from trl import DPOTrainer

from studies.losses.table import couple_rows
from studies.records import NORM_FACT, WEIGHT_FACT, RunConfig, Scalar

PAIRS: Final = 64
"""Gradients are measured over the first optimizer steps that hold so many pairs."""
# With fp16 the gradients of activations would be lost below it without a factor: where torch's GradScaler begins.
_FP16_SCALE: Final = 2.0**16


@dataclass(frozen=True)
class Balance:
    """Of each loss of a mixture the norm of its gradient before training, and the weight that follows; of no loss where
    the weights do not rest on it.
    """

    losses: tuple[str, ...] = ()
    norms: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()

    @property
    def facts(self) -> dict[str, Scalar]:
        """What a result tells of it: from these `export` writes the weights."""
        norms = {f"{NORM_FACT}{loss}": norm for loss, norm in zip(self.losses, self.norms, strict=True)}
        return {**norms, **{f"{WEIGHT_FACT}{loss}": w for loss, w in zip(self.losses, self.weights, strict=True)}}


def balance(
    trainer: DPOTrainer, config: RunConfig, kept: Sequence[float], *, split: int = 1, checkpointing: bool = False
) -> Balance:
    """Give a constructed trainer, which has the shares for weights, the weights that follow from them. That of a run
    without `balance` is left as it is.

    `kept`: the norms that an earlier attempt measured, with whose weights the run goes on; else see `gradient_norms`.
    Raises ValueError where the weights cannot be had.
    """
    if config.balance is None:
        return Balance()
    losses = tuple(trainer.loss_types)
    norms = tuple(kept) or gradient_norms(trainer, split=split, checkpointing=checkpointing)
    weights = balanced_weights(losses, trainer.loss_weights, norms)
    trainer.loss_weights = list(weights)  # `DPOTrainer.__init__` takes it from the arguments; nothing else reads them
    return Balance(losses, norms, weights)


def balanced_weights(losses: Sequence[str], shares: Sequence[float], norms: Sequence[float]) -> tuple[float, ...]:
    """Weights with which the gradient of every loss has its share of the sum of all their norms.

    The sum is the norm of the first loss alone, weight 1: on the whole way from one loss to another the gradient keeps
    that size, so that the first loss's learning rate, `max_grad_norm` and weight decay mean the same all along, and
    only the mixture differs. (Weights with sum 1 would let it grow to that of the other loss.) Shares count by their
    sum. Raises ValueError for shares or norms from which no weights follow.
    """
    for loss, norm in zip(losses, norms, strict=True):
        if not (math.isfinite(norm) and norm > 0.0):
            raise ValueError(
                f"balance: gradient divides the weights by the gradients before training, and that of {loss} has norm "
                f"{norm:g}: take {loss} out, change its settings, or leave balance out and give the weights themselves"
            )
    whole = math.fsum(shares)
    if min(shares) < 0.0 or not whole > 0.0:
        raise ValueError(f"shares of the gradient must be 0 or more, and one of them above 0, got {list(shares)}")
    return tuple(share / whole * norms[0] / norm for share, norm in zip(shares, norms, strict=True))


def gradient_norms(trainer: DPOTrainer, *, split: int = 1, checkpointing: bool = False) -> tuple[float, ...]:
    """The norm of the gradient of each loss alone, weight 1: the mean over the trainer's first optimizer steps, as far
    as they come to `PAIRS` pairs, one at least and one pass over the data at most.

    What a step's gradient is, and not that of the whole data: its noise is a part of what drives the training. Several
    steps, since norms of different losses do not rise and fall together where length enters: over batches of 16 pairs
    of the embedded world ipo's over sigmoid's has a standard deviation of 13 % of its mean, over batches of 4 as well.
    64 pairs bring it to 7 and 3 % (tests/benchmarks/gradient_noise.py); where a batch is that large, the shares of the
    first step are exact.

    TRL's own loss, rows, collator and precision; seed, data and block decide it all. Trainer, model and random numbers
    are left as they were. `split`: into how many parts a micro-batch is taken, where the losses allow; `checkpointing`:
    with gradient checkpointing, as always where the arguments say so. So it needs no more memory than training.
    """
    with _as_in_training(trainer, checkpointing):
        steps = _first_steps(trainer, 1 if couple_rows(trainer.loss_types) else split)
        return tuple(_norm(trainer, loss, steps) for loss in trainer.loss_types)


@contextmanager
def _as_in_training(trainer: DPOTrainer, checkpointing: bool) -> Iterator[None]:
    """The model as `Trainer.train` sets it up, as far as memory and numbers depend on it."""
    args, model = trainer.args, trainer.model
    checkpointing = checkpointing or args.gradient_checkpointing
    was_training = model.training
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs or {"use_reentrant": False})
    try:
        yield
    finally:
        if checkpointing:
            model.gradient_checkpointing_disable()
        model.train(was_training)


Step = tuple[tuple[list[Any], float], ...]
"""What goes through the model for one optimizer step: rows that do at once, with the weight of their loss."""


def _first_steps(trainer: DPOTrainer, split: int) -> list[Step]:
    """By the stock data loader."""
    collator, trainer.data_collator = trainer.data_collator, list
    try:
        with _random_numbers_kept(trainer):
            batches, each = iter(trainer.get_train_dataloader()), trainer.args.gradient_accumulation_steps
            steps, pairs = [], 0
            while pairs < PAIRS and (micro_batches := list(itertools.islice(batches, each))):
                steps.append(_step(micro_batches, split))
                pairs += sum(map(len, micro_batches))
    finally:
        trainer.data_collator = collator
    return steps


def _step(micro_batches: Sequence[list[Any]], split: int) -> Step:
    parts = []
    for rows in micro_batches:
        size = -(-len(rows) // split)
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            parts.append((part, len(part) / len(rows) / len(micro_batches)))
    return tuple(parts)


def _norm(trainer: DPOTrainer, loss: str, steps: Sequence[Step]) -> float:
    """The mean norm of the gradient of one loss. The trainer that computes it is a copy, whose metrics nobody reads."""
    head = copy.copy(trainer)
    head.loss_types, head.loss_weights = [loss], [1.0]
    head.aux_loss_enabled = False  # a router's loss is none of the mixture's
    head._metrics = {mode: defaultdict(list) for mode in ("train", "eval")}
    args, model = trainer.args, trainer.model
    scale, low = (_FP16_SCALE if args.fp16 else 1.0), torch.float16 if args.fp16 else torch.bfloat16
    norms = []
    try:
        with _random_numbers_kept(trainer):  # dropout drops the same for every loss
            for step in steps:
                model.zero_grad(set_to_none=True)
                for rows, weight in step:
                    inputs = head._prepare_inputs(head.data_collator(rows))
                    with torch.autocast(args.device.type, low, enabled=bool(args.bf16 or args.fp16)):
                        value: Tensor = head.compute_loss(model, inputs)
                    (value * (weight * scale)).backward()  # type: ignore[no-untyped-call]
                norms.append(float(get_total_norm([p.grad for p in model.parameters() if p.grad is not None])))
        return math.fsum(norms) / len(norms) / scale
    finally:
        model.zero_grad(set_to_none=True)


@contextmanager
def _random_numbers_kept(trainer: DPOTrainer) -> Iterator[None]:
    """What is drawn inside is drawn again after it."""
    device = trainer.args.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
