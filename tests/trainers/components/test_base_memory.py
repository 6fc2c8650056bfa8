"""What a GPU must hold is counted before anything is loaded, and what it cannot hold is refused with the remedy."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from studies.records import UNUSABLE_FACT, Cause
from tests.trainers.pack_runs import config, train
from trainers.components import worker_cache
from trainers.components.base_memory import (
    GIB,
    NoRoom,
    card_problem,
    is_spread,
    loaded_gib,
    plan_memory,
    refuse_judge,
    refuse_too_large,
)
from trainers.components.settings import parse_settings, resolve_model
from trainers.components.worker_cache import load_base
from trainers.data.pairs import JudgeError
from trainers.interface import MODEL
from trainers.models import accelerator
from trainers.models.bases import UnusableModel
from trainers.models.merged import load_model
from trainers.run_folder.failures import cause_of

# Llama-2-7B's
SIZES = {
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
}
PARAMETERS = 6_738_415_616


@pytest.fixture
def seven(tmp_path: Path) -> str:
    """A folder with the heads of the files of a model of 7 billion parameters."""
    folder = tmp_path / "seven"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**SIZES, "model_type": "llama", "dtype": "bfloat16"}))
    head = json.dumps({"w": {"dtype": "BF16", "shape": [PARAMETERS], "data_offsets": [0, 0]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head)
    return str(folder)


@pytest.mark.parametrize(
    ("settings", "size"),
    [({}, 4), ({"dtype": "bfloat16"}, 2), ({"dtype": "auto"}, 2), ({"load_in_4bit": True}, 0.65)],
)
def test_a_base_is_as_large_as_it_is_loaded(seven: str, settings: dict[str, Any], size: float) -> None:
    assert loaded_gib({"model_name_or_path": seven, **settings}) == pytest.approx(PARAMETERS * size / GIB)


@pytest.mark.parametrize(
    ("settings", "card", "remedy"),
    [
        ({}, 80.0, None),
        ({}, 24.0, "set dtype: bfloat16 (12.6 GiB)"),
        ({"dtype": "bfloat16"}, 24.0, None),
        ({"dtype": "bfloat16"}, 12.0, "set load_in_4bit: true (4.1 GiB"),
        ({}, 4.0, "a smaller model"),
    ],
)
def test_a_base_that_does_not_fit_is_refused_with_its_size_and_what_would(
    seven: str, settings: dict[str, Any], card: float, remedy: str | None
) -> None:
    asked = {"model_name_or_path": seven, **settings}
    told = card_problem(asked, None, card)
    assert (told is None) == (remedy is None)
    if remedy is None:
        refuse_too_large(asked, card, card)
        return
    assert told is not None
    assert remedy in told
    assert f"{card:.1f} GiB" in told
    with pytest.raises(UnusableModel, match="GiB"):
        refuse_too_large(asked, card, card)


def test_a_gpu_that_others_fill_is_the_machines_fault_and_not_the_models(seven: str) -> None:
    with pytest.raises(NoRoom, match=r"only 20.0 GiB are free") as caught:
        refuse_too_large({"model_name_or_path": seven}, 80.0, 20.0)
    assert cause_of(caught.value) is Cause.INFRASTRUCTURE


def test_a_judge_must_fit_beside_the_base(seven: str) -> None:
    refuse_judge(seven, 12.6, 80.0)
    asked = {"model_name_or_path": seven, "dtype": "bfloat16"}
    assert card_problem(asked, seven, 80.0) is None
    assert "beside 12.6 GiB of the base" in str(card_problem(asked, seven, 24.0))
    with pytest.raises(JudgeError, match=r"12.6 GiB beside 25.1 GiB of the base"):
        refuse_judge(seven, 25.1, 40.0)


def test_a_card_of_80_gb_holds_a_base_of_7_billion_in_bf16_its_judge_and_long_answers(seven: str) -> None:
    """As documented in trainers/gpu-faults.md."""
    asked = {"model_name_or_path": seven, "lora_r": 16, "per_device_train_batch_size": 4}
    card = 80e9 / GIB
    half = plan_memory({**asked, "dtype": "bfloat16"}, seven, 1024, 1000, card)
    assert half is not None
    assert half.fits
    assert (half.copy, half.base) == (0.0, half.judge)
    assert half.run > half.free > half.checkpointed  # with gradient checkpointing, then
    assert half.answers >= 30
    wide = plan_memory({**asked, "bf16": True}, seven, 1024, 1000, card)
    assert wide is not None
    assert wide.copy == pytest.approx(wide.base / 2)
    assert wide.free < half.free - 20


@pytest.mark.parametrize(
    ("device_map", "spread"),
    [
        (None, False),
        ({"": 0}, False),
        ({"a": 0, "b": "cuda:0"}, False),
        ({"a": 0, "b": 1}, True),
        ({"a": 0, "b": "cpu"}, True),
    ],
)
def test_a_model_in_parts_is_known(device_map: dict[str, object] | None, spread: bool) -> None:
    assert is_spread(device_map) is spread


def test_a_model_that_was_loaded_in_parts_is_refused_before_anything_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files tell no size: what a card too small has made of it is seen once it is loaded."""
    plain = load_model

    def in_parts(*given: Any) -> Any:
        model = plain(*given)
        model.hf_device_map = {"model": 0, "lm_head": "cpu"}
        return model

    monkeypatch.setattr(worker_cache, "load_model", in_parts)
    monkeypatch.setattr(worker_cache, "refuse_too_large", lambda *_: None)
    monkeypatch.setattr(accelerator, "card_memory", lambda: 2**30)
    monkeypatch.setattr(accelerator, "free_card_memory", lambda: 2**30)
    args, model_args = parse_settings({**config().settings, "use_cpu": True}, tmp_path, 0)
    args.use_cpu = False
    monkeypatch.setattr(accelerator, "kind", lambda: "cuda")
    monkeypatch.setattr(accelerator, "free_memory", lambda: None)
    path = resolve_model("embedded")
    with pytest.raises(UnusableModel, match="parts of it would lie elsewhere"):
        load_base(path, args, model_args)


def test_a_base_that_does_not_fit_refuses_its_run_and_names_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: Any) -> None:
        raise UnusableModel("model x: it takes 25.1 GiB")

    monkeypatch.setattr(worker_cache, "load_model", refuses)
    (result,) = train(tmp_path, [config("sigmoid", max_steps=2)], together=2)
    assert (result.cause, result.facts[UNUSABLE_FACT]) == (Cause.REFUSED, MODEL)
