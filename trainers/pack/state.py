"""A run's training state on disk, from which it goes on as if it had never stopped; knows no loop and no policy.

A state is one file, safetensors: the adapter, both moments of its optimizer, and as metadata everything else (step,
curve, measurements, times). It is written whole or not at all, so a file that is there is a state that can be
trusted; its digest is checked all the same, because disks lie.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from studies.text.files import parse_json, safetensors_header, write_beside
from trainers.multi_lora.flat import Adapter, Lora
from trainers.run_folder.progress import Progress, from_json, to_json
from trainers.run_folder.results import EARLIER_FILE, STATE_FILE

_PARTS = ("adapter", "first", "second")


class Moments(NamedTuple):
    """An adapter in training: its weights, and AdamW's two moments in the same shape."""

    adapter: Adapter
    first: Adapter
    second: Adapter


@dataclass(frozen=True)
class Unlogged:
    """What a run has gathered since the last point of its curve, at step `logged`: its sums of loss, reward margin and
    reward accuracy, of how many micro-batches, in how many seconds, and whether all gradients were finite.
    """

    logged: int
    sums: tuple[float, ...] = (0.0, 0.0, 0.0)
    batches: float = 0.0
    seconds: float = 0.0
    sound: bool = True


@dataclass(frozen=True)
class RunState:
    """A whole state of the run `key`, between two optimizer steps."""

    key: str
    progress: Progress
    moments: Moments
    unlogged: Unlogged


def save_state(folder: Path, state: RunState) -> None:
    """Write the state into the run's folder, beside the one before it. Raises OSError where it cannot be kept."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for part, adapter in zip(_PARTS, state.moments, strict=True):
        for name, lora in adapter.items():
            tensors[f"{part}/{name}/a"] = lora.a.cpu()
            tensors[f"{part}/{name}/b"] = lora.b.cpu()
    about = {
        "key": state.key,
        "progress": to_json(state.progress),
        "unlogged": vars(state.unlogged),
        "scalings": {name: lora.scaling for name, lora in state.moments.adapter.items()},
        "digest": _digest(tensors),
    }
    content = save(tensors, metadata={"run": json.dumps(about)})
    temporary = write_beside(folder / STATE_FILE, content)
    try:
        if (folder / STATE_FILE).exists():
            os.replace(folder / STATE_FILE, folder / EARLIER_FILE)
        os.replace(temporary, folder / STATE_FILE)
    finally:
        temporary.unlink(missing_ok=True)


def load_state(folder: Path, key: str) -> RunState | None:
    """The last state kept in the folder for the run `key`; None where there is none. One that is damaged or another
    run's is removed with a warning, and the one before it is taken.
    """
    for path in (folder / STATE_FILE, folder / EARLIER_FILE):
        if not os.path.lexists(path):
            continue
        try:
            return _read(path, key)
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
            warnings.warn(f"the state in {path} is not usable and was removed ({error})", stacklevel=2)
            path.unlink(missing_ok=True)
    return None


def _read(path: Path, key: str) -> RunState:
    safetensors_header(path)  # refuses what is no regular file
    with safe_open(path, framework="pt") as file:
        about: dict[str, Any] = parse_json(file.metadata()["run"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if about["key"] != key:
        raise ValueError(f"it belongs to run {about['key']}, not to {key}")
    if about["digest"] != _digest(tensors):
        raise ValueError("its content is not what was written")
    parts = [
        {n: Lora(tensors[f"{part}/{n}/a"], tensors[f"{part}/{n}/b"], by) for n, by in about["scalings"].items()}
        for part in _PARTS
    ]
    unlogged = Unlogged(**{**about["unlogged"], "sums": tuple(about["unlogged"]["sums"])})
    return RunState(key, from_json(about["progress"]), Moments(*parts), unlogged)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    whole = hashlib.sha256()
    for name in sorted(tensors):
        whole.update(name.encode())
        whole.update(tensors[name].contiguous().view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()
