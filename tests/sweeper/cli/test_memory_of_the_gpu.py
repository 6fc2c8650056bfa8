"""`plan` and `run` refuse a base that cannot be on the GPU, before anything is made."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from studies.spec import Study, load_study
from sweeper.cli.inputs import base_notes

STUDY = """
study: mine
base: {model_name_or_path: seven, use_peft: true, lora_r: 16, max_steps: 2, per_device_train_batch_size: 4}
data: {path: pairs.jsonl, max_length: 512, eval_rows: 2}
baseline: sigmoid
variants: {sigmoid: {}, ipo: {}}
space: {learning_rate: {low: 1.0e-6, high: 1.0e-4, log: true}}
budget: {trials: 1}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study of a model of 7 billion parameters of which only the heads of its files lie here, on a card of 24 GiB."""
    (tmp_path / "study.yaml").write_text(STUDY)
    pair = {"prompt": "a review of the new film :", "chosen": " fine", "rejected": " poor"}
    (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps({**pair, "chosen": f" fine {i}"}) for i in range(8)))
    model = tmp_path / "seven"
    model.mkdir()
    sizes = {"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32}
    (model / "config.json").write_text(
        json.dumps({**sizes, "vocab_size": 32000, "model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    )
    head = json.dumps({"w": {"dtype": "BF16", "shape": [6_738_415_616], "data_offsets": [0, 0]}}).encode()
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "nvidia-smi").write_text("#!/bin/sh\necho 24576\n")
    (tools / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    return tmp_path


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_base_that_cannot_be_on_the_gpu_is_refused(sweeper: Callable[..., Any], folder: Path, command: str) -> None:
    before = sorted(folder.iterdir())
    told = sweeper(folder, command, "study.yaml")
    assert told.returncode == 2
    said = " ".join((told.stdout + told.stderr).split())
    assert "it takes 25.1 GiB in float32 and the GPU has 24.0 GiB" in said
    assert "set dtype: bfloat16 (12.6 GiB)" in said
    assert sorted(folder.iterdir()) == before


def test_what_the_gpus_memory_is_taken_by_is_noted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    study = Study.of(load_study(folder / "study.yaml", ["base.dtype=bfloat16"]))
    (note,) = [note for note in base_notes(study) if note.startswith("memory")]
    assert "of 24.0 GiB of a GPU: base 12.6 GiB;" in note
