"""Pairs as tables: what stock TRL reads from a written folder is what the run trained on, row by row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from trl import DPOConfig, DPOTrainer

from tests.trainers.data.test_pairs import byte_tokenizer, chat_rows, text_rows
from trainers.data.pairs import DataError, Pairs, Row
from trainers.data.tables import as_table, write_pairs
from trainers.data.tokens import tokenise

# What a reader of JSON, CSV or a table could take for something else than text.
ODD = {
    "dates": [f"2021-03-{day:02d}" for day in range(1, 13)],
    "times": [f"{hour:02d}:30:00" for hour in range(12)],
    "timestamps": [f"2021-03-01 {hour:02d}:30:00" for hour in range(12)],
    "timestamps with a zone": [f"2021-03-01T{hour:02d}:30:00+02:00" for hour in range(12)],
    "timestamps in UTC": [f"2021-03-01T{hour:02d}:30:00.123456Z" for hour in range(12)],
    "durations": [f"P{days}DT4H" for days in range(12)],
    "whole numbers": [str(number) for number in range(12)],
    "numbers": [f"{number}.50" for number in range(12)],
    "numbers of another notation": ["1e5", "NaN", "Infinity", "-0", "007", "0x10", "1_000", "1,5", " 1", "+1"],
    "words of YAML and JSON": ["null", "None", "true", "false", "yes", "no", "on", "~", "NA", "{}", "[]", '""'],
    "JSON": [json.dumps({"role": "user", "content": i}) for i in range(12)],
    "blanks": [" " * i + "\n\t\r\v\f" for i in range(12)],
    "control characters": ["a" + chr(code) + "b" for code in (0, 1, 7, 8, 11, 12, 26, 27, 28, 30, 127, 0x9F)],
    "line separators": ["a" + c + "b" for c in ("\u2028", "\u2029", "\x85", "\r\n", "\r", "\n", "\ufeff", "\ufffe")],
    "characters beyond 16 bits": [chr(0x1F600 + i) + "\U000e0061" for i in range(12)],
    "dates only at first": [f"2021-03-{day:02d}" for day in range(1, 12)] + ["in March"],
    "dates only at last": ["in March"] + [f"2021-03-{day:02d}" for day in range(1, 12)],
    "escapes": ["\\n", "\\u0041", "\\", '"', "'", "`", "%20", "&amp;", "$HOME", "{{ m }}", "file://x", "hf://a/b"],
}  # fmt: skip


def pairs_of(train: Sequence[Row], evaluation: Sequence[Row]) -> Pairs:
    return Pairs(tuple(train), tuple(evaluation), (), "", {})


def written(row: Any) -> str:
    """A row with its types: 1, 1.0 and true are equal to Python."""
    return json.dumps(row, sort_keys=True)


def assert_read_back(pairs: Pairs, folder: Path, cache: Path) -> None:
    back = load_dataset(str(folder), cache_dir=str(cache))
    assert set(back) == {"train", "test"}
    assert [written(row) for row in back["train"]] == [written(row) for row in pairs.train]
    assert [written(row) for row in back["test"]] == [written(row) for row in pairs.evaluation]


def said(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def chat(question: dict[str, Any], chosen: dict[str, Any], rejected: dict[str, Any]) -> Row:
    return Row(prompt=[question], chosen=[chosen], rejected=[rejected])


@pytest.mark.parametrize("rows", [text_rows(40), chat_rows(40)], ids=["text", "messages"])
def test_written_pairs_are_read_back_by_datasets_in_the_same_order(rows: list[Row], tmp_path: Path) -> None:
    pairs = pairs_of(rows[::-1], rows[:7])
    write_pairs(pairs, tmp_path / "out")
    assert_read_back(pairs, tmp_path / "out", tmp_path / "cache")


@pytest.mark.parametrize("kind", ODD)
def test_texts_that_look_like_something_else_stay_texts(kind: str, tmp_path: Path) -> None:
    texts = ODD[kind]
    plain = [Row(prompt=text, chosen=texts[i - 1], rejected=texts[i - 2]) for i, text in enumerate(texts)]
    messages = [chat(*(said("user", str(text)) for text in row.values())) for row in plain]
    for name, rows in (("plain", plain), ("messages", messages)):
        pairs = pairs_of(rows, rows[:2])
        write_pairs(pairs, tmp_path / name)
        assert_read_back(pairs, tmp_path / name, tmp_path / "cache")


ODD_TEXTS = [text for texts in ODD.values() for text in texts]
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.sampled_from(ODD_TEXTS),
)
EXTRA = st.dictionaries(
    st.sampled_from(["name", "weight", "tool_calls", "date"]),
    st.one_of(TEXTS, st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.lists(st.dictionaries(TEXTS, TEXTS))),
)
MESSAGES = st.lists(
    st.builds(lambda content, more: said("user", content, **more), TEXTS, EXTRA), min_size=1, max_size=3
)


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_any_pairs_are_read_back_as_they_are(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    side = data.draw(st.sampled_from([TEXTS, MESSAGES]))
    rows = st.lists(st.builds(Row, prompt=side, chosen=side, rejected=side), min_size=1, max_size=4)
    pairs, folder = pairs_of(data.draw(rows), data.draw(rows)), tmp_path_factory.mktemp("any")
    write_pairs(pairs, folder / "out")
    assert_read_back(pairs, folder / "out", folder / "cache")


def test_a_text_longer_than_a_block_of_the_json_reader_is_read_back(tmp_path: Path) -> None:
    long = Row(prompt="2021-03-01", chosen="a" * (11 << 20), rejected="2021-03-02")
    pairs = pairs_of([*text_rows(3), long, long], text_rows(2))
    write_pairs(pairs, tmp_path / "out")
    assert_read_back(pairs, tmp_path / "out", tmp_path / "cache")


MIXED = [
    chat(said("user", "Q0:", name="ann"), said("assistant", "yes"), said("assistant", "no", name=None)),
    chat(said("user", "Q1:"), said("assistant", "yes", tool_calls=[{"id": 1}, {"f": "2021-03-01"}]), said("tool", "")),
]


def test_a_message_keeps_its_own_keys_and_their_nulls(tmp_path: Path) -> None:
    write_pairs(pairs_of(MIXED, MIXED[:1]), tmp_path / "out")
    assert_read_back(pairs_of(MIXED, MIXED[:1]), tmp_path / "out", tmp_path / "cache")


def test_a_chat_template_sees_no_key_that_a_message_lacks(tmp_path: Path) -> None:
    """TRL's own preparation of the table gives the ids that pairs are measured by."""
    template = (
        "{% for m in messages %}<{{ m.role }} {{ m.tool_calls | default([]) | tojson }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    tokenizer = byte_tokenizer(chat_template=template)
    arguments = DPOConfig(
        output_dir=str(tmp_path), bf16=False, gradient_checkpointing=False, use_cpu=True, report_to=[]
    )
    trainer = SimpleNamespace(_tokenizer=tokenizer)
    ids = DPOTrainer._prepare_dataset(trainer, as_table(MIXED), tokenizer, arguments, "train")
    assert [(i["prompt_ids"], i["chosen_ids"], i["rejected_ids"]) for i in ids] == [
        tokenise(row, tokenizer) for row in MIXED
    ]


def test_numbers_beside_messages_keep_their_digits_and_types(tmp_path: Path) -> None:
    weighed = [
        chat(*(said("user", f"Q{i}:", weight=0.1 + i / 3, turn=i, best=i > 0) for _ in range(3))) for i in range(3)
    ]
    write_pairs(pairs_of(weighed, weighed), tmp_path / "out")
    assert_read_back(pairs_of(weighed, weighed), tmp_path / "out", tmp_path / "cache")


def test_pairs_that_stock_trl_would_read_otherwise_are_refused(tmp_path: Path) -> None:
    """No reader of `datasets` keeps all digits of a number in messages whose keys differ."""
    rows = [
        *chat_rows(1),
        chat(said("user", "Q1:"), said("assistant", "a", w=0.1234567890123456), said("assistant", "b")),
    ]
    with pytest.raises(DataError, match="row 2 of the train rows"):
        write_pairs(pairs_of(rows, rows), tmp_path / "out")


def test_rows_written_again_under_the_same_name_are_read_anew(tmp_path: Path) -> None:
    first, second = pairs_of(text_rows(5), text_rows(2)), pairs_of(chat_rows(4), chat_rows(3))
    write_pairs(first, tmp_path / "out")
    assert_read_back(first, tmp_path / "out", tmp_path / "cache")
    (tmp_path / "out").rename(tmp_path / "old")
    write_pairs(second, tmp_path / "out")
    assert_read_back(second, tmp_path / "out", tmp_path / "cache")


def test_the_rows_lie_beside_the_tables_as_lines_of_json(tmp_path: Path) -> None:
    rows = [Row(prompt="2021-03-01", chosen="\u2028", rejected="caf\u00e9"), *text_rows(2)]
    write_pairs(pairs_of(rows, rows[:1]), tmp_path / "out")
    for name, held in (("train", rows), ("eval", rows[:1])):
        lines = (tmp_path / "out" / f"{name}.jsonl").read_text(encoding="utf-8").removesuffix("\n").split("\n")
        assert [json.loads(line) for line in lines] == held
