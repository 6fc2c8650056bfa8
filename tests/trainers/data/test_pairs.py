"""Facts about the pairs of a block: tokens, lengths, split by prompt, subsample, flips, digest, written files."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

from studies.records import EMBEDDED_MODELS, DataConfig
from trainers.data.pairs import DataError, Pairs, Row, load_pairs
from trainers.data.sources import read_rows
from trainers.data.tokens import prompt_ids, tokenise
from trainers.world.gold import gold_reward
from trainers.world.own_answers import own_answers
from trainers.world.pairs import WorldOptions, make_pairs
from trainers.world.paths import model_path

CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def byte_tokenizer(
    merges: tuple[tuple[str, str], ...] = (), chat_template: str | None = CHAT
) -> PreTrainedTokenizerFast:
    """Bytes as tokens, and `merges` on top; one of a colon and a space crosses the end of a prompt."""
    vocabulary = {
        c: i for i, c in enumerate([*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(m) for m in merges)])
    }
    tokenizer = Tokenizer(models.BPE(vocabulary, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>", chat_template=chat_template
    )


def text_rows(n: int, prompts: int | None = None) -> list[Row]:
    return [Row(prompt=f"Q{i % (prompts or n)}:", chosen=f" yes {i}", rejected=f" no {i}!") for i in range(n)]


def messages(role: str, content: str) -> list[dict[str, Any]]:
    return [{"role": role, "content": content}]


def chat_rows(n: int) -> list[Row]:
    return [
        Row(
            prompt=messages("user", f"Q{i}:"),
            chosen=messages("assistant", f"yes {i}"),
            rejected=messages("assistant", f"no {i}!"),
        )
        for i in range(n)
    ]


def saved(folder: Path, rows: list[Row], name: str = "pairs.jsonl") -> str:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / name)


def load(folder: Path, rows: list[Row], /, block: int = 0, **options: Any) -> Pairs:
    return load_pairs(DataConfig(path=saved(folder, rows), **options), block, byte_tokenizer())


def asked(rows: tuple[Row, ...]) -> set[str]:
    return {str(row["prompt"]) for row in rows}


# ---- tokens


def trl_ids(rows: list[Row], tokenizer: PreTrainedTokenizerBase, folder: Path) -> list[Mapping[str, list[int]]]:
    """The ids of TRL's own preparation."""
    arguments = DPOConfig(output_dir=str(folder), bf16=False, gradient_checkpointing=False, use_cpu=True, report_to=[])
    trainer = SimpleNamespace(_tokenizer=tokenizer)
    return list(DPOTrainer._prepare_dataset(trainer, Dataset.from_list(rows), tokenizer, arguments, "train"))


@pytest.mark.parametrize("rows", [text_rows(3), chat_rows(3), [Row(prompt="a", chosen="b<end>", rejected="c")]])
@pytest.mark.parametrize("merges", [(), ((":", "Ġ"),), ((">", "y"), ("n", "o"))])
def test_ids_are_those_that_trl_trains_on(rows: list[Row], merges: tuple[tuple[str, str], ...], tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(merges)
    for row, trl in zip(rows, trl_ids(rows, tokenizer, tmp_path), strict=True):
        ours = tokenise(row, tokenizer)
        assert (ours.prompt, ours.chosen, ours.rejected) == (trl["prompt_ids"], trl["chosen_ids"], trl["rejected_ids"])


def test_a_token_across_the_end_of_a_prompt_belongs_to_the_completion() -> None:
    tokenizer = byte_tokenizer(((":", "Ġ"),))
    [row] = text_rows(1)
    assert tokenizer.decode(tokenise(row, tokenizer).chosen) == ": yes 0<end>"
    assert tokenizer.decode(prompt_ids(row["prompt"], tokenizer)) == "Q0:"


def test_a_chat_prompt_ends_with_the_generation_prompt() -> None:
    tokenizer = byte_tokenizer()
    ids = tokenise(chat_rows(1)[0], tokenizer)
    assert tokenizer.decode(ids.prompt) == "<|user|>Q0:<end>\n<|assistant|>"
    assert tokenizer.decode(ids.chosen) == "yes 0<end>\n"


def test_messages_without_a_chat_template_are_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="tokenizer has no chat template; take an instruct model or"):
        load_pairs(DataConfig(path=saved(tmp_path, chat_rows(20))), 0, byte_tokenizer(chat_template=None))


# ---- split


