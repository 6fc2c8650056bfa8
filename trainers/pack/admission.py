"""Checks runs before they train in a pack: the pack's layout against the model, the policy against its reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from trainers.components.outcome import START_METRICS
from trainers.components.start_check import Gap, measured_gaps, precision_of, training_gap
from trainers.evaluation.policies import packed_policies
from trainers.models import accelerator
from trainers.multi_lora.attention.kernels import attention_kernels
from trainers.multi_lora.flat import Unpackable
from trainers.multi_lora.layout import hidden_states, into_layout, micro_batch, pack_batch, packed_rows
from trainers.multi_lora.log_probs import token_log_probs
from trainers.pack.engine import Engine, Work
from trainers.pack.member import Member

_CHECKED_PAIRS: Final = 4
# Of a row's summed log-prob, between the pack's layout and the model's own padded one, relative to its size.
_ROUNDING: Final = {torch.float64: 1e-6, torch.float32: 3e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def require_same_log_probs(base: PreTrainedModel, engine: Engine, member: Member) -> None:
    """Raise Unpackable where this model fails in the pack's layout, or gives other log-probs there than in its own.

    An architecture that does something with positions, padding or windows that the layout does not know would
    train on other numbers. Compared on a few rows of `member`, before any step.
    """
    with into_layout():
        worst, most = _difference(base, engine, member)
    if not worst <= most:
        raise Unpackable(f"log-probs in the pack's layout are off by {worst:.2g} of their size")


def _difference(base: PreTrainedModel, engine: Engine, member: Member) -> tuple[float, float]:
    """The largest difference of a row's log-prob between the two layouts, and what rounding explains; both relative."""
    device, precision, model = engine.adapters.device, member.precision, engine.adapters.model
    micro = micro_batch(member.data.rows[:_CHECKED_PAIRS])
    batch = pack_batch([micro], device)
    ids = batch.tokens[0][torch.from_numpy(micro.tokens_of).to(device)]
    with torch.no_grad(), engine.autocast(precision), engine.adapters.off(), attention_kernels(device):
        with packed_rows(model):
            flat = token_log_probs(model, hidden_states(model, batch), batch.target)
        ours = batch.log_probs(0, flat).sum(1)
        logits = base(input_ids=ids, attention_mask=batch.own[0].attention_mask, use_cache=False).logits[:, :-1]
    theirs = (_log_probs_of(logits, ids) * batch.own[0].completion_mask[:, 1:]).sum(1)
    dtype = precision or next(base.parameters()).dtype
    if dtype is torch.float32 and accelerator.uses_tf32():
        dtype = torch.float16  # which has as many bits
    return float(((ours - theirs).abs() / (1 + theirs.abs())).max()), _ROUNDING[dtype]


def _log_probs_of(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probs [B, L-1] of the tokens that follow, from logits [B, L-1, V] and ids [B, L]."""
    wide = logits if logits.dtype is torch.float64 else logits.float()
    return wide.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]


def start_gaps(
    base: PreTrainedModel, engine: Engine, members: Sequence[Member], slots: Sequence[int]
) -> list[Gap | None]:
    """Compare the runs in `slots`, before their first step, with the reference numbers they will be measured with."""
    own = [members[k] for k in slots]
    with engine.adapters.only(slots) as adapters, engine.autocast(own[0].precision):
        return measured_gaps(
            packed_policies(adapters),
            [m.numbers.held_out for m in own],
            [m.numbers.tokens.held_out for m in own],
            precision_of(base, own[0].run.args),
        )


def first_gap(
    base: PreTrainedModel, engine: Engine, member: Member, work: Work, metrics: Mapping[str, Tensor]
) -> Gap | None:
    """Compare a run's first micro-batch, before its first step, with the reference log-probs that it trains on."""
    rewards = [float(metrics[name]) for name in START_METRICS.values()]
    size = float(np.abs(np.concatenate(work.reference)).mean())
    pairs = [member.data.rows[i].ids for i in member.part.rows]
    reference = packed_policies(engine.adapters).reference
    with engine.autocast(member.precision):
        return training_gap(rewards, member.run.args.beta, size, pairs, reference, precision_of(base, member.run.args))
