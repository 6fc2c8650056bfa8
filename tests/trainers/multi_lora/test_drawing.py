"""An adapter drawn without injecting it is the one that PEFT would have injected, and nothing else differs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import nn
from trl import DPOTrainer, ModelConfig, get_peft_config

from studies.records import EMBEDDED_GPT2, Cause, RunConfig
from tests.trainers.pack_runs import config, train
from trainers.components import worker_cache
from trainers.components.restore_base import tensors_of
from trainers.components.worker_cache import WarmDPOTrainer, load_base
from trainers.dpo import DPOTrainerWorker
from trainers.interface import Job
from trainers.models.random_numbers import RandomNumbers, random_numbers, same_numbers
from trainers.multi_lora.flat import Unpackable
from trainers.pack import member
from trainers.pack.member import Member


@pytest.fixture
def injected(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The layers that PEFT puts in, as it does so."""
    found: list[str] = []
    own = LoraLayer.update_layer

    def counting(self: LoraLayer, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        found.append(kwargs["target_name"])
        own(self, adapter_name, *args, **kwargs)

    monkeypatch.setattr(LoraLayer, "update_layer", counting)
    return found


def made(worker: DPOTrainerWorker, folder: Path, run: RunConfig) -> tuple[Member, RandomNumbers]:
    """The run made ready, and the random numbers that follow."""
    found = worker.make(Job(run, folder / run.key))
    return found, random_numbers()


def assert_as_injected(folder: Path, found: tuple[Member, RandomNumbers]) -> None:
    """As a worker makes the run that has made none before."""
    (drawn, follow), (first, theirs) = found, made(DPOTrainerWorker(), folder, found[0].job.config)
    assert same_numbers(follow, theirs)
    assert list(drawn.run.adapter) == list(first.run.adapter)
    for own, other in zip(drawn.run.adapter.values(), first.run.adapter.values(), strict=True):
        assert own.scaling == other.scaling
        for x, y in zip(own[:2], other[:2], strict=True):
            assert (x.dtype, x.device, x.is_contiguous()) == (y.dtype, y.device, y.is_contiguous())
            assert torch.equal(x, y)
    assert drawn.run.peft_config == first.run.peft_config
    assert (drawn.run.steps, drawn.run.learning_rates) == (first.run.steps, first.run.learning_rates)
    assert drawn.gradient_norms == first.gradient_norms
    assert [row.ids for row in drawn.data.rows] == [row.ids for row in first.data.rows]
    for own_side, side in zip(drawn.data[1:], first.data[1:], strict=True):
        assert np.array_equal(own_side, side, equal_nan=True)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"model_name_or_path": EMBEDDED_GPT2, "dtype": "bfloat16"},
        {"lora_target_modules": ["q_proj", "down_proj"], "use_rslora": True, "dtype": "bfloat16"},
        {"lora_r": 3, "lora_dropout": 0.1, "gradient_checkpointing": True},
    ],
)
def test_later_runs_draw_what_peft_would_inject(settings: Any, tmp_path: Path, injected: list[str]) -> None:
    worker = DPOTrainerWorker()
    made(worker, tmp_path, config(seed=1, **settings))
    assert injected
    injected.clear()
    runs = [config("ipo", seed=2, **settings), config(seed=3, block=1, max_steps=7, **settings)]
    later = [made(worker, tmp_path, run) for run in runs]
    assert not injected
    for found in later:
        assert_as_injected(tmp_path / "anew", found)


def test_a_run_without_injection_leaves_the_base_as_it_was(tmp_path: Path) -> None:
    worker = DPOTrainerWorker()
    made(worker, tmp_path, config(seed=1))
    base = worker._cache._base
    assert base is not None
    before = tensors_of(base[1])
    made(worker, tmp_path, config(seed=2))
    assert worker._cache._base is base
    assert tensors_of(base[1]) == before
    assert not hasattr(base[1], "peft_config")
    assert "forward" not in vars(base[1])


