"""Reference log-probs of a run's rows, computed once for all runs from the same base; knows no run and no study.

TRL's own cache (`DPOTrainer._precompute_ref_logps`) is per dataset and misses with any change of a setting.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, NamedTuple

import datasets
import numpy as np
import torch
from peft import PeftModel
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel
from trl import DPOConfig
from trl.trainer.utils import add_fused_lm_head

from trainers.data.tokens import TokenIds
from trainers.evaluation.policies import measuring
from trainers.models.memory import in_batches
from trainers.models.rotary import couples_rows, longest_row
from trainers.reference.store import (
    BaseKey,
    Compute,
    Counting,
    Floats,
    ReferenceLogProbs,
    ReferenceStore,
    Scored,
    canonical,
)

WORK_AT_ONCE: Final = {"cpu": 2e10, "cuda": 1e13}
"""Parameters x tokens that are computed together where one of them is asked for: a few tenths of a second, enough to
keep the device busy, and little in vain."""
LEAST_BATCH_TOKENS: Final = {"cpu": 2048, "cuda": 16384}
"""A forward pass takes so many tokens even where training takes fewer: without gradients they fit, and a GPU takes as
long for fewer."""
_SAY_SECONDS: Final = 1.0


# ---- which model -------------------------------------------------------------------------------------------------


# Entries of a model's config that say nothing of its numbers; trainers set some of them while it is loaded.
_IDLE_CONFIG: Final = (
    *("_name_or_path", "transformers_version", "architectures", "use_cache"),
    *("pad_token_id", "bos_token_id", "eos_token_id"),
)


def model_digest(model: PreTrainedModel) -> str:
    """SHA-256 of what the model computes with: every tensor of its state (adapters and quantisation too), its config.

    The loaded tensors and not the files, so that path, revision, dtype, quantisation, merged adapters and a file that
    was replaced need no rule of their own. Each tensor is hashed by itself, on as many threads as torch may use.
    Take it before adapters are put in for training.
    """
    tensors = {name: t.detach() for name, t in model.state_dict().items() if isinstance(t, torch.Tensor)}
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        content = dict(zip(tensors, pool.map(_tensor_digest, tensors.values()), strict=True))
    acting = {name: value for name, value in model.config.to_dict().items() if name not in _IDLE_CONFIG}
    return hashlib.sha256(canonical([type(model).__qualname__, acting, content])).hexdigest()


def _tensor_digest(tensor: torch.Tensor) -> str:
    """Digest of a tensor's type, shape and bytes."""
    flat = tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    return f"{tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(flat).hexdigest()}"


# ---- the forward pass ---------------------------------------------------------------------------------------------


def compute_log_probs(
    model: torch.nn.Module, sequences: Sequence[Scored], *, batch_tokens: int, autocast: str | None = None
) -> Floats:
    """Sums of log-probs [n, 2] under the model, in nats, as `Compute` has them. Adapters are the caller's to turn off.

    Through the chunked head that TRL's policy goes through while it trains (`add_fused_lm_head`), which sums logits in
    float32 also where the model is in bf16; through the model's own head the policy would start apart from its
    reference. Padded on the right, as there. A batch has at most `batch_tokens` tokens, padding included, or one
    sequence; where memory runs out, as many fewer as it takes. `autocast`: "bf16", "fp16" or None.
    """
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    device = next(base.parameters()).device
    precision = torch.float16 if autocast == "fp16" else torch.bfloat16
    sums = np.zeros((len(sequences), 2), dtype=np.float64)
    with measuring(model), _fused_head(base), torch.autocast(device.type, precision, enabled=autocast is not None):
        for rows in _batches(sequences, batch_tokens):
            in_batches(partial(_sum_up, sums, base, sequences, rows, device), len(rows), len(rows))
    return sums


def _sum_up(
    sums: Floats,
    base: Any,
    sequences: Sequence[Scored],
    rows: Sequence[int],
    device: torch.device,
    part: slice,
) -> None:
    """Put the sums of a part of the rows into their places."""
    log_probs = _log_probs(base, [sequences[i] for i in rows[part]], device)
    for i, tokens in zip(rows[part], log_probs, strict=True):
        ids, start, full = sequences[i]
        scored_tokens = tokens[start - 1 : len(ids) - 1]
        sums[i] = scored_tokens[:full].sum(), scored_tokens[full:].sum()


