"""Writes the folder that is shared: the weights, the settings of their training, and the card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from studies.records import EMBEDDED_MODELS
from sweeper.commands.export import Chosen, stopped_at, trl_settings
from sweeper.commands.sharing.card import TRL_FILE, Sharing, card, public_settings
from sweeper.commands.sharing.weights import CONFIG, Weights, adapter_config, base_place

CARD = "README.md"
_PLACES = ("dataset_name", "output_dir")


def write_shared(shared: Sharing, weights: Weights, folder: Path) -> None:
    """Write everything into `folder`, which is made. Raises OSError and ExportError."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in weights.files:
        if file.name != CONFIG:
            shutil.copyfile(file, folder / file.name)
    if weights.is_adapter:
        config = json.dumps(_published(adapter_config(weights.folder), shared), indent=2, sort_keys=True)
        (folder / CONFIG).write_text(config + "\n", encoding="utf-8")
    elif (folder / "config.json").is_file():
        _forget_place(folder / "config.json")
    settings = public_settings(_settings(shared.chosen))
    (folder / TRL_FILE).write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8")
    (folder / CARD).write_text(card(shared), encoding="utf-8")


def _settings(chosen: Chosen) -> dict[str, Any]:
    """The exported settings, without data and places of this machine."""
    name = str(chosen.config.settings["model_name_or_path"])
    here = Path("unused.yaml")
    whole = stopped_at(chosen.step, trl_settings(chosen.trained, chosen.record, name, here, here))
    gone = {*_PLACES} | ({"model_name_or_path"} if name in EMBEDDED_MODELS or base_place(name) else set())
    return {setting: value for setting, value in whole.items() if setting not in gone}


def _published(config: dict[str, Any], shared: Sharing) -> dict[str, Any]:
    """The config of an adapter with its base as others find it: by its id on the Hub, or by no name at all, as the name
    of a folder here may be that of somebody else's model there.
    """
    return {**public_settings(config), "base_model_name_or_path": shared.base}


def _forget_place(file: Path) -> None:
    """Take the place that a model was loaded from out of its config."""
    config = json.loads(file.read_text(encoding="utf-8"))
    told = {name: value for name, value in public_settings(config).items() if name != "_name_or_path"}
    file.write_text(json.dumps(told, indent=2, sort_keys=True) + "\n", encoding="utf-8")
