"""TRL's own types from a run's flat settings, and what the hardware decides where the study leaves it open.

Knows no data, no training and no measurement.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from transformers import HfArgumentParser
from trl import DPOConfig, ModelConfig

from studies.losses.table import couple_rows
from studies.records import Scalar
from trainers.interface import Job
from trainers.models import accelerator
from trainers.world.paths import embedded_path

DAY: Final = "chat_template_day"
"""Among a run's settings, the day that the model's chat template is told where it asks; no setting of TRL."""
CURVE_POINTS: Final = 24
"""Logged points of a training curve."""


def resolve_model(name: str) -> str:
    """Path or Hub id of a model; `embedded` and `embedded-gpt2` are the tiny ones that ship with the project."""
    return str(embedded_path(name) or name)


def hardware_settings() -> dict[str, Any]:
    """TRL settings that depend on the hardware, where the study does not give them.

    TRL's defaults (bf16, gradient checkpointing) raise or waste time on a CPU. On a GPU they stay as they are where it
    computes bf16 by itself; else runs are in float32, which packs take, and not in float16, where each run scales its
    loss by its own history.
    """
    if torch.cuda.is_available():
        return {} if accelerator.computes_bf16() else {"bf16": False, "fp16": False}
    on_cpu = not torch.backends.mps.is_available()
    return {"bf16": False, "fp16": False, "use_cpu": on_cpu, "gradient_checkpointing": False}


def run_settings(job: Job) -> dict[str, Any]:
    """The flat settings of a run, with what hardware and placement decide where the study leaves it open, and `DAY`."""
    settings = hardware_settings()
    place = job.placement
    if place.bf16 is not None:
        settings |= {"bf16": place.bf16, "fp16": False}
    # It costs a third of a pass and changes no number: a pack goes without as long as memory allows (`dpo._smaller`).
    if place.checkpointing is not None or place.together >= 1:
        settings |= {"gradient_checkpointing": bool(place.checkpointing)}
    return {**settings, **job.config.settings, DAY: job.config.content.get("date")}


def parse_settings(settings: Mapping[str, Any], folder: Path, seed: int) -> tuple[DPOConfig, ModelConfig]:
    """TRL's own types from flat settings, with its reporting, saving and progress bars off. As TRL's types do, it sets
    for the whole process whether float32 is multiplied in TF32: as this run has it, whatever the one before had.
    """
    flat = {
        **settings,
        "seed": seed,
        "output_dir": str(folder),
        "report_to": "none",
        "save_strategy": "no",  # by the clock, see `trainers.trl_loop.checkpoints`, which removes the older ones
        "save_total_limit": None,
        "save_only_model": False,
        "ignore_data_skip": False,
        "restore_callback_states_from_checkpoint": False,
        "eval_strategy": "no",
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,  # on, it would log a NaN loss as 0
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    modules = flat.get("lora_target_modules")
    if isinstance(modules, str):
        flat["lora_target_modules"] = [modules]
    parser = HfArgumentParser((DPOConfig, ModelConfig))
    known = {name for kind in (DPOConfig, ModelConfig) for name in kind.__dataclass_fields__}
    args, model_args = parser.parse_dict({k: v for k, v in flat.items() if k in known})
    accelerator.set_tf32(args.tf32)
    if args.max_steps > 0:
        args.logging_steps = max(1, args.max_steps // CURVE_POINTS)
    return args, model_args


def cut_facts(job: Job, args: DPOConfig) -> dict[str, Scalar]:
    """Into how many parts the run's micro-batches were cut, where they were."""
    split = job.placement.split
    return {"split": split} if split > 1 and not couple_rows(args.loss_type) else {}


def hardware_facts(args: DPOConfig, model_args: ModelConfig) -> dict[str, Scalar]:
    """What `export` must write down so that the run can be repeated on this kind of hardware."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else str(args.device)
    return {
        "device": device,
        "bf16": bool(args.bf16),
        "fp16": bool(args.fp16),
        "use_cpu": bool(args.use_cpu),
        "gradient_checkpointing": bool(args.gradient_checkpointing),
        "dtype": str(model_args.dtype),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
