"""Checkpoints of a run that trains by TRL's own loop: when one is written, which can be trusted, what goes on from it.

A checkpoint is a folder `checkpoint-STEP` as transformers' Trainer writes it (`Trainer._save_checkpoint`), which it
also goes on from (`train(resume_from_checkpoint=...)`): weights as safetensors; optimizer, schedule, gradient scaler
and random states by `torch.save`, which are read back with `weights_only=True` and so run no code. What it leaves out
is kept beside it: the reference model where that is trained too (`sync_ref_model`), and in COMPLETE what the run has
gathered so far. COMPLETE also holds the SHA-256 of every other file and is written last; without it, or with another
content, a checkpoint is not used, and the one before it is. Knows no measurement and no desk.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import DPOTrainer

from studies.text.files import is_file, is_folder, open_file, read_json, write_whole
from trainers.components.worker_cache import WarmDPOTrainer
from trainers.models.rotary import memory, remember
from trainers.run_folder.progress import Progress, from_json, to_json
from trainers.run_folder.results import CHECKPOINT_PREFIX, COMPLETE

logger = logging.getLogger(__name__)

KEEP_SECONDS: Final = 180.0
"""Between two checkpoints of a run; more where writing one takes more than a twentieth of it."""
_REFERENCE: Final = "reference.safetensors"
_ARGUMENTS: Final = "training_args.bin"  # a pickle that may hold a token, and that nothing reads
_KEPT: Final = 2
_LEAST_SHARE: Final = 20.0
# Of a disk that is full or gone: torch.save raises RuntimeError.
_UNWRITTEN: Final = (OSError, RuntimeError, SafetensorError)


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint at `path`. `unlogged`: what TRL has summed since the last point of the curve."""

    path: Path
    progress: Progress
    unlogged: Mapping[str, Any]


def last_checkpoint(folder: Path, key: str) -> Checkpoint | None:
    """The last whole checkpoint of the run `key` in the folder; None where there is none.

    What is half-written, damaged or another run's is removed, the last two with a warning.
    """
    for path in _checkpoints(folder):
        try:
            return _read(path, key)
        except FileNotFoundError as error:
            if Path(error.filename).name != COMPLETE:
                warnings.warn(f"the checkpoint {path} is not whole and was removed ({error})", stacklevel=2)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            warnings.warn(f"the checkpoint {path} is not usable and was removed ({error})", stacklevel=2)
        shutil.rmtree(path, ignore_errors=True)
    return None


def complete(path: Path, key: str, progress: Progress, unlogged: Mapping[str, Any]) -> None:
    """Declare that all of the checkpoint is written, and remove those that are now too many. Raises OSError."""
    (path / _ARGUMENTS).unlink(missing_ok=True)
    about = {"key": key, "progress": to_json(progress), "unlogged": unlogged}
    about["files"] = {file.relative_to(path).as_posix(): _flushed_digest(file) for file in _files(path)}
    write_whole(path / COMPLETE, json.dumps(about))
    older = [other for other in _checkpoints(path.parent) if other != path]
    whole = [other for other in older if (other / COMPLETE).exists()]
    for other in older:
        if other not in whole[: _KEPT - 1]:
            shutil.rmtree(other, ignore_errors=True)


def restore_reference(kept: Checkpoint, trainer: DPOTrainer) -> None:
    """Give a reference that is trained too (`sync_ref_model`) the weights that it had."""
    if trainer.args.sync_ref_model:
        load_model(trainer.ref_model, kept.path / _REFERENCE)


