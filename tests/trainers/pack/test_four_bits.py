"""Adapters of a base in four bits (QLoRA): in a pack as stock trains them, on the CPU's way through bitsandbytes.

That package lies beside the environment (`make slow`): where it can be found it is loaded with PEFT by every process.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from studies.records import RunConfig
from tests.trainers.pack_runs import assert_rounding, config, more_padding, plain_training, train, weights
from trainers.interface import Decision

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not here: make slow brings it"),
]

FOUR_BITS: Mapping[str, Any] = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "max_steps": 16}


def in_halves(folder: Path, run: RunConfig) -> dict[str, torch.Tensor]:
    """The adapter of stock TRL where every batch goes through in two parts, whose gradients are rounded apart."""
    halved = {**run.settings, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    return plain_training(folder, run.model_copy(update={"settings": halved}))


@pytest.mark.parametrize("bf16", [False, True])
def test_runs_on_a_base_in_four_bits_train_together_as_stock_trains_each(tmp_path: Path, bf16: bool) -> None:
    runs = [config(name, seed=i, bf16=bf16, **FOUR_BITS) for i, name in enumerate(("sigmoid", "ipo"))]
    results = train(tmp_path / "pack", runs, together=2)
    assert [result.facts["together"] for result in results] == [2, 2]
    for run in runs:
        packed, stock = weights(tmp_path / "pack", run), plain_training(tmp_path / "stock" / run.key, run)
        assert {tensor.dtype for tensor in packed.values()} == {torch.bfloat16}
        others = in_halves(tmp_path / "halves" / run.key, run), more_padding(tmp_path / "other" / run.key, run)
        assert_rounding(packed, stock, *others)


def test_a_run_on_a_base_in_four_bits_goes_on_where_it_stopped(tmp_path: Path) -> None:
    run = config("sigmoid", **FOUR_BITS)
    train(tmp_path / "whole", [run], together=1)

    def stop(_key: str, step: int, _metrics: Mapping[str, float]) -> Decision:
        return Decision.STOP if step == 8 else Decision.CONTINUE

    train(tmp_path / "parts", [run], together=1, decide=stop)
    train(tmp_path / "parts", [run], together=1)
    whole, parts = weights(tmp_path / "whole", run), weights(tmp_path / "parts", run)
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())


def test_an_optimizer_that_rounds_otherwise_trains_such_a_run_alone(tmp_path: Path) -> None:
    runs = [config(name, optim="adamw_torch", **{**FOUR_BITS, "max_steps": 2}) for name in ("sigmoid", "ipo")]
    results = train(tmp_path, runs, together=2)
    assert [result.facts.get("together", 1) for result in results] == [1, 1]
