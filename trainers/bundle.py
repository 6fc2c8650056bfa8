"""Writes what a run trained on as stock TRL reads it: its rows, and its model where that ships with the project."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from studies.records import RunConfig
from trainers.data import load_pairs
from trainers.tables import write_pairs
from trainers.tokenizer import load_tokenizer
from trainers.world.paths import model_path


def write_bundle(config: RunConfig, data_folder: Path, model_folder: Path) -> tuple[str, str]:
    """Write the run's training and evaluation rows, in order, flips and length limits applied.

    Gives the model to train (a Hub id or path, `model_folder` for the embedded one) and the digest of the data.
    Raises trainers.data.DataError where the data can no longer be read, or not by stock TRL; then nothing is written.
    """
    name = str(config.settings["model_name_or_path"])
    embedded = name == "embedded"
    source = str(model_path()) if embedded else name
    revision = config.settings.get("model_revision") or "main"
    tokenizer = load_tokenizer(source, revision, bool(config.settings.get("trust_remote_code", False)))
    pairs = load_pairs(config.data, config.block, tokenizer)
    near = next(folder for folder in data_folder.absolute().parents if folder.is_dir())
    with TemporaryDirectory(dir=near, prefix=f"{data_folder.name}-") as place:
        write_pairs(pairs, Path(place) / data_folder.name)
        if embedded:
            shutil.copytree(model_path(), Path(place) / model_folder.name)
        _move(Path(place), data_folder.parent)
    return (str(model_folder) if embedded else name), pairs.digest


def _move(folder: Path, into: Path) -> None:
    """Move every file in `folder` to its place in `into`, over what lies there."""
    moves = {file: into / file.relative_to(folder) for file in folder.rglob("*") if file.is_file()}
    for place in moves.values():
        place.parent.mkdir(parents=True, exist_ok=True)
    for file, place in moves.items():
        os.replace(file, place)
