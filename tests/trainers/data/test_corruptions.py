"""What a scenario does to training pairs: flips by length, rejected answers from elsewhere, gold that asks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from operator import gt
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from studies.records import Cause, DataConfig, RunConfig
from studies.records.world_units import BY_PROMPT
from tests.trainers.pack_runs import config, distance, float64, plain_training, train, weights
from trainers.data.corruptions import deal_rejected
from trainers.data.pairs import DataError, Pairs, Row, load_pairs
from trainers.data.tokens import tokenise
from trainers.world.gold import gold_reward, sign_under
from trainers.world.grammar import Mood, mood_of, prompts
from trainers.world.pairs import load_model, load_tokenizer, sample_completions
from trainers.world.paths import model_path

WORLD = DataConfig(rows=120, eval_rows=24)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(model_path())


def world(tokenizer: PreTrainedTokenizerBase, block: int = 0, **changes: Any) -> Pairs:
    return load_pairs(WORLD.model_copy(update=changes), block, tokenizer)


def flipped(clean: Pairs, noisy: Pairs) -> set[int]:
    """Places of the training pairs that are the other way round."""
    assert len(clean.train) == len(noisy.train)
    exchanged = {
        i
        for i, (a, b) in enumerate(zip(clean.train, noisy.train, strict=True))
        if (a["chosen"], a["rejected"]) == (b["rejected"], b["chosen"])
    }
    assert all(noisy.train[i] == clean.train[i] for i in {*range(len(clean.train))} - exchanged)
    return exchanged


# ---- flips by length


def test_a_labeller_who_prefers_length_flips_pairs_whose_rejected_answer_is_longer(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    clean, noisy = world(tokenizer), world(tokenizer, label_flip=0.25, flip_by="length")
    found = flipped(clean, noisy)
    assert len(found) == noisy.facts["flipped"] == 30
    for i in found:
        ids = tokenise(clean.train[i], tokenizer)
        assert len(ids.rejected) > len(ids.chosen)
    assert (noisy.evaluation, noisy.prompts) == (clean.evaluation, clean.prompts)
    by_chance = flipped(clean, world(tokenizer, label_flip=0.25))
    assert len(by_chance) == 30
    assert by_chance != found


def test_where_no_longer_rejected_answers_are_left_the_others_follow(tokenizer: PreTrainedTokenizerBase) -> None:
    clean = world(tokenizer)
    ids = [tokenise(row, tokenizer) for row in clean.train]
    longer = {i for i, pair in enumerate(ids) if len(pair.rejected) > len(pair.chosen)}
    found = [flipped(clean, world(tokenizer, label_flip=rate, flip_by="length")) for rate in (0.1, 0.3, 0.8, 1.0)]
    assert [len(places) for places in found] == [12, 36, 96, 120]
    assert found[0] < found[1] < found[2] < found[3]
    assert found[1] <= longer < found[2]


def test_a_bias_of_flips_without_flips_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(DataError, match="flip_by is 'length', which does nothing where label_flip is 0"):
        world(tokenizer, flip_by="length")


# ---- rejected answers of other prompts


def test_no_pair_keeps_a_rejected_answer_of_its_own_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    own, dealt = world(tokenizer), world(tokenizer, rejected_from="another")
    assert [(row["prompt"], row["chosen"]) for row in dealt.train] == [(r["prompt"], r["chosen"]) for r in own.train]
    assert Counter(str(row["rejected"]) for row in dealt.train) == Counter(str(row["rejected"]) for row in own.train)
    of_prompt = {(str(row["prompt"]), str(row["rejected"])) for row in own.train}
    assert not of_prompt & {(str(row["prompt"]), str(row["rejected"])) for row in dealt.train}
    assert (dealt.evaluation, dealt.prompts) == (own.evaluation, own.prompts)
    assert dealt.digest == world(tokenizer, rejected_from="another").digest
    assert dealt.train != world(tokenizer, block=1, rejected_from="another").train


def test_labels_are_flipped_after_the_deal(tokenizer: PreTrainedTokenizerBase) -> None:
    dealt = world(tokenizer, rejected_from="another")
    both = world(tokenizer, rejected_from="another", label_flip=0.5)
    assert len(flipped(dealt, both)) == 60
    by_length = flipped(dealt, world(tokenizer, rejected_from="another", label_flip=0.2, flip_by="length"))
    for i in by_length:
        ids = tokenise(dealt.train[i], tokenizer)
        assert len(ids.rejected) > len(ids.chosen)


@given(st.lists(st.integers(0, 6), min_size=2, max_size=40), st.integers(0, 5))
def test_any_pairs_are_dealt_or_refused_by_whether_a_deal_exists(of: list[int], block: int) -> None:
    rows = [Row(prompt=f"Q{p}", chosen=f"c{i}", rejected=f"r{i}") for i, p in enumerate(of)]
    if 2 * max(Counter(of).values()) > len(of):
        with pytest.raises(DataError, match="cannot be dealt"):
            deal_rejected(rows, of, block)
        return
    dealt = deal_rejected(rows, of, block)
    assert sorted(str(row["rejected"]) for row in dealt) == sorted(str(row["rejected"]) for row in rows)
    for row, p in zip(dealt, of, strict=True):
        assert of[int(str(row["rejected"])[1:])] != p
        assert row["prompt"] == f"Q{p}"


def test_one_prompt_alone_is_refused_with_what_to_give(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    train, held = tmp_path / "train.jsonl", tmp_path / "held.jsonl"
    write(train, [Row(prompt="a review :", chosen=" the plot .", rejected=f" the cast {'.' * i}") for i in range(1, 9)])
    write(held, [Row(prompt="the film :", chosen=" the plot .", rejected=" the cast .")])
    data = DataConfig(path=str(train), eval_split=str(held), rejected_from="another")
    with pytest.raises(DataError, match=r"one prompt has 8 of the 8 .* there is no other.*more prompts"):
        load_pairs(data, 0, tokenizer)


def test_pairs_that_the_deal_makes_too_long_or_equal_are_left_out_and_counted(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Each prompt's two pairs get the other's answers: one too long for the long prompt, one equal to the chosen."""
    train, held = tmp_path / "train.jsonl", tmp_path / "held.jsonl"
    long, short = "a warm review of the new film :", "a review :"
    rows = [
        Row(prompt=long, chosen=" the plot .", rejected=" the cast ."),
        Row(prompt=long, chosen=" the score .", rejected=" the cast ."),
        Row(prompt=short, chosen=" the cast .", rejected=" the plot is quite dreary ."),
        Row(prompt=short, chosen=" the hero .", rejected=" the tone ."),
    ]
    write(train, rows)
    write(held, [Row(prompt="the film :", chosen=" the plot .", rejected=" the cast .")])
    data = DataConfig(path=str(train), eval_split=str(held), rejected_from="another", max_length=14)
    pairs = load_pairs(data, 0, tokenizer)
    assert (pairs.facts["train_too_long"], pairs.facts["dealt_equal"], pairs.facts["train_rows"]) == (1, 1, 2)
    kept = {str(row["chosen"]): str(row["rejected"]) for row in pairs.train}
    assert kept.pop(" the hero .") == " the cast ."
    assert [*kept.values()] == [" the tone ."]