def test_no_prompt_is_on_both_sides_and_no_row_is_lost_or_repeated(tmp_path: Path) -> None:
    rows = text_rows(200, prompts=40)
    pairs = load(tmp_path, rows)
    assert asked(pairs.train).isdisjoint(asked(pairs.evaluation))
    assert len(pairs.evaluation) == pairs.facts["eval_rows"] == 20
    assert sorted(map(str, pairs.train + pairs.evaluation)) == sorted(map(str, rows))


def test_rows_of_a_prompt_that_is_cut_by_eval_rows_are_on_neither_side(tmp_path: Path) -> None:
    pairs = load(tmp_path, text_rows(200, prompts=40), eval_rows=22)
    assert (len(pairs.evaluation), len(asked(pairs.evaluation))) == (22, 5)
    assert asked(pairs.train).isdisjoint(asked(pairs.evaluation))
    assert (len(pairs.train), pairs.facts["prompt_held_out"]) == (175, 3)


def test_a_block_is_one_draw_and_another_block_another(tmp_path: Path) -> None:
    rows = text_rows(200)
    first, again, other = (load(tmp_path, rows, block=b, rows=50, label_flip=0.3) for b in (0, 0, 1))
    assert (first.train, first.evaluation, first.digest) == (again.train, again.evaluation, again.digest)
    assert asked(first.evaluation) != asked(other.evaluation)
    assert asked(first.train) != asked(other.train)
    assert first.digest != other.digest


def test_fewer_rows_are_the_first_of_more_and_leave_the_evaluation_alone(tmp_path: Path) -> None:
    few, many = (load(tmp_path, text_rows(200), rows=n) for n in (10, 60))
    assert few.train == many.train[:10]
    assert few.evaluation == many.evaluation


def test_one_prompt_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no training pairs left of 30 read: .* have a prompt of those, which is never"
    ):
        load(tmp_path, text_rows(30, prompts=1))


def test_where_no_pairs_are_left_it_is_told_where_each_went(tmp_path: Path) -> None:
    bad: list[Row] = [{"prompt": f"P{i}", "chosen": "x", "rejected": ""} for i in range(30)]
    told = r"of 33 read: 30 are bad and left out \(30 .*\), 3 are held out; give more prompts, fewer `eval_rows`"
    with pytest.raises(DataError, match=told):
        load(tmp_path, [*text_rows(3), *bad], bad_rows="drop", eval_rows=3)
    with pytest.raises(DataError, match="of 24 read: 24 are held out; give more prompts, fewer `eval_rows`"):
        load(tmp_path, text_rows(24), eval_rows=400)


def test_a_split_of_its_own_is_used_and_its_prompts_leave_training(tmp_path: Path) -> None:
    rows = text_rows(50)
    held = saved(tmp_path, rows[:5], "held.jsonl")
    pairs = load(tmp_path, rows, eval_split=held)
    assert sorted(map(str, pairs.evaluation)) == sorted(map(str, rows[:5]))
    assert sorted(map(str, pairs.train)) == sorted(map(str, rows[5:]))
    assert (pairs.facts["prompt_held_out"], pairs.facts["rows_read"]) == (5, 55)


def test_prompts_are_the_distinct_evaluation_prompts(tmp_path: Path) -> None:
    pairs = load(tmp_path, text_rows(200, prompts=40))
    assert len(pairs.prompts) == len(set(map(str, pairs.prompts))) == 4
    assert {str(prompt) for prompt in pairs.prompts} == asked(pairs.evaluation)


# ---- lengths


def long_and_short() -> list[Row]:
    """Prompts of 3 to 12 bytes, completions of 4 to 13 with their end."""
    return [
        Row(prompt=f"{i:02}" + ":" * (1 + i % 10), chosen=" " + "y" * (2 + i % 7), rejected=" " + "n" * (2 + i // 10))
        for i in range(100)
    ]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"max_prompt_length": 5}, lambda r: len(r["prompt"]) <= 5),
        ({"max_completion_length": 8}, lambda r: max(len(r["chosen"]), len(r["rejected"])) + 1 <= 8),
        ({"max_length": 15}, lambda r: len(r["prompt"]) + max(len(r["chosen"]), len(r["rejected"])) + 1 <= 15),
    ],
)
def test_pairs_over_a_limit_are_left_out_and_counted_and_the_others_kept_whole(
    options: dict[str, Any], kept: Any, tmp_path: Path
) -> None:
    rows = long_and_short()
    pairs = load(tmp_path, rows, **options)
    fitting = [row for row in rows if kept(row)]
    assert 0 < len(fitting) < len(rows)
    assert sorted(map(str, pairs.train + pairs.evaluation)) == sorted(map(str, fitting))
    assert sum(int(pairs.facts[f"{side}_too_long"] or 0) for side in ("train", "eval")) == len(rows) - len(fitting)


