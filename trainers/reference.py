"""Reference log-probs: computed once, kept on disk, shared by whoever trains from the same base; knows no run or study.

The unit is one sequence, a completion after its prompt, under the untrained base. Blocks, scenarios, flipped labels and
seeds only draw and order sequences anew, so they find theirs here whatever set they were computed for. TRL's own cache
(`DPOTrainer._precompute_ref_logps`) is per dataset and misses with any change of a setting.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import datasets
import numpy as np
import numpy.typing as npt
import torch
import transformers
import trl
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel
from trl import DPOConfig
from trl.trainer.utils import add_fused_lm_head

from trainers.data import TokenIds
from trainers.policies import measuring

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]

FORMAT: Final = 1
"""Version of the shards and of what their keys and values mean; another one is another folder."""
MOST_SHARDS: Final = 16
"""A folder with more shards has them merged into one."""
SHARD_SEQUENCES: Final = 4096
"""New sequences are written after so many, so that a killed worker loses no more than these."""
LEAST_BATCH_TOKENS: Final = 2048
"""A forward pass takes so many tokens even where training takes fewer: without gradients they fit."""


@dataclass(frozen=True)
class BaseKey:
    """What all entries of a folder depend on beside their token ids (tokenizer and chat template act through these).

    `model`: `model_digest` of the untrained model; `attention`: its implementation of attention; `device`: the type of
    device; `autocast`: "bf16", "fp16" or None; `tf32`: whether float32 products may round to it, None: torch's default.
    """

    model: str
    attention: str
    device: str
    autocast: str | None = None
    tf32: bool | None = None

    def folder_name(self) -> str:
        """A digest of the key, of the format, and of the versions that compute the entries: 32 hexadecimal digits."""
        versions = [torch.__version__, transformers.__version__, trl.__version__]
        return hashlib.sha256(_canonical([FORMAT, versions, asdict(self)])).hexdigest()[:32]


@dataclass(frozen=True)
class Counting:
    """How TRL counts the tokens of a pair: `DataCollatorForPreference`'s truncation, and `DPOConfig.ld_alpha`.

    `ld_alpha` weighs a completion's tokens behind the length of the shorter one of its pair (LD-DPO, 2409.06411).
    """

    max_length: int | None = None
    truncation_mode: str = "keep_start"
    ld_alpha: float | None = None


class Scored(NamedTuple):
    """Token ids as they enter the model; those from `start` on are scored, the first `full` of these in full."""

    ids: list[int]
    start: int
    full: int


class ReferenceLogProbs(NamedTuple):
    """Log-probs of whole completions [n] in nats, `ld_alpha` applied; not finite where the base's are not."""

    chosen: Floats
    rejected: Floats


Compute = Callable[[Sequence[Scored]], Floats]
"""Gives [n, 2] in nats: the summed log-probs of each sequence's first `full` scored tokens, and of the others. Kept
apart, so that one entry serves every `ld_alpha`."""


# ---- which model, which sequences ---------------------------------------------------------------------------------


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
    return hashlib.sha256(_canonical([type(model).__qualname__, acting, content])).hexdigest()


def _tensor_digest(tensor: torch.Tensor) -> str:
    """Digest of a tensor's type, shape and bytes."""
    flat = tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    return f"{tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(flat).hexdigest()}"


