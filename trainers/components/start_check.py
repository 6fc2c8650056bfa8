"""Holds the policy against its reference before the first step, where they must be the same model; knows no loop.

Losses, rewards and measurements are differences between the two. A base that computes otherwise in another batch, or
that is not the same wherever it is read, would put that difference into all of them. What two readings of the
reference differ by in other batch shapes is rounding; only where the policy is further away than that is it looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import torch
from trl import DPOConfig

from studies.records import APART_FACT, Scalar
from trainers.data.tokens import TokenIds
from trainers.evaluation.metrics import PairLogProbs
from trainers.evaluation.pair_scores import pair_log_probs
from trainers.evaluation.policies import Policies, Reference
from trainers.models import accelerator

HELD: Final = 2
"""Held-out pairs that are read before the first step."""
FAR: Final = 10.0
"""So many times what rounding does is something else."""
# What rounding does to the summed log-prob of a row, relative to its size: at the least, since two readings may agree
# by chance (float32: a few units in the last place; half precision: as measured on small models), and how many times
# that at the most, so that a base whose rows depend on their batch does not excuse itself.
_LEAST: Final = {torch.float32: 4e-7, torch.float16: 3e-5, torch.bfloat16: 2e-4}
_MOST: Final = 10.0


@dataclass(frozen=True)
class Gap:
    """Policy and reference are `nats` a row apart before the first step, and two readings of the reference `rounding`;
    `where`: in training, or as it is measured.
    """

    where: str
    nats: float
    rounding: float

    @property
    def is_far(self) -> bool:
        """Whether the run must not begin."""
        return self.nats > FAR * self.rounding

    @property
    def facts(self) -> dict[str, Scalar]:
        """What the run records of it."""
        return {f"{APART_FACT}.{self.where}": f"{self.nats:.3g} nats a row; the reference itself {self.rounding:.2g}"}

    def __str__(self) -> str:
        return (
            f"policy and reference must be the same model before the first step, but in {self.where} they are "
            f"{self.nats:.3g} nats a row apart, where two readings of the reference differ by {self.rounding:.2g}; "
            "every loss and measurement would contain that. Take a base that is one plain model (merge an adapter into "
            "it and save both as one) and gives a row the same numbers in every batch"
        )


def precision_of(model: torch.nn.Module, args: DPOConfig) -> torch.dtype:
    """The coarsest type that the model computes in."""
    dtype = next(model.parameters()).dtype
    if args.bf16 or dtype not in (torch.float16, torch.float32, torch.float64):  # quantised ones are multiplied in bf16
        return torch.bfloat16
    coarse = accelerator.uses_tf32()
    return torch.float16 if args.fp16 or dtype is torch.float16 or coarse else torch.float32


def find_gap(
    where: str, nats: float, size: float, precision: torch.dtype, read_again: Callable[[], float]
) -> Gap | None:
    """The gap between policy and reference, `nats` a row on average where rows have log-probs of `size`; None within
    rounding, and where they are no numbers, which a run ends with anyway.

    `read_again`: what two readings of the reference differ by; asked only where it matters.
    """
    least = _LEAST[precision] * (1.0 + size)
    if not nats > least:
        return None
    rounding = min(max(read_again(), least), _MOST * least)
    return Gap(where, nats, rounding) if rounding < nats < math.inf else None


def measured_gaps(
    policies: Policies, references: Sequence[PairLogProbs], pairs: Sequence[Sequence[TokenIds]], precision: torch.dtype
) -> list[Gap | None]:
    """Of each policy the gap to its reference's numbers on its first held-out `pairs`, as both are measured."""
    pairs = [own[:HELD] for own in pairs]
    found = pair_log_probs(policies, pairs, batch_size=2 * HELD)
    gaps: list[Gap | None] = []
    for policy, reference, own in zip(found, references, pairs, strict=True):
        if not isinstance(policy, PairLogProbs) or policies.reference is None:
            gaps.append(None)
            continue
        sides = zip(policy[:2], reference[:2], strict=True)
        apart = float(np.mean([np.abs(side - other[: len(side)]) for side, other in sides]))
        size = float(np.mean([np.abs(side) for side in policy[:2]]))
        read_again = partial(rounding, policies.reference, own, packed=policies.packed)
        gaps.append(find_gap("measuring", apart, size, precision, read_again))
    return gaps


def training_gap(
    rewards: Sequence[float],
    beta: float,
    size: float,
    pairs: Sequence[TokenIds],
    reference: Reference | None,
    precision: torch.dtype,
) -> Gap | None:
    """The gap in the first micro-batch, by TRL's mean `rewards` of both sides, its rows' log-probs being of `size`."""
    if reference is None or not beta:
        return None
    apart = max(abs(reward) for reward in rewards) / beta
    return find_gap("training", apart, size, precision, lambda: rounding(reference, pairs))


def rounding(reference: Reference, pairs: Sequence[TokenIds], *, packed: bool = False) -> float:
    """What the reference's log-probs of a row differ by, on average, where pairs are read together and each alone."""
    with reference() as model:
        policies = Policies(model, packed=packed)
        (together,) = pair_log_probs(policies, [pairs], batch_size=2 * len(pairs))
        alone = [pair_log_probs(policies, [[pair]], batch_size=1)[0] for pair in pairs]
    reads = [read for read in (together, *alone) if isinstance(read, PairLogProbs)]
    if len(reads) <= len(pairs):
        return math.inf
    return float(
        np.mean([abs(reads[0][side][i] - read[side][0]) for i, read in enumerate(reads[1:]) for side in (0, 1)])
    )


def pairs_of(
    input_ids: Sequence[list[int]], attention_mask: Sequence[list[int]], completion_mask: Sequence[list[int]]
) -> list[TokenIds]:
    """The pairs of a micro-batch as TRL's collator gives it: chosen rows, then rejected ones."""
    rows = []
    for ids, real, completion in zip(input_ids, attention_mask, completion_mask, strict=True):
        places = [i for i, one in enumerate(real) if one]
        rows.append([[ids[i] for i in places if completion[i] == side] for side in (0, 1)])
    half = len(rows) // 2
    return [
        TokenIds(chosen[0], chosen[1], rejected[1]) for chosen, rejected in zip(rows[:half], rows[half:], strict=True)
    ]