def test_asked_for_rows_are_filled_with_rows_that_fit(tmp_path: Path) -> None:
    pairs = load(tmp_path, long_and_short(), rows=20, eval_rows=10, max_length=15)
    assert (len(pairs.train), len(pairs.evaluation)) == (20, 10)


def test_trls_own_truncation_has_nothing_to_cut(tmp_path: Path) -> None:
    pairs = load(tmp_path, long_and_short(), max_length=15)
    lengths = [
        len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))
        for row in trl_ids(list(pairs.train), byte_tokenizer(), tmp_path)
    ]
    assert max(lengths) == 15


def test_limits_that_leave_nothing_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(tmp_path, text_rows(30), max_length=4)
    assert [p.split(": ", 1)[1] for p in caught.value.problems] == [
        "no training pairs left, all 27 are longer than the limits (max_length 4 tokens); raise the limits in `data`",
        "no evaluation pairs left, all 3 are longer than the limits (max_length 4 tokens); raise the limits in `data`",
    ]


# ---- flips


def test_a_flip_rate_of_zero_changes_nothing(tmp_path: Path) -> None:
    rows = text_rows(200)
    assert all(row in rows for row in load(tmp_path, rows).train)


@pytest.mark.parametrize(("rate", "flipped"), [(0.2, 36), (0.333, 60), (1.0, 180)])
def test_exactly_the_given_share_of_training_pairs_is_flipped(rate: float, flipped: int, tmp_path: Path) -> None:
    clean, noisy = load(tmp_path, text_rows(200)), load(tmp_path, text_rows(200), label_flip=rate)
    exchanged = [
        (a["chosen"], a["rejected"], a["prompt"]) == (b["rejected"], b["chosen"], b["prompt"])
        for a, b in zip(clean.train, noisy.train, strict=True)
    ]
    same = [a == b for a, b in zip(clean.train, noisy.train, strict=True)]
    assert (sum(exchanged), sum(same)) == (flipped, 180 - flipped)
    assert noisy.facts["flipped"] == flipped
    assert (noisy.evaluation, noisy.prompts) == (clean.evaluation, clean.prompts)
    assert noisy.digest != clean.digest


def test_pairs_flipped_at_a_low_rate_are_flipped_at_a_higher_one(tmp_path: Path) -> None:
    clean, low, high = (load(tmp_path, text_rows(200), label_flip=rate).train for rate in (0.0, 0.1, 0.4))
    flipped_low, flipped_high = ({i for i, row in enumerate(rows) if row != clean[i]} for rows in (low, high))
    assert flipped_low < flipped_high


# ---- facts and files


def test_the_digest_knows_content_and_not_the_form_of_the_file(tmp_path: Path) -> None:
    rows = text_rows(40)
    (tmp_path / "pairs.json").write_text(json.dumps([{"note": i, **row} for i, row in enumerate(rows)]))
    first = load(tmp_path, rows)
    other_form = load_pairs(DataConfig(path=str(tmp_path / "pairs.json")), 0, byte_tokenizer())
    assert other_form.digest == first.digest == first.facts["digest"]
    assert load(tmp_path, [*rows[:-1], Row(prompt="Q39:", chosen=" yes", rejected=" no")]).digest != first.digest


def test_the_length_baseline_is_what_the_longer_answer_gets_right(tmp_path: Path) -> None:
    longer = [
        Row(prompt=f"Q{i}:", chosen=" yes" if i < 3 else " no" if i < 7 else " ok", rejected=" no") for i in range(10)
    ]
    held = saved(tmp_path, [row for row in longer if row["chosen"] != row["rejected"]], "held.jsonl")
    pairs = load(tmp_path, text_rows(20), eval_split=held)
    assert pairs.facts["length_baseline"] == pytest.approx((3 + 3 * 0.5) / 6)


def test_the_embedded_world_gives_pairs_and_a_gold_reward() -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    pairs = load_pairs(DataConfig(rows=64, eval_rows=32), 1, tokenizer)
    assert (len(pairs.train), len(pairs.evaluation), len(pairs.prompts)) == (64, 32, 30)
    assert pairs.facts["train_too_long"] == pairs.facts["eval_too_long"] == 0
    assert pairs.gold is not None
    review = "the plot is quite superb ."
    ended, cut_off = pairs.gold([pairs.prompts[0]] * 2, [review] * 2, [True, False])
    assert ended == gold_reward(review.split(), True, task=1) > cut_off


