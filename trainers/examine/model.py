"""What a model is, from its config, its tokenizer's config and the heads of its weight files; reads no weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

from studies.schema.paths import existing
from studies.text.files import read_json, safetensors_header
from trainers.models.bases import ADAPTER, CONFIG, UnusableModel, adapter_of, base_problems, small_file, tokenizer_place
from trainers.world.paths import embedded_path

# Kinds of models whose positions are a table that ends: see `trainers.models.positions`.
_TABLES: Final = frozenset(
    {"gpt2", "gpt_neo", "gptj", "codegen", "opt", "xglm", "biogpt", "ctrl", "gpt_bigcode", "mpt"}
)


@dataclass(frozen=True)
class ModelFacts:
    """A model as far as its small files tell; None where they do not.

    `is_here`: whether it lies here at all; `positions`: tokens that it was made for, of which `is_table` says that it
    has no more; `modules`: its linear layers by their names; `has_template`: whether it takes messages; `problems`:
    why no run could start from it.
    """

    name: str
    is_here: bool = False
    parameters: int | None = None
    dtype: str | None = None
    positions: int | None = None
    is_table: bool = False
    modules: tuple[str, ...] = ()
    has_template: bool | None = None
    problems: tuple[str, ...] = ()

    def in_words(self) -> str:
        """One sentence."""
        if not self.is_here:
            return f"{self.name} is not here yet: the sizes are those for a model of half a billion parameters."
        told = [f"{self.parameters:,} parameters"] if self.parameters else []
        told += [self.dtype] if self.dtype else []
        told += [f"made for {self.positions:,} tokens"] if self.positions else []
        told += [] if self.has_template is None else ["a chat template" if self.has_template else "no chat template"]
        return ", ".join(told) + "."


def look_at_model(name: str) -> ModelFacts:
    """What the model of this name or path is, as far as it lies here or in the Hub's cache."""
    problems = tuple(base_problems({"model_name_or_path": name}))
    config_file, place = _config_of(str(embedded_path(name) or name))
    if config_file is None:
        return ModelFacts(name, is_here=existing(name) is not None, problems=problems)
    config = _read(config_file)
    inner = config.get("text_config")
    text: Mapping[str, Any] = inner if isinstance(inner, dict) else config
    shapes = dict(_shapes(config_file.parent))
    positions = next((text[k] for k in _POSITIONS if isinstance(text.get(k), int)), None)
    return ModelFacts(
        name,
        is_here=True,
        parameters=sum(prod(shape) for shape in shapes.values()) or _counted(text),
        dtype=_dtype(config, text),
        positions=positions,
        is_table=config.get("model_type") in _TABLES,
        modules=_linear(shapes),
        has_template=_has_template(place),
        problems=problems,
    )


_POSITIONS: Final = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")


def _config_of(name: str) -> tuple[Path | None, str]:
    """The config of a model, or of that below an adapter, and where its tokenizer lies."""
    with suppress(UnusableModel):
        adapter = small_file(name, None, ADAPTER)
        if adapter is not None:
            below = adapter_of(name, adapter)
            if not below.is_beside:
                return _config_of(below.base)[0], tokenizer_place(name, None)[0]
    return small_file(name, None, CONFIG), name


def _dtype(config: Mapping[str, Any], text: Mapping[str, Any]) -> str | None:
    found = next((of[k] for of in (config, text) for k in ("dtype", "torch_dtype") if isinstance(of.get(k), str)), None)
    return None if found is None else str(found).removeprefix("torch.")


def _has_template(place: str) -> bool | None:
    """Whether a tokenizer renders messages; None where it does not lie here."""
    if small_file(place, None, "chat_template.jinja") is not None:
        return True
    file = small_file(place, None, "tokenizer_config.json")
    if file is None:
        return None
    return bool(_read(file).get("chat_template")) or any((file.parent / "additional_chat_templates").glob("*.jinja"))


def _shapes(folder: Path) -> Iterator[tuple[str, Sequence[int]]]:
    """The shapes of a model's weights by their names, from the heads of its safetensors."""
    for file in folder.glob("*.safetensors"):
        if file.name.startswith("adapter"):
            continue
        with suppress(OSError, ValueError, AttributeError, TypeError, KeyError):
            head = safetensors_header(file, links=True)
            shapes = {name: about["shape"] for name, about in head.items() if name != "__metadata__"}
            if all(type(size) is int for shape in shapes.values() for size in shape):
                yield from shapes.items()


_IN_A_LAYER: Final = re.compile(r".*\.\d+\..*?([^.]+)\.weight")


def _linear(shapes: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
    """The linear layers of a model's blocks, each name once."""
    named = [_IN_A_LAYER.fullmatch(name) for name, shape in shapes.items() if len(shape) == 2]
    return tuple(sorted({found[1] for found in named if found}))


def _counted(config: Mapping[str, Any]) -> int | None:
    """The parameters of a decoder of the usual form, nearly, from its sizes."""

    def size(*names: str) -> int | None:
        return next((config[name] for name in names if isinstance(config.get(name), int)), None)

    width, layers, words = size("hidden_size", "n_embd", "d_model"), size("num_hidden_layers", "n_layer"), None
    words = size("vocab_size")
    if not (width and layers and words):
        return None
    heads = size("num_attention_heads", "n_head") or 1
    each = size("head_dim") or width // heads
    keys = size("num_key_value_heads") or heads
    inner = size("moe_intermediate_size", "intermediate_size", "n_inner", "ffn_dim") or 4 * width
    experts = size("num_local_experts", "num_experts", "n_routed_experts") or 1
    attention = 2 * width * each * (heads + keys)
    gated = 2 if config.get("model_type") in _TABLES else 3
    tied = config.get("tie_word_embeddings", True)
    return int(layers * (attention + gated * width * inner * experts) + words * width * (1 if tied else 2))


def _read(file: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        found = read_json(file, links=True)
        return found if isinstance(found, dict) else {}
    return {}
