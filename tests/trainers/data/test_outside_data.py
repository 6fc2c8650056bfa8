"""Real pairs and a real pre-trained model from outside of the project; skipped where they are not at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from studies.records import Cause, DataConfig, EvaluationConfig, RunConfig
from trainers.data.pairs import check_data
from trainers.dpo import DPOTrainerWorker
from trainers.interface import Job
from trainers.job_list import train_all

SHARED = Path(__file__).resolve().parents[4] / "shared"
PAIRS = sorted((SHARED / "data").glob("*.jsonl")) if (SHARED / "data").is_dir() else []
needs_shared = pytest.mark.skipif(not PAIRS, reason=f"no preference pairs in {SHARED.name}/data beside the project")


@needs_shared
@pytest.mark.parametrize("file", PAIRS, ids=lambda file: file.stem)
def test_real_preference_files_pass_the_check(file: Path) -> None:
    assert check_data(DataConfig(path=str(file))) == []


@pytest.mark.slow
@needs_shared
def test_a_real_model_learns_from_real_pairs(tmp_path: Path) -> None:
    """stories260k on best-against-worst samples by sentiment: plain text, no chat template, 2 % of the pairs."""
    config = RunConfig(
        study="stories",
        variant="sigmoid",
        scenario="clean",
        trial=0,
        block=0,
        seed=0,
        settings={
            "model_name_or_path": str(SHARED / "models" / "stories260k"),
            "use_peft": True,
            "lora_r": 8,
            "lora_target_modules": "all-linear",
            "loss_type": ["sigmoid"],
            "beta": 0.1,
            "learning_rate": 5e-3,
            "max_steps": 30,
            "per_device_train_batch_size": 8,
        },
        knobs={},
        data=DataConfig(path=str(SHARED / "data" / "stories_sentiment.jsonl"), rows=240, eval_rows=64, max_length=96),
        evaluation=EvaluationConfig(prompts=16, max_new_tokens=24),
    )
    (result,) = train_all(DPOTrainerWorker(), [Job(config, tmp_path)])
    assert result.cause is Cause.FINISHED, result.message
    final = result.final()
    assert final["margin"].value > 2 * (final["margin"].error or 0.0) > 0
    assert final["train_accuracy"].value > 0.5
    assert final["kl"].value > 0