@pytest.mark.parametrize("name", EMBEDDED_MODELS)
def test_embedded_pairs_are_written_and_answered_by_the_model_that_they_are_named_after(name: str) -> None:
    data = DataConfig(path=name, rows=24, eval_rows=8)
    tokenizer = AutoTokenizer.from_pretrained(model_path(name))
    pairs = load_pairs(data, 102, tokenizer)
    written = make_pairs(WorldOptions(pairs=24, eval_pairs=8, model=name), 102)
    others = make_pairs(WorldOptions(pairs=24, eval_pairs=8, model=next(n for n in EMBEDDED_MODELS if n != name)), 102)
    assert [row["chosen"] for row in pairs.train] == [row.chosen for row in written.train]
    assert {row.chosen for row in written.train} != {row.chosen for row in others.train}
    assert (pairs.facts["source"], pairs.gold is not None) == (name, True)
    answered = load_pairs(data.model_copy(update={"rejected_from": "model"}), 102, tokenizer)
    asked = [(str(row["prompt"]), str(row["chosen"])) for row in pairs.train]
    assert [row["rejected"] for row in answered.train] == [*own_answers(asked, 102, name)]


def test_a_draw_of_a_replicate_is_sampled_with_a_seed_of_its_own(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    small = DataConfig(rows=4, eval_rows=4)
    seeds = {block: load_pairs(small, block, tokenizer).sampling_seed for block in (0, 99, 100, 101, 148)}
    assert seeds[0] == seeds[99] == load(tmp_path, text_rows(9)).sampling_seed == 20305
    assert len(set(seeds.values())) == 4


def test_the_embedded_worlds_writer_is_the_one_asked_for() -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    same, worse = (load_pairs(DataConfig(rows=64, eval_rows=8, pairs_from=w), 0, tokenizer) for w in ("same", "worse"))
    assert same.gold is not None
    means = [
        sum(same.gold([""] * 64, [str(row["chosen"]) for row in pairs.train], [True] * 64)) / 64
        for pairs in (same, worse)
    ]
    assert means[1] < means[0] - 1.0


def test_options_that_cannot_be_meant_are_refused_before_anything_is_read() -> None:
    with pytest.raises(DataError, match="label_flip is 2"):
        load_pairs(DataConfig(label_flip=2.0), 0, byte_tokenizer())


@pytest.mark.parametrize(
    ("around", "begins"), [("$A </s>", []), ("<s> $A </s>", ["<s>"]), ("<s> $A", ["<s>"]), ("$A", [])]
)
def test_a_prompt_is_sampled_under_the_ids_that_it_is_trained_with(around: str, begins: list[str]) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "</s>", "bos_token": "<s>"})
    special = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("<s>", "</s>")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single=around, special_tokens=special)
    row: Row = {"prompt": "Q:", "chosen": " yes", "rejected": " no"}
    assert tokenizer.convert_ids_to_tokens(prompt_ids("Q:", tokenizer)) == [*begins, "Q", ":"]
    assert prompt_ids("Q:", tokenizer) == tokenise(row, tokenizer).prompt


# ---- messages as text


def test_messages_are_written_as_plain_text_where_that_is_asked_for(tmp_path: Path) -> None:
    system, second = {"role": "system", "content": "Be brief. "}, {"role": "user", "content": "Sure?"}
    rows = [
        {**row, "prompt": [system, *row["prompt"]], "chosen": [*row["chosen"], second, *row["chosen"]]}
        for row in chat_rows(20)
    ]
    data = DataConfig(path=saved(tmp_path, rows), messages="text", eval_rows=2)
    pairs = load_pairs(data, 0, byte_tokenizer(chat_template=None))
    row = next(row for row in [*pairs.train, *pairs.evaluation] if "Q0:" in row["prompt"])
    assert row == {
        "prompt": "System: Be brief.\n\nUser: Q0:\n\nAssistant:",
        "chosen": " yes 0\n\nUser: Sure?\n\nAssistant: yes 0",
        "rejected": " no 0!",
    }
    assert pairs.facts["conversational"] is False


def test_bad_rows_are_named_by_kind_with_their_first_places(tmp_path: Path) -> None:
    rows = [{"prompt": f"Q{i}", "chosen": "" if i < 5 else " yes", "rejected": " no"} for i in range(20)]
    rows[7]["rejected"] = " yes"
    faults = read_rows(DataConfig(path=saved(tmp_path, rows), bad_rows="drop")).faults
    assert faults["empty"].places == ("line 1", "line 2", "line 3")
    assert "'chosen' is empty" in faults["empty"].text
    assert faults["equal answers"].places == ("line 8",)
