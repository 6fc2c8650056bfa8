"""When a micro-batch can be trained in smaller parts with the same outcome; knows no trainer and no memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# TRL's default of per_device_train_batch_size.
DEFAULT_ROWS = 8
# Losses that look at several rows of a micro-batch at once (TRL, `DPOTrainer._compute_loss`): aot and aot_unpaired sort
# them, sft is a mean over their tokens. All others are means over pairs.
COUPLED = frozenset({"aot", "aot_unpaired", "sft"})


def can_be_cut(settings: Mapping[str, Any], parts: int) -> bool:
    """Whether `parts` passes of equally many rows each give the gradient of one."""
    losses = settings.get("loss_type") or "sigmoid"
    rows = _rows(settings)
    return rows % parts == 0 and COUPLED.isdisjoint([losses] if isinstance(losses, str) else losses)


def cut(settings: Mapping[str, Any], parts: int) -> dict[str, Any]:
    """The settings with each micro-batch in `parts`, where that can be: as many rows a step as before, in more and
    smaller passes.

    What is learned stays the same, apart from an epoch's last step where its rows are too few for equal parts.
    """
    if parts == 1 or not can_be_cut(settings, parts):
        return dict(settings)
    steps = int(settings.get("gradient_accumulation_steps") or 1)
    sizes = {"per_device_train_batch_size": _rows(settings) // parts, "gradient_accumulation_steps": steps * parts}
    return {**settings, **sizes}


def _rows(settings: Mapping[str, Any]) -> int:
    return int(settings.get("per_device_train_batch_size") or DEFAULT_ROWS)
