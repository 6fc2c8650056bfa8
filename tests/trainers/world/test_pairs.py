"""Facts about sampled completions and preference pairs, and that TRL reads them back token by token."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from studies.records.world_units import task_of_block
from trainers.world.gold import TASKS, gold_reward
from trainers.world.grammar import prompts
from trainers.world.pairs import (
    Row,
    WorldOptions,
    label_agreement,
    load_model,
    load_tokenizer,
    make_pairs,
    noise_free_accuracy,
    preference,
    sample_completions,
)

SMALL = WorldOptions(pairs=48, eval_pairs=24)


def test_the_same_options_and_block_make_the_same_pairs() -> None:
    assert make_pairs(SMALL, 3) == make_pairs(SMALL, 3)


@pytest.mark.parametrize(("one", "other"), [(1, 7), (104, 105), (104, 152)])
def test_other_blocks_of_the_same_task_hold_other_pairs(one: int, other: int) -> None:
    here, there = make_pairs(SMALL, one), make_pairs(SMALL, other)
    assert task_of_block(one) == task_of_block(other)
    shared = {(r.chosen, r.rejected) for r in here.train} & {(r.chosen, r.rejected) for r in there.train}
    assert not shared


def test_training_and_evaluation_pairs_are_different_draws() -> None:
    pairs = make_pairs(replace(SMALL, eval_pairs=48), 0)
    assert not {frozenset((r.chosen, r.rejected)) for r in pairs.train} & {
        frozenset((r.chosen, r.rejected)) for r in pairs.evaluation
    }


def test_fewer_pairs_are_the_first_of_more() -> None:
    few, more = make_pairs(SMALL, 2), make_pairs(replace(SMALL, pairs=96), 2)
    assert few.train == more.train[:48]
    assert few.evaluation == more.evaluation


@pytest.mark.parametrize(("block", "task"), [(1, 1), (7, 1), (99, 3), (100, 6), (103, 7), (147, 29), (148, 6)])
def test_the_gold_of_a_block_is_its_task_s(block: int, task: int) -> None:
    row = make_pairs(SMALL, block).train[0]
    assert row.gold_chosen == gold_reward(row.chosen.split(), True, task)
    assert row.gold_rejected == gold_reward(row.rejected.split(), True, task)


def test_pairs_carry_plain_prompts_and_two_different_answers() -> None:
    for writer in ("same", "better", "worse"):
        pairs = make_pairs(replace(SMALL, writer=writer), 0)
        assert {row.prompt for row in pairs.train} <= set(prompts("plain")) == set(pairs.prompts)
        for row in (*pairs.train, *pairs.evaluation):
            assert row.chosen != row.rejected
            assert row.chosen.strip()
            assert row.rejected.strip()


def test_pairs_have_the_sizes_asked_for() -> None:
    pairs = make_pairs(WorldOptions(pairs=1, eval_pairs=33), 0)
    assert (len(pairs.train), len(pairs.evaluation)) == (1, 33)


def test_labels_agree_with_gold_as_often_as_piloted() -> None:
    """About .88 (pilot, gold SD 2 to 3); 1200 pairs have a standard error of .01."""
    rows = [row for block in range(2) for row in make_pairs(WorldOptions(pairs=600, eval_pairs=1), block).train]
    assert 0.84 <= label_agreement(rows) <= 0.91


def test_a_cold_judge_never_errs_and_changes_labels_only() -> None:
    noisy, clean = make_pairs(SMALL, 0).train, make_pairs(replace(SMALL, temperature=0.0), 0).train
    assert all(row.gold_chosen >= row.gold_rejected for row in clean)
    assert label_agreement(noisy) < 1.0
    assert [{r.chosen, r.rejected} for r in noisy] == [{r.chosen, r.rejected} for r in clean]


@pytest.mark.parametrize("block", [0, 1])
def test_a_better_writer_writes_better_and_a_worse_one_worse(block: int) -> None:
    assert TASKS[task_of_block(0)].direction == -TASKS[task_of_block(1)].direction
    worse, same, better = (
        np.mean([r.gold_chosen + r.gold_rejected for r in make_pairs(replace(SMALL, writer=writer), block).train]) / 2
        for writer in ("worse", "same", "better")
    )
    assert worse + 1.0 < same < better - 1.0


@pytest.mark.parametrize(
    ("difference", "temperature", "expected"),
    [
        (0.0, 1.0, 0.5),
        (math.log(3.0), 1.0, 0.75),
        (-2 * math.log(3.0), 2.0, 0.25),
        (-5000.0, 1.0, 0.0),
        (0.1, 0.0, 1.0),
        (-0.1, 0.0, 0.0),
        (0.0, 0.0, 0.5),
    ],
)
def test_preference_is_bradley_terry(difference: float, temperature: float, expected: float) -> None:
    assert preference(difference, temperature) == pytest.approx(expected, abs=1e-12)


def test_accuracy_looks_at_gold_and_not_at_the_label() -> None:
    right, wrong, tie = (Row("", "", "", *gold) for gold in ((2.0, 1.0), (1.0, 2.0), (1.0, 1.0)))
    assert label_agreement([right, wrong, tie, right]) == (1 + 0 + 0.5 + 1) / 4
    assert noise_free_accuracy([0.3, -0.3, 5.0, -0.1], [right, wrong, tie, right]) == (1 + 1 + 0.5 + 0) / 4
    assert noise_free_accuracy([0.0], [right]) == 0.5


def test_accuracy_without_rows_or_of_other_length_is_refused() -> None:
    with pytest.raises(ValueError, match="0 margins for 0 rows"):
        noise_free_accuracy([], [])
    with pytest.raises(ValueError, match="2 margins for 1 rows"):
        noise_free_accuracy([1.0, 2.0], [Row("", "", "", 1.0, 0.0)])


@pytest.mark.parametrize(
    "wrong",
    [{"pairs": 0}, {"eval_pairs": -1}, {"writer": "bette"}, {"temperature": -0.1}, {"temperature": math.nan}],
)
def test_wrong_options_are_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        WorldOptions(**wrong)


def test_a_negative_block_is_refused() -> None:
    with pytest.raises(ValueError, match="block is -1"):
        make_pairs(SMALL, -1)


def test_a_completion_does_not_depend_on_its_batch() -> None:
    model, tokenizer = load_model(), load_tokenizer()
    asked = prompts() * 4
    together = sample_completions(model, tokenizer, asked, 11)
    assert together == sample_completions(model, tokenizer, asked, 11, batch_size=7)
    assert together[:5] == sample_completions(model, tokenizer, asked[:5], 11)
    assert together != sample_completions(model, tokenizer, asked, 12)


def test_samples_follow_the_model_s_distribution() -> None:
    """The first words of 4000 samples of one prompt against the model's own probabilities."""
    model, tokenizer = load_model(), load_tokenizer()
    prompt = prompts()[0]
    with torch.inference_mode():
        logits = model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1]
    first = [c.words[:1] for c in sample_completions(model, tokenizer, [prompt] * 4000, 0)]
    for word in ("the", "this", "it", "fans"):
        expected = float(logits.softmax(-1)[tokenizer.convert_tokens_to_ids(word)])
        assert first.count((word,)) / 4000 == pytest.approx(
            expected, abs=4 * math.sqrt(expected * (1 - expected) / 4000)
        )


