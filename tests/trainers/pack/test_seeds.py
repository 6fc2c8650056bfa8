"""What a seed draws: models whose loading draws random numbers start from the adapter that `trl dpo` gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PretrainedConfig, Qwen3_5TextConfig

from studies.records import ALONE_FACT, Cause, RunConfig
from tests.trainers.tiny_models import SIZES, a_model, a_run, losses, stock, train

LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}


DRAWING: dict[str, Callable[[], PretrainedConfig]] = {
    "qwen3.5": lambda: Qwen3_5TextConfig(
        **SIZES, **LINEAR, head_dim=8, layer_types=["linear_attention", "full_attention"]
    ),
}


@pytest.fixture(params=list(DRAWING))
def model(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return a_model(tmp_path / "model", DRAWING[request.param]())


def adapter(folder: Path, run: RunConfig) -> dict[str, Tensor]:
    return dict(load_file(folder / run.key / "adapter" / "adapter_model.safetensors"))


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor], within: float = 0.0) -> bool:
    return one.keys() == other.keys() and all(torch.allclose(one[n], other[n], rtol=0, atol=within) for n in one)


@pytest.mark.parametrize("together", [pytest.param(0, marks=pytest.mark.slow), 4])
def test_a_run_starts_from_the_adapter_that_stock_draws_after_loading(
    model: str, tmp_path: Path, together: int
) -> None:
    runs = [a_run(model, tmp_path, seed=seed, learning_rate=0.0) for seed in (3, 4, 3)]
    results = train(tmp_path, *runs[:2], together=together)
    assert [result.cause for result in results] == [Cause.FINISHED] * 2, results[0].message
    for run, result in zip(runs, results, strict=False):
        plain = stock(tmp_path, run)
        assert same(adapter(tmp_path, run), plain.before)
        assert losses(result) == pytest.approx(plain.losses, abs=1e-6)


def test_a_run_is_as_stock_to_its_end(model: str, tmp_path: Path) -> None:
    runs = [a_run(model, tmp_path, seed=seed) for seed in (3, 4)]
    for run, result in zip(runs, train(tmp_path, *runs), strict=True):
        plain = stock(tmp_path, run)
        assert losses(result) == pytest.approx(plain.losses, abs=1e-6)
        assert same(adapter(tmp_path, run), plain.after, within=1e-5)
        assert "draws random numbers" in str(result.facts[ALONE_FACT])
