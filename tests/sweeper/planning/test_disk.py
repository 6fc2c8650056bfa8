"""What a plan says of disk use is what runs take there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from studies.spec import Study, load_study
from sweeper.planning.disk import DiskUse, adapter_bytes, describe_disk, planned_disk
from trainers.world.paths import model_path

STORIES = Path(__file__).resolve().parents[4] / "shared" / "models" / "stories260k"
# safetensors names every tensor in its header.
HEADER_BYTES = 200


def saved(folder: Path, model: Path, **settings: Any) -> tuple[int, int]:
    """Bytes of the weights that a run with these settings leaves, and of how many tensors."""
    torch.manual_seed(0)
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    if settings.pop("use_peft"):
        policy = get_peft_model(policy, LoraConfig(**settings))
    policy.save_pretrained(folder)
    files = list(folder.glob("*.safetensors"))
    return sum(file.stat().st_size for file in files), 2 * len(list(policy.parameters()))


@pytest.mark.parametrize("model", [model_path(), STORIES], ids=["embedded", "stories260k"])
@pytest.mark.parametrize(
    "settings",
    [
        {"use_peft": True, "lora_r": 8, "lora_target_modules": "all-linear"},
        {"use_peft": True, "lora_r": 64, "lora_target_modules": ["q_proj", "down_proj"]},
        {"use_peft": True, "lora_r": 64, "lora_target_modules": r".*layers\.0\..*(gate|up)_proj"},
        {"use_peft": True, "lora_r": 16, "lora_target_modules": None},
        {"use_peft": False},
    ],
    ids=["all", "named", "pattern", "default", "full"],
)
def test_the_size_of_an_adapter_is_known_from_rank_and_model(
    tmp_path: Path, model: Path, settings: dict[str, Any]
) -> None:
    if not model.is_dir():
        pytest.skip(f"no model in {model}")
    named = {"model_name_or_path": str(model), **settings}
    lora = {name.removeprefix("lora_") if name != "lora_r" else "r": value for name, value in settings.items()}
    size, tensors = saved(tmp_path, model, **lora)
    known = adapter_bytes(named)
    assert known is not None
    assert 0 < size - known < HEADER_BYTES * tensors


def planned(tmp_path: Path, more: str, workers: int = 2, together: int = 4) -> DiskUse:
    file = tmp_path / "study.yaml"
    variants = "" if "\nvariants:" in more else "variants: {sigmoid: {}, ipo: {}}\n"
    file.write_text(
        f"study: s\n{variants}space: {{beta: {{low: 0.1, high: 1.0, log: true}}}}\n"
        "runs: {blocks: [0, 1, 2]}\nobjective: {metric: ranking_gain}\n" + more
    )
    spec = load_study(file)
    return planned_disk(Study.of(spec), workers, together)


PEFT = "base: {model_name_or_path: embedded, use_peft: true, max_steps: 12}\n"


def test_adapters_are_counted_as_output_keeps_them_and_mlflow_copies_them(tmp_path: Path) -> None:
    trials = "budget: {trials: 5}\noutput: {keep: %s}\n"
    kept = {keep: planned(tmp_path, PEFT + trials % keep).adapters for keep in ("none", "best", "all")}
    assert kept == {"none": 0, "best": 2 * 3 + 6, "all": 2 * 5 * 3 + 6}


def test_a_scenario_counts_with_its_own_variants_and_runs(tmp_path: Path) -> None:
    scenarios = "scenarios: {clean: {}, one: {variants: [ipo], runs: {blocks: [0], seeds: [0, 1]}}}\n"
    assert planned(tmp_path, PEFT + scenarios).adapters == 2 * (2 * 3 + 1 * 2), "kept, and copied by MLflow"


def test_states_are_two_a_run_and_one_that_is_written_on_every_worker(tmp_path: Path) -> None:
    full = PEFT.replace("true", "false")
    assert planned(tmp_path, PEFT).states == 2 * (2 * 4 + 1)
    assert planned(tmp_path, PEFT, together=0).states == 2 * (2 + 1)
    assert planned(tmp_path, full).states == 2 * (2 + 1), "these train alone"


def test_runs_that_pause_at_a_rung_are_counted(tmp_path: Path) -> None:
    rungs = "mode: search\nrungs: {at: [0.5], eta: 3}\nbudget: {trials: 9}\n"
    assert planned(tmp_path, PEFT + rungs).paused == 2 * 9 * 3


def test_the_largest_rank_of_the_space_counts(tmp_path: Path) -> None:
    own = "variants: {sigmoid: {}, ipo: {space: {lora_r: {values: [4, 32]}}}}\n"
    wide = planned(tmp_path, PEFT + own).adapter_bytes
    plain = planned(tmp_path, PEFT).adapter_bytes
    assert wide == 2 * plain, "TRL's rank is 16"


def test_a_model_that_is_not_here_leaves_the_size_open(tmp_path: Path) -> None:
    data = "data: {path: some-org/pairs}\n"
    use = planned(tmp_path, PEFT.replace("embedded", "some-org/not-here") + data)
    line = describe_disk(use, "some-org/not-here", guessed=True)
    assert f"about {use.in_adapters} times an adapter" in line
    assert "an adapter of some-org/not-here is not known" in line
    assert "as long as no sweep has found" in line


def test_plan_prints_it_without_torch(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom sweeper.cli.app import main\n"
        "try: main()\nfinally: print('torch' in sys.modules, 'huggingface_hub' in sys.modules)"
    )
    said = subprocess.run(
        [sys.executable, "-c", script, "plan", "quickstart"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "Disk: about" in said.stdout
    assert "MiB" in said.stdout
    assert said.stdout.splitlines()[-1] == "False False"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        (2**64 - 1).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"no",
        (100_000).to_bytes(8, "little") + b"[" * 100_000,
        (12).to_bytes(8, "little") + b'{"a.b": [1]}',
    ],
)
def test_a_model_whose_files_are_none_leaves_the_size_open(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    assert adapter_bytes({"model_name_or_path": str(tmp_path), "use_peft": True}) is None
