"""What lies where a base model is named, read from its small files before anything is loaded; loads no torch.

A base may be an adapter: it is then merged into the model that it lies on (`trainers.models.merged`), which is the
policy's base and the reference. What no loader could use is told here, with the remedy. Of the Hub only what its cache
holds is looked at.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from studies.records import EMBEDDED_MODELS
from studies.schema.paths import existing, is_hub_id
from studies.text.files import read_json, why_cut

CONFIG, ADAPTER = "config.json", "adapter_config.json"
ADAPTER_WEIGHTS: Final = ("adapter_model.safetensors", "adapter_model.bin")
TOKENIZER: Final = ("tokenizer_config.json", "tokenizer.json", "tokenizer.model", "vocab.json")
_WEIGHTS: Final = ("*.safetensors", "*.bin", "*.pt")
_NO_WEIGHTS: Final = ("training_args.bin", "optimizer", "scheduler", "rng_state", "adapter_model", "scaler")
_FLASH: Final = ("flash_attn", "flash_attn_interface")  # packages
_INDEXES: Final = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SHARD: Final = re.compile(r"-\d{5}-of-\d{5}\.")
_POINTER: Final = b"version https://git-lfs"
# Of PEFT, what adds no matrix to a weight and so cannot be merged into one.
_UNMERGED: Final = frozenset(
    {"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT", "CARTRIDGE"}
)
_HEADS: Final = {
    "ForSequenceClassification": "classifies texts",
    "ForTokenClassification": "classifies tokens",
    "ForQuestionAnswering": "finds answers in a text",
    "ForMaskedLM": "fills in masked tokens",
    "ForMultipleChoice": "chooses between answers",
    "ForPreTraining": "fills in masked tokens",
}
# Quantisation method -> module that loads it, and how it is installed.
_OF_METHOD: Final = {
    "gptq": ("gptqmodel", "gptqmodel optimum"),
    "awq": ("gptqmodel", "gptqmodel"),
    "bitsandbytes": ("bitsandbytes", "bitsandbytes"),
    "aqlm": ("aqlm", "'aqlm[gpu,cpu]'"),
    "quanto": ("optimum", "optimum-quanto"),
    "hqq": ("hqq", "hqq"),
    "eetq": ("kernels", "kernels"),
    "compressed-tensors": ("compressed_tensors", "compressed-tensors"),
    "torchao": ("torchao", "torchao"),
    "vptq": ("vptq", "vptq"),
    "auto-round": ("auto_round", "auto-round"),
    "spqr": ("spqr_quant", "'spqr_quant[gpu]'"),
}


class UnusableModel(ValueError):
    """A model that cannot be trained with as it is; says why and what to do."""


@dataclass(frozen=True)
class AdapterBase:
    """An adapter at `path`, and the model below it: `base` at `revision`, or the weights that lie beside it."""

    path: str
    base: str
    revision: str | None
    kind: str = "LORA"

    @property
    def is_beside(self) -> bool:
        """Whether the weights of its model lie in its own folder."""
        return self.base == self.path

    def __str__(self) -> str:
        below = "the model beside it" if self.is_beside else self.base
        return f"{self.path} is an adapter ({self.kind.lower()}) on {below}"


def adapter_of(path: str, config_file: Path) -> AdapterBase:
    """The adapter that `config_file` tells of, which lies with what `path` names. Raises UnusableModel."""
    config = _read(config_file)
    named, kind = config.get("base_model_name_or_path"), str(config.get("peft_type") or "")
    folder = existing(path)
    if kind.upper() in _UNMERGED or not kind:
        raise UnusableModel(
            f"model {path}: its adapter_config.json says peft_type {kind or 'nothing'}, which adds to no weight and "
            "cannot be merged into its model: name the model that it lies on, or a LoRA adapter"
        )
    task = str(config.get("task_type") or "CAUSAL_LM")
    if task != "CAUSAL_LM":
        raise UnusableModel(
            f"model {path}: its adapter is for task_type {task} and not CAUSAL_LM; DPO trains a model that writes text"
        )
    if folder is not None:
        there = [name for name in ADAPTER_WEIGHTS if (folder / name).is_file()]
        if not there:
            raise UnusableModel(
                f"model {path}: it has an adapter_config.json and no adapter_model.safetensors. Put that back, or "
                "remove adapter_config.json where the folder is a whole model"
            )
        _refuse_unreadable(path, [folder / name for name in there])
        if (folder / CONFIG).is_file() and weights(folder):
            return AdapterBase(path, path, None, kind)
    if not named:
        raise UnusableModel(
            f"model {path}: its adapter_config.json does not say by base_model_name_or_path on which model it lies: "
            "write it there"
        )
    named = _from_here_or_beside(str(named), folder)
    if existing(named) is None and not is_hub_id(named):
        raise UnusableModel(
            f"model {path}: it is an adapter on {named}, which is not here: put it there, or write where it lies as "
            "base_model_name_or_path into its adapter_config.json"
        )
    adapter = AdapterBase(path, named, config.get("revision"), kind)
    _refuse_circle(adapter)
    return adapter


def _refuse_circle(adapter: AdapterBase) -> None:
    """Raises UnusableModel where an adapter lies, over others or at once, on itself: as far as they lie here."""
    seen = set[str]()
    below, revision = adapter.base, adapter.revision
    while (file := small_file(below, revision, ADAPTER)) is not None:
        place = existing(below)
        if place is not None and (place / CONFIG).is_file() and weights(place):
            return  # its model lies beside it
        if (key := str(place.resolve() if place else below)) in seen:
            raise UnusableModel(
                f"model {adapter}, and the models that adapters name as theirs lead back to {below}: write the model "
                "below as base_model_name_or_path into its adapter_config.json"
            )
        seen.add(key)
        config = _read(file)
        below, revision = (
            _from_here_or_beside(str(config.get("base_model_name_or_path")), place),
            config.get("revision"),
        )


def _from_here_or_beside(name: str, folder: Path | None) -> str:
    """A path as it stands, from the working folder, or else from the adapter's own."""
    if folder is None or existing(name) is not None or Path(name).is_absolute():
        return name
    beside = folder / name
    return str(beside) if beside.is_dir() else name


