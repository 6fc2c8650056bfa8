"""Log-probs that policies give to both sides of pairs, in the layout that costs least; knows no measurement.

Policies of a pack read pairs as training does: without padding, what both sides share once. All others read rows with
padding (`trainers.evaluation.sampling.score`), and so do those of a pack whose pairs the layout does not take: longer
than a sliding window, or turned by the longest row of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import torch

from trainers.data.tokens import TokenIds
from trainers.evaluation.metrics import Floats, PairLogProbs, token_log_probs
from trainers.evaluation.policies import Policies, base_model, device_of, measuring
from trainers.evaluation.sampling import Completion, NonFinite, Scored, diverged, score
from trainers.evaluation.sizes import laid_pairs
from trainers.models.memory import in_batches
from trainers.models.rotary import couples_rows
from trainers.multi_lora.flat import Unpackable
from trainers.multi_lora.layout import (
    Pair,
    hidden_states,
    make_pair,
    micro_batch,
    pack_batch,
    packed_rows,
    shape_multiple,
)
from trainers.multi_lora.log_probs import token_log_probs as predicted_log_probs


def pair_log_probs(
    policies: Policies, pairs: Sequence[Sequence[TokenIds]], batch_size: int
) -> list[PairLogProbs | NonFinite]:
    """For each policy the log-probs of its own pairs; NonFinite where they are no numbers. `batch_size`: of rows."""
    with measuring(policies.model):
        sums = None
        if policies.packed and not couples_rows(policies.model, _longest(pairs)):
            with suppress(Unpackable):
                sums = _in_layout(policies, pairs)
        if sums is None:
            sums = _with_padding(policies, pairs, batch_size)
    return [
        PairLogProbs(found[::2], found[1::2], lengths[::2], lengths[1::2]) if np.isfinite(found).all() else diverged()
        for found, lengths in zip(sums, map(_lengths, pairs), strict=True)
    ]


def _longest(pairs: Sequence[Sequence[TokenIds]]) -> int:
    """Tokens of the longest row."""
    return max(len(p.prompt) + max(len(p.chosen), len(p.rejected)) for own in pairs for p in own)


def _lengths(pairs: Sequence[TokenIds]) -> Floats:
    """Predicted tokens of both sides of each pair [2n]: without a prompt a first token is not, as in TRL."""
    return np.array([float(len(ids) - (not p.prompt)) for p in pairs for ids in (p.chosen, p.rejected)])


def _with_padding(policies: Policies, pairs: Sequence[Sequence[TokenIds]], batch_size: int) -> list[Floats]:
    """Summed log-probs of both sides of each pair [2n], for each policy."""
    sides = [[_completion(p.prompt, ids) for p in own for ids in (p.chosen, p.rejected)] for own in pairs]
    sums = [np.zeros(len(own)) for own in sides]

    def read(batch: Scored) -> None:
        found = torch.where(batch.mask, token_log_probs(batch.logits, batch.ids), 0.0).cpu().double().sum(-1)
        for own, rows, values in zip(sums, batch.rows, found.view(policies.count, -1).numpy(), strict=True):
            own[rows] = values

    score(policies, sides, batch_size, read)
    return sums


def _completion(prompt: list[int], ids: list[int]) -> Completion:
    """A completion to be scored."""
    return Completion(prompt, ids) if prompt else Completion(ids[:1], ids[1:])


def _in_layout(policies: Policies, pairs: Sequence[Sequence[TokenIds]]) -> list[Floats]:
    """The same, pairs of like length together, as many as have small activations.

    Policies may have different numbers of pairs: one that has fewer scores its shortest again, to the same end.
    """
    model, device = policies.model, device_of(policies.model)
    laid = {id(own): [make_pair(p.prompt, p.chosen, p.rejected, slice(None)) for p in own] for own in pairs}
    orders = {key: _by_length(own) for key, own in laid.items()}
    most = max(map(len, orders.values()))
    orders = {key: order[:1] * (most - len(order)) + order for key, order in orders.items()}
    wide = torch.float32 if device.type == "mps" else torch.float64
    size = max(1, laid_pairs(base_model(model), device, _longest(pairs)) // policies.count)
    sums = [np.zeros(2 * len(own)) for own in pairs]

    def read(part: slice) -> None:
        policies.look()
        places = {key: order[part] for key, order in orders.items()}
        micro = {key: micro_batch([laid[key][i] for i in here]) for key, here in places.items()}
        batch = pack_batch([micro[id(own)] for own in pairs], device, shape_multiple(device))
        flat = predicted_log_probs(model, hidden_states(model, batch), batch.target)
        found = torch.stack([batch.log_probs(k, flat).to(wide).sum(1).view(2, -1) for k in range(len(pairs))])
        for k, (own, (chosen, rejected)) in enumerate(zip(pairs, found.cpu().numpy(), strict=True)):
            at = 2 * np.array(places[id(own)])
            sums[k][at], sums[k][at + 1] = chosen, rejected

    with packed_rows(model):
        in_batches(read, most, size)
    return sums


def _by_length(pairs: Sequence[Pair]) -> list[int]:
    """Places of the pairs, short ones first."""
    return sorted(range(len(pairs)), key=lambda i: max(len(pairs[i].chosen), len(pairs[i].rejected)))
