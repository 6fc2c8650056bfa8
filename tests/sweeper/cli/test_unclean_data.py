"""Facts about studies on data with bad rows: refused before anything is made, or left out and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from dashboards.store.records import load_records
from tests.sweeper.conftest import Sweeper

STUDY = """
study: unclean
base: {model_name_or_path: m, use_peft: true, lora_r: 2, max_steps: 2, per_device_train_batch_size: 2}
data: {path: pairs.jsonl, eval_rows: 4, max_length: 64}
variants: {sigmoid: {}}
evaluate: {prompts: 2, max_new_tokens: 2}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = sorted(pre_tokenizers.ByteLevel.alphabet())
    found = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    found.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=found, eos_token="<end>", pad_token="<pad>")
    tokenizer.save_pretrained(tmp_path / "m")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path / "m")
    rows: list[Any] = [{"prompt": f"Q{i}", "chosen": f" yes {i}", "rejected": f" no {i}"} for i in range(40)]
    rows[3], rows[5], rows[30] = {**rows[3], "chosen": ""}, {**rows[5], "rejected": " yes 5"}, {**rows[3], "prompt": ""}
    rows[7] = {**rows[7], "rejected": " no" * 40}
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "study.yaml").write_text(STUDY)
    return tmp_path


WAY = (
    "Pairs of data draw 0: 40 read, 3 bad and left out (2 empty, 1 equal answers), 36 fit max_length 64, 32 train, 4 "
    "held out, 4 prompts."
)


def test_bad_rows_are_counted_wherever_a_study_is_shown(sweeper: Sweeper, folder: Path) -> None:
    for command in ("plan", "run"):
        refused = sweeper(folder, command, "study.yaml")
        assert refused.returncode == 2
        assert "3 of 40 rows are bad (2 empty, 1 equal answers); leave them out with --set data.bad_rows=drop" in (
            refused.stderr
        )
    assert sorted(place.name for place in folder.iterdir()) == ["m", "pairs.jsonl", "study.yaml"]

    (folder / "study.yaml").write_text(STUDY.replace("max_length", "bad_rows: drop, max_length"))
    assert WAY in sweeper(folder, "plan", "study.yaml").stdout
    ran = sweeper(folder, "run", "study.yaml", "--executor", "inline")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count(WAY) == 2  # before the sweep, and in a note of the table
    for command in ("table", "status", "run"):
        assert WAY in " ".join(sweeper(folder, command, "study.yaml").stdout.split())
    [record] = load_records(f"sqlite:///{folder / 'mlflow.db'}", "unclean")
    assert (record.facts["rows_dropped"], record.facts["rows_dropped_by"]) == ("3", "2 empty, 1 equal answers")


def test_what_is_odd_of_the_rows_is_told_before_a_sweep_and_under_its_table(sweeper: Sweeper, folder: Path) -> None:
    rows = [{"prompt": f"Q{i}", "system": "be good", "chosen": f" yes {i}", "rejected": f" no {i}"} for i in range(40)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = "text in 'system' of 40 rows is not trained on"
    ran = sweeper(folder, "run", "study.yaml", "--executor", "inline")
    assert ran.returncode == 0, ran.stderr
    assert " ".join(ran.stdout.split()).count(told) == 2
    [record] = load_records(f"sqlite:///{folder / 'mlflow.db'}", "unclean")
    assert told in record.facts["rows_notes"]


def test_a_study_that_init_writes_leaves_bad_rows_out(sweeper: Sweeper, folder: Path) -> None:
    assert sweeper(folder, "init", "mine.yaml", "--model", "m", "--data", "pairs.jsonl").returncode == 0
    assert "3 bad and left out" in sweeper(folder, "plan", "mine.yaml").stdout
    told = "# 3 of 40 rows are bad (2 empty, 1 equal answers) and are left out; to be told of each, take bad_rows: drop"
    assert told in (folder / "mine.yaml").read_text()


def test_init_leaves_no_large_share_of_the_rows_out_unasked(sweeper: Sweeper, folder: Path) -> None:
    lines = (folder / "pairs.jsonl").read_text().splitlines()
    (folder / "pairs.jsonl").write_text("\n".join([*lines[:8], lines[3]]))
    wrote = sweeper(folder, "init", "mine.yaml", "--model", "m", "--data", "pairs.jsonl")
    told = "3 of 9 rows are bad (2 empty, 1 equal answers): too many to leave out unasked. Mend them, or add bad_rows"
    assert wrote.returncode == 0, wrote.stderr
    assert told in wrote.stdout
    written = (folder / "mine.yaml").read_text()
    assert f"# {told}" in written
    assert "bad_rows: drop}" not in written


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"question": "Q?", "chosen": "a b", "rejected": "a c"}, "take it with --set data.columns.prompt=question"),
        ({"prompt": "Q", "good": "b", "bad": "c"}, "name them with --set data.columns.chosen=good"),
        pytest.param(
            {"prompt": "Q " * 2000, "chosen": "b", "rejected": "c"},
            "no evaluation pairs left, all 40 are longer than",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_init_says_that_no_run_could_use_the_data(
    sweeper: Sweeper, folder: Path, row: dict[str, str], told: str
) -> None:
    (folder / "pairs.jsonl").write_text("".join(json.dumps({**row, "n": i}) + "\n" for i in range(40)))
    wrote = sweeper(folder, "init", "mine.yaml", "--model", "m", "--data", "pairs.jsonl")
    assert wrote.returncode == 0, wrote.stderr
    assert "data: no run could use them yet:" in wrote.stdout
    assert told in wrote.stdout


def test_scenarios_with_other_data_are_looked_at_each(sweeper: Sweeper, folder: Path) -> None:
    study = STUDY.replace("max_length", "bad_rows: drop, max_length")
    (folder / "study.yaml").write_text(study + "scenarios: {clean: {}, few: {rows: 3}, noisy: {label_flip: 0.2}}\n")
    planned = sweeper(folder, "plan", "study.yaml").stdout
    assert f"clean, noisy: {WAY}" in planned
    assert "few: Pairs of data draw 0: 40 read" in planned
    assert "3 train" in planned
