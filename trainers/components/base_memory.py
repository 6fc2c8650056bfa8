"""What a base, its judge, a run and an answer take of a GPU's memory, counted before anything is loaded.

By the heads of weight files and the model's config. Loads no torch: `sweeper plan` counts too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from studies.text.files import read_json
from trainers.data.pairs import JudgeError
from trainers.examine.model import look_at_model
from trainers.models.bases import CONFIG, UnusableModel, quantised, small_file

GIB: Final = 2**30
_BYTES: Final = {"float64": 8.0, "float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
_OF_4_BITS, _OF_8_BITS = 0.65, 1.1
"""Bytes of a parameter with its scales, and embeddings that stay in half precision."""
_SHARE: Final = 0.92
"""Of a card's memory that tensors get: the rest is its context, kernels, and pieces that fit nothing."""
_KEPT_OF_WIDTH, _KEPT_OF_INNER = 28.0, 8.3
"""Bytes that a layer keeps of a token until the backward pass, a unit of its width and of its inner width: counted on
fake tensors at 135M and 1B in bf16 (0.8 and 1.9 MiB a token in all)."""
_OF_ADAPTER: Final = 4 * 4
"""Bytes of a number of an adapter: itself, its gradient and AdamW's two moments, in float32."""


class NoRoom(OSError):
    """Others use so much of the GPU that a model which would fit does not now."""


@dataclass(frozen=True)
class MemoryPlan:
    """GiB of one GPU: the base and its copy in half precision that a pass makes, the judge, one run without and with
    gradient checkpointing, one answer in evaluation; of these, `answers` at once fit beside the models.
    """

    card: float
    base: float
    copy: float
    judge: float
    run: float
    checkpointed: float
    answer: float

    @property
    def free(self) -> float:
        """What is left for runs and answers."""
        return _SHARE * self.card - self.base - self.copy - self.judge

    @property
    def answers(self) -> int:
        """How many answers are sampled at once at most."""
        return max(0, int(self.free / self.answer))

    @property
    def runs(self) -> int:
        """How many runs train together at most, without gradient checkpointing."""
        return max(0, int(self.free / self.run))

    @property
    def fits(self) -> bool:
        """Whether one run can train and be measured."""
        return self.free >= max(self.checkpointed, self.answer)

    def __str__(self) -> str:
        models = [f"base {_gib(self.base)}"] + ([f"its copy in bf16 {_gib(self.copy)}"] if self.copy else [])
        models += [f"judge {_gib(self.judge)}"] if self.judge else []
        return (
            f"of {_gib(self.card)} of a GPU: {', '.join(models)}; {_gib(max(0.0, self.free))} for runs of "
            f"{_gib(self.run)} ({_gib(self.checkpointed)} with gradient checkpointing) and answers of "
            f"{_gib(self.answer)}: {self.runs} and {self.answers} at once"
        )


def loaded_gib(settings: Mapping[str, Any]) -> float | None:
    """GiB of the base of these settings as TRL loads it; None where its files do not tell."""
    name = str(settings.get("model_name_or_path"))
    about = look_at_model(name)
    if about.parameters is None:
        return None
    asked = str(settings.get("dtype") or "float32").removeprefix("torch.")  # TRL's default
    size = _BYTES.get(about.dtype or "float32" if asked == "auto" else asked, 4.0)
    if quantised(name, settings.get("model_revision"), settings) is not None:
        size = _OF_8_BITS if settings.get("load_in_8bit") else _OF_4_BITS
    return about.parameters * size / GIB


def plan_memory(
    settings: Mapping[str, Any], judge: str | None, tokens: int, answer: int, card: float
) -> MemoryPlan | None:
    """The plan for runs with these settings, whose rows have at most so many `tokens` and whose answers in evaluation
    have `answer`, on a `card` of so many GiB; None where the base's files do not tell.
    """
    name = str(settings.get("model_name_or_path"))
    base, config = loaded_gib(settings), _sizes(name, settings.get("model_revision"))
    if base is None or config is None:
        return None
    beside = None if judge is None else loaded_gib({"model_name_or_path": judge, "dtype": "auto"})
    wide = str(settings.get("dtype") or "float32") == "float32" and quantised(name, None, settings) is None
    rank = int(settings.get("lora_r") or 16)
    adapter = (
        _OF_ADAPTER * rank * config.layers * (3 * (config.width + config.inner) + 4 * config.width + 4 * config.keys)
    )
    rows = 2 * int(settings.get("per_device_train_batch_size") or 8) * tokens
    layer = _KEPT_OF_WIDTH * config.width + _KEPT_OF_INNER * config.inner
    kept, thin = rows * config.layers * layer, rows * (2.0 * config.layers * config.width + layer)
    read = 2.0 * 2 * config.layers * config.keys * tokens  # keys and values of a row, in half precision
    logits = 16.0 * config.words
    whole = read * (1 + answer / max(1, tokens)) + logits
    return MemoryPlan(
        card=card,
        base=base,
        copy=base / 2 if wide and settings.get("bf16") is not False else 0.0,
        judge=beside or 0.0,
        run=(adapter + kept) / GIB,
        checkpointed=(adapter + thin) / GIB,
        answer=whole / GIB,
    )


