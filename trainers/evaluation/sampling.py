"""Passes that measuring needs: samples of policies, and logits over completions; knows no metric and no data.

One pass serves several policies, whose rows are equal groups; with one policy there is one group. A row's numbers do
not depend on what shares its batch. Everything here leaves the global random state, the model's mode and its
gradients as they were.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from trainers.evaluation.metrics import Floats
from trainers.evaluation.policies import Policies, Reader, base_model, device_of, measuring, reader, right_padded
from trainers.evaluation.sizes import logits_at_once, sampled_rows, scored_rows, waiting_logits
from trainers.models.memory import halved_on_oom, in_batches

PerToken = Callable[[Tensor, Tensor | None], tuple[Tensor, ...]]
"""Numbers of each token, any shape [...], from the logits [..., V] of policy and reference; None: no reference."""

_COMPACT_BELOW: Final = 0.75
"""While sampling, finished rows leave the batch when fewer than this share of it is still being written."""
_LOOKS: Final = 8
"""Steps after which a GPU is asked how many rows are still being written: each answer makes the host wait for it."""


class NonFinite(ArithmeticError):
    """The model's logits are not numbers: the run diverged. Measuring cannot go on, and need not."""


class Completion(NamedTuple):
    """Token ids that follow a prompt; `ended`: the last one is an end token (else the length cap was reached)."""

    prompt: Sequence[int]
    ids: Sequence[int]
    ended: bool = True


class Samples(NamedTuple):
    """A policy's completions, one of each prompt [n], and sums [n, m] over the tokens of each of m numbers."""

    completions: tuple[Completion, ...]
    sums: Floats


class Scored(NamedTuple):
    """Some completions of `count` policies with their logits.

    `rows`: for each policy the places [n] of its completions in its own list; `logits` [count * n, T, V] for the tokens
    `ids` [count * n, T], those that are padding left out by `mask`.
    """

    rows: Sequence[Sequence[int]]
    logits: Tensor
    ids: Tensor
    mask: Tensor


def diverged() -> NonFinite:
    """What is told of a policy whose logits are not numbers."""
    return NonFinite("the model's logits are not finite: training diverged")


