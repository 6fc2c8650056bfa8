"""Cuts micro-batches into smaller parts, where the losses give the same gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from studies.losses.table import couple_rows

# TRL's default of per_device_train_batch_size.
DEFAULT_ROWS = 8


def can_be_cut(settings: Mapping[str, Any], parts: int) -> bool:
    """Whether `parts` passes of equally many rows each give the gradient of one."""
    return _rows(settings) % parts == 0 and not couple_rows(settings.get("loss_type") or "sigmoid")


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