class KeptDPOTrainer(WarmDPOTrainer):
    """DPOTrainer whose checkpoints may fail: a full disk, or a model that is not saved so, costs no run.

    `first`: its first micro-batch.
    """

    first: Mapping[str, Tensor] | None = None

    def _compute_loss(self, model: nn.Module, inputs: Mapping[str, Any], return_outputs: bool) -> Any:
        if self.first is None:
            self.first = {name: inputs[name] for name in ("input_ids", "attention_mask", "completion_mask")}
        return super()._compute_loss(model, inputs, return_outputs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As transformers does; TRL would write a model card for the Hub as well."""
        try:
            super(DPOTrainer, self)._save_checkpoint(model, trial)
        except Exception as error:
            _give_up(_path(self.args, self.state), error)


class Keeper(TrainerCallback):  # type: ignore[misc]
    """Asks for a checkpoint when it is time for one, completes it, and gives the trainer back what it held.

    `progress` tells how far the run is; `every`: seconds between checkpoints. `trainer` is set once it is there.
    """

    def __init__(self, key: str, progress: Callable[[int], Progress], kept: Checkpoint | None, every: float) -> None:
        self._key, self._progress, self._kept, self._every = key, progress, kept, every
        self._due = time.monotonic() + every
        self._began = 0.0
        self.trainer: KeptDPOTrainer | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Go on from the checkpoint with what transformers leaves out of it."""
        trainer, kept = self.trainer, self._kept
        if trainer is None or kept is None:
            return
        trainer._tr_loss += kept.unlogged["loss"]
        trainer._globalstep_last_logged = kept.unlogged["logged"]
        trainer._total_train_tokens = kept.unlogged["tokens"]
        remember(trainer.model, kept.unlogged.get("rotary", []))  # a checkpoint of before has none
        trainer._metrics["train"].update({name: list(values) for name, values in kept.unlogged["metrics"].items()})

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask for a checkpoint where one is due; the last step is followed by the end."""
        self._began = time.monotonic()
        if self._began > self._due and state.global_step < state.max_steps:
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Add what transformers leaves out, and declare the checkpoint whole."""
        path, trainer = _path(args, state), self.trainer
        if trainer is not None and path.is_dir():
            try:
                if args.sync_ref_model:
                    save_model(trainer.ref_model, str(path / _REFERENCE))
                complete(path, self._key, self._progress(state.global_step), self._unlogged(trainer))
            except _UNWRITTEN as error:
                _give_up(path, error)
        now = time.monotonic()
        self._due = now + max(self._every, _LEAST_SHARE * (now - self._began) if self._every else 0.0)

    def _unlogged(self, trainer: KeptDPOTrainer) -> dict[str, Any]:
        sums = {name: [float(value) for value in values] for name, values in trainer._metrics["train"].items()}
        return {
            "loss": float(trainer._tr_loss),
            "logged": trainer._globalstep_last_logged,
            "tokens": int(trainer._total_train_tokens),
            "metrics": sums,
            "rotary": memory(trainer.model),
        }


def _path(args: TrainingArguments, state: TrainerState) -> Path:
    """Where the Trainer writes the checkpoint of the step that it is at."""
    return Path(args.output_dir) / f"{CHECKPOINT_PREFIX}{state.global_step}"


def _give_up(path: Path, error: Exception) -> None:
    logger.warning("the checkpoint %s could not be kept: %s", path, error)
    shutil.rmtree(path, ignore_errors=True)


def _checkpoints(folder: Path) -> list[Path]:
    """Folders of checkpoints, the last step first."""
    if not is_folder(folder):
        return []
    found = [
        path
        for path in folder.glob(f"{CHECKPOINT_PREFIX}*")
        if is_folder(path) and path.name.removeprefix(CHECKPOINT_PREFIX).isdigit()
    ]
    return sorted(found, key=lambda path: -int(path.name.removeprefix(CHECKPOINT_PREFIX)))


def _read(path: Path, key: str) -> Checkpoint:
    about = read_json(path / COMPLETE)
    if about["key"] != key:
        raise ValueError(f"it belongs to run {about['key']}, not to {key}")
    wrong = [name for name, digest in about["files"].items() if _digest(path / name) != digest]
    wrong += sorted({file.relative_to(path).as_posix() for file in _files(path)} - set(about["files"]))
    if wrong:
        raise ValueError(f"{', '.join(wrong)} is not what was written")
    return Checkpoint(path, from_json(about["progress"]), about["unlogged"])


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if is_file(file) and file.name != COMPLETE)


def _flushed_digest(file: Path) -> str:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return _digest(file)


def _digest(file: Path) -> str:
    with open_file(file, os.O_RDONLY) as content:
        return hashlib.file_digest(content, "sha256").hexdigest()  # type: ignore[arg-type]  # it is a BufferedReader
