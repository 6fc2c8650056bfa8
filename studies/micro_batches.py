"""When a micro-batch can be trained in smaller parts with the same outcome; knows no trainer and no memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# TRL's default of per_device_train_batch_size.
DEFAULT_ROWS = 8
# Losses that are no mean over pairs of a term of one pair: aot and aot_unpaired sort the micro-batch, sft is a mean
# over its tokens. A test holds this against TRL's own loss.
COUPLED = frozenset({"aot", "aot_unpaired", "sft"})


def can_be_cut(settings: Mapping[str, Any], losses: Sequence[str], parts: int) -> bool:
    """Whether `parts` passes of as many rows fewer give the gradient of one; not with a loss that couples its rows."""
    rows = int(settings.get("per_device_train_batch_size", DEFAULT_ROWS))
    return rows % parts == 0 and rows >= parts and COUPLED.isdisjoint(losses)


def cut(settings: Mapping[str, Any], parts: int) -> dict[str, Any]:
    """The settings with each micro-batch in `parts`: as many rows a step as before, in more and smaller passes.

    What is learned stays the same (see `can_be_cut`), apart from an epoch's last step where its rows are too few for
    equal parts. Raises ValueError where the rows of a micro-batch cannot be divided.
    """
    if parts == 1:
        return dict(settings)
    rows = int(settings.get("per_device_train_batch_size", DEFAULT_ROWS))
    if rows % parts:
        raise ValueError(f"a micro-batch of {rows} rows cannot be cut into {parts} equal parts")
    steps = int(settings.get("gradient_accumulation_steps", 1))
    return {**settings, "per_device_train_batch_size": rows // parts, "gradient_accumulation_steps": steps * parts}
