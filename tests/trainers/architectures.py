"""How a tiny random model of each architecture trains here, beside plain `trl dpo`.

`python -m tests.trainers.architectures` writes the table that is kept in trainers/architectures.md.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import transformers

from studies.records import ALONE_FACT, Cause
from tests.trainers.tiny_models import LONG, SIZES, a_model, a_run, losses, stock, train

TABLE: Final = Path(__file__).parents[2] / "trainers" / "architectures.md"
WITHIN: Final = 1e-4
"""Nats that the loss of a step may be away from stock's: what rounding becomes in four steps."""
_HEADS: Final = {**SIZES, "head_dim": 8}
_GPT: Final = {"n_embd": 32, "n_layer": 2, "n_head": 4}
_FEW_HEADS: Final = {name: SIZES[name] for name in SIZES if name != "num_key_value_heads"}
_MOE: Final = {**_HEADS, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_LINEAR: Final = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
_LONGROPE: Final = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0, 4.0, 8.0, 8.0],
    "original_max_position_embeddings": 32,
}
_SSM: Final = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}

CONFIGS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "llama": ("LlamaConfig", SIZES),
    "llama, dynamic rope": (
        "LlamaConfig",
        {
            **SIZES,
            "max_position_embeddings": 32,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
        },
    ),
    "mistral": ("MistralConfig", {**SIZES, "sliding_window": 4096}),
    "ministral": ("MinistralConfig", _HEADS),
    "mixtral": ("MixtralConfig", {**SIZES, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2": ("Qwen2Config", SIZES),
    "qwen2_moe": (
        "Qwen2MoeConfig",
        {**_MOE, "shared_expert_intermediate_size": 32},
    ),
    "qwen3": ("Qwen3Config", _HEADS),
    "qwen3_moe": ("Qwen3MoeConfig", _MOE),
    "qwen3_next": ("Qwen3NextConfig", {**_MOE, **_LINEAR, "shared_expert_intermediate_size": 32}),
    "qwen3_5_text": ("Qwen3_5TextConfig", {**_HEADS, **_LINEAR}),
    "gemma": ("GemmaConfig", _HEADS),
    "gemma2": ("Gemma2Config", {**_HEADS, "query_pre_attn_scalar": 8}),
    "gemma3_text": (
        "Gemma3TextConfig",
        {**_HEADS, "query_pre_attn_scalar": 8, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "recurrent_gemma": (
        "RecurrentGemmaConfig",
        {**_HEADS, "num_hidden_layers": 3, "num_key_value_heads": 1, "lru_width": 32},
    ),
    "phi": ("PhiConfig", _FEW_HEADS),
    "phi3": ("Phi3Config", {**_FEW_HEADS, "pad_token_id": 0}),
    "phi3, longrope": (
        "Phi3Config",
        {
            **_FEW_HEADS,
            "pad_token_id": 0,
            "rope_parameters": _LONGROPE,
            "original_max_position_embeddings": 32,
            "max_position_embeddings": 512,
        },
    ),
    "gpt2": ("GPT2Config", {**_GPT, "n_positions": 512}),
    "gpt_neo": (
        "GPTNeoConfig",
        {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "max_position_embeddings": 512,
        },
    ),
    "gpt_neox": ("GPTNeoXConfig", _FEW_HEADS),
    "gptj": ("GPTJConfig", {**_GPT, "rotary_dim": 4}),
    "gpt_bigcode": ("GPTBigCodeConfig", {**_GPT, "n_positions": 512}),
    "gpt_oss": (
        "GptOssConfig",
        {**_HEADS, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 512},
    ),
    "codegen": ("CodeGenConfig", {**_GPT, "rotary_dim": 4}),
    "opt": (
        "OPTConfig",
        {**_FEW_HEADS, "ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 512},
    ),
    "bloom": ("BloomConfig", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "falcon": ("FalconConfig", _FEW_HEADS),
    "mpt": ("MptConfig", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 512}),
    "stablelm": ("StableLmConfig", SIZES),
    "starcoder2": ("Starcoder2Config", SIZES),
    "olmo": ("OlmoConfig", SIZES),
    "olmo2": ("Olmo2Config", SIZES),
    "olmo3": ("Olmo3Config", {**SIZES, "sliding_window": 4096}),
    "cohere": ("CohereConfig", SIZES),
    "granite": ("GraniteConfig", {**SIZES, "logits_scaling": 2.0}),
    "smollm3": ("SmolLM3Config", {**SIZES, "num_hidden_layers": 4}),
    "glm4": ("Glm4Config", _HEADS),
    "nemotron": ("NemotronConfig", SIZES),
    "ernie4_5": ("Ernie4_5Config", _HEADS),
    "seed_oss": ("SeedOssConfig", _HEADS),
    "lfm2": ("Lfm2Config", {**SIZES, "layer_types": ["conv", "full_attention"]}),
    "mamba": ("MambaConfig", _SSM),
    "mamba2": ("Mamba2Config", {**_SSM, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 16}),
    "falcon_mamba": ("FalconMambaConfig", _SSM),
}


def outcome(name: str, folder: Path) -> str:
    """How a run of the architecture ends, beside the same run by plain TRL."""
    kind, entries = CONFIGS[name]
    model = a_model(folder / "model", getattr(transformers, kind)(**entries))
    run = a_run(model, folder, LONG)
    try:
        (result,) = train(folder, run)
    except Exception as error:  # what a worker tells as the machine's
        return f"**lost**: {type(error).__name__}: {_line(error)}"
    if result.cause is not Cause.FINISHED:
        return f"{result.cause}: {_line(result.message)}"
    apart = max(abs(a - b) for a, b in zip(losses(result), stock(folder, run).losses, strict=True))
    said = "as stock" if apart <= WITHIN else f"**{apart:.2g} nats from stock**"
    return f"{said} in a pack" if ALONE_FACT not in result.facts else f"{said} alone: {_line(result.facts[ALONE_FACT])}"


def row(name: str) -> str:
    """The architecture's line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        return f"| {name} | {outcome(name, Path(folder))} |"


def _line(text: object) -> str:
    shown = str(text).partition(" Incompatible modules: {")[0]  # a set, in another order each time
    return " ".join(shown.split()).replace("|", "/")[:160]


def main() -> None:
    """Write the table."""
    rows = []
    for name in CONFIGS:
        rows.append(row(name))
        sys.stdout.write(f"{rows[-1]}\n")
        sys.stdout.flush()
    TABLE.write_text(
        "# How architectures train\n\n"
        "Tiny random models, LoRA on all linear layers, four steps of DPO in float32 on a CPU, each beside plain\n"
        f"`trl dpo`: as stock where no loss is more than {WITHIN:g} nats away. Written by\n"
        "`python -m tests.trainers.architectures`, held by `tests/trainers/models/test_architectures.py` (slow); with\n"
        f"transformers {transformers.__version__}.\n\n"
        "| architecture | trains |\n|---|---|\n" + "\n".join(rows) + "\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