@pytest.mark.parametrize("other", [{"lora_r": 8}, {"lora_target_modules": ["q_proj", "v_proj"]}, {"lora_alpha": 4}])
def test_another_configuration_is_injected(other: Any, tmp_path: Path, injected: list[str]) -> None:
    worker = DPOTrainerWorker()
    made(worker, tmp_path, config(seed=1))
    injected.clear()
    found = made(worker, tmp_path, config(seed=2, **other))
    assert injected
    assert_as_injected(tmp_path / "anew", found)


def drawn_by(how: Any) -> Callable[[ModelConfig], LoraConfig]:
    """What stands in for TRL's `get_peft_config`, whose model arguments leave the way of drawing open."""

    def asked(model_args: ModelConfig) -> LoraConfig:
        plain = get_peft_config(model_args)
        plain.init_lora_weights = how
        return plain

    return asked


@pytest.mark.parametrize("how", ["gaussian", "orthogonal", False])
def test_what_is_drawn_another_way_is_injected_every_time(
    how: Any, tmp_path: Path, injected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = DPOTrainerWorker()
    made(worker, tmp_path, config(seed=0))
    monkeypatch.setattr(member, "get_peft_config", drawn_by(how))
    for seed in (1, 2):
        injected.clear()
        found = made(worker, tmp_path, config(seed=seed))
        assert injected
        assert_as_injected(tmp_path / f"anew{seed}", found)


def test_a_trainer_that_draws_behind_its_last_seed_injects_every_time(
    tmp_path: Path, injected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it draws would be other numbers where PEFT had not drawn before."""

    class Drawing(WarmDPOTrainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            torch.rand(1)

    monkeypatch.setattr(member, "WarmDPOTrainer", Drawing)
    worker = DPOTrainerWorker()
    made(worker, tmp_path, config(seed=1))
    injected.clear()
    found = made(worker, tmp_path, config(seed=2))
    assert injected
    assert_as_injected(tmp_path / "anew", found)


def test_where_weight_decay_acts_on_a_part_every_run_hears_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = DPOTrainer.get_decay_parameter_names
    monkeypatch.setattr(
        DPOTrainer, "get_decay_parameter_names", lambda self, model: [n for n in own(self, model) if "q_proj" not in n]
    )
    worker = DPOTrainerWorker()
    made(worker, tmp_path, config(seed=1, weight_decay=0.0))
    with pytest.raises(Unpackable, match="weight decay"):
        made(worker, tmp_path, config(seed=2, weight_decay=0.1))


class _OfBuffers(nn.Linear):
    """A linear layer without a parameter, as those of GPTQ and AWQ are."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__(plain.in_features, plain.out_features, bias=False, device="meta")  # which draws nothing
        del self.weight
        self.register_buffer("weight", plain.weight.detach())


def test_runs_on_a_base_whose_layers_have_buffers_alone_train_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_buffers(*args: Any) -> Any:
        model, tokenizer = load_base(*args)
        for layer in model.model.layers:
            layer.self_attn.q_proj = _OfBuffers(layer.self_attn.q_proj)
        return model, tokenizer

    monkeypatch.setattr(worker_cache, "load_base", of_buffers)
    runs = [config(seed=seed, max_steps=2) for seed in (1, 2)]
    for run in runs:
        made(DPOTrainerWorker(), tmp_path / "made", run)
    results = train(tmp_path, runs, together=2)
    assert [(result.cause, result.facts.get("together")) for result in results] == 2 * [(Cause.FINISHED, None)]


def test_a_run_whose_weights_are_measured_is_measured_through_its_layers(tmp_path: Path, injected: list[str]) -> None:
    balanced: Any = {"loss_weights": [0.5, 0.5], "rows": 8, "max_steps": 2}
    runs = [config("sigmoid", "ipo", seed=s, **balanced).model_copy(update={"balance": "gradient"}) for s in (1, 2)]
    worker = DPOTrainerWorker()
    made(worker, tmp_path, runs[0])
    injected.clear()
    found = made(worker, tmp_path, runs[1])
    assert injected
    assert_as_injected(tmp_path / "anew", found)
