"""The arithmetic of a pack: one forward and backward for K runs, and a step of each run's own AdamW.

Every run has its own loss, gradient, clipping, learning rate, moments and step count, and none of it touches another
run's.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from trl import DPOConfig

from trainers.multi_lora.adapters import PackedAdapters
from trainers.multi_lora.attention.kernels import attention_kernels
from trainers.multi_lora.flat import Adapter
from trainers.multi_lora.layout import MicroBatch, hidden_states, pack_batch, packed_rows, shape_multiple
from trainers.multi_lora.log_probs import token_log_probs
from trainers.multi_lora.transfer import Array, to_device
from trainers.pack.state import Moments
from trainers.pack.stock_setup import StockLoss


@dataclass(frozen=True)
class Work:
    """One run's share of a pass: a micro-batch or a part of one, its loss, the reference's log-probs of both sides [n]
    on the host, and the loss's weight in the optimizer step.
    """

    micro: MicroBatch
    loss: StockLoss
    reference: tuple[Array, Array]
    weight: float


@dataclass(frozen=True)
class Update:
    """What a run's optimizer step depends on, beside its gradient."""

    args: DPOConfig
    learning_rate: float


class Engine:
    """K adapters on one base, and what training them needs; rows of all tensors are the pack's slots."""

    def __init__(self, base: PreTrainedModel, *, checkpointing: bool) -> None:
        self.adapters = PackedAdapters(base)
        self._checkpointing = checkpointing
        model = self.adapters.model
        if checkpointing:
            # Nothing in a pass of a pack is random, and to put random numbers by takes a wait for the device a layer.
            kwargs = {"use_reentrant": False, "preserve_rng_state": False}
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kwargs)
        model.train()
        self._first = torch.empty(0, 0)
        self._second = torch.empty(0, 0)
        self._steps: list[int] = []

    @property
    def count(self) -> int:
        """How many runs there are."""
        return self.adapters.count

    def autocast(self, precision: torch.dtype | None) -> torch.autocast:
        """Autocast to `precision` on this device; None switches it off."""
        return torch.autocast(self.adapters.device.type, precision or torch.bfloat16, enabled=precision is not None)

    def add(self, adapters: Sequence[Adapter]) -> None:
        """Append runs that start from these adapters, with no moments and at step 0. Whole or not at all."""
        old, had = self.adapters.geometry, self.count
        new = self.adapters.around(adapters)
        zeros = torch.zeros(len(adapters), new.size, dtype=self.adapters.dtype, device=self.adapters.device)
        moments = [torch.cat([old.moved(m, new), zeros]) if had else zeros.clone() for m in (self._first, self._second)]
        self.adapters.add(adapters)
        self._first, self._second = moments
        self._steps += [0] * len(adapters)

    def keep(self, slots: Sequence[int]) -> None:
        """Keep only these runs, in this order; between optimizer steps only. Whole or not at all."""
        moments = [m[list(slots)] for m in (self._first, self._second)]
        self.adapters.keep(slots)
        self._first, self._second = moments
        self._steps = [self._steps[i] for i in slots]

    def accumulate(self, work: Sequence[Work], precision: torch.dtype | None) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """Add the gradients of one micro-batch of every run. Gives the losses [K] and each run's metrics, on the
        device.

        `precision`: of autocast; None for none.
        """
        device, model = self.adapters.device, self.adapters.model
        with ExitStack() as both:
            both.enter_context(packed_rows(model))  # the backward pass may compute layers again
            both.enter_context(attention_kernels(device))
            with self.autocast(precision):
                known = [side for w in work for side in w.reference]
                batch = pack_batch([w.micro for w in work], device, shape_multiple(device), known)
                hidden = hidden_states(model, batch)
                flat = token_log_probs(model, hidden, batch.target)
                losses, metrics = [], []
                for k, one in enumerate(work):
                    rows, own, chosen, rejected = (
                        batch.log_probs(k, flat),
                        batch.own[k],
                        *batch.beside[2 * k : 2 * k + 2],
                    )
                    loss, found = one.loss(rows, own.attention_mask, own.completion_mask, (chosen, rejected))
                    losses.append(loss * one.weight)
                    metrics.append(found)
            torch.autograd.backward(losses)
        return torch.stack([loss.detach() for loss in losses]), metrics

    def step(self, updates: Sequence[Update | None], sound: Tensor) -> tuple[Tensor, Tensor]:
        """AdamW on every run with an update, after clipping its own gradient, which is then 0 again.

        `sound` [K]: which runs have been finite so far. Gives the gradient norms before clipping [K], and which runs
        are sound now; one that is not keeps its weights. The formulas are torch.optim.AdamW's, with a learning rate,
        decay and step count for each run. Whole or not at all: what needs memory comes first, then all is assigned.
        """
        due = [k for k, update in enumerate(updates) if update is not None]
        whole = len(due) == self.count
        numbers = [self._numbers(k, update) for k, update in enumerate(updates) if update is not None]
        dtype = np.float64 if self.adapters.dtype is torch.float64 else np.float32
        slots, columns = to_device([np.array(due), np.array(numbers, dtype).T.copy()], self.adapters.device)
        pick = slice(None) if whole else slots
        gradient = self.adapters.gradients[pick]
        norms = torch.linalg.vector_norm(gradient, dim=1, dtype=columns.dtype)
        good = torch.isfinite(norms) & sound[pick]
        limit, size, shrink, new1, beta2, new2, epsilon, root = columns[:, :, None]
        # As torch.nn.utils.clip_grad_norm_, which adds 1e-6 and never enlarges.
        clip = torch.clamp(limit / (norms[:, None] + 1e-6), max=1.0)
        ok = good[:, None]
        gradient = torch.where(ok, gradient * clip, 0.0)
        # Adapters in half precision are rounded once a step, as AdamW's fused kernel does.
        kept = (self._first, self._second, self.adapters.weights)
        first, second, weights = (tensor[pick].to(gradient.dtype) for tensor in kept)
        first = torch.lerp(first, gradient, new1)
        second = second * beta2 + new2 * gradient * gradient
        moved = torch.where(ok, weights * shrink - size * first / (second.sqrt() / root + epsilon), weights)
        if not whole:
            all_norms, all_good = norms.new_zeros(self.count), sound.clone()
            all_norms[pick], all_good[pick] = norms, good
            norms, good = all_norms, all_good
        self._first[pick], self._second[pick] = first, second
        self.adapters.weights[pick] = moved
        self.adapters.gradients[pick] = 0.0
        for k in due:
            self._steps[k] += 1
        return norms, good

    def _numbers(self, slot: int, update: Update) -> list[float]:
        """The numbers of one run's step: the clipping norm, then AdamW's, worked out in double precision.

        In float32, 1 - .999 is off by 1e-5 of itself, which would show in every weight.
        """
        t, args, rate = self._steps[slot] + 1, update.args, update.learning_rate
        beta1, beta2 = args.adam_beta1, args.adam_beta2
        return [
            args.max_grad_norm if args.max_grad_norm and args.max_grad_norm > 0 else float("inf"),
            rate / (1 - beta1**t),
            1 - rate * args.weight_decay,
            1 - beta1,
            beta2,
            1 - beta2,
            args.adam_epsilon,
            (1 - beta2**t) ** 0.5,
        ]

    def moments(self, slot: int) -> Moments:
        """A run's adapter and its optimizer's moments, copied."""
        like, geometry = self.adapters.read(slot), self.adapters.geometry
        return Moments(like, *(geometry.unpack(m[slot], like) for m in (self._first, self._second)))

    def restore(self, slot: int, moments: Moments, steps: int) -> None:
        """Give a run what `moments` gave, here or in another pack, after so many steps."""
        geometry, dtype, device = self.adapters.geometry, self.adapters.dtype, self.adapters.device
        targets = (self.adapters.weights, self._first, self._second)
        packed = [geometry.pack(part, dtype, device) for part in moments]
        for target, part in zip(targets, packed, strict=True):
            target[slot] = part
        self._steps[slot] = steps
