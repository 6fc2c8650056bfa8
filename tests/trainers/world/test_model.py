"""Facts about the committed models: size, files, and that they write the language they were taught."""

from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from studies.records import EMBEDDED, EMBEDDED_GPT2, EMBEDDED_MODELS
from studies.records.world_units import MOST_NEW_TOKENS
from trainers.models.positions import positions_of
from trainers.world.gold import N_TASKS, gold_reward
from trainers.world.grammar import END, GRADED, Mood, grammar_bigrams, prompts, vocabulary
from trainers.world.pairs import load_model, load_tokenizer, sample_completions
from trainers.world.paths import model_path
from trainers.world.pretrain import PretrainOptions, pretrain

OF_ALL = pytest.mark.parametrize("name", EMBEDDED_MODELS)


@cache
def sampled(name: str, mood: Mood, n: int = 1200) -> list[tuple[str, ...]]:
    asked = [prompts(mood)[i % len(prompts())] for i in range(n)]
    completions = sample_completions(load_model(name), load_tokenizer(name), asked, 5)
    return [(*c.words, END) if c.ended else c.words for c in completions]


@pytest.mark.parametrize(("name", "kind", "parameters"), [(EMBEDDED, "llama", 94_528), (EMBEDDED_GPT2, "gpt2", 93_824)])
def test_the_models_are_of_one_size_in_float32(name: str, kind: str, parameters: int) -> None:
    model = load_model(name)
    assert AutoConfig.from_pretrained(model_path(name)).model_type == kind
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_the_gpt2_has_learned_positions_layer_norm_and_gelu_and_the_llama_none_of_them() -> None:
    kinds = {name: {type(module).__name__ for module in load_model(name).modules()} for name in EMBEDDED_MODELS}
    assert {"LayerNorm", "NewGELUActivation"} <= kinds[EMBEDDED_GPT2]
    assert not {"LayerNorm", "NewGELUActivation"} & kinds[EMBEDDED]
    assert [positions_of(load_model(name)) for name in EMBEDDED_MODELS] == [None, 64]


def test_what_can_be_sampled_behind_a_prompt_is_what_the_positions_leave() -> None:
    prompt = len(load_tokenizer()(prompts()[0])["input_ids"])
    for name in EMBEDDED_MODELS:
        positions = positions_of(load_model(name))
        assert MOST_NEW_TOKENS.get(name) == (None if positions is None else positions + 1 - prompt)


def test_no_model_has_dropout() -> None:
    for name in EMBEDDED_MODELS:
        assert not any(isinstance(m, torch.nn.Dropout) and m.p > 0 for m in load_model(name).modules())


@OF_ALL
def test_the_folder_is_complete_and_at_most_two_megabytes(name: str) -> None:
    files = {path.name: path.stat().st_size for path in model_path(name).iterdir()}
    expected = {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert set(files) == expected
    assert sum(files.values()) <= 2_000_000


@OF_ALL
def test_plain_generation_samples_from_the_whole_distribution(name: str) -> None:
    settings = load_model(name).generation_config
    assert (settings.do_sample, settings.temperature, settings.top_k, settings.top_p) == (True, 1.0, 0, 1.0)


def test_the_models_read_the_same_tokens() -> None:
    files = [
        [(model_path(n) / f).read_bytes() for f in ("tokenizer.json", "tokenizer_config.json")] for n in EMBEDDED_MODELS
    ]
    assert files[0] == files[1]


def test_every_word_is_one_token_and_decodes_to_itself() -> None:
    tokenizer = load_tokenizer()
    assert len(tokenizer) == len(vocabulary()) + 3
    text = " ".join(vocabulary())
    ids = tokenizer(text)["input_ids"]
    assert len(set(ids)) == len(vocabulary())
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text


@OF_ALL
def test_the_same_seed_trains_the_same_model(name: str) -> None:
    first, again, other = (
        torch.cat([p.flatten() for p in pretrain(PretrainOptions(name, steps=3, seed=seed))[0].parameters()])
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != EMBEDDED_MODELS[0])) for name in EMBEDDED_MODELS]
)
def test_the_model_writes_grammatical_reviews_that_end(name: str) -> None:
    lines = [(":", *words) for words in sampled(name, "plain")]
    pairs = [pair for line in lines for pair in pairwise(line)]
    assert sum(pair not in grammar_bigrams() for pair in pairs) / len(pairs) < 0.01
    assert sum(END in line for line in lines) / len(lines) > 0.995
    lengths = [len(line) - 1 for line in lines]
    assert 10.5 <= np.mean(lengths) <= 12.5
    assert np.percentile(lengths, 95) <= 20


@OF_ALL
@pytest.mark.parametrize(("mood", "low", "high"), [("cold", 0.05, 0.2), ("plain", 0.4, 0.6), ("warm", 0.8, 0.95)])
def test_the_mood_word_steers_the_model(name: str, mood: Mood, low: float, high: float) -> None:
    grades = [GRADED[word].grade for words in sampled(name, mood) for word in words if word in GRADED]
    assert low < sum(grade > 0 for grade in grades) / len(grades) < high


@OF_ALL
def test_gold_has_the_piloted_spread_in_every_task(name: str) -> None:
    lines = sampled(name, "plain")
    for task in range(N_TASKS):
        gold = [gold_reward([w for w in words if w != END], END in words, task) for words in lines]
        assert -1.0 < np.mean(gold) < 0.5
        assert 2.0 < np.std(gold) < (3.2 if task < 6 else 4.2)


@OF_ALL
@pytest.mark.slow
def test_the_recipe_reproduces_the_committed_model(name: str, tmp_path: Path) -> None:
    """To rounding that differs between machines; on the machine that made it, the files were the same byte
    for byte.
    """
    model, tokenizer = pretrain(PretrainOptions(name))
    tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (model_path(name) / "tokenizer.json").read_bytes()
    asked = tokenizer(prompts()[0], return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        ours, theirs = (m(input_ids=asked).logits[0, -1].softmax(-1) for m in (model, load_model(name)))
    assert float((ours - theirs).abs().sum()) < 0.1
