"""Loads base models as TRL does, or an adapter merged into the model that it lies on; knows no data, no training."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, cast

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.utils.save_and_load import load_peft_weights
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import find_adapter_config_file
from trl.trainer.utils import create_model_from_path

from studies.records import Cause
from studies.schema.paths import existing
from studies.text.plural import so_many
from trainers.models.bases import (
    ADAPTER,
    ADAPTER_WEIGHTS,
    AdapterBase,
    UnusableModel,
    adapter_of,
    how_to_merge,
    refuse_kernels,
    refuse_other_kinds,
    refuse_quantized,
)
from trainers.models.random_numbers import go_on_from, random_numbers
from trainers.run_folder.failures import cause_of, is_of_library, told

# Of the check of a merge: token ids that are looked at, roundings of a logit, and the share of what the adapter changes
# that a sum of rounded products may be off.
_IDS, _ROUNDINGS, _SHARE = 16, 32, 0.02
_SAMPLING_ONLY: Final = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")

# Modules whose package has another name.
_PACKAGES: Final = {
    "google": "protobuf",
    "PIL": "pillow",
    "cv2": "opencv-python",
    "yaml": "pyyaml",
    "sklearn": "scikit-learn",
}


def find_adapter(path: str, revision: str | None) -> AdapterBase | None:
    """The adapter that lies where `path` names a base, here or on the Hub. Raises UnusableModel."""
    folder = existing(path)
    if folder is not None:
        return adapter_of(path, folder / ADAPTER) if (folder / ADAPTER).is_file() else None
    found = find_adapter_config_file(path, revision=revision)
    return None if found is None else adapter_of(path, Path(found))


def load_model(path: str, revision: str | None, arguments: Mapping[str, Any]) -> PreTrainedModel:
    """The model at `path` as TRL loads it, with an adapter that lies there merged into the model below it: on the CPU,
    so that everybody who merges it gets the same numbers. Raises UnusableModel.
    """
    adapter = find_adapter(path, revision)
    if adapter is None:
        refuse_other_kinds(path, PreTrainedConfig.get_config_dict(path, revision=revision)[0])
        return _load_whole(path, path, {"revision": revision, **arguments})
    refuse_quantized(adapter, {"load_in_4bit": "quantization_config" in arguments})
    arguments = {"device_map": None, **arguments}
    if adapter.is_beside:
        with _without_adapter(Path(path)) as folder:
            refuse_kernels(path, PreTrainedConfig.get_config_dict(str(folder))[0])
            base = _load_whole(path, str(folder), arguments)
    else:
        base = load_model(adapter.base, adapter.revision, arguments)
    loaded = random_numbers()
    model = _merge(base, adapter, revision)
    go_on_from(loaded)  # PEFT draws factors before it reads them; whoever loads the merged model draws none
    model.name_or_path = model.config._name_or_path = path
    return model


def _load_whole(path: str, place: str, arguments: Mapping[str, Any]) -> PreTrainedModel:
    """The model at `place`, which a user knows as `path`. Raises UnusableModel where its files lack weights, which
    transformers would draw at random.
    """
    try:
        loaded: Any = create_model_from_path(place, output_loading_info=True, **arguments)
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise UnusableModel(
            f"model {path}: its weights have other shapes than its config.json says: take the config.json that it was "
            "saved with"
        ) from error
    model, info = loaded
    missing = sorted(info["missing_keys"])
    if missing:
        raise UnusableModel(
            f"model {path}: its files lack {so_many(len(missing), 'weight')} that its config.json asks for, such as "
            f"{missing[0]}, which would be random numbers: take the config.json that it was saved with, or its other "
            "files of weights"
        )
    return cast(PreTrainedModel, model)


def _merge(base: PreTrainedModel, adapter: AdapterBase, revision: str | None) -> PreTrainedModel:
    """The base with the adapter in its weights."""
    merge = f"Merge it yourself: {how_to_merge(adapter)}"
    other = (
        "It was made on another model, or edited: write the one that it was trained on as base_model_name_or_path into "
        f"its {ADAPTER}"
    )
    if getattr(base, "is_quantized", False):
        raise UnusableModel(f"model {adapter}, which is quantised: a merge would round otherwise. {merge}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of keys that do not fit, which are refused below
            policy = PeftModel.from_pretrained(base, adapter.path, revision=revision)
        stored = {name for name in load_peft_weights(adapter.path, device="cpu", revision=revision) if "lora_" in name}
        wanted = {name for name in get_peft_model_state_dict(policy, save_embedding_layers=False) if "lora_" in name}
        if stored != wanted:
            odd = sorted(stored ^ wanted)[0]
            where = "has no place in" if odd in stored else "is missing for"
            raise UnusableModel(f"model {adapter}, and does not fit it: {odd} {where} it. {other}")
        merged: PreTrainedModel = policy.merge_and_unload(safe_merge=True)
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, NotImplementedError) as error:
        if isinstance(error, UnusableModel):
            raise
        if "size mismatch" in str(error) or "target modules" in str(error).lower():
            raise UnusableModel(f"model {adapter}, and does not fit it ({_shortly(error)}). {other}") from error
        if "NaNs detected" in str(error):
            raise UnusableModel(
                f"model {adapter}, and its factors hold what is no number (NaN): take a checkpoint from before that"
            ) from error
        raise UnusableModel(f"model {adapter}, and cannot be merged: {told(error)} {merge}") from error
    merged.__dict__.pop("peft_config", None)
    merged.requires_grad_(True)  # as it was loaded: PEFT froze it
    return merged


def merge_checked(base: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """The base with an adapter that was trained on it in its weights. Raises UnusableModel where it then computes
    otherwise than with the adapter beside it, by more than rounding: a weight that two layers share takes part in both.
    """
    if getattr(base, "is_quantized", False):
        raise UnusableModel(f"model {base.name_or_path}: it is quantised, and a merge would round otherwise")
    base.eval()
    ids = torch.arange(min(_IDS, base.config.get_text_config().vocab_size)).unsqueeze(0)
    with torch.no_grad(), usable(str(adapter)):
        start = base(input_ids=ids).logits.double()
        policy = PeftModel.from_pretrained(base, str(adapter)).eval()
        beside = policy(input_ids=ids).logits.double()
        merged: PreTrainedModel = policy.merge_and_unload(safe_merge=True)
        inside = merged(input_ids=ids).logits.double()
    rounding = torch.finfo(merged.dtype).eps * _ROUNDINGS * float(beside.norm())
    allowed, apart = rounding + _SHARE * float((beside - start).norm()), float((inside - beside).norm())
    if not apart <= allowed:
        raise UnusableModel(
            f"model {base.name_or_path}: with the adapter in its weights it computes otherwise than beside them "
            f"(logits {apart:.2g} apart, of which {allowed:.2g} is rounding), as where layers share a weight: use the "
            "adapter as it is"
        )
    merged.__dict__.pop("peft_config", None)
    return merged


def with_adapter(base: PreTrainedModel, adapter: Path) -> PeftModel:
    """The base with an adapter from elsewhere beside its weights. Raises UnusableModel where it does not fit: PEFT
    would leave out, or write into the base, what has another name.
    """
    with usable(str(adapter)), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of keys that do not fit, which are refused below
        policy = PeftModel.from_pretrained(base, str(adapter))
        stored = set(load_peft_weights(str(adapter), device="cpu"))
        wanted = set(get_peft_model_state_dict(policy, save_embedding_layers=False))
    if stored != wanted:
        odd = sorted(stored ^ wanted)[0]
        where = "has no place in" if odd in stored else "is missing for"
        raise UnusableModel(
            f"adapter {adapter}: does not fit the study's base: {odd} {where} it. It was made on another model, or "
            "edited: name the one that was trained on this base"
        )
    return policy


@contextmanager
def usable(path: str) -> Iterator[None]:
    """Inside, what goes wrong with the model at `path` and would go wrong again is UnusableModel, in the words of the
    library that met it; what the machine does stays as it is.
    """
    try:
        yield
    except UnusableModel:
        raise
    except Exception as error:
        cause = cause_of(error)
        if cause is Cause.REFUSED or (cause is Cause.INFRASTRUCTURE and _is_of_library(error)):
            raise UnusableModel(f"model {path} cannot be used: {told(error)}{_remedy(error)}") from error
        raise


def _is_of_library(error: Exception) -> bool:
    return isinstance(error, OSError) and is_of_library(error)


def _shortly(error: Exception) -> str:
    """The line of a long error that says most."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "size mismatch" in line), lines[0])[:200]