def _batches(sequences: Sequence[Scored], batch_tokens: int) -> Iterator[list[int]]:
    """Places of sequences of like length that make a batch, the longest first."""
    order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i].ids))
    while order:
        count = max(1, batch_tokens // max(1, len(sequences[order[0]].ids)))
        rows, order = order[:count], order[count:]
        yield rows


def _log_probs(base: Any, batch: Sequence[Scored], device: torch.device) -> Floats:
    """Log-probs [B, L - 1] of each token after the first, 0 where it is not scored."""
    ids = [torch.tensor(sequence.ids) for sequence in batch]
    inputs = pad_sequence(ids, batch_first=True)
    mask = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
    labels = inputs.masked_fill(mask == 0, -100)
    for row, sequence in zip(labels, batch, strict=True):
        row[: sequence.start] = -100
    output = base(
        input_ids=inputs.to(device),
        attention_mask=mask.to(device),
        labels=labels.to(device),
        use_cache=False,
        fused_lm_head=True,
    )
    found: Floats = output.log_probs.cpu().double().numpy()
    return found


@contextmanager
def _fused_head(base: torch.nn.Module) -> Iterator[None]:
    """Give the model TRL's head, with log-probs as its only output; afterwards its forward is what it was."""
    before = base.__dict__.get("forward")
    add_fused_lm_head(base)
    try:
        yield
    finally:
        del base.forward
        if before is not None:
            base.__dict__["forward"] = before


# ---- for TRL's trainer --------------------------------------------------------------------------------------------


def is_fixed(model: torch.nn.Module, args: DPOConfig, *, adapter: bool) -> bool:
    """Whether a run's reference log-probs are a function of the row, so that they may be computed before it starts.

    They are not with `sync_ref_model`, which moves the reference, nor where a row's numbers depend on its batch
    (`trainers.models.rotary`). With an adapter TRL scores the reference by the
    policy's own modules in training mode; what is random there (dropout that `disable_dropout` leaves, NEFTune's noise,
    a router's jitter) is in the reference too. It stays as stock TRL has it unless the run asks for precomputing.
    `model` is the base without adapters.
    """
    if args.sync_ref_model or couples_rows(model, longest_row(args)):
        return False
    if args.precompute_ref_log_probs or not adapter:
        return True
    return not draws_in_training(model, args)


def draws_in_training(model: torch.nn.Module, args: DPOConfig) -> bool:
    """Whether passes of the model draw random numbers while it trains, so that no two are alike."""
    return bool(args.neftune_noise_alpha) or any(_is_random(m, args.disable_dropout) for m in model.modules())


def _is_random(module: torch.nn.Module, disable_dropout: bool) -> bool:
    """Whether a module draws random numbers in training mode. A rate kept as a plain number is beyond TRL's reach."""
    if isinstance(module, torch.nn.Dropout):
        return module.p > 0 and not disable_dropout
    return any(
        isinstance(value, float) and value > 0 and ("drop" in name or "jitter" in name)
        for name, value in vars(module).items()
    )


class Base(NamedTuple):
    """The untrained model that is the reference: its `model_digest`, and how many parameters it has."""

    digest: str
    parameters: int


def reference_log_probs(
    rows: datasets.Dataset,
    used: Sequence[int],
    model: torch.nn.Module,
    base: Base,
    args: DPOConfig,
    store: ReferenceStore,
    say: Callable[[int], None] = lambda _: None,
    look: Callable[[], None] = lambda: None,
) -> ReferenceLogProbs:
    """Reference log-probs [rows] of those of TRL's tokenised rows that are `used`; NaN where they are not known.

    `model` with its adapters off is the reference. Sums over other batches round otherwise, so rows are computed in
    parts of the data, whole where one row of it is used: on the same data a run has the same numbers whatever runs with
    its batch size came before it. A part is all of the data for small models, and few pairs for large ones, which do
    not compute what no run uses. A forward pass takes no more tokens than a micro-batch of training, where those are
    not few. `say` hears how many answers are done, at most once a second. `look` is called between two parts, and ends
    the work by what it raises; the parts that are done stay in the store.
    """
    columns = (rows[name][:] for name in ("prompt_ids", "chosen_ids", "rejected_ids"))
    pairs = [TokenIds(*ids) for ids in zip(*columns, strict=True)]
    key = BaseKey(
        model=base.digest,
        attention=str(getattr(getattr(model, "config", None), "_attn_implementation", None)),
        device=args.device.type,
        autocast="bf16" if args.bf16 else "fp16" if args.fp16 else None,
        tf32=args.tf32,
    )
    counting = Counting(args.max_length, args.truncation_mode, args.ld_alpha)
    lengths = [2 * len(p.prompt) + len(p.chosen) + len(p.rejected) for p in pairs]
    at_once = _pairs_at_once(base.parameters, sum(lengths) / max(1, len(lengths)), key.device)
    parts = {row // at_once for row in used}
    taken = [i for i in range(len(pairs)) if i // at_once in parts]
    longest = max((len(p.prompt) + max(len(p.chosen), len(p.rejected)) for p in pairs), default=0)
    rows_a_batch = 2 * (args.precompute_ref_batch_size or args.per_device_train_batch_size)
    least = LEAST_BATCH_TOKENS.get(key.device, LEAST_BATCH_TOKENS["cpu"])
    batch_tokens = max(least, rows_a_batch * min(longest, args.max_length or longest))
    compute = _counted(partial(compute_log_probs, model, batch_tokens=batch_tokens, autocast=key.autocast), say, look)
    found = store.log_probs(key, [pairs[i] for i in taken], counting, compute, at_once)
    sides = []
    for values in found:
        whole = np.full(len(pairs), np.nan)
        whole[taken] = values
        sides.append(whole)
    return ReferenceLogProbs(*sides)


def _counted(compute: Compute, say: Callable[[int], None], look: Callable[[], None]) -> Compute:
    done, said = 0, time.monotonic()

    def counted(sequences: Sequence[Scored]) -> Floats:
        nonlocal done, said
        look()
        found = compute(sequences)
        done += len(sequences)
        if time.monotonic() - said > _SAY_SECONDS:
            said = time.monotonic()
            say(done)
        return found

    return counted


def _pairs_at_once(parameters: int, tokens: float, device: str) -> int:
    """How many pairs of so many tokens are `WORK_AT_ONCE`: a power of two."""
    work = WORK_AT_ONCE.get(device, WORK_AT_ONCE["cpu"])
    return int(2 ** max(0, math.floor(math.log2(max(1.0, work / max(1.0, parameters * tokens))))))
