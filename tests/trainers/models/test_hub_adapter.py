"""An adapter on the Hub as base: what it does not bring is that of the model below it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trainers.world.paths import model_path

LOAD = "from trainers.models.tokenizer import load_tokenizer as load; print(len(load('org/adapter', None, False)))"


def in_cache(hub: Path, name: str) -> Path:
    """The folder of a model in the Hub's cache, which has its one commit."""
    repository = hub / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    return snapshot


@pytest.mark.slow
def test_an_adapter_without_a_tokenizer_has_that_of_its_model(tmp_path: Path) -> None:
    shutil.copytree(model_path(), in_cache(tmp_path, "org/base"), dirs_exist_ok=True)
    adapter = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "org/base"}
    (in_cache(tmp_path, "org/adapter") / "adapter_config.json").write_text(json.dumps(adapter))
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", LOAD], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 8
