"""One pass of a pack: forward and backward over a micro-batch of every run, then the optimizer steps that are due."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trainers.multi_lora.layout import MicroBatch, micro_batch
from trainers.pack.engine import Engine, Update, Work
from trainers.pack.member import Member, Tally


class Pass(NamedTuple):
    """A pass before its steps: each run's work, the losses [K] and each run's metrics, on the device."""

    work: list[Work]
    losses: Tensor
    metrics: list[dict[str, Tensor]]


def forward_backward(engine: Engine, members: Sequence[Member]) -> Pass:
    """Add the gradients of each run's next micro-batch. Runs with the same rows share one layout of them."""
    laid_out: dict[tuple[int, tuple[int, ...]], MicroBatch] = {}
    work = []
    for member in members:
        part, data = member.part, member.data
        key = (id(data.rows), part.rows)
        if key not in laid_out:
            laid_out[key] = micro_batch([data.rows[i] for i in part.rows])
        at = list(part.rows)
        work.append(Work(laid_out[key], member.run.loss, (data.chosen[at], data.rejected[at]), part.of_step))
    losses, metrics = engine.accumulate(work, members[0].precision)
    return Pass(work, losses, metrics)


def count_and_step(engine: Engine, members: Sequence[Member], done: Pass) -> None:
    """Add a pass to each run's sums, and take an AdamW step for the runs whose step it completes. Whole or not at all:
    nothing is counted of a pass whose step finds no memory.
    """
    losses = done.losses
    counted: list[Tally] = []
    updates: list[Update | None] = []
    for k, member in enumerate(members):
        found, share = done.metrics[k], member.part.of_micro_batch
        rewards = (found[name].to(losses.dtype) * share for name in ("reward_margin", "reward_accuracy"))
        sums, sound = member.sums + torch.stack([losses[k], *rewards]), member.sound & torch.isfinite(losses[k])
        tokens = member.tokens + done.work[k].micro.real_tokens
        counted.append(Tally(sums, sound, member.batches + share, tokens, member.window))
        ends = member.micro + 1 == len(member.run.steps[member.step])
        updates.append(Update(member.run.args, member.run.learning_rates[member.step]) if ends else None)
    stepped = engine.step(updates, torch.stack([tally.sound for tally in counted])) if any(updates) else None
    for k, member in enumerate(members):
        member.count(counted[k])
        if updates[k] is not None and stepped is not None:
            member.norm, member.sound = stepped[0][k], stepped[1][k]
            member.step, member.micro = member.step + 1, 0


def read_sums(members: Sequence[Member]) -> list[list[float]]:
    """Loss, margin and accuracy sums, gradient norm and soundness of each run, for one wait on the device."""
    rows = [torch.cat([m.sums, m.norm[None], m.sound[None].to(m.sums.dtype)]) for m in members]
    return torch.stack(rows).tolist()
