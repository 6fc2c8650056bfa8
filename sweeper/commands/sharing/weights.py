"""What the chosen run has trained, as far as it was kept, or how to get it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studies.records import EMBEDDED_MODELS
from studies.schema.paths import existing
from studies.text.files import UnusableFile, is_file, read_json
from sweeper.commands.export import Chosen
from sweeper.commands.sharing.heads import CONSTANT, ExportError
from trainers.run_folder.results import adapter_files, holds_run

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_UNSAFE = (".bin",)  # a pickle, which runs code where it is loaded


@dataclass(frozen=True)
class Weights:
    """Files of an adapter, or of a whole model where the run trained one."""

    files: tuple[Path, ...]

    @property
    def is_adapter(self) -> bool:
        """Whether they lie on a base."""
        return any(file.name == CONFIG for file in self.files)

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return self.files[0].parent


@dataclass(frozen=True)
class Retraining:
    """How somebody gets the weights: the command that exports the config, the file, and the one that goes on."""

    export: str
    output: Path
    again: str


def find_weights(chosen: Chosen, runs: Path, given: Path | None, how: Retraining) -> Weights:
    """The weights of the exported training: those `given` by the user, trained by `trl dpo`, or those that the run
    keeps in `runs`, where it ended at the step that is exported. Raises ExportError.
    """
    if given is not None:
        _refuse_trained_before(chosen, given, how.output)
        return _given(chosen, given)
    if chosen.step is not None and chosen.step != chosen.config.settings.get("max_steps"):
        raise ExportError(
            f"The training to export stops at step {chosen.step}, and what the run keeps is of its end. "
            f"{_retrain(chosen, how)}"
        )
    run = runs / chosen.record.key
    found = _usable(adapter_files(run)[0] if holds_run(run) else [])
    if not found.files:
        raise ExportError(f"The chosen run keeps no adapter in {run}. {_retrain(chosen, how)}")
    return found


def _refuse_trained_before(chosen: Chosen, folder: Path, exported: Path) -> None:
    """Raises ExportError where the file that `trl dpo` trained from is of another run than is exported now: the answer
    has changed since, and the weights would go out under the wrong name.
    """
    if is_file(exported) and f"key {chosen.record.key}" not in exported.read_text(encoding="utf-8", errors="replace"):
        raise ExportError(
            f"--adapter {folder}: {exported} is of another run than {chosen.record.variant}, trial "
            f"{chosen.record.trial}, which is exported now. Export it without --adapter, train it, and give that."
        )


def _retrain(chosen: Chosen, how: Retraining) -> str:
    adapter = how.output.with_name(f"{how.output.stem}-adapter")
    if chosen.step is not None and chosen.config.settings.get("lr_scheduler_type") not in CONSTANT:
        adapter = adapter / f"checkpoint-{chosen.step}"
    train = shlex.join(["trl", "dpo", "--config", str(how.output)])
    return f"Train it: {how.export} && {train}, then: {how.again} {shlex.join(['--adapter', str(adapter)])}"


def _given(chosen: Chosen, folder: Path) -> Weights:
    if not folder.is_dir():
        raise ExportError(f"--adapter {folder}: there is no such folder; `trl dpo` makes it beside the exported file.")
    found = _usable([file for file in sorted(folder.iterdir()) if is_file(file)])
    if not found.files:
        raise ExportError(f"--adapter {folder}: it holds neither {CONFIG} with {WEIGHTS} nor a model.safetensors.")
    if found.is_adapter != bool(chosen.config.settings.get("use_peft")):
        kinds = ("an adapter", "a whole model")
        holds, wanted = kinds if found.is_adapter else kinds[::-1]
        raise ExportError(f"--adapter {folder}: it holds {holds}, and the exported config trains {wanted}.")
    if found.is_adapter:
        _refuse_other(chosen, folder)
    return found


def _refuse_other(chosen: Chosen, folder: Path) -> None:
    """Raises ExportError for an adapter that the exported config does not train."""
    config, settings = adapter_config(folder), chosen.config.settings
    wanted = {"r": settings.get("lora_r"), "lora_alpha": settings.get("lora_alpha")}
    differ = {name: value for name, value in wanted.items() if value not in (None, config.get(name))}
    if differ:
        odd = "; ".join(f"{name} {config.get(name)}, not {value}" for name, value in differ.items())
        raise ExportError(f"--adapter {folder}: it is not of the exported config ({odd}): train that with `trl dpo`.")


def adapter_config(folder: Path) -> dict[str, Any]:
    """The config of an adapter. Raises ExportError where it cannot be read."""
    try:
        config: Any = read_json(folder / CONFIG)
    except (UnusableFile, OSError, ValueError) as error:
        raise ExportError(f"{folder / CONFIG} cannot be read: {error}.") from error
    if not isinstance(config, dict):
        raise ExportError(f"{folder / CONFIG} is no config of an adapter.")
    return config


def _usable(files: Sequence[Path]) -> Weights:
    """An adapter, else a whole model, else nothing. A pickle is never passed on."""
    names = {file.name: file for file in files if file.suffix not in _UNSAFE}
    if CONFIG in names and WEIGHTS in names:
        return Weights((names[CONFIG], names[WEIGHTS]))
    model = [file for name, file in names.items() if name.startswith("model") and ".safetensors" in name]
    beside = [names[name] for name in ("config.json", "generation_config.json") if name in names]
    return Weights((*beside, *model)) if model and "config.json" in names else Weights(())


def base_place(model: str) -> Path | None:
    """Where the base lies, None for one of the Hub or an embedded one."""
    return None if model in EMBEDDED_MODELS else existing(model)


def new_folder(folder: Path) -> None:
    """Raises ExportError where something lies in a folder that is to be written: what is left of another model beside
    it would be loaded with it.
    """
    try:
        if os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir())):
            raise ExportError(f"{folder} is there already: remove it, or name another.")
    except OSError as error:
        raise ExportError(f"{folder}: {error.strerror}.") from error