def end_ids(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids that end a completion: the tokenizer's end token, and those that the model itself names."""
    named = getattr(base_model(model).generation_config, "eos_token_id", None)
    own = named if isinstance(named, list) else [named]
    return frozenset(int(i) for i in [tokenizer.eos_token_id, *own] if i is not None)


# ---- samples ------------------------------------------------------------------------------------------------------


def sample(
    policies: Policies,
    prompts: Sequence[Sequence[Sequence[int]]],
    *,
    end_ids: Collection[int],
    max_new_tokens: int,
    seed: int | Sequence[int],
    batch_size: int,
    per_token: PerToken | None = None,
) -> tuple[Samples | NonFinite, ...]:
    """For each policy a completion of each of its prompts, in order, from the untruncated softmax at temperature 1.

    All policies have the same number of prompts. Each token is found by inversion from a uniform number of its own,
    fixed by seed, row and position. So a row's completion does not depend on what shares its batch, how many rows there
    are or which policies are measured beside it, and policies that are sampled with one seed share their randomness.
    `seed`: one for all policies, or one for each.
    """
    total = len(prompts[0])
    seeds = [seed] * policies.count if isinstance(seed, int) else list(seed)
    distinct = list(dict.fromkeys(seeds))
    uniforms = np.stack([np.random.default_rng(one).random((total, max_new_tokens)) for one in distinct])
    orders = [_by_length(own) for own in prompts]
    longest = max(len(prompt) for own in prompts for prompt in own)
    most = sampled_rows(
        base_model(policies.model),
        device_of(policies.model),
        longest + max_new_tokens,
        _readers(policies, per_token),
        batch_size,
    )
    size = math.ceil(total / math.ceil(total / max(1, most // policies.count)))
    completions: list[dict[int, Completion]] = [{} for _ in prompts]
    sums: list[dict[int, list[float]]] = [{} for _ in prompts]
    finite = np.ones(policies.count, dtype=bool)

    def draw(part: slice) -> None:
        rows = [(policy, i) for policy, order in enumerate(orders) for i in order[part]]
        batch = [prompts[policy][i] for policy, i in rows]
        own = uniforms[[distinct.index(seeds[policy]) for policy, _ in rows], [i for _, i in rows]]
        drawn = _Drawing(policies, batch, torch.from_numpy(own), end_ids, per_token)
        for (policy, i), ids, found in zip(rows, drawn.tokens.tolist(), drawn.sums.tolist(), strict=True):
            completions[policy][i] = _cut(prompts[policy][i], ids, end_ids)
            sums[policy][i] = found
        finite[~drawn.finite.cpu().numpy()] = False

    with measuring(policies.model):
        in_batches(draw, total, size)
    return tuple(
        Samples(tuple(own[i] for i in range(total)), np.array([values[i] for i in range(total)]))
        if good
        else diverged()
        for own, values, good in zip(completions, sums, finite, strict=True)
    )


def _readers(policies: Policies, per_token: PerToken | None) -> int:
    """Models that keep what they have read of a row while it is written: the policy, the reference, and the policy
    that reads again where its numbers are coarse.
    """
    if per_token is None or policies.reference is None:
        return 1
    device = device_of(policies.model)
    coarse = torch.is_autocast_enabled(device.type) or next(policies.model.parameters()).element_size() < 4
    return 3 if coarse else 2


def _by_length(rows: Sequence[Sequence[int]]) -> list[int]:
    """Places of the rows, short ones first and equal ones together."""
    return sorted(range(len(rows)), key=lambda i: (len(rows[i]), list(rows[i])))


def _cut(prompt: Sequence[int], tokens: list[int], end_ids: Collection[int]) -> Completion:
    """The tokens up to and with the first end token, of a row that may go on behind it."""
    end = next((i for i, token in enumerate(tokens) if token in end_ids), None)
    return Completion(prompt, tokens if end is None else tokens[: end + 1], end is not None)


class _Drawing:
    """One batch of samples: all of its policies write a token at a time, and the reference reads after them.

    The reference reads the tokens of several steps at once, since it need not wait for them: as many as the policies'
    logits can be kept of, or until rows leave the batch. In half precision the policies read them again in the same
    way: what is rounded otherwise there would look like KL. Rows are numbered as the prompts are; `_active` [A] are
    those in the batch, equally many of each policy and in order.
    """

    def __init__(
        self,
        policies: Policies,
        prompts: Sequence[Sequence[int]],
        uniforms: Tensor,
        end_ids: Collection[int],
        per_token: PerToken | None,
    ) -> None:
        """Sample all rows: `tokens` [rows, steps], `sums` [rows, numbers of `per_token`], `finite` [policies]."""
        device = device_of(policies.model)
        double = torch.float32 if device.type == "mps" else torch.float64
        self._policies, self._prompts, self._per_token = policies, prompts, per_token
        self._lengths = [len(prompt) + uniforms.shape[1] for prompt in prompts]
        self._uniforms = uniforms.to(device, double)
        self._ends = torch.tensor(sorted(end_ids), device=device)
        self._active = torch.arange(len(prompts), device=device)
        self._followers: dict[str, Reader] = {}
        self._most_waiting = waiting_logits(base_model(policies.model), device, _readers(policies, per_token))
        self._looks = 1 if device.type == "cpu" else _LOOKS
        self._coarse = False
        self._unread: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []  # of each step: inputs, mask, logits, written
        self.tokens = torch.full(tuple(uniforms.shape), min(end_ids), device=device)
        self.sums = torch.zeros(len(prompts), 0, dtype=double, device=device)
        self.finite = torch.ones(policies.count, dtype=torch.bool, device=device)
        self._run(reader(policies.model, prompts, policies.count, self._lengths))

    def _run(self, own: Reader) -> None:
        """Write until all rows have ended or the length cap is reached."""
        ids, mask = own.last, own.last_mask
        writing = torch.ones_like(self._active, dtype=torch.bool)
        for step in range(self.tokens.shape[1]):
            self._policies.look()
            logits = own.logits(ids, mask)[:, 0]
            chosen, mass = _invert(logits, self._uniforms[self._active, step])
            writing = writing & self._note_finite(mass, writing)
            drawn = torch.where(writing, chosen, self._ends[0])
            self.tokens[self._active, step] = drawn
            self._unread.append((ids, mask, logits, writing))
            writing = writing & ~torch.isin(drawn, self._ends)
            last = step + 1 == self.tokens.shape[1]
            most = self._most_writing(writing) if step % self._looks == self._looks - 1 and not last else len(writing)
            leaving = most < _COMPACT_BELOW * len(writing) / self._policies.count
            if leaving or last or self._is_full():
                self._measure()
            if most == 0:
                return
            if leaving:
                kept = _kept(writing, self._policies.count, most)
                self._active, drawn, writing = self._active[kept], drawn[kept], writing[kept]
                for each in (own, *self._followers.values()):
                    each.keep(kept)
            ids, mask = drawn[:, None], torch.ones_like(drawn)[:, None]

    def _most_writing(self, writing: Tensor) -> int:
        """The most rows of a policy that are still being written. Waits for the device."""
        return int(writing.view(self._policies.count, -1).sum(1).max())

    def _note_finite(self, values: Tensor, written: Tensor) -> Tensor:
        """Notes the policies for which some `values` [A, n] of rows that are `written` [A] are no numbers.

        Gives [A], whether a row's policy has had numbers only so far.
        """
        usable = torch.isfinite(values).all(1) | ~written
        self.finite &= usable.view(self._policies.count, -1).all(1)
        return self.finite.repeat_interleave(len(self._active) // self._policies.count)

    def _is_full(self) -> bool:
        """Whether the logits of one more step would be too many."""
        logits = self._unread[0][2]
        return (len(self._unread) + 1) * logits.numel() > self._most_waiting

    def _measure(self) -> None:
        """Let the reference read what was written since it last did, and add the numbers of these tokens."""
        steps, self._unread = self._unread, []
        if self._per_token is None:
            return
        ids, mask = (torch.cat([step[i] for step in steps], dim=1) for i in (0, 1))
        written = torch.stack([step[3] for step in steps], dim=1)
        again = other = None
        if self._policies.reference is not None:
            if not self._followers:
                self._coarse = _is_coarse(steps[0][2])
            if self._coarse:
                again = self._read_again("policy", self._policies.model, ids, mask)
            with self._policies.reference() as model:
                other = self._read_again("reference", model, ids, mask)
        found = []
        for rows in _slices(len(ids), len(steps) * steps[0][2].shape[-1], ids.device):
            logits = torch.stack([step[2][rows] for step in steps], dim=1) if again is None else again[rows]
            numbers = self._per_token(logits, None if other is None else other[rows])
            found.append(torch.stack([torch.where(written[rows], n, 0.0).to(self.sums.dtype).sum(1) for n in numbers]))
        added = torch.cat(found, dim=1).T
        if self.sums.shape[1] == 0:
            self.sums = self.sums.new_zeros(len(self.sums), added.shape[1])
        self._note_finite(added, written[:, 0])
        self.sums[self._active] += added

    def _read_again(self, name: str, model: torch.nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits of a model that reads what was written since it last did.

        The reference is one model for the rows of all policies, so that it reads a prompt of several of them once.
        """
        if name not in self._followers:
            count = 1 if name == "reference" else self._policies.count
            self._followers[name] = reader(model, self._prompts, count, self._lengths)
        return self._followers[name].logits(ids, mask)


def _is_coarse(logits: Tensor) -> bool:
    """Whether logits [rows, V] come from half precision, whose numbers all those of a row are.

    Their type does not tell, since Accelerate's autocast converts them.
    """
    halves = (logits.to(half).to(logits.dtype) for half in (torch.bfloat16, torch.float16))
    return any(bool((half == logits).all(-1).any()) for half in halves)


def _slices(rows: int, numbers: int, device: torch.device) -> Iterator[slice]:
    """Rows in slices with as many logits as are computed at a time, one row at least; `numbers`: of each row."""
    most = logits_at_once(device)
    size = rows if most is None else max(1, most // numbers)
    return (slice(start, start + size) for start in range(0, rows, size))


def _kept(writing: Tensor, count: int, most: int) -> Tensor:
    """Places of `most` rows of each policy: those still being written, filled up with some that have ended."""
    groups = writing.view(count, -1)
    places = torch.argsort(~groups, dim=1, stable=True)[:, :most]
    return (places + torch.arange(count, device=places.device)[:, None] * groups.shape[1]).flatten()


def _invert(logits: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Ids [rows] where the cumulated probabilities of logits [rows, vocabulary] pass the uniforms [rows], and what they
    come to [rows, 1], in the type of the uniforms.
    """
    ids, mass = [], []
    is_cpu = logits.device.type == "cpu"
    for rows in [slice(None)] if is_cpu else _slices(len(logits), logits.shape[-1], logits.device):
        cumulated = logits[rows].softmax(-1).to(uniforms.dtype).cumsum(-1)
        passed = torch.searchsorted(cumulated, (uniforms[rows] * cumulated[:, -1])[:, None], right=True)[:, 0]
        ids.append(passed.clamp(max=cumulated.shape[-1] - 1))
        mass.append(cumulated[:, -1:])
    return (ids[0], mass[0]) if len(ids) == 1 else (torch.cat(ids), torch.cat(mass))


# ---- given completions --------------------------------------------------------------------------------------------


def score(
    policies: Policies, completions: Sequence[Sequence[Completion]], batch_size: int, read: Callable[[Scored], None]
) -> None:
    """Have logits of each policy's own completions read, those of like length together. Use it inside `measuring`.

    Policies may have different numbers of completions: one that has fewer scores its shortest again, to the same end.
    Where memory runs out for a batch it is read again in halves.
    """
    orders = [_by_work(own) for own in completions]
    most = max(map(len, orders))
    orders = [order[:1] * (most - len(order)) + order for order in orders]
    start, fitting = 0, most

    def read_some(size: int) -> None:
        policies.look()
        read(_scored(policies, completions, [order[start : start + size] for order in orders]))

    while start < most:
        size = min(fitting, _scored_rows(policies, completions, [order[start:] for order in orders], batch_size))
        _, done = halved_on_oom(read_some, size)
        fitting = fitting if done == size else done
        start += done


def _scored(policies: Policies, completions: Sequence[Sequence[Completion]], rows: Sequence[Sequence[int]]) -> Scored:
    """Some completions of each policy with their logits."""
    batch = [own[i] for own, places in zip(completions, rows, strict=True) for i in places]
    lengths = [len(c.prompt) + len(c.ids) for c in batch]
    behind = reader(policies.model, [c.prompt for c in batch], policies.count, lengths)
    ids, mask = right_padded([c.ids for c in batch], device_of(policies.model))
    logits = behind.logits(
        torch.cat([behind.last, ids[:, :-1]], dim=1), torch.cat([behind.last_mask, mask[:, :-1]], dim=1)
    )
    return Scored(rows, logits, ids, mask.bool())


def _scored_rows(
    policies: Policies,
    completions: Sequence[Sequence[Completion]],
    orders: Sequence[Sequence[int]],
    batch_size: int,
) -> int:
    """How many of the next rows of each policy are scored together, one at least; `batch_size`: of all policies."""
    model, device = base_model(policies.model), device_of(policies.model)
    written, tokens, fitting = 1, 1, 0
    for places in zip(*orders, strict=True):
        following = [own[i] for own, i in zip(completions, places, strict=True)]
        written = max(written, *(len(c.ids) for c in following))
        tokens = max(tokens, *(len(c.prompt) + len(c.ids) for c in following))
        if (fitting + 1) * policies.count > scored_rows(model, device, tokens, written, batch_size):
            break
        fitting += 1
    return max(1, fitting)


def _by_work(completions: Sequence[Completion]) -> list[int]:
    """Places of completions in an order that pads little and reads few prompts twice.

    Where many completions share a prompt, by their own length. Else, as with the two sides of a pair, those of one
    prompt stay together, ordered by the longest of them.
    """
    longest: dict[tuple[int, ...], int] = {}
    for c in completions:
        longest[tuple(c.prompt)] = max(longest.get(tuple(c.prompt), 0), len(c.ids))
    if len(completions) > 4 * len(longest):
        return sorted(range(len(completions)), key=lambda i: (len(completions[i].ids), len(completions[i].prompt)))
    return sorted(
        range(len(completions)),
        key=lambda i: (longest[tuple(completions[i].prompt)], list(completions[i].prompt), len(completions[i].ids)),
    )
