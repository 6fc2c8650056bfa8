"""What a folder that is named as base holds: an adapter is told of, and what no run could use is refused by name."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from studies.schema.contents import Source
from trainers.components.base_memory import _sizes
from trainers.contents import read_content
from trainers.examine.model import look_at_model
from trainers.models.bases import base_notices, base_problems
from trainers.models.tokenizer import embedding_rows

LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
HEAD = json.dumps({"w": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
WHOLE = struct.pack("<Q", len(HEAD)) + HEAD + bytes(4)
LORA = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "base"}


def headed(about: Any) -> bytes:
    """A safetensors file whose header says this of its only tensor."""
    head = json.dumps({"__metadata__": {"format": "pt"}, "w": about}).encode()
    return struct.pack("<Q", len(head)) + head + bytes(4)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def a_folder(name: str, config: Any = None, adapter: Any = None, **files: bytes) -> None:
    folder = Path(name)
    folder.mkdir(parents=True)
    for file, content in (("config.json", config), ("adapter_config.json", adapter)):
        if content is not None:
            (folder / file).write_text(json.dumps(content))
    for file, data in files.items():
        (folder / file.replace("__", ".")).write_bytes(data)


def a_base() -> None:
    a_folder("base", LLAMA, model__safetensors=WHOLE)


def an_adapter(**changes: Any) -> None:
    a_base()
    a_folder("m", adapter={**LORA, **changes}, adapter_model__safetensors=WHOLE)


def problem(**settings: Any) -> str:
    (told,) = base_problems({"model_name_or_path": "m", **settings})
    return told


def test_a_whole_model_and_a_name_on_the_hub_are_nothing_to_say_of() -> None:
    a_folder("m", LLAMA, model__safetensors=WHOLE)
    for name in ("m", "org/name", "embedded"):
        assert base_problems({"model_name_or_path": name}) == base_notices({"model_name_or_path": name}) == []


@pytest.mark.parametrize(
    "config",
    [
        {"attn_implementation": "ORG/KERNEL"},
        {"_attn_implementation": "kernels-community/one@main"},
        {"_attn_implementation": {"": "sdpa", "vision": "paged|ORG/KERNEL:f"}},
        {"text_config": {"experts_implementation": "ORG/KERNEL"}},
    ],
)
def test_a_model_whose_files_name_native_code_is_refused(config: dict[str, Any]) -> None:
    a_folder("m", {**LLAMA, **config}, model__safetensors=WHOLE)
    assert "which is native code that would be fetched from elsewhere" in problem()


@pytest.mark.parametrize("installed", [(), ("kernels",), ("kernels", "flash_attn")])
def test_flash_attention_of_a_models_own_config_is_refused_where_it_would_be_fetched(
    installed: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainers.models.bases.find_spec", lambda name: name if name in installed else None)
    a_folder("m", {**LLAMA, "_attn_implementation": "flash_attention_2"}, model__safetensors=WHOLE)
    assert bool(base_problems({"model_name_or_path": "m"})) == (installed == ("kernels",))


def test_an_adapter_is_told_of_with_the_model_below_it() -> None:
    an_adapter()
    assert base_problems({"model_name_or_path": "m"}) == []
    (note,) = base_notices({"model_name_or_path": "m"})
    assert "m is an adapter (lora) on base: it is merged" in note


def test_weights_beside_an_adapter_are_its_model_and_a_config_alone_is_not() -> None:
    an_adapter()
    Path("m/config.json").write_text(json.dumps(LLAMA))
    assert "on base" in base_notices({"model_name_or_path": "m"})[0]
    Path("m/model.safetensors").write_bytes(WHOLE)
    assert "on the model beside it" in base_notices({"model_name_or_path": "m"})[0]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: a_folder("m", LLAMA), "config.json and no weights"),
        (lambda: a_folder("m", LLAMA, training_args__bin=b"x", optimizer__pt=b"x"), "config.json and no weights"),
        (
            lambda: a_folder("m", LLAMA, **{"model-00001-of-00002__safetensors": WHOLE}),
            "the index that names them is missing",
        ),
        (lambda: a_folder("m", tokenizer__json=b"{}"), "no config.json and no adapter_config.json"),
        (
            lambda: a_folder("m/checkpoint-8", LLAMA, model__safetensors=WHOLE),
            "m/checkpoint-8 below it has one",
        ),
        (
            lambda: a_folder("m", LLAMA, model__safetensors=b"version https://git-lfs.github.com/spec/v1\noid"),
            "git lfs pull",
        ),
        (
            lambda: a_folder("m", {"model_type": "t5", "is_encoder_decoder": True}, model__safetensors=WHOLE),
            "encoder-decoder (t5)",
        ),
        (
            lambda: a_folder("m", {"architectures": ["BertForMaskedLM"]}, model__safetensors=WHOLE),
            "BertForMaskedLM, which fills in masked tokens",
        ),
        (
            lambda: a_folder("m", {"architectures": ["LlamaForSequenceClassification"]}, model__safetensors=WHOLE),
            "does not write text",
        ),
        (lambda: a_folder("m", LLAMA, model__safetensors=WHOLE[:-1]), "model.safetensors is cut, at "),
        (lambda: a_folder("m", LLAMA, model__safetensors=WHOLE[:20]), "its header would be longer than the file"),
        (lambda: a_folder("m", LLAMA, model__safetensors=b""), "it is cut or damaged, so load it again"),
        *[
            (
                lambda about=about: a_folder("m", LLAMA, model__safetensors=headed(about)),
                "does not say where its weights",
            )
            for about in (
                None,
                {},
                *({"data_offsets": o} for o in (["0", "4"], [0], [4, 0], [-4, 4], {"0": 4})),
            )
        ],
        (
            lambda: a_folder(
                "m", LLAMA, model__safetensors=WHOLE, model__safetensors__index__json=b'{"weight_map": null}'
            ),
            "model.safetensors.index.json names no files of weights",
        ),
        (lambda: a_folder("m", model__gguf=b"GGUF"), "model.gguf is a GGUF file"),
        (lambda: a_folder("m", LLAMA, model__gguf=b"GGUF"), "take the model that it was made from"),
        (lambda: a_folder("m", model__safetensors=WHOLE), "put that of the model"),
        (lambda: a_folder("m", config__json=b"{ no", model__safetensors=WHOLE), "config.json cannot be read"),
        (lambda: a_folder("m", {"model_type": "llama"}, model__safetensors=WHOLE), "says no architectures, by which"),
        (
            lambda: a_folder("m", {"architectures": ["LlamaForCausalLM"]}, model__safetensors=WHOLE),
            "says no model_type",
        ),
        (lambda: a_folder("m", {"architectures": ["LlamaModel"]}, model__safetensors=WHOLE), "without the head"),
        (lambda: a_folder("m", adapter=LORA), "no adapter_model.safetensors"),
        (
            lambda: a_folder("m", adapter=LORA, adapter_model__safetensors=WHOLE[:-1]),
            "adapter_model.safetensors is cut",
        ),
        (lambda: an_adapter(base_model_name_or_path="gone/away/base"), "gone/away/base, which is not here"),
        (lambda: an_adapter(base_model_name_or_path=None), "base_model_name_or_path"),
        (lambda: an_adapter(peft_type="PROMPT_TUNING"), "cannot be merged"),
        (lambda: an_adapter(task_type="SEQ_CLS"), "task_type SEQ_CLS"),
    ],
)
def test_what_cannot_be_a_base_is_refused_with_the_remedy(make: Callable[[], None], told: str) -> None:
    make()
    assert told in problem()
    assert problem().startswith("base.model_name_or_path: model m")


@pytest.mark.parametrize("inner", [None, [], "none"])
def test_a_config_of_odd_content_is_no_error(inner: Any) -> None:
    """It is told by what loads the model."""
    a_folder("m", {**LLAMA, "text_config": inner, "vocab_size": 7}, model__safetensors=headed({"shape": ["4"]}))
    assert embedding_rows("m", None) == 7
    assert _sizes("m", None) is None
    assert look_at_model("m").modules == ()
    Path("m/config.json").write_text(json.dumps(inner))
    assert embedding_rows("m", None) is None
    assert _sizes("m", None) is None
    assert look_at_model("m").modules == ()


def test_missing_files_of_weights_are_counted_and_named() -> None:
    index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}).encode()
    a_folder("m", LLAMA)
    Path("m/model-1.safetensors").write_bytes(WHOLE)
    Path("m/model.safetensors.index.json").write_bytes(index)
    assert "2 files of weights and 1 are missing, model-2.safetensors" in problem()


@pytest.mark.parametrize("where", ["asked for", "its model"])
def test_an_adapter_on_a_quantised_model_is_refused_with_the_command_that_merges(where: str) -> None:
    an_adapter()
    if where == "its model":
        Path("base/config.json").write_text(json.dumps({**LLAMA, "quantization_config": {"quant_method": "gptq"}}))
    told = problem(**({"load_in_4bit": True} if where == "asked for" else {}))
    assert "python -c" in told
    assert "merge_and_unload" in told
    assert "model_name_or_path: m-merged" in told


@pytest.mark.parametrize(
    ("quantization", "settings", "command"),
    [
        ({"quant_method": "gptq"}, {}, "pip install gptqmodel"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, {}, "pip install bitsandbytes"),
        (None, {"load_in_8bit": True}, "pip install bitsandbytes"),
        (None, {"attn_implementation": "flash_attention_2"}, "pip install flash-attn"),
    ],
)
def test_a_package_that_is_not_there_is_named_with_its_command(
    monkeypatch: pytest.MonkeyPatch, quantization: Any, settings: dict[str, Any], command: str
) -> None:
    monkeypatch.setattr("trainers.models.bases.find_spec", lambda _name: None)
    config = {**LLAMA, "quantization_config": quantization} if quantization else LLAMA
    a_folder("m", config, model__safetensors=WHOLE)
    assert command in problem(**settings)


@pytest.mark.parametrize("other", ["m", "n"])
def test_adapters_that_lie_on_each_other_are_refused(here: Path, other: str) -> None:
    a_folder("m", adapter={**LORA, "base_model_name_or_path": str(here / other)}, adapter_model__safetensors=WHOLE)
    if other != "m":
        a_folder("n", adapter={**LORA, "base_model_name_or_path": str(here / "m")}, adapter_model__safetensors=WHOLE)
    assert "lead back to" in problem()
    assert base_notices({"model_name_or_path": "m"}) == []
    assert read_content(Source("model", "m", None)) is not None


def test_an_adapter_on_an_adapter_on_a_model_is_a_base() -> None:
    an_adapter()
    a_folder("top", adapter={**LORA, "base_model_name_or_path": "m"}, adapter_model__safetensors=WHOLE)
    assert base_problems({"model_name_or_path": "top"}) == []


def test_native_code_that_would_be_fetched_is_no_flash_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainers.models.bases.find_spec", lambda name: name if name == "kernels" else None)
    a_folder("m", LLAMA, model__safetensors=WHOLE)
    assert "pip install flash-attn" in problem(attn_implementation="flash_attention_2")
