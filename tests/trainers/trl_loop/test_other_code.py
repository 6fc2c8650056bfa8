"""Kernels that a run puts into its model reach no other run."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers.trainer
from transformers.models.llama import modeling_llama

from studies.records import ALONE_FACT, Cause
from tests.trainers.pack_runs import config, distance, float64, train, weights
from trainers.dpo import DPOTrainerWorker

NEARLY = 1 + 1e-6


def _liger(model: Any, _: Any) -> None:
    """As Liger does it: functions that round otherwise, in a module of transformers, in its classes and in layers."""
    base = model.get_base_model()
    plain = modeling_llama.apply_rotary_pos_emb

    def rotary(q: Any, k: Any, *rest: Any, **named: Any) -> Any:
        return plain(NEARLY * q, k, *rest, **named)

    def twice(self: Any, x: torch.Tensor) -> torch.Tensor:
        return NEARLY * self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))

    modeling_llama.apply_rotary_pos_emb = rotary
    modeling_llama.LlamaMLP.forward = twice
    for module in base.modules():
        if isinstance(module, modeling_llama.LlamaMLP):
            module.forward = types.MethodType(twice, module)


@pytest.mark.parametrize("fails", [pytest.param(False, marks=pytest.mark.slow), True])
def test_kernels_of_one_run_reach_no_other_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    def apply(model: Any, config: Any) -> None:
        _liger(model, config)
        if fails:
            raise ValueError("a kernel for this model is not there")

    monkeypatch.setattr(transformers.trainer, "apply_liger_kernel", apply)
    plain = config("sigmoid", max_steps=4, beta=0.2)
    odd = config("sigmoid", max_steps=4, use_liger_kernel=True)
    code = (modeling_llama.apply_rotary_pos_emb, modeling_llama.LlamaMLP.forward)
    with float64(monkeypatch):
        for together in (2, 0):
            folder = tmp_path / str(together)
            train(folder / "alone", [plain], together=together)
            found = train(folder / "among", [odd, plain], together, DPOTrainerWorker())
            assert [run.cause for run in found] == [Cause.REFUSED if fails else Cause.FINISHED, Cause.FINISHED]
            assert together == 0 or "use_liger_kernel" in str(found[0].facts[ALONE_FACT])
            assert distance(weights(folder / "alone", plain), weights(folder / "among", plain)) < 1e-9
    assert code == (modeling_llama.apply_rotary_pos_emb, modeling_llama.LlamaMLP.forward)
