"""Writes what a run trained on as stock TRL reads it: its rows, and its model where that ships with the project."""

from __future__ import annotations

import shutil
from pathlib import Path

from studies.records import RunConfig
from trainers.data import Pairs, load_pairs, write_pairs
from trainers.tokenizer import load_tokenizer
from trainers.world.paths import model_path


def write_bundle(config: RunConfig, data_folder: Path, model_folder: Path) -> tuple[str, str]:
    """Write the run's training and evaluation rows, in order, flips and length limits applied.

    Gives the model to train (a Hub id or path, `model_folder` for the embedded one) and the digest of the data.
    Raises trainers.data.DataError where the data can no longer be read.
    """
    name = str(config.settings["model_name_or_path"])
    embedded = name == "embedded"
    pairs = _pairs(config)
    if embedded:
        shutil.copytree(model_path(), model_folder, dirs_exist_ok=True)
    write_pairs(pairs, data_folder)
    return (str(model_folder) if embedded else name), pairs.digest


def pairs_digest(config: RunConfig) -> str:
    """The digest of a run's pairs as they are now, see `Pairs.digest`. Raises trainers.data.DataError."""
    return _pairs(config).digest


def _pairs(config: RunConfig) -> Pairs:
    settings = config.settings
    name = str(settings["model_name_or_path"])
    source = str(model_path()) if name == "embedded" else name
    code = bool(settings.get("trust_remote_code", False))
    tokenizer = load_tokenizer(source, settings.get("model_revision") or "main", code)
    return load_pairs(config.data, config.block, tokenizer)
