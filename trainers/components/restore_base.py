"""Gives a base model back as it was before a run."""

from __future__ import annotations

import traceback

import torch
from peft import PeftModel

from trainers.components.worker_cache import WorkerCache


def restore_base(policy: torch.nn.Module, warm: WorkerCache) -> None:
    """Give the next run the base model as it was before this one, or have it load another."""
    if not isinstance(policy, PeftModel):
        warm.drop_base()  # full fine-tuning changed the base itself
        return
    try:
        policy.disable_input_require_grads()
        base = policy.unload()
        base.gradient_checkpointing_disable()
        base.__dict__.pop("forward", None)  # TRL's fused head, which every trainer wraps around what it finds
    except Exception:  # what was trained is not lost over it
        traceback.print_exc()
        warm.drop_base()