# ---- rejected answers of the model


def test_good_answers_alone_are_held_against_the_models_own(tokenizer: PreTrainedTokenizerBase) -> None:
    own, single = world(tokenizer), world(tokenizer, rejected_from="model")
    assert [(row["prompt"], row["chosen"]) for row in single.train] == [(r["prompt"], r["chosen"]) for r in own.train]
    assert not {str(row["rejected"]) for row in own.train} & {str(row["rejected"]) for row in single.train}
    assert all(row["chosen"] != row["rejected"] for row in single.train)
    assert (single.evaluation, single.prompts) == (own.evaluation, own.prompts)
    assert single.digest == world(tokenizer, rejected_from="model").digest
    other = world(tokenizer, block=1, rejected_from="model")
    assert not {str(row["rejected"]) for row in single.train} & {str(row["rejected"]) for row in other.train}


def test_labels_are_flipped_after_the_model_has_answered(tokenizer: PreTrainedTokenizerBase) -> None:
    single = world(tokenizer, rejected_from="model")
    assert len(flipped(single, world(tokenizer, rejected_from="model", label_flip=0.5))) == 60


def test_the_models_answers_are_of_the_mood_that_their_prompt_asks_for(tokenizer: PreTrainedTokenizerBase) -> None:
    """The pairs' own answers are of the plain mood, so that gold, which wants the other mood, finds them less bad."""
    worth = []
    for rejected_from in ("own", "model"):
        pairs = world(tokenizer, gold="prompt", rejected_from=rejected_from)
        assert pairs.gold is not None
        prompts_, rejected = zip(*((str(r["prompt"]), str(r["rejected"])) for r in pairs.train), strict=True)
        values = pairs.gold(prompts_, rejected, [True] * len(rejected))
        worth.append(sum(values) / len(values))
    assert worth[1] < worth[0] - 1.0


