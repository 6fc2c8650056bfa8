"""Facts about the committed model: its size, its files, and that it writes the language it was taught."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from trainers.world.gold import N_TASKS, gold_reward
from trainers.world.grammar import END, GRADED, Mood, grammar_bigrams, prompts, vocabulary
from trainers.world.pairs import load_model, load_tokenizer, sample_completions
from trainers.world.paths import model_path
from trainers.world.pretrain import PretrainOptions, pretrain


def sampled(mood: Mood, n: int = 1200) -> list[tuple[str, ...]]:
    asked = [prompts(mood)[i % len(prompts())] for i in range(n)]
    return [
        (*c.words, END) if c.ended else c.words for c in sample_completions(load_model(), load_tokenizer(), asked, 5)
    ]


def test_the_model_is_a_small_llama_in_float32() -> None:
    model = load_model()
    assert AutoConfig.from_pretrained(model_path()).model_type == "llama"
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert sum(parameter.numel() for parameter in model.parameters()) <= 150_000


def test_the_head_is_not_tied_to_the_embedding() -> None:
    assert not AutoConfig.from_pretrained(model_path()).tie_word_embeddings


def test_the_folder_is_complete_and_at_most_two_megabytes() -> None:
    files = {path.name: path.stat().st_size for path in model_path().iterdir()}
    expected = {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert set(files) == expected
    assert sum(files.values()) <= 2_000_000


def test_plain_generation_samples_from_the_whole_distribution() -> None:
    settings = load_model().generation_config
    assert (settings.do_sample, settings.temperature, settings.top_k, settings.top_p) == (True, 1.0, 0, 1.0)


def test_every_word_is_one_token_and_decodes_to_itself() -> None:
    tokenizer = load_tokenizer()
    assert len(tokenizer) == len(vocabulary()) + 3
    text = " ".join(vocabulary())
    ids = tokenizer(text)["input_ids"]
    assert len(set(ids)) == len(vocabulary())
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text


def test_the_same_seed_trains_the_same_model() -> None:
    first, again, other = (
        torch.cat([p.flatten() for p in pretrain(PretrainOptions(steps=3, seed=seed))[0].parameters()])
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_model_writes_grammatical_reviews_that_end() -> None:
    lines = [(":", *words) for words in sampled("plain")]
    pairs = [pair for line in lines for pair in pairwise(line)]
    assert sum(pair not in grammar_bigrams() for pair in pairs) / len(pairs) < 0.01
    assert sum(END in line for line in lines) / len(lines) > 0.995
    lengths = [len(line) - 1 for line in lines]
    assert 10.5 <= np.mean(lengths) <= 12.5
    assert np.percentile(lengths, 95) <= 20


@pytest.mark.parametrize(("mood", "low", "high"), [("cold", 0.05, 0.2), ("plain", 0.4, 0.6), ("warm", 0.8, 0.95)])
def test_the_mood_word_steers_the_model(mood: Mood, low: float, high: float) -> None:
    grades = [GRADED[word].grade for words in sampled(mood) for word in words if word in GRADED]
    assert low < sum(grade > 0 for grade in grades) / len(grades) < high


def test_gold_has_the_piloted_spread_in_every_task() -> None:
    lines = sampled("plain")
    for task in range(N_TASKS):
        gold = [gold_reward([w for w in words if w != END], END in words, task) for words in lines]
        assert -1.0 < np.mean(gold) < 0.5
        assert 2.0 < np.std(gold) < (3.2 if task < 6 else 4.2)


@pytest.mark.slow
def test_the_recipe_reproduces_the_committed_model(tmp_path: Path) -> None:
    """To rounding that differs between machines; on the machine that made it, the files were the same byte
    for byte.
    """
    model, tokenizer = pretrain(PretrainOptions())
    tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (model_path() / "tokenizer.json").read_bytes()
    asked = tokenizer(prompts()[0], return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        ours, theirs = (m(input_ids=asked).logits[0, -1].softmax(-1) for m in (model, load_model()))
    assert float((ours - theirs).abs().sum()) < 0.1