def tokenizer_place(path: str, revision: str | None) -> tuple[str, str | None]:
    """Where the tokenizer of a base lies: with it, or with the model below an adapter that has none of its own."""
    folder = existing(path)
    if folder is None or not (folder / ADAPTER).is_file() or any((folder / name).is_file() for name in TOKENIZER):
        return path, revision
    adapter = adapter_of(path, folder / ADAPTER)
    return (path, revision) if adapter.is_beside else tokenizer_place(adapter.base, adapter.revision)


def how_to_merge(adapter: AdapterBase) -> str:
    """The command that merges the adapter, and what to name then."""
    base = adapter.base if not adapter.is_beside else "NAME-OF-ITS-MODEL"
    into = f"{Path(adapter.path).name}-merged"
    code = (
        "from peft import PeftModel; from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; "
        f"PeftModel.from_pretrained(M.from_pretrained({base!r}, dtype='auto'), {adapter.path!r}).merge_and_unload()"
        f".save_pretrained({into!r}); T.from_pretrained({adapter.path!r}).save_pretrained({into!r})"
    )
    return f"{shlex.join(['python', '-c', code])} and take model_name_or_path: {into}"


def refuse_quantized(adapter: AdapterBase, settings: Mapping[str, Any]) -> None:
    """Raises UnusableModel where the model below an adapter is quantised, or to be: a merge would round otherwise than
    the adapter was trained.
    """
    place = existing(adapter.base)
    own = place is not None and "quantization_config" in _read(place / CONFIG)
    asked = [name for name in ("load_in_4bit", "load_in_8bit") if settings.get(name)]
    if asked or own:
        why = f"{asked[0]} is asked for" if asked else f"{adapter.base} is quantised"
        first = "" if asked else " into the model before it was quantised"
        raise UnusableModel(
            f"model {adapter}, and cannot be merged exactly because {why}. Merge it first{first}: "
            f"{how_to_merge(adapter)}"
        )


def quantised(path: str, revision: str | None, settings: Mapping[str, Any]) -> str | None:
    """Why a base is held in rounded weights, None where it is not, as far as its small files and the settings tell."""
    asked = [name for name in ("load_in_4bit", "load_in_8bit") if settings.get(name)]
    config = small_file(path, revision, CONFIG)
    own = config is not None and "quantization_config" in _read(config)
    return f"{asked[0]} is set" if asked else "it is quantised" if own else None


# ---- before anything is made --------------------------------------------------------------------------------------


