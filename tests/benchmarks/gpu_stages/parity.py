"""Packs against stock `DPOTrainer` on this device, by the rules that the project's tests hold on a CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from torch import Tensor

from studies.records import RunConfig
from tests.benchmarks.gpu_stages.figures import Figures
from tests.benchmarks.gpu_stages.inputs import Size
from tests.trainers.pack_runs import (
    apart,
    config,
    distance,
    float64,
    more_padding,
    plain_training,
    train,
    weights,
)

_LOSSES: Final = ("sigmoid", "ipo", "robust", "bco_pair", "aot")
_ROUNDING: Final = 3.0
"""A pack may be as many times as far from stock as stock is from itself where it rounds otherwise."""
_EXACT: Final = 1e-9


def measure(figures: Figures, size: Size, work: Path) -> None:
    """See the module."""
    folder, patch = work / "parity", pytest.MonkeyPatch()
    losses = _LOSSES[:2] if size.is_tiny else _LOSSES
    pinned = {"bf16": False, "gradient_checkpointing": False, "max_steps": size.parity}

    def exact(place: Path, run: RunConfig) -> dict[str, Tensor]:
        with float64(patch):
            return plain_training(place, run)

    with figures.part("float32"):
        _within_rounding(figures, "float32", folder, [config(name, **pinned) for name in losses], exact)
    with figures.part("bf16"):
        runs = [config(name, **{**pinned, "bf16": True}) for name in losses]
        _within_rounding(figures, "bf16", folder, runs, more_padding)
    with figures.part("float64"), float64(patch):
        _exact(figures, folder, pinned)
    with figures.part("repeated"):
        _repeated(figures, folder, size.parity)


def _packed(figures: Figures, folder: Path, runs: Sequence[RunConfig]) -> None:
    """Train the runs in one pack, and tell whether it was one."""
    began = time.monotonic()
    results = train(folder, runs, together=len(runs))
    figures.note(
        "trained",
        pack=folder.name,
        seconds=time.monotonic() - began,
        causes=[str(result.cause) for result in results],
        together=[result.facts.get("together") for result in results],
        messages=[result.message[:200] for result in results if result.message],
    )


def _within_rounding(
    figures: Figures,
    name: str,
    folder: Path,
    runs: Sequence[RunConfig],
    otherwise: Callable[[Path, RunConfig], Mapping[str, Tensor]],
) -> None:
    """`otherwise`: stock, where it rounds in another way."""
    _packed(figures, folder / name, runs)
    for run in runs:
        stock = plain_training(folder / f"{name}-stock" / run.key, run)
        own = apart(stock, otherwise(folder / f"{name}-otherwise" / run.key, run))
        ours = apart(weights(folder / name, run), stock)
        figures.note(
            name,
            loss=_loss(run),
            apart=ours,
            stock_from_itself=own,
            ratio=ours / own if own else None,
            holds=bool(ours <= _ROUNDING * own),
        )


def _exact(figures: Figures, folder: Path, pinned: Mapping[str, Any]) -> None:
    """Three runs of unlike ranks, batches and seeds, everything in float64."""
    runs = [
        config("sigmoid", **{**pinned, "lora_r": 4}),
        config("ipo", **{**pinned, "lora_r": 8, "seed": 1, "beta": 0.5}),
        config("aot", **{**pinned, "lora_r": 2, "gradient_accumulation_steps": 2, "max_grad_norm": 0.05}),
    ]
    _packed(figures, folder / "float64", runs)
    for run in runs:
        stock = plain_training(folder / "float64-stock" / run.key, run)
        largest = distance(weights(folder / "float64", run), stock)
        figures.note("float64", loss=_loss(run), largest_difference=largest, holds=largest < _EXACT)


def _repeated(figures: Figures, folder: Path, steps: int) -> None:
    """The same run twice as a user has it, with TRL's defaults for this device: sums of atomic additions may differ."""
    run = config("sigmoid", max_steps=steps)
    for name in ("once", "again"):
        _packed(figures, folder / name, [run])
    once, again = (weights(folder / name, run) for name in ("once", "again"))
    figures.note("repeated", largest_difference=distance(once, again))


def _loss(run: RunConfig) -> str:
    return "+".join(run.settings["loss_type"])
