"""A folder of reference log-probs that any number of processes share: found by content, written whole, verified.

The unit is one sequence, a completion after its prompt, under the untrained base. Blocks, scenarios, flipped labels and
seeds only draw and order sequences anew, so they find theirs here whatever set they were computed for. Knows no model,
no run and no study.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import transformers
import trl
from safetensors import SafetensorError
from safetensors.numpy import load, save

from studies.text.files import UnusableFile, is_folder, open_file, read_bytes
from trainers.data.tokens import TokenIds

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]

FORMAT: Final = 1
"""Version of the shards and of what their keys and values mean; another one is another folder."""
MOST_SHARDS: Final = 16
"""A folder with more shards has them merged into one."""
SHARD_SEQUENCES: Final = 4096
_SHARD: Final = re.compile(r"[0-9a-f]{32}\.safetensors")
_LEFT: Final = re.compile(r"\.[0-9a-f]{16}\.tmp")
_LARGEST_SHARD: Final = 4 << 30
SHARD_SECONDS: Final = 60.0
"""New sequences are written after so many or so long, so that a killed worker loses no more."""


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
        return hashlib.sha256(canonical([FORMAT, versions, asdict(self)])).hexdigest()[:32]


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


def canonical(value: Any) -> bytes:
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
        self,
        base: BaseKey,
        pairs: Sequence[TokenIds],
        counting: Counting,
        compute: Compute,
        at_once: int | None = None,
    ) -> ReferenceLogProbs:
        """Reference log-probs of pairs [n], in order. `compute` is called for the sequences that are nowhere kept, of
        `at_once` pairs at a time (None: of all).
        """
        sequences = [sequence for pair in pairs for sequence in scored(pair, counting)]
        keys = [_entry_key(sequence) for sequence in sequences]
        entries = self._known.setdefault(base, _Entries(self.folder / base.folder_name()))
        each = 2 * at_once if at_once else max(1, len(keys))
        parts = [slice(start, start + each) for start in range(0, len(keys), each)]
        self._complete(entries, [dict(zip(keys[p], sequences[p], strict=True)) for p in parts], compute)
        sums = np.array([entries.sums[key] for key in keys], dtype=np.float64).reshape(-1, 2, 2)
        whole = sums[..., 0] + (1.0 if counting.ld_alpha is None else counting.ld_alpha) * sums[..., 1]
        return ReferenceLogProbs(whole[:, 0], whole[:, 1])

    def _complete(self, entries: _Entries, parts: Sequence[dict[bytes, Scored]], compute: Compute) -> None:
        """Read what is kept of what the parts want; compute and keep the rest, in one process at a time."""
        wanted = {key for part in parts for key in part}
        if wanted <= entries.sums.keys():
            return
        self._read(entries, repair=False)  # without the lock, which another process may hold for long
        if wanted <= entries.sums.keys():
            return
        with self._lock(entries.folder) as locked:
            self._read(entries, repair=True)
            self._compute(entries, parts, compute)
            if locked:
                self._tidy(entries)

    def _compute(self, entries: _Entries, parts: Sequence[dict[bytes, Scored]], compute: Compute) -> None:
        """Compute what is missing of each part by itself, and write it now and then."""
        new: dict[bytes, tuple[float, float]] = {}
        written = time.monotonic()
        try:
            for part in parts:
                missing = [key for key in part if key not in entries.sums]
                missing.sort(
                    key=lambda key: -len(part[key].ids)
                )  # like lengths together; what is too large fails first
                for start in range(0, len(missing), SHARD_SEQUENCES):
                    some = missing[start : start + SHARD_SEQUENCES]
                    values = compute([part[key] for key in some])
                    new |= {key: (float(a), float(b)) for key, (a, b) in zip(some, values, strict=True)}
                    entries.sums.update(new)
                    if len(new) >= SHARD_SEQUENCES or time.monotonic() - written > SHARD_SECONDS:
                        self._write(entries, new)
                        new, written = {}, time.monotonic()
        finally:
            if new:
                self._write(entries, new)

    @contextmanager
    def _lock(self, folder: Path) -> Iterator[bool]:
        """Hold the folder's lock, or none (False) where it cannot be had. Freed by the system when a holder dies."""
        lock: IO[bytes] | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _refuse_links(folder)
            lock = open_file(folder / "lock", os.O_RDWR | os.O_CREAT)
            fcntl.flock(lock, fcntl.LOCK_EX)
            locked = True
        except OSError as error:
            locked = False
            self._warn_unshared(folder, error)
        try:
            yield locked
        finally:
            if lock is not None:
                lock.close()

    def _read(self, entries: _Entries, *, repair: bool) -> None:
        """Take in the shards that were not read yet. `repair`: remove those that are broken, with a warning."""
        if not (is_folder(self.folder) and is_folder(entries.folder)):
            return
        for path in sorted(entries.folder.glob("*.safetensors")):
            if path.name in entries.shards or not _SHARD.fullmatch(path.name):
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
            _refuse_links(entries.folder)
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
                if _LEFT.fullmatch(left.name):
                    left.unlink()
            names = {path.name for path in entries.folder.glob("*.safetensors") if _SHARD.fullmatch(path.name)}
            if len(names) > MOST_SHARDS and names <= entries.shards:
                merged = self._write(entries, entries.sums)
                for name in names - {merged} if merged else ():
                    (entries.folder / name).unlink()

    def _warn_unshared(self, folder: Path, error: OSError) -> None:
        """Say once that processes may each compute what one could."""
        if not self._warned:
            logger.warning("%s cannot be locked or written (%s): others may compute its log-probs again", folder, error)
        self._warned = True


def _refuse_links(folder: Path) -> None:
    """Raise OSError for a folder of shards that is reached through a link below the study's folder."""
    for place in (folder.parent, folder):
        if not is_folder(place):
            raise UnusableFile(place, "is no real folder")


def _read_shard(path: Path) -> dict[bytes, tuple[float, float]] | None:
    """The entries of a shard, or None where its bytes are not those that its name was made from. Raises OSError."""
    content = read_bytes(path, _LARGEST_SHARD)
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