def _canonical(value: Any) -> bytes:
    """Bytes that are equal for equal content."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()


def scored(pair: TokenIds, counting: Counting) -> tuple[Scored, Scored]:
    """The pair's two sequences as `DPOTrainer._compute_loss` counts them.

    A first token has nothing before it and is not scored; it is a completion's where there is no prompt, or where
    `keep_end` cut all of it.
    """
    cut = (
        slice(None)
        if counting.max_length is None
        else slice(counting.max_length)
        if counting.truncation_mode == "keep_start"
        else slice(-counting.max_length, None)
    )
    found = []
    for completion in (pair.chosen, pair.rejected):
        ids = [*pair.prompt, *completion][cut]
        prompt = max(0, len(ids) - len(completion)) if cut.start is not None else min(len(pair.prompt), len(ids))
        found.append((ids, max(1, prompt)))
    lengths = [max(0, len(ids) - start) for ids, start in found]
    shared = lengths if counting.ld_alpha is None else [min(lengths)] * 2
    chosen, rejected = (Scored(ids, start, full) for (ids, start), full in zip(found, shared, strict=True))
    return chosen, rejected


def _entry_key(sequence: Scored) -> bytes:
    """128 bits that stand for a sequence."""
    numbers = np.asarray([sequence.start, sequence.full, *sequence.ids], dtype="<i8")
    return hashlib.blake2b(numbers.tobytes(), digest_size=16).digest()


# ---- the store ----------------------------------------------------------------------------------------------------


@dataclass
class _Entries:
    """What is known under one key: sums by entry key, and the shards they were read from or written to."""

    folder: Path
    sums: dict[bytes, tuple[float, float]] = field(default_factory=dict)
    shards: set[str] = field(default_factory=set)


class ReferenceStore:
    """Reference log-probs in a folder that any number of processes share; what it has read stays in memory.

    Each key has a folder of shards in it, `<digest of the file>.safetensors` with `keys` uint64 [n, 2] and `sums`
    float64 [n, 2]. A shard is written whole or not at all, and one that is not what its name says is removed with a
    warning. Processes that miss the same entries wait for the one that computes them; its lock dies with it. A folder
    that cannot be written (read-only, full) costs a warning, and the values are kept in memory alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[BaseKey, _Entries] = {}
        self._warned = False

    def log_probs(
        self, base: BaseKey, pairs: Sequence[TokenIds], counting: Counting, compute: Compute
    ) -> ReferenceLogProbs:
        """Reference log-probs of pairs [n], in order. `compute` is called for the sequences that are nowhere kept."""
        sequences = [sequence for pair in pairs for sequence in scored(pair, counting)]
        keys = [_entry_key(sequence) for sequence in sequences]
        entries = self._known.setdefault(base, _Entries(self.folder / base.folder_name()))
        self._complete(entries, dict(zip(keys, sequences, strict=True)), compute)
        sums = np.array([entries.sums[key] for key in keys], dtype=np.float64).reshape(-1, 2, 2)
        whole = sums[..., 0] + (1.0 if counting.ld_alpha is None else counting.ld_alpha) * sums[..., 1]
        return ReferenceLogProbs(whole[:, 0], whole[:, 1])

    def _complete(self, entries: _Entries, wanted: dict[bytes, Scored], compute: Compute) -> None:
        """Read what is kept of `wanted`; compute and keep the rest, in one process at a time."""
        if wanted.keys() <= entries.sums.keys():
            return
        self._read(entries, repair=False)  # without the lock, which another process may hold for long
        if wanted.keys() <= entries.sums.keys():
            return
        with self._lock(entries.folder) as locked:
            self._read(entries, repair=True)
            missing = [key for key in wanted if key not in entries.sums]
            missing.sort(key=lambda key: -len(wanted[key].ids))  # like lengths together; what is too large fails first
            for start in range(0, len(missing), SHARD_SEQUENCES):
                part = missing[start : start + SHARD_SEQUENCES]
                values = compute([wanted[key] for key in part])
                new = {key: (float(a), float(b)) for key, (a, b) in zip(part, values, strict=True)}
                entries.sums.update(new)
                self._write(entries, new)
            if locked:
                self._tidy(entries)

    @contextmanager
    def _lock(self, folder: Path) -> Iterator[bool]:
        """Hold the folder's lock, or none (False) where it cannot be had. Freed by the system when a holder dies."""
        descriptor: int | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            locked = True
        except OSError as error:
            locked = False
            self._warn_unshared(folder, error)
        try:
            yield locked
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _read(self, entries: _Entries, *, repair: bool) -> None:
        """Take in the shards that were not read yet. `repair`: remove those that are broken, with a warning."""
        for path in sorted(entries.folder.glob("*.safetensors")):
            if path.name in entries.shards:
                continue
            with suppress(OSError):  # merged by another process a moment ago, or not ours to read or remove
                found = _read_shard(path)
                if found is not None:
                    entries.sums.update(found)
                    entries.shards.add(path.name)
                elif repair:
                    logger.warning("%s is damaged; its reference log-probs are computed anew", path)
                    path.unlink()

    def _write(self, entries: _Entries, sums: dict[bytes, tuple[float, float]]) -> str | None:
        """Keep the finite ones of `sums` (what a broken base gives is no one else's) as a shard, and give its name."""
        finite = {key: pair for key, pair in sums.items() if np.isfinite(pair).all()}
        try:
            name = _write_shard(entries.folder, finite)
        except OSError as error:
            self._warn_unshared(entries.folder, error)
            return None
        entries.shards.add(name)
        return name

    def _tidy(self, entries: _Entries) -> None:
        """Under the lock: remove what a killed writer left, and merge shards where there are many."""
        with suppress(OSError):
            for left in entries.folder.glob(".*.tmp"):
                left.unlink()
            names = {path.name for path in entries.folder.glob("*.safetensors")}
            if len(names) > MOST_SHARDS and names <= entries.shards:
                merged = self._write(entries, entries.sums)
                for name in names - {merged} if merged else ():
                    (entries.folder / name).unlink()

    def _warn_unshared(self, folder: Path, error: OSError) -> None:
        """Say once that processes may each compute what one could."""
        if not self._warned:
            logger.warning("%s cannot be locked or written (%s): others may compute its log-probs again", folder, error)
        self._warned = True


