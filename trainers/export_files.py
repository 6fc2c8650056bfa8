"""Writes what a run trained on as stock TRL reads it: its rows, and its model where that ships with the project."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import GenerationConfig, PreTrainedModel

from studies.records import RunConfig
from studies.schema.paths import existing
from trainers.components.settings import hardware_settings, parse_settings, resolve_model
from trainers.components.worker_cache import load_base
from trainers.data.pairs import DataError, Pairs, load_pairs
from trainers.data.tables import write_pairs
from trainers.models.bases import AdapterBase, UnusableModel, how_to_merge, quantised, small_file
from trainers.models.merged import find_adapter, merge_checked, saveable
from trainers.models.template_date import on_day
from trainers.models.tokenizer import load_tokenizer
from trainers.world.paths import embedded_path

_GENERATION_CONFIG = "generation_config.json"
_OF_MODEL = re.compile(r"config\.json|generation_config\.json|model.*\.safetensors(\.index\.json)?")


def write_export(
    config: RunConfig, data_folder: Path, model_folder: Path, expected: str | None = None
) -> tuple[str, str]:
    """Write the run's training and evaluation rows, in order, flips and length limits applied.

    Gives the model to train and the digest of the data. The model is a Hub id or path, or `model_folder`: for the
    embedded ones; for an adapter, which stands there merged; and for one that TRL would not take as the run did, which
    stands there as links: one whose chat template asks for the date, beside a template with the run's day, and for full
    fine-tuning one whose generation config lets nothing be saved, beside one that does.
    `expected`: the digest of what the run trained on, where that is known. Raises trainers.data.pairs.DataError, before
    anything is written, where the data can no longer be read, by stock TRL neither, or are others.
    """
    name = str(config.settings["model_name_or_path"])
    embedded = embedded_path(name)
    pairs = _pairs(config)
    if expected is not None and pairs.digest != expected:
        raise DataError(
            [
                f"data changed in {config.data.path} since the run: the digest of its pairs is {pairs.digest[:12]} "
                f"now and was {expected[:12]}; put those of the run back, or run the study again on what is there"
            ]
        )
    day = config.content.get("date")
    near = next(folder for folder in data_folder.absolute().parents if folder.is_dir())
    with TemporaryDirectory(dir=near, prefix=f"{data_folder.name}-") as place:
        write_pairs(pairs, Path(place) / data_folder.name)
        if embedded is not None:
            shutil.copytree(embedded, Path(place) / model_folder.name)
        elif (adapter := find_adapter(name, config.settings.get("model_revision"))) is not None:
            _write_merged(config, adapter, Path(place) / model_folder.name)
        elif day is not None or not _can_be_saved(config):
            model = _local(name, config.settings.get("model_revision"))
            _link_changed(model, Path(place) / model_folder.name, day)
        written = (Path(place) / model_folder.name).exists()
        _move(Path(place), data_folder.parent)
    return (str(model_folder) if written else name), pairs.digest


def _move(folder: Path, into: Path) -> None:
    """Move every file in `folder` to its place in `into`, over what lies there."""
    moves = {file: into / file.relative_to(folder) for file in folder.rglob("*") if file.is_file()}
    for place in moves.values():
        place.parent.mkdir(parents=True, exist_ok=True)
    for file, place in moves.items():
        os.replace(file, place)


def pairs_digest(config: RunConfig) -> str:
    """The digest of a run's pairs as they are now, see `Pairs.digest`. Raises trainers.data.pairs.DataError."""
    return _pairs(config).digest


def _pairs(config: RunConfig) -> Pairs:
    settings = config.settings
    name = str(settings["model_name_or_path"])
    source = str(embedded_path(name) or name)
    code = bool(settings.get("trust_remote_code", False))
    tokenizer = load_tokenizer(source, settings.get("model_revision") or "main", code, config.content.get("date"))
    return load_pairs(config.data, config.block, tokenizer)


def _local(name: str, revision: str | None) -> Path:
    """The folder of a model, in the Hub's cache where it lies on the Hub. Raises OSError where it is not there."""
    place = existing(name)
    if place is not None:
        return place
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, revision=revision, local_files_only=True))