def base_problems(settings: Mapping[str, Any]) -> list[str]:
    """Everything wrong with the base of these settings that its small files tell, as far as they lie here."""
    try:
        _check(settings)
    except UnusableModel as error:
        return [f"base.model_name_or_path: {error}"]
    return []


def base_notices(settings: Mapping[str, Any]) -> list[str]:
    """What a user must know of a base that is right: that it is an adapter and what becomes of it."""
    with suppress(UnusableModel):
        adapter = _adapter_here(str(settings.get("model_name_or_path")), settings.get("model_revision"))
        if adapter is not None:
            return [f"base {adapter}: it is merged into that, and runs start from both; so does their reference"]
    return []


def _check(settings: Mapping[str, Any]) -> None:
    path, revision = str(settings.get("model_name_or_path")), settings.get("model_revision")
    if path in EMBEDDED_MODELS or settings.get("model_init_kwargs"):  # which may say anything of where the files lie
        return
    adapter = _adapter_here(path, revision)
    if adapter is None or adapter.is_beside:
        _refuse_missing_packages(path, revision, settings)
    if adapter is not None:
        refuse_quantized(adapter, settings)
        if not adapter.is_beside:
            _check({**settings, "model_name_or_path": adapter.base, "model_revision": adapter.revision})
            return
    folder = existing(path)
    if folder is not None:
        _refuse_incomplete(path, folder)
    config = small_file(path, revision, CONFIG)
    if config is not None:
        refuse_other_kinds(path, _read(config))


def _adapter_here(path: str, revision: str | None) -> AdapterBase | None:
    found = small_file(path, revision, ADAPTER)
    return None if found is None else adapter_of(path, found)


def refuse_other_kinds(path: str, config: Mapping[str, Any]) -> None:
    """Raises UnusableModel for a model that is none that writes on: an encoder-decoder, a classifier, a bare body."""
    refuse_kernels(path, config)
    names = config.get("architectures")
    name = str(names[0]) if isinstance(names, list) and names else ""
    kind = config.get("model_type") or name
    if config.get("is_encoder_decoder"):
        raise UnusableModel(
            f"model {path}: it is an encoder-decoder ({name or kind}), which TRL's DPOTrainer does not train: take a "
            "decoder, such as one of a ...ForCausalLM class"
        )
    for head, does in _HEADS.items():
        if name.endswith(head):
            raise UnusableModel(
                f"model {path}: it is a {name}, which {does} and does not write text: take one of a ...ForCausalLM "
                "class"
            )
    if name.endswith("Model") and not name.endswith("LMHeadModel"):
        raise UnusableModel(
            f"model {path}: it was saved as {name}, without the head that gives probabilities of tokens: save it from "
            "AutoModelForCausalLM"
        )
    for key, does in (("model_type", "transformers knows what it is"), ("architectures", "TRL takes its class")):
        if not config.get(key) and not (key == "model_type" and "auto_map" in config):
            raise UnusableModel(
                f"model {path}: its config.json says no {key}, by which {does}: take the config.json that it was saved "
                'with, or write it there, such as "model_type": "llama", "architectures": ["LlamaForCausalLM"]'
            )


def refuse_kernels(path: str, config: Mapping[str, Any]) -> None:
    """Raises UnusableModel where a model's own config names native code, which transformers would fetch from the Hub
    and run where the package `kernels` is installed.
    """
    for key, value in _implementations(config):
        fetched = "flash_attention" in value and find_spec("kernels") and not any(map(find_spec, _FLASH))
        if "/" in value or fetched:
            raise UnusableModel(
                f"model {path}: its config.json says {key}: {value}, which is native code that would be fetched from "
                "elsewhere: remove that line, and say attn_implementation in the study where you want another one"
            )


def _implementations(config: Any) -> Iterator[tuple[str, str]]:
    """What a config, and those in it, says of how its layers are computed: key and value."""
    for key, value in config.items() if isinstance(config, Mapping) else ():
        if str(key).endswith("_implementation"):
            values = value.values() if isinstance(value, Mapping) else [value]
            yield from ((str(key), one) for one in values if isinstance(one, str))
        else:
            yield from _implementations(value)