def _read_shard(path: Path) -> dict[bytes, tuple[float, float]] | None:
    """The entries of a shard, or None where its bytes are not those that its name was made from. Raises OSError."""
    content = path.read_bytes()
    if _content_digest(content) != path.stem:
        return None
    try:
        arrays = load(content)
        keys, sums = arrays["keys"].astype("<u8"), arrays["sums"]
    except (SafetensorError, KeyError):  # whole, but no shard
        return None
    return {key.tobytes(): (float(a), float(b)) for key, (a, b) in zip(keys, sums, strict=True)}


def _write_shard(folder: Path, sums: dict[bytes, tuple[float, float]]) -> str:
    """Write a shard under a temporary name, flush it, rename it; gives its name. Raises OSError."""
    keys = np.frombuffer(b"".join(sums), dtype="<u8").reshape(-1, 2).astype(np.uint64)
    content = save({"keys": keys, "sums": np.array(list(sums.values()), dtype=np.float64)})
    temporary, name = folder / f".{secrets.token_hex(8)}.tmp", f"{_content_digest(content)}.safetensors"
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, folder / name)
    finally:
        temporary.unlink(missing_ok=True)
    return name


def _content_digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


# ---- the forward pass ---------------------------------------------------------------------------------------------


def compute_log_probs(
    model: torch.nn.Module, sequences: Sequence[Scored], *, batch_tokens: int, autocast: str | None = None
) -> Floats:
    """Sums of log-probs [n, 2] under the model, in nats, as `Compute` has them. Adapters are the caller's to turn off.

    Through the chunked head that TRL's policy goes through while it trains (`add_fused_lm_head`), which sums logits in
    float32 also where the model is in bf16; through the model's own head the policy would start apart from its
    reference. Padded on the right, as there. A batch has at most `batch_tokens` tokens, padding included, or one
    sequence. `autocast`: "bf16", "fp16" or None.
    """
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    device = next(base.parameters()).device
    precision = torch.float16 if autocast == "fp16" else torch.bfloat16
    sums = np.zeros((len(sequences), 2), dtype=np.float64)
    with measuring(model), _fused_head(base), torch.autocast(device.type, precision, enabled=autocast is not None):
        for rows in _batches(sequences, batch_tokens):
            log_probs = _log_probs(base, [sequences[i] for i in rows], device)
            for i, tokens in zip(rows, log_probs, strict=True):
                ids, start, full = sequences[i]
                scored_tokens = tokens[start - 1 : len(ids) - 1]
                sums[i] = scored_tokens[:full].sum(), scored_tokens[full:].sum()
    return sums


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

    They are not with `sync_ref_model`, which moves the reference. With an adapter TRL scores the reference by the
    policy's own modules in training mode; what is random there (dropout that `disable_dropout` leaves, NEFTune's noise,
    a router's jitter) is in the reference too. It stays as stock TRL has it unless the run asks for precomputing.
    `model` is the base without adapters.
    """
    if args.sync_ref_model:
        return False
    if args.precompute_ref_log_probs or not adapter:
        return True
    return not args.neftune_noise_alpha and not any(_is_random(m, args.disable_dropout) for m in model.modules())


def _is_random(module: torch.nn.Module, disable_dropout: bool) -> bool:
    """Whether a module draws random numbers in training mode. A rate kept as a plain number is beyond TRL's reach."""
    if isinstance(module, torch.nn.Dropout):
        return module.p > 0 and not disable_dropout
    return any(
        isinstance(value, float) and value > 0 and ("drop" in name or "jitter" in name)
        for name, value in vars(module).items()
    )


def with_reference_log_probs(
    rows: datasets.Dataset, model: torch.nn.Module, model_key: str, args: DPOConfig, store: ReferenceStore
) -> datasets.Dataset:
    """TRL's tokenised rows with the columns `ref_chosen_logps` and `ref_rejected_logps` that its loss reads.

    `model` with its adapters off is the reference, and `model_key` its `model_digest`. A forward pass takes no more
    tokens than a micro-batch of training, where those are not few.
    """
    columns = (rows[name][:] for name in ("prompt_ids", "chosen_ids", "rejected_ids"))
    pairs = [TokenIds(*ids) for ids in zip(*columns, strict=True)]
    base = BaseKey(
        model=model_key,
        attention=str(getattr(getattr(model, "config", None), "_attn_implementation", None)),
        device=args.device.type,
        autocast="bf16" if args.bf16 else "fp16" if args.fp16 else None,
        tf32=args.tf32,
    )
    counting = Counting(args.max_length, args.truncation_mode, args.ld_alpha)
    longest = max((len(p.prompt) + max(len(p.chosen), len(p.rejected)) for p in pairs), default=0)
    rows_a_batch = 2 * (args.precompute_ref_batch_size or args.per_device_train_batch_size)
    batch_tokens = max(LEAST_BATCH_TOKENS, rows_a_batch * min(longest, args.max_length or longest))
    compute = partial(compute_log_probs, model, batch_tokens=batch_tokens, autocast=base.autocast)
    found = store.log_probs(base, pairs, counting, compute)
    return rows.add_column("ref_chosen_logps", found.chosen).add_column("ref_rejected_logps", found.rejected)
