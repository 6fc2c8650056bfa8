"""Runs of a few steps on tiny models made here, for tests of models that are odd in one way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from studies.records import DataConfig, EvaluationConfig, RunConfig, RunResult
from tests.trainers.models.test_odd_models import SPECIAL, TEXT, a_tokenizer
from tests.trainers.pack_runs import PINNED
from trainers.dpo import DPOTrainerWorker
from trainers.interface import Job, Placement
from trainers.job_list import train_all


def a_small_model(folder: Path, config: PreTrainedConfig) -> Path:
    """A model with weights of a size at which it matters what is read, and its tokenizer of bytes."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.15)
    model.save_pretrained(folder)
    a_tokenizer(SPECIAL).save_pretrained(folder)
    return folder


def train_on(model: Path, place: Path, together: int, runs: int = 1, **changes: Any) -> list[RunResult]:
    """The results of `runs` runs on the model, with folders in `place`; see `configs_on`."""
    configs = configs_on(model, place, runs, **changes)
    jobs = [Job(config, place / f"run-{i}", placement=Placement(together=together)) for i, config in enumerate(configs)]
    return train_all(DPOTrainerWorker(), jobs)


def configs_on(model: Path, place: Path, runs: int = 1, **changes: Any) -> list[RunConfig]:
    """Configs of runs on the model, whose pairs are written into `place`; None among `changes` leaves a setting out."""
    data = place / "pairs.jsonl"
    place.mkdir(exist_ok=True)
    data.write_text("\n".join(map(json.dumps, TEXT)))
    settings = {
        **PINNED,
        "model_name_or_path": str(model),
        **{"use_peft": True, "lora_r": 2, "loss_type": ["sigmoid"], "beta": 0.1, "learning_rate": 1e-3},
        **{"max_steps": 2, "per_device_train_batch_size": 2},
        **{name: value for name, value in changes.items() if name != "max_new_tokens"},
    }
    settings = {name: value for name, value in settings.items() if value is not None}
    evaluation = EvaluationConfig(prompts=2, max_new_tokens=changes.get("max_new_tokens", 4))
    where = {"study": "small", "variant": "sigmoid", "scenario": "clean", "block": 0, "seed": 0, "knobs": {}}
    return [
        RunConfig(
            **where,
            trial=number,
            settings={**settings, "learning_rate": settings["learning_rate"] * (1 + number)},
            data=DataConfig(path=str(data), eval_rows=2),
            evaluation=evaluation,
        )
        for number in range(runs)
    ]