def _remedy(error: Exception) -> str:
    """What to do about an error that does not say so: get a damaged file again, or install a package that it names."""
    text = str(error)
    if type(error).__name__ == "SafetensorError":
        return " (a file of its weights is cut or damaged: load it again)"
    if "pip install" in text:
        return ""
    if isinstance(error, ModuleNotFoundError) and error.name:
        module = error.name.partition(".")[0]
        return f" (pip install {_PACKAGES.get(module, module.replace('_', '-'))})"
    named = [name for name in ("sentencepiece", "tiktoken", "protobuf") if name in text]
    return f" (pip install {' '.join(named)})" if named else ""


@contextmanager
def _without_adapter(folder: Path) -> Iterator[Path]:
    """A folder of links to the files of a model, without the adapter that transformers would put in by itself."""
    with TemporaryDirectory() as place:
        for file in folder.iterdir():
            if file.name not in (ADAPTER, *ADAPTER_WEIGHTS):
                (Path(place) / file.name).symlink_to(file.absolute())
        yield Path(place)


def saveable(config: GenerationConfig) -> GenerationConfig:
    """A generation config that says the same and can be saved: transformers saves no model beside one that names
    options of sampling where nothing is sampled (Llama-2-chat, Vicuna), which greedy decoding does not look at.
    """
    if _is_valid(config):
        return config
    mended, plain = GenerationConfig.from_dict(config.to_dict()), GenerationConfig()
    if not mended.do_sample:
        for name in _SAMPLING_ONLY:
            setattr(mended, name, getattr(plain, name, None))
    if _is_valid(mended):
        return mended
    ids = {name: value for name, value in config.to_dict().items() if name.endswith("_token_id")}
    return GenerationConfig(**ids)


def _is_valid(config: GenerationConfig) -> bool:
    try:
        config.validate(strict=True)
    except ValueError:
        return False
    return True