def test_answers_of_the_model_are_the_embedded_worlds_alone(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    write(tmp_path / "pairs.jsonl", [Row(prompt="the film :", chosen=" the plot .", rejected=" the cast .")])
    with pytest.raises(DataError, match=r"rejected_from is 'model', .* cannot for .*pairs.jsonl .*sample your own"):
        load_pairs(DataConfig(path=str(tmp_path / "pairs.jsonl"), rejected_from="model"), 0, tokenizer)


@pytest.mark.slow
def test_a_pack_on_answers_of_the_model_gives_what_plain_dpo_trainers_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a run on the pairs' own answers to the same prompts, whose reference log-probs lie in the same cache."""
    runs = [
        run.model_copy(update={"data": run.data.model_copy(update={"rejected_from": rejected_from, "gold": "prompt"})})
        for run, rejected_from in ((config("sigmoid"), "own"), (config("bco_pair"), "model"))
    ]
    with float64(monkeypatch):
        results = train(tmp_path / "pack", runs, together=2)
        for run, result in zip(runs, results, strict=True):
            assert result.cause in (Cause.FINISHED, Cause.COLLAPSED), result.message
            assert result.facts["together"] == 2
            assert distance(weights(tmp_path / "pack", run), plain_training(tmp_path / "stock" / run.key, run)) < 1e-9


def write(file: Path, rows: Sequence[Row]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


# ---- gold that asks the prompt


@pytest.mark.parametrize("block", [0, 1])
def test_the_mood_word_decides_what_is_wanted(block: int, tokenizer: PreTrainedTokenizerBase) -> None:
    pairs = world(tokenizer, block, gold="prompt")
    assert pairs.gold is not None
    cold, warm = "a cold review of the new film :", "a warm review of the new film :"
    praise, censure = "the plot is quite superb .", "the plot is quite dreadful ."
    asked, said = [cold, warm, cold, warm], [praise, censure, censure, praise]
    first, second, third, fourth = pairs.gold(asked, said, [True] * 4)
    assert first == second > 4.0
    assert third == fourth < -4.0
    assert first == abs(gold_reward(praise.split(), True, block))
    assert pairs.facts["source"] == BY_PROMPT


def test_gold_that_asks_comes_with_cold_and_warm_prompts_alone(tokenizer: PreTrainedTokenizerBase) -> None:
    pairs = world(tokenizer, gold="prompt")
    assert [mood_of(str(prompt)) for prompt in pairs.prompts] == ["cold", "warm"] * 30
    assert {*pairs.prompts} == {*prompts("cold"), *prompts("warm")}
    for rows in (pairs.train, pairs.evaluation):
        assert {mood_of(str(row["prompt"])) for row in rows} == {"cold", "warm"}
    with pytest.raises(ValueError, match="needs one of a mood"):
        sign_under(prompts("plain")[0], 0)


def test_labels_follow_the_gold_of_their_own_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    """As often as where gold ignores the prompt, about .88; by the other prompt's gold hardly ever."""
    pairs = world(tokenizer, gold="prompt", rows=400)
    gold = pairs.gold
    assert gold is not None

    def agreement(asked: Sequence[str]) -> float:
        ended = [True] * len(asked)
        chosen = gold(asked, [str(row["chosen"]) for row in pairs.train], ended)
        rejected = gold(asked, [str(row["rejected"]) for row in pairs.train], ended)
        return fmean(map(gt, chosen, rejected))

    own = [str(row["prompt"]) for row in pairs.train]
    swap = {"cold": "warm", "warm": "cold"}
    other = [p.replace(mood_of(p), swap[mood_of(p)], 1) for p in own]
    assert agreement(own) > 0.8
    assert agreement(other) < 0.3


def test_a_writer_is_better_or_worse_by_the_gold_of_the_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    means = []
    for writer in ("worse", "same", "better"):
        pairs = world(tokenizer, gold="prompt", pairs_from=writer)
        assert pairs.gold is not None
        asked, said = [row["prompt"] for row in pairs.train], [str(row["chosen"]) for row in pairs.train]
        means.append(fmean(pairs.gold(asked, said, [True] * len(said))))
    assert means[0] + 1.0 < means[1] < means[2] - 1.0


def test_gold_is_the_embedded_worlds_alone(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    write(tmp_path / "pairs.jsonl", [Row(prompt="the film :", chosen=" the plot .", rejected=" the cast .")])
    with pytest.raises(DataError, match=r"data.gold is 'prompt', which does nothing for .*pairs.jsonl"):
        load_pairs(DataConfig(path=str(tmp_path / "pairs.jsonl"), gold="prompt"), 0, tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize("block", [0, 1])
def test_a_run_learns_what_the_prompt_asks_for(block: int, tmp_path: Path) -> None:
    """In a task of praise and one of censure, under cold prompts, where it wants praise, and under warm ones."""
    run = learner(block)
    (result,) = train(tmp_path, [run], together=1)
    assert result.cause is Cause.FINISHED, result.message
    gold, start = result.final()["gold"], result.facts["reference_gold"]
    assert isinstance(start, float)
    assert gold.value - start > 2.0
    tuned = PeftModel.from_pretrained(load_model(), tmp_path / run.key / "adapter").eval()
    moods: tuple[Mood, ...] = ("cold", "warm")
    for mood in moods:
        asked = prompts(mood) * 8
        before, after = (
            sum(gold_reward(c.words, c.ended, block, sign_under(c.prompt, block)) for c in of) / len(asked)
            for of in (sample_completions(model, load_tokenizer(), asked, 0) for model in (load_model(), tuned))
        )
        assert after - before > 1.0, mood


def learner(block: int) -> RunConfig:
    """Sigmoid as a study of the embedded world trains it: 120 steps of 16 pairs, rank 8."""
    settings = {"lora_r": 8, "lora_alpha": 16, "beta": 0.1, "learning_rate": 1e-3, "warmup_steps": 10, "max_steps": 120}
    run = config("sigmoid", block=block, per_device_train_batch_size=16, weight_decay=0.0, **settings)
    evaluation = run.evaluation.model_copy(update={"prompts": 480, "max_new_tokens": 32})
    return run.model_copy(update={"data": DataConfig(gold="prompt"), "evaluation": evaluation})
