"""What stages measure: how much of it, random Llamas of known shapes, pairs of words, runs on them; and the device."""

from __future__ import annotations

import gc
import json
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch.nn.attention import SDPBackend
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from studies.records import RunConfig
from tests.benchmarks import ladder
from trainers.multi_lora.attention import kernels
from trainers.world.paths import model_path

SHAPES: Final[Mapping[str, Mapping[str, int]]] = {
    "135m": {  # SmolLM2-135M
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
    },
    "1b": {  # Llama-3.2-1B
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "vocab_size": 128256,
    },
    "tiny": {
        "hidden_size": 48,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "vocab_size": 512,
    },
}


@dataclass(frozen=True)
class Size:
    """How much of everything.

    `prompt` and `answer`: tokens, about; `pack`: runs in the pack that decides, and `packs` in others; `passes` are
    timed; `stock`: steps of stock TRL; `prompts`, `new_tokens`: of an evaluation; `runs` of `steps` steps: on the
    ladder, and `loops` of them in a loop over stock; `parity`: steps of a run held against stock.
    """

    shape: str
    rows: int = 512
    prompt: int = 96
    answer: int = 160
    pack: int = 16
    packs: tuple[int, ...] = (1, 4, 32)
    passes: int = 10
    stock: int = 12
    prompts: int = 16
    new_tokens: int = 64
    runs: int = 16
    steps: int = 40
    loops: int = 2
    parity: int = 30

    @property
    def is_tiny(self) -> bool:
        """Whether only the way is tried, on a CPU, and no figure means anything."""
        return self.shape == "tiny"


SIZES: Final[Mapping[str, Size]] = {
    "135m": Size("135m"),
    "1b": Size("1b", packs=(1, 4), passes=6, stock=8, steps=20),
    "tiny": Size("tiny", 64, 12, 20, 2, (1,), 2, 4, 4, 6, 3, 3, 1, 6),
}

# ---- the device -----------------------------------------------------------------------------------------------------


def device() -> str:
    """Where stages measure: the GPU, or the CPU where only the way is tried."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def wait() -> None:
    """Until the device has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def reset_peak() -> None:
    """Give back what is kept for later, and measure the peak of memory from here on."""
    gc.collect()  # a trainer refers to itself in circles
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_mib() -> float | None:
    """The peak of the GPU's memory; None without one."""
    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None


def gpu_settings(**settings: Any) -> dict[str, Any]:
    """Settings of a run beside TRL's defaults for a GPU, which a CPU must be told."""
    return settings if torch.cuda.is_available() else {"bf16": True, "gradient_checkpointing": False, **settings}


# ---- model, data, runs ----------------------------------------------------------------------------------------------


def make_model(shape: str, work: Path) -> Path:
    """A random Llama of this shape with the embedded world's tokenizer, whose ids are the first of its vocabulary."""
    path = work / shape
    if (path / "made").exists():
        return path
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    torch.manual_seed(0)
    with torch.device(device()):
        model = LlamaForCausalLM(LlamaConfig(**SHAPES[shape], tie_word_embeddings=True, **ids))
    model.to(torch.bfloat16).save_pretrained(path)
    tokenizer.save_pretrained(path)
    del model
    reset_peak()
    (path / "made").touch()  # a stage may be cut in the middle of saving
    return path


def make_pairs(size: Size, work: Path) -> Path:
    """Pairs of the embedded world's words, the two answers of each about as long and other from the first word on."""
    file = work / f"pairs-{size.shape}.jsonl"
    words = [word for word in AutoTokenizer.from_pretrained(model_path()).get_vocab() if word.isalpha()]
    draw = random.Random(0)

    def text(first: str, length: int) -> str:
        return " ".join([first, *draw.choices(words, k=length - 1)])

    def answer(first: str) -> str:
        return " " + text(first, size.answer - draw.randrange(size.answer // 8 + 1))

    rows = [
        {"prompt": text(words[i % len(words)], size.prompt), "chosen": answer("wonderful"), "rejected": answer("a")}
        for i in range(size.rows)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def runs(
    size: Size, work: Path, count: int, steps: int, *, prompts: int = 2, new_tokens: int = 2, **settings: Any
) -> list[RunConfig]:
    """The ladder's runs on this size's model and pairs, 4 pairs a step; `settings` are TRL's."""
    own = {
        "model_name_or_path": str(make_model(size.shape, work)),
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-4,
        "max_length": 1024,
    }
    about = {
        "settings": {**own, **settings},
        "data": {"path": str(make_pairs(size, work)), "eval_rows": 32},
        "evaluation": {"prompts": prompts, "max_new_tokens": new_tokens, "pairs": 32},
    }
    return ladder.runs(about, count, steps)


@contextmanager
def with_cudnn() -> Iterator[None]:
    """Inside, attention may take cuDNN's kernel, which packs leave out."""
    before = list(kernels._KERNELS)
    kernels._KERNELS[:] = [*before, SDPBackend.CUDNN_ATTENTION]
    try:
        yield
    finally:
        kernels._KERNELS[:] = before