def refuse_too_large(settings: Mapping[str, Any], card: float, free: float, beside: float = 0.0) -> None:
    """Raise UnusableModel where the base cannot be on a GPU of `card` GiB, NoRoom where it is `free` that is missing.
    `beside`: GiB of what is to be on it too.
    """
    size = loaded_gib(settings)
    if size is None or size + beside <= _SHARE * free:
        return
    name = settings.get("model_name_or_path")
    if size + beside <= _SHARE * card:
        raise NoRoom(
            f"model {name} takes {_gib(size)}, and of the GPU's {_gib(card)} only {_gib(free)} are free: end what else "
            "uses it, or ask for fewer workers"
        )
    raise UnusableModel(too_large(settings, size, card))


def card_problem(settings: Mapping[str, Any], judge: str | None, card: float) -> str | None:
    """Why the base of these settings, or the judge beside it, cannot be on a GPU of `card` GiB; None where both can be,
    or nobody knows.
    """
    size = None if settings.get("use_cpu") or settings.get("model_init_kwargs") else loaded_gib(settings)
    if size is None:
        return None
    if size > _SHARE * card:
        return f"base: {too_large(settings, size, card)}"
    try:
        if judge is not None:
            refuse_judge(judge, size, card)
    except JudgeError as error:
        return f"evaluate.judge: {error}"
    return None


def refuse_judge(judge: str, base: float, card: float) -> None:
    """Raise JudgeError where a judge cannot lie beside a base of so many GiB on a GPU of `card` GiB."""
    size = loaded_gib({"model_name_or_path": judge, "dtype": "auto"})
    if size is not None and base + size > _SHARE * card:
        raise JudgeError(
            f"judge {judge}: it takes {_gib(size)} beside {_gib(base)} of the base, and the GPU has {_gib(card)}: set "
            "dtype: bfloat16 for the base, or take a smaller judge"
        )


def is_spread(device_map: Mapping[str, object] | None) -> bool:
    """Whether a model was loaded in parts that lie on several devices, as where it does not fit on one."""
    return len({str(device).removeprefix("cuda:") for device in (device_map or {}).values()}) > 1


def too_large(settings: Mapping[str, Any], size: float, card: float) -> str:
    """Why a base that takes `size` GiB cannot be on a GPU of `card` GiB, and the first remedy that would do."""
    dtype = str(settings.get("dtype") or "float32")
    half = loaded_gib({**settings, "dtype": "bfloat16"}) or size / 2
    quarter = loaded_gib({**settings, "load_in_4bit": True}) or size / 6
    remedy = "take a smaller model or a larger GPU"
    if dtype in ("float32", "float64") and half <= _SHARE * card:
        remedy = f"set dtype: bfloat16 ({_gib(half)})"
    elif quarter <= _SHARE * card and not settings.get("load_in_4bit"):
        remedy = f"set load_in_4bit: true ({_gib(quarter)}), or take a larger GPU"
    return (
        f"model {settings.get('model_name_or_path')}: it takes {_gib(size)} in {dtype} and the GPU has {_gib(card)}, "
        f"so that parts of it would lie elsewhere: {remedy}"
    )


@dataclass(frozen=True)
class _Sizes:
    layers: int
    width: int
    inner: int
    keys: int
    words: int


def _sizes(name: str, revision: str | None) -> _Sizes | None:
    file = small_file(name, revision, CONFIG)
    try:
        config = read_json(file, links=True) if file is not None else {}
    except (OSError, ValueError):
        return None
    config = config if isinstance(config, dict) else {}
    inner = config.get("text_config")
    config = inner if isinstance(inner, dict) else config

    def of(*names: str) -> int | None:
        return next((int(config[name]) for name in names if isinstance(config.get(name), int)), None)

    layers, width = of("num_hidden_layers", "n_layer"), of("hidden_size", "n_embd", "d_model")
    heads, words = of("num_attention_heads", "n_head"), of("vocab_size")
    if not (layers and width and heads and words):
        return None
    keys = (of("num_key_value_heads") or heads) * (of("head_dim") or width // heads)
    return _Sizes(layers, width, of("intermediate_size", "n_inner", "ffn_dim") or 4 * width, keys, words)


def _gib(size: float) -> str:
    return f"{size:.1f} GiB"
