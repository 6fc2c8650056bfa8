"""Tiny random models of any architecture, runs on a few pairs with them, and the same runs by plain `trl dpo`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PretrainedConfig
from trl import DPOTrainer, get_peft_config

from studies.records import DataConfig, EvaluationConfig, RunConfig, RunResult
from tests.trainers.models.test_odd_models import a_tokenizer
from tests.trainers.pack_runs import PINNED
from trainers.components.settings import hardware_settings, parse_settings
from trainers.data.pairs import load_pairs
from trainers.dpo import DPOTrainerWorker
from trainers.interface import Job, Placement
from trainers.job_list import train_all

SPECIAL = {"eos_token": "</s>", "pad_token": "<pad>", "bos_token": "<s>"}
SIZES: Mapping[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
PAIRS = [{"prompt": f"Q{i}:", "chosen": f" yes{'!' * i}", "rejected": f" no {i}"} for i in range(12)]
LONG = [{**row, "chosen": row["chosen"] + " and so on" * 7} if i in (3, 8) else row for i, row in enumerate(PAIRS)]


def a_model(folder: Path, config: PretrainedConfig, tokenizer: Any = None) -> str:
    """A random model with bytes for tokens, its weights large enough for a wrong context to show."""
    tokenizer = tokenizer or a_tokenizer(SPECIAL)
    torch.manual_seed(0)
    text = config.get_text_config()
    text.vocab_size, text.eos_token_id, text.pad_token_id = len(tokenizer), tokenizer.eos_token_id, 257
    text.bos_token_id = tokenizer.bos_token_id
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.15)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def a_run(
    model: str, folder: Path, rows: Sequence[Mapping[str, Any]] = PAIRS, *, seed: int = 0, **settings: Any
) -> RunConfig:
    """Four steps on the rows, written beside the model."""
    data = folder / "pairs.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    given = {
        **PINNED,
        "model_name_or_path": model,
        "use_peft": True,
        "lora_r": 4,
        "lora_target_modules": "all-linear",
        "lora_dropout": 0.0,
        "loss_type": ["sigmoid"],
        "beta": 0.1,
        "learning_rate": 1e-3,
        "max_steps": 4,
        "per_device_train_batch_size": 2,
    }
    where = {"study": "tiny", "variant": "sigmoid", "scenario": "clean", "trial": 0, "block": 0, "seed": seed}
    return RunConfig(
        **where,
        settings=given | settings,
        knobs={},
        data=DataConfig(path=str(data), eval_rows=2),
        evaluation=EvaluationConfig(prompts=2, max_new_tokens=4),
    )


def train(
    folder: Path,
    *runs: RunConfig,
    together: int = 4,
    worker: DPOTrainerWorker | None = None,
    pause_at: int | None = None,
    **placement: Any,
) -> list[RunResult]:
    """The runs, in a pack where they can be."""
    place = Placement(together=together, **placement)
    return train_all(
        worker or DPOTrainerWorker(), [Job(r, folder / r.key, placement=place, pause_at=pause_at) for r in runs]
    )


@dataclass(frozen=True)
class Stock:
    """What plain TRL gives: the loss of each step, and the trained weights before and after."""

    losses: tuple[float, ...]
    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]


def stock(folder: Path, run: RunConfig) -> Stock:
    """As `trl dpo --config` trains: the model given by its path, nothing of ours but the rows."""
    args, model_args = parse_settings({**hardware_settings(), **run.settings}, folder / "stock", run.seed)
    args.model_init_kwargs = {"dtype": model_args.dtype, **(args.model_init_kwargs or {})}
    path = str(model_args.model_name_or_path)
    rows = load_pairs(run.data, run.block, AutoTokenizer.from_pretrained(path)).train
    trainer = DPOTrainer(
        model=path,
        args=args,
        train_dataset=datasets.Dataset.from_list(list(rows)),
        peft_config=get_peft_config(model_args),
    )
    trainer.remove_callback(transformers.PrinterCallback)
    before = _trained(trainer.model)
    trainer.train()
    losses = tuple(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    return Stock(losses, before, _trained(trainer.model))


def losses(result: RunResult) -> tuple[float, ...]:
    """A run's loss at each of its points."""
    return tuple(values["loss"] for _, values in result.curve)


def _trained(model: torch.nn.Module) -> dict[str, Tensor]:
    return {
        name.replace(".default.", "."): value.detach().clone()
        for name, value in model.named_parameters()
        if value.requires_grad
    }