def _refuse_incomplete(path: str, folder: Path) -> None:
    gguf = sorted(folder.glob("*.gguf")) if folder.is_dir() else [folder] if folder.suffix == ".gguf" else []
    found = weights(folder)
    if gguf and not found:
        raise UnusableModel(
            f"model {path}: {gguf[0].name} is a GGUF file, which is made to be run and not to be trained: take the "
            "model that it was made from, a folder or Hub id with config.json and model.safetensors"
        )
    if folder.is_file():
        raise UnusableModel(f"model {path}: it is a file; name the folder that it lies in")
    if not (folder / CONFIG).is_file():
        below = sorted(place.parent for name in (CONFIG, ADAPTER) for place in folder.glob(f"*/{name}"))
        hint = (
            f"{below[-1]} below it has one" if below else "put that of the model, as save_pretrained writes it, there"
        )
        raise UnusableModel(f"model {path}: the folder has no config.json and no adapter_config.json; {hint}")
    try:
        read_json(folder / CONFIG, links=True)
    except (OSError, ValueError) as error:
        raise UnusableModel(f"model {path}: its config.json cannot be read ({error}): load it again") from error
    if not found:
        raise UnusableModel(
            f"model {path}: the folder has a config.json and no weights: put its model.safetensors (or "
            "pytorch_model.bin) there"
        )
    _refuse_unreadable(path, found)
    if all(map(_SHARD.search, (file.name for file in found))) and not any((folder / n).is_file() for n in _INDEXES):
        raise UnusableModel(
            f"model {path}: its weights are in parts ({found[0].name}), and the index that names them is missing: put "
            f"{_INDEXES[0]} (or {_INDEXES[1]}) there"
        )
    for name in _INDEXES:
        if not (folder / name).is_file():
            continue
        named = _read(folder / name).get("weight_map")
        if not isinstance(named, dict):
            raise UnusableModel(f"model {path}: {name} names no files of weights: it is damaged, so load it again")
        shards = set(map(str, named.values()))
        gone = sorted(shard for shard in shards if not (folder / shard).is_file())
        if gone:
            raise UnusableModel(
                f"model {path}: {name} names {len(shards)} files of weights and {len(gone)} are missing, {gone[0]} "
                "the first: copy them there, or load the model again"
            )


def _refuse_unreadable(path: str, files: Iterable[Path]) -> None:
    for file in files:
        with suppress(OSError), file.open("rb") as content:
            if content.read(len(_POINTER)) == _POINTER:
                raise UnusableModel(
                    f"model {path}: {file.name} is a pointer of Git LFS and not the weights: get them by `git lfs pull`"
                )
        if file.suffix == ".safetensors" and (why := why_cut(file)) is not None:
            raise UnusableModel(f"model {path}: {why}")


def _refuse_missing_packages(path: str, revision: str | None, settings: Mapping[str, Any]) -> None:
    """Raises UnusableModel where a package is not installed that loading the model needs."""
    config = small_file(path, revision, CONFIG)
    quantization = None if config is None else _read(config).get("quantization_config")
    methods = {str(quantization.get("quant_method", "")).lower()} if isinstance(quantization, dict) else set()
    if settings.get("load_in_4bit") or settings.get("load_in_8bit"):
        methods.add("bitsandbytes")
    for method in sorted(methods & _OF_METHOD.keys()):
        module, package = _OF_METHOD[method]
        if find_spec(module) is None:
            raise UnusableModel(f"model {path}: {method} needs a package that is not installed: pip install {package}")
    attention = str(settings.get("attn_implementation") or "")
    if "flash_attention" in attention and not any(map(find_spec, _FLASH)):
        # With `kernels` alone, transformers would fetch native code from the Hub in its place.
        raise UnusableModel(
            f"attn_implementation {attention}: needs a package that is not installed: pip install flash-attn"
        )


def weights(folder: Path) -> list[Path]:
    """The files of a folder that may hold a model's weights."""
    files = (file for pattern in _WEIGHTS for file in folder.glob(pattern))
    return [file for file in files if file.is_file() and not file.name.startswith(_NO_WEIGHTS)]


def small_file(path: str, revision: str | None, name: str) -> Path | None:
    """A file of a model's folder, or of its place in the Hub's cache; None where it does not lie here."""
    place = None if path in EMBEDDED_MODELS else existing(path)
    if place is not None:
        return place / name if (place / name).is_file() else None
    if path in EMBEDDED_MODELS or not is_hub_id(path):
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(path, name, revision=revision)
    return Path(found) if isinstance(found, str) else None


def _read(file: Path) -> dict[str, Any]:
    """A JSON file; empty where it is not there or holds something else."""
    with suppress(OSError, ValueError):
        found = read_json(file, links=True)
        return found if isinstance(found, dict) else {}
    return {}
