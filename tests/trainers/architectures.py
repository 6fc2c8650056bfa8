"""How a tiny random model of each architecture trains here, beside plain `trl dpo` on what is exported of the run.

`python -m tests.trainers.architectures` writes the table that is kept in trainers/architectures.md.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import transformers
import yaml
from trl.scripts.dpo import main as trl_dpo
from trl.scripts.dpo import make_parser
from typer.testing import CliRunner, Result

from dashboards.store.records import load_records
from studies.records import ALONE_FACT, Cause, RunRecord
from sweeper.cli.app import app
from sweeper.tracking.experiment.new_store import make_store
from tests.sweeper.conftest import draw_no_page, measure_no_speed
from tests.trainers.tiny_models import LONG, SIZES, a_model, losses
from trainers.run_folder.results import read_result

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


STUDY: Final = """
study: tiny
base: {model_name_or_path: model, use_peft: true, lora_r: 4, lora_target_modules: all-linear, lora_dropout: 0.0,
  learning_rate: 1.0e-3, max_steps: 4, per_device_train_batch_size: 2, bf16: false, gradient_checkpointing: false}
data: {path: pairs.jsonl, eval_rows: 2}
variants: {sigmoid: {}}
evaluate: {prompts: 2, max_new_tokens: 4}
"""


def outcome(name: str, folder: Path, store: Path) -> str:
    """How a run of the architecture ends, beside what plain TRL makes of its export. `store`: MLflow's, empty."""
    kind, entries = CONFIGS[name]
    a_model(folder / "model", getattr(transformers, kind)(**entries))
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in LONG))
    (folder / "study.yaml").write_text(STUDY)
    shutil.copyfile(store, folder / "mlflow.db")
    with _quiet(folder):
        ended = _sweeper("run")
        records = load_records("sqlite:///mlflow.db", "tiny")
        if len(records) != 1 or records[0].cause not in (Cause.FINISHED, Cause.REFUSED):
            return f"**lost**: {_line(_said(records) or ended.output)}"
        if records[0].cause is Cause.REFUSED:
            return f"refused: {_line(_said(records))}"
        exported = _sweeper("export")
        if exported.exit_code != 0:
            return f"**not exported**: {_line(exported.output)}"
        run = read_result(folder / "runs" / "tiny" / records[0].key)
        assert run is not None
        apart = max(abs(a - b) for a, b in zip(losses(run), stock_losses(Path("best.yaml")), strict=True))
    said = "as stock" if apart <= WITHIN else f"**{apart:.2g} nats from stock**"
    return f"{said} in a pack" if ALONE_FACT not in run.facts else f"{said} alone: {_line(run.facts[ALONE_FACT])}"


def stock_losses(config: Path) -> list[float]:
    """The loss of each step of `trl dpo --config`: as it stands, but for what it logs and keeps of its log."""
    steps = str(yaml.safe_load(config.read_text(encoding="utf-8"))["max_steps"])
    keeps = ("--logging_steps=1", "--save_strategy=steps", f"--save_steps={steps}")
    script, training, *others = make_parser().parse_args_and_config(["--config", str(config), *keeps])
    trl_dpo(script, training, *others)
    state = Path(training.output_dir) / f"checkpoint-{steps}" / "trainer_state.json"
    return [entry["loss"] for entry in json.loads(state.read_text())["log_history"] if "loss" in entry]


@contextlib.contextmanager
def _quiet(folder: Path) -> Iterator[None]:
    """In the folder, a sweep without what takes long at its end, and TRL without a word."""
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        measure_no_speed(patch)
        draw_no_page(patch)
        yield


def _sweeper(verb: str) -> Result:
    return CliRunner().invoke(app, [verb, "study.yaml", *(["--executor", "inline"] if verb == "run" else [])])


def _said(records: list[RunRecord]) -> str:
    return "; ".join(str(record.facts.get("message")) for record in records)


def row(name: str, store: Path) -> str:
    """The architecture's line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        return f"| {name} | {outcome(name, Path(folder), store)} |"


def _line(text: object) -> str:
    shown = str(text).partition(" Incompatible modules: {")[0]  # a set, in another order each time
    return " ".join(shown.split()).replace("|", "/")[:160]


def main() -> None:
    """Write the table."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make_store(f"sqlite:///{folder}/mlflow.db")
        for name in CONFIGS:
            rows.append(row(name, Path(folder) / "mlflow.db"))
            sys.stdout.write(f"{rows[-1]}\n")
            sys.stdout.flush()
    TABLE.write_text(
        "# How architectures train\n\n"
        "Tiny random models, LoRA on all linear layers, four steps of DPO in float32 on a CPU: `sweeper run`, then\n"
        "`sweeper export`, and what that wrote trained by plain `trl dpo --config best.yaml`. As stock: no loss of a\n"
        f"step is more than {WITHIN:g} nats from plain TRL's. Written by `python -m tests.trainers.architectures`,\n"
        "held by `tests/trainers/models/test_architectures.py` (slow); with transformers "
        f"{transformers.__version__}.\n\n"
        "| architecture | trains |\n|---|---|\n" + "\n".join(rows) + "\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
