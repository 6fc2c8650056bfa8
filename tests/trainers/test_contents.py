"""What a study's inputs hold: bytes decide, names and times do not."""

from __future__ import annotations

import json
import os
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from studies.schema.contents import DATED, Source
from trainers.contents import read_content
from trainers.world.paths import model_path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_path(), tmp_path / "model"))


def of(what: Any, place: Path) -> str | None:
    return read_content(Source(what, str(place)))


def test_the_same_bytes_elsewhere_and_at_another_time_are_the_same(model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    os.utime(copy / "model.safetensors", (0, 0))
    for what in ("model", "tokenizer"):
        assert of(what, copy) == of(what, model) is not None


def test_retrained_weights_are_another_model_with_the_same_tokenizer(model: Path) -> None:
    before = [of(what, model) for what in ("model", "tokenizer")]
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    after = [of(what, model) for what in ("model", "tokenizer")]
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_another_chat_template_is_another_tokenizer_of_the_same_model(model: Path) -> None:
    before = [of(what, model) for what in ("model", "tokenizer")]
    (model / "chat_template.jinja").write_text("{{ messages }}")
    after = [of(what, model) for what in ("model", "tokenizer")]
    assert after[0] == before[0]
    assert after[1] != before[1]


@pytest.mark.parametrize("name", ["README.md", "trainer_state.json", "training_args.bin", "optimizer.pt", ".cache"])
def test_what_no_loader_reads_makes_no_other_model(model: Path, name: str) -> None:
    before = of("model", model)
    (model / name).write_text("x")
    assert of("model", model) == before


def test_large_weights_are_told_apart_by_samples_of_them(tmp_path: Path) -> None:
    for name in ("one", "same", "trained"):
        (tmp_path / name).mkdir()
        seed = 1 if name == "trained" else 0
        weights = np.random.default_rng(seed).bytes(65 << 20)
        (tmp_path / name / "model.safetensors").write_bytes(weights)
    one, same, trained = (of("model", tmp_path / name) for name in ("one", "same", "trained"))
    assert one == same != trained


def test_an_adapter_is_another_where_the_model_below_it_is(model: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(model), "peft_type": "LORA"})
    )
    (adapter / "adapter_model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")  # no weights, and whole
    before = of("model", adapter)
    (model / "config.json").write_text("{}")
    assert of("model", adapter) != before


def test_saved_data_are_known_by_their_rows(tmp_path: Path) -> None:
    for name, answer in (("one", "a"), ("same", "a"), ("other", "b")):
        rows = [{"prompt": "p", "chosen": answer, "rejected": "r"}]
        datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / name))
    one, other = (of("data", tmp_path / name) for name in ("one", "other"))
    shutil.copytree(tmp_path / "one", tmp_path / "copied")
    assert of("data", tmp_path / "copied") == one != other


def test_a_template_that_asks_for_the_date_has_one(model: Path) -> None:
    assert of(DATED, model) is None
    (model / "chat_template.jinja").write_text("{{ strftime_now('%Y') }}")
    assert of(DATED, model) == date.today().isoformat()


def test_what_lies_on_the_hub_is_known_by_the_commit_that_was_last_loaded_where_the_hub_is_out_of_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert read_content(Source("model", "org/name")) is None
    for kind in ("models", "datasets"):
        (tmp_path / f"{kind}--org--name" / "refs").mkdir(parents=True)
        (tmp_path / f"{kind}--org--name" / "refs" / "main").write_text(COMMIT)
    assert read_content(Source("model", "org/name")) == f"commit:{COMMIT}"
    assert read_content(Source("data", "org/name")) == f"commit:{COMMIT}"
    assert read_content(Source("model", "org/name", "v1")) is None
    assert read_content(Source("model", "org/name", COMMIT)) is None  # says itself what it is


def test_what_cannot_be_read_is_unknown(tmp_path: Path) -> None:
    assert of("data", tmp_path / "nothing.jsonl") is None
    (tmp_path / "empty").mkdir()
    assert of("model", tmp_path / "empty") is None