def _write_merged(config: RunConfig, adapter: AdapterBase, folder: Path) -> None:
    """Write the adapter merged into its model, as runs start from it. Raises OSError where the disk is too small."""
    args, model_args = parse_settings({**hardware_settings(), **config.settings}, folder, config.seed)
    args.use_cpu = True  # where it is merged anyway; nothing is computed with it here
    model, tokenizer = load_base(adapter.path, args, model_args, config.content.get("date"))
    needed = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise OSError(
            f"{adapter}, and merged it takes {needed / 2**30:.1f} GiB where {free / 2**30:.1f} GiB are free. Make "
            f"room, or merge it elsewhere: {how_to_merge(adapter)}"
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_plain_model(config: RunConfig, weights: Path, folder: Path) -> None:
    """Write what a run trained, whose `weights` lie in a folder, as one plain model with its tokenizer: an adapter
    merged into the base that it was trained on. Raises UnusableModel where the merge would compute otherwise, and
    OSError where the disk is too small.
    """
    name, revision = str(config.settings["model_name_or_path"]), config.settings.get("model_revision")
    args, model_args = parse_settings({**hardware_settings(), **config.settings}, folder, config.seed)
    args.use_cpu = True  # where everybody merges
    near = next(place for place in folder.absolute().parents if place.is_dir())
    with TemporaryDirectory(dir=near, prefix=f"{folder.name}-") as place:
        plain = Path(place) / folder.name
        if config.settings.get("use_peft"):
            why = quantised(name, revision, config.settings)
            if why is not None:
                raise UnusableModel(
                    f"model {name}: {why}, and an adapter merged into rounded weights is another model: load the "
                    "adapter beside its base, as the run did, or train on the base before it was quantised"
                )
            model, tokenizer = load_base(resolve_model(name), args, model_args)
            _refuse_full_disk(model, near)
            model = merge_checked(model, weights)
            model.save_pretrained(plain)
        else:
            shutil.copytree(weights, plain, ignore=lambda _, names: [n for n in names if not _OF_MODEL.fullmatch(n)])
            code = bool(config.settings.get("trust_remote_code", False))
            tokenizer = load_tokenizer(resolve_model(name), revision or "main", code)
        tokenizer.save_pretrained(plain)
        _move(Path(place), folder.parent)


def _refuse_full_disk(model: PreTrainedModel, place: Path) -> None:
    needed = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise OSError(f"merged it takes {needed / 2**30:.1f} GiB where {free / 2**30:.1f} GiB are free: make room")


def _can_be_saved(config: RunConfig) -> bool:
    """Whether plain TRL can save what it trains: an adapter always, a whole model only beside a sound config."""
    if config.settings.get("use_peft"):
        return True
    file = small_file(
        str(config.settings["model_name_or_path"]), config.settings.get("model_revision"), _GENERATION_CONFIG
    )
    if file is None:
        return True
    before = GenerationConfig.from_pretrained(str(file.parent))
    return saveable(before) is before


def _link_changed(model: Path, folder: Path, day: str | None) -> None:
    """Make a folder of links to a model's files, with the day, where there is one, written into its chat templates, and
    a generation config that can be saved.
    """
    for file in sorted(model.rglob("*")):
        if not file.is_file():
            continue
        place = folder / file.relative_to(model)
        place.parent.mkdir(parents=True, exist_ok=True)
        if day is not None and file.suffix == ".jinja":
            place.write_text(on_day(file.read_text(encoding="utf-8"), day), encoding="utf-8")
        elif day is not None and file.name == "tokenizer_config.json":
            place.write_text(_dated_config(file.read_text(encoding="utf-8"), day), encoding="utf-8")
        elif file.name == _GENERATION_CONFIG and file.parent == model:
            saveable(GenerationConfig.from_pretrained(str(model))).save_pretrained(str(folder))
        else:
            place.symlink_to(file.resolve())


def _dated_config(text: str, day: str) -> str:
    """A tokenizer_config.json with the day in the templates that it holds, one or a list by name."""
    config = json.loads(text)
    template = config.get("chat_template")
    if isinstance(template, str):
        config["chat_template"] = on_day(template, day)
    elif isinstance(template, list):
        config["chat_template"] = [{**one, "template": on_day(one["template"], day)} for one in template]
    return json.dumps(config, indent=2, ensure_ascii=False)