def test_cached_sampling_is_uncached_sampling() -> None:
    """Greedy sampling with cache and shrinking batch against a plain loop over whole sequences."""
    model, tokenizer = load_model(), load_tokenizer()
    for completion in sample_completions(model, tokenizer, prompts()[:6], 0, temperature=1e-4):
        ids = tokenizer(completion.prompt, return_tensors="pt")["input_ids"]
        words: list[str] = []
        with torch.inference_mode():
            while (token := int(model(input_ids=ids).logits[0, -1].argmax())) != tokenizer.eos_token_id:
                words.append(tokenizer.convert_ids_to_tokens(token))
                ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
        assert list(completion.words) == words


def test_a_completion_that_hits_the_cap_has_not_ended() -> None:
    completions = sample_completions(load_model(), load_tokenizer(), prompts()[:4], 0, max_new_tokens=3)
    assert all(not c.ended and len(c.words) == 3 for c in completions)


def test_sampling_keeps_the_training_mode() -> None:
    model = load_model().train()
    sample_completions(model, load_tokenizer(), prompts()[:1], 0)
    assert model.training


def test_prompts_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="different numbers of tokens"):
        sample_completions(load_model(), load_tokenizer(), ["a :", "a b :"], 0)


def test_trl_reads_back_exactly_the_sampled_tokens(tmp_path: Path) -> None:
    model, tokenizer = load_model(), load_tokenizer()
    asked = prompts() * 2
    chosen, rejected = (sample_completions(model, tokenizer, asked, seed) for seed in (1, 2))
    rows = [{"prompt": a.prompt, "chosen": a.text, "rejected": b.text} for a, b in zip(chosen, rejected, strict=True)]
    trainer = DPOTrainer(
        model=model,
        args=DPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[]),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    for read, a, b in zip(trainer.train_dataset, chosen, rejected, strict=True):
        assert read["prompt_ids"] == tokenizer.convert_tokens_to_ids(a.prompt.split())
        assert read["chosen_ids"] == [*tokenizer.convert_tokens_to_ids(list(a.words)), tokenizer.eos_token_id]
        assert read["rejected_ids"] == [
            *tokenizer.convert_tokens_to_ids(list(b.words)),
            tokenizer.eos_token_id,
        ]


def test_texts_of_pairs_hold_known_words_only() -> None:
    tokenizer = load_tokenizer()
    for row in make_pairs(SMALL, 0).train:
        ids = tokenizer(row.prompt + row.chosen + tokenizer.eos_token)["input_ids"]
        assert ids.count(tokenizer.unk_token_id) == 0
        assert ids.count(tokenizer.eos_token_id) == 1
        assert tokenizer.decode(ids, skip_special_tokens=True) == row.prompt + row.chosen
