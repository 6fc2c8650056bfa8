"""Holds the embedded world to its purpose: a small LoRA run with stock TRL must learn it, well short of
collapse.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import DPOConfig, DPOTrainer

from studies.records.world_units import task_of_block
from trainers.world.gold import gold_reward
from trainers.world.pairs import (
    Completion,
    Row,
    WorldOptions,
    load_model,
    load_tokenizer,
    make_pairs,
    noise_free_accuracy,
    sample_completions,
)


@dataclass(frozen=True)
class Acceptance:
    """What a stock run did to the world: accuracy on held-out pairs, gold of samples, nats per sequence of
    drift.
    """

    accuracy: float
    gold_before: float
    gold_after: float
    kl: float


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@torch.inference_mode()
def log_probs(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], texts: Sequence[str]
) -> Tensor:
    """Summed log-probability of each text and its end after its prompt."""
    skip = len(tokenizer(prompts[0])["input_ids"])
    rows = [
        tokenizer(prompt + text + tokenizer.eos_token)["input_ids"] for prompt, text in zip(prompts, texts, strict=True)
    ]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    kept = torch.tensor([[skip <= i < len(row) for i in range(longest)] for row in rows])[:, 1:]
    logits = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
    summed: Tensor = (logits.gather(-1, ids[:, 1:, None])[..., 0] * kept).sum(-1)
    return summed


def margins(
    policy: torch.nn.Module,
    reference: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
) -> list[float]:
    prompts = [row.prompt for row in rows]
    sides = [[row.chosen for row in rows], [row.rejected for row in rows]]
    chosen, rejected = (
        log_probs(policy, tokenizer, prompts, side) - log_probs(reference, tokenizer, prompts, side) for side in sides
    )
    return list((chosen - rejected).tolist())


def mean_gold(completions: Sequence[Completion], task: int) -> float:
    return float(np.mean([gold_reward(c.words, c.ended, task) for c in completions]))


def kl_of_ended(
    policy: torch.nn.Module,
    reference: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    completions: Sequence[Completion],
) -> float:
    """Mean log-ratio over samples of the policy that ended: plain Monte Carlo."""
    ended = [c for c in completions if c.ended and c.words]
    prompts, texts = [c.prompt for c in ended], [c.text for c in ended]
    ratio = log_probs(policy, tokenizer, prompts, texts) - log_probs(reference, tokenizer, prompts, texts)
    return float(ratio.mean())


def train(rows: Sequence[Row], folder: Path, seed: int = 0, beta: float = 0.3, lr: float = 1e-3) -> torch.nn.Module:
    texts = [{"prompt": row.prompt, "chosen": row.chosen, "rejected": row.rejected} for row in rows]
    arguments = DPOConfig(
        output_dir=str(folder),
        loss_type="sigmoid",
        beta=beta,
        learning_rate=lr,
        lr_scheduler_type="cosine",
        warmup_steps=10,
        per_device_train_batch_size=16,
        max_steps=120,
        bf16=False,
        fp16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        seed=seed,
    )
    trainer = DPOTrainer(
        model=load_model(),
        args=arguments,
        train_dataset=Dataset.from_list(texts),
        processing_class=load_tokenizer(),
        peft_config=LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.train()
    policy: torch.nn.Module = trainer.model
    return policy.eval()


def accept(block: int, folder: Path, **knobs: float) -> Acceptance:
    task = task_of_block(block)
    reference: PreTrainedModel = load_model()
    tokenizer = load_tokenizer()
    pairs = make_pairs(WorldOptions(), block)
    policy = train(pairs.train, folder, **knobs)
    asked = [pairs.prompts[i % len(pairs.prompts)] for i in range(1024)]
    before, after = (sample_completions(model, tokenizer, asked, seed=7) for model in (reference, policy))
    return Acceptance(
        accuracy=noise_free_accuracy(margins(policy, reference, tokenizer, pairs.evaluation), pairs.evaluation),
        gold_before=mean_gold(before, task),
        gold_after=mean_gold(after, task),
        kl=kl_of_ended(policy, reference, tokenizer, after),
    )


@pytest.mark.slow
@pytest.mark.parametrize("block", range(6))
def test_a_stock_lora_run_without_the_head_learns_the_world(block: int, tmp_path: Path) -> None:
    with one_thread():
        result = accept(block, tmp_path)
    assert result.accuracy >= 0.75
    assert result.gold_after - result.gold_before >= 2.0
    assert result.kl <= 4.0
