"""In which precision runs are where the study leaves it open, and that no run's setting is left to the next."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.trainers.pack_runs import PINNED, config
from tests.trainers.small_runs import configs_on
from tests.trainers.test_dpo import config as stock_config
from tests.trainers.tiny_models import a_run
from trainers.components import settings
from trainers.components.settings import hardware_settings, parse_settings
from trainers.components.start_check import precision_of
from trainers.interface import Job
from trainers.models import accelerator


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    _precision("none")


def _precision(name: str) -> None:
    """As transformers sets it."""
    torch.backends.fp32_precision = name  # type: ignore[attr-defined]


@pytest.mark.parametrize(("emulates", "asked"), [(False, {}), (True, {"bf16": False, "fp16": False})])
def test_a_gpu_that_would_emulate_bf16_gets_float32_which_packs_take(
    monkeypatch: pytest.MonkeyPatch, emulates: bool, asked: dict[str, bool]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or not emulates
    )
    assert hardware_settings() == asked
    assert ("float32" in accelerator.name()) is emulates


def test_no_run_of_the_tests_leaves_its_precision_to_the_device(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On a GPU, TRL's defaults (bf16, checkpointing) would be other numbers than those that are held."""
    monkeypatch.setattr(settings, "hardware_settings", dict)
    runs = [config(), stock_config(), a_run("model", tmp_path), *configs_on(tmp_path, tmp_path / "data")]
    for run in runs:
        asked = settings.run_settings(Job(run, tmp_path))
        assert {name: asked.get(name) for name in PINNED} == PINNED
    assert config(bf16=True).settings["bf16"]


def test_tf32_is_that_of_the_run_that_is_parsed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = {**config().settings, "use_cpu": True, "bf16": False}
    model = torch.nn.Linear(2, 2)
    args, _ = parse_settings(run, tmp_path, 0)
    with monkeypatch.context() as on_gpu:
        on_gpu.setattr(torch.cuda, "is_available", lambda: True)
        accelerator.set_tf32(True)
        assert accelerator.uses_tf32()
        assert precision_of(model, args) is torch.float16
        accelerator.set_tf32(None)
        assert not accelerator.uses_tf32()
        assert precision_of(model, args) is torch.float32
    seen: list[bool | None] = []
    monkeypatch.setattr(accelerator, "set_tf32", seen.append)
    for asked in (False, None):
        parse_settings({**run, "tf32": asked}, tmp_path, 0)
    assert seen == [False, None]


def test_transformers_own_way_to_set_tf32_does_not_end_the_check_of_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where it has set the newer flag, torch raises for who reads the older one."""
    args, _ = parse_settings({**config().settings, "use_cpu": True, "bf16": False}, tmp_path, 0)
    _precision("tf32")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert precision_of(torch.nn.Linear(2, 2), args) is torch.float16
