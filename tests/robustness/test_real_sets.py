"""Real preference pairs through every command: as text, as messages, and with one row of a hundred bad.

The numbers that commands print of them are counted here by other means.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

SHARED = Path(__file__).resolve().parents[3] / "shared"
PAIRS, MODEL = SHARED / "data" / "hh_harmless_test.jsonl", SHARED / "models" / "stories260k"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (PAIRS.is_file() and MODEL.is_dir()),
        reason=f"no {PAIRS.name} or no {MODEL.name} in {SHARED.name}/ beside the project",
    ),
]
LONGEST, HELD_OUT = 256, 40
ROLES = ("system", "user", "assistant")
TEMPLATE = (
    "{% for m in messages %}{% if m.role in ['system', 'user', 'assistant'] %}{{ m.role }}: {{ m.content }}</s>"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
STUDY = f"""
study: real
base: {{model_name_or_path: model, use_peft: true, lora_r: 4, max_steps: 2, per_device_train_batch_size: 4}}
data: {{path: pairs.jsonl, eval_rows: {HELD_OUT}, max_length: {LONGEST}}}
variants: {{sigmoid: {{}}, ipo: {{}}}}
space: {{learning_rate: {{low: 1.0e-5, high: 1.0e-3, log: true}}}}
budget: {{trials: 2}}
evaluate: {{prompts: 4, max_new_tokens: 8}}
"""
Rows = list[dict[str, Any]]
Rendered = Callable[[dict[str, Any]], tuple[str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a model that has a chat template, and a study."""
    shutil.copytree(MODEL, tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text(TEMPLATE)
    (tmp_path / "study.yaml").write_text(STUDY)
    return tmp_path


def real_rows() -> Rows:
    lines = PAIRS.read_text(encoding="utf-8").splitlines()
    return [{name: json.loads(line)[name] for name in ("prompt", "chosen", "rejected")} for line in lines]


def as_text(row: dict[str, Any]) -> dict[str, Any]:
    """As the set was published: turns behind `Human:` and `Assistant:`."""
    names = {"user": "Human", "assistant": "Assistant"}
    turns = "".join(f"\n\n{names[message['role']]}: {message['content']}" for message in row["prompt"])
    answers = {side: " " + row[side][0]["content"] for side in ("chosen", "rejected")}
    return {"prompt": f"{turns}\n\nAssistant:", **answers}


def write(folder: Path, rows: Rows) -> None:
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def fitting(rows: Rows, rendered: Rendered) -> Rows:
    """The rows that are short enough with either answer."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)

    def tokens(text: str) -> int:
        return len(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)

    return [row for row in rows if max(map(tokens, rendered(row))) <= LONGEST]


def text_of(row: dict[str, Any]) -> tuple[str, str]:
    """Both texts as TRL trains on them: `<s>` is the tokenizer's, `</s>` TRL's."""
    chosen, rejected = (f"{start_of_text()}{row['prompt']}{row[side]}</s>" for side in ("chosen", "rejected"))
    return chosen, rejected


def start_of_text() -> str:
    begins = AutoTokenizer.from_pretrained(MODEL)("a")["input_ids"][0] == 1
    return "<s>" if begins else ""


def messages_of(row: dict[str, Any]) -> tuple[str, str]:
    """Both conversations as the template writes them."""
    chosen, rejected = (
        "".join(f"{m['role']}: {m['content']}</s>" for m in row["prompt"] + row[side] if m["role"] in ROLES)
        for side in ("chosen", "rejected")
    )
    return chosen, rejected


def call(folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit code of a command in a process of its own, and all that it printed, in single spaces."""
    ended = subprocess.run(
        [sys.executable, "-m", "sweeper", *arguments],
        cwd=folder,
        env={**os.environ, "COLUMNS": "300"},
        capture_output=True,
        text=True,
    )
    said = ended.stdout + ended.stderr
    assert "Traceback" not in said, said
    return ended.returncode, " ".join(said.split())


def check_all_commands(folder: Path, begins: str, fit: Rows, ends: str = "") -> None:
    """Every command ends well; each that shows the study tells the counted way of the rows, and the export has them."""
    code, planned = call(folder, "plan", "study.yaml")
    assert code == 0, planned
    (told,) = re.findall(r"Pairs of data draw 0: (.*? prompts)\.", planned)
    for command in ("run", "status", "table", "report"):
        code, said = call(folder, command, "study.yaml")
        assert code == 0, said
        shown = (folder / "report.html").read_text(encoding="utf-8") if command == "report" else said
        assert told in shown, (command, said)
    code, said = call(folder, "export", "study.yaml")
    assert code == 0, said
    trained = [json.loads(line) for line in (folder / "best-data" / "train.jsonl").read_text().splitlines()]
    prompts = {json.dumps(row["prompt"]) for row in fit} - {json.dumps(row["prompt"]) for row in trained}
    held_out = [row for row in fit if json.dumps(row["prompt"]) in prompts]
    assert [row for row in trained if row not in fit] == []
    assert HELD_OUT <= len(held_out) <= HELD_OUT + 2
    assert len(trained) + len(held_out) == len(fit)
    assert told == (
        f"{begins}, {len(fit):,} fit max_length {LONGEST}, {ends}{len(trained):,} train, {len(held_out)} held out, "
        f"{len(prompts)} prompts"
    )


def test_real_pairs_as_text_go_through_every_command(folder: Path) -> None:
    rows = [as_text(row) for row in real_rows()]
    write(folder, rows)
    check_all_commands(folder, f"{len(rows):,} read", fitting(rows, text_of))


def test_real_pairs_as_messages_go_through_every_command(folder: Path) -> None:
    rows = real_rows()
    write(folder, rows)
    check_all_commands(folder, f"{len(rows):,} read", fitting(rows, messages_of))


def spoil(row: dict[str, Any], kind: int) -> dict[str, Any]:
    """The row, bad in one of six ways; the last two are told by the model's tokenizer alone."""
    critic = [{"role": "critic", "content": "so so"}]
    match kind:
        case 0:
            return {**row, "chosen": [{"role": "assistant", "content": ""}]}
        case 1:
            return {**row, "rejected": row["chosen"]}
        case 2:
            return {**row, "rejected": None}
        case 3:
            return {**row, "chosen": 7}
        case 4:
            return {**row, "chosen": critic, "rejected": [{"role": "critic", "content": "good"}]}
        case _:
            return {**row, "prompt": [{"role": "user", "content": "why? " * LONGEST}]}


def spoilt(rows: Sequence[dict[str, Any]]) -> tuple[Rows, Rows]:
    """The rows with one of a hundred bad, of six kinds in turn, and those that are as they were."""
    bad = {place: spoil(row, place // 100 % 6) for place, row in enumerate(rows) if place % 100 == 50}
    every = [bad.get(place, row) for place, row in enumerate(rows)]
    return every, [row for place, row in enumerate(rows) if place not in bad]


def test_one_bad_row_of_a_hundred_refuses_a_study_or_is_left_out_and_counted(folder: Path) -> None:
    rows, sound = spoilt(real_rows())
    assert len(rows) - len(sound) == 23
    write(folder, rows)
    before = sorted(place.name for place in folder.iterdir())
    for command in ("plan", "run"):
        code, said = call(folder, command, "study.yaml")
        assert code == 2, said
        for told in (
            f"16 of {len(rows):,} rows are bad (4 empty, 4 equal answers, 4 null, 4 not text)",
            "--set data.bad_rows=drop",
            "line 51, line 651, line 1251:",
        ):
            assert told in said, said
    assert sorted(place.name for place in folder.iterdir()) == before

    (folder / "study.yaml").write_text(STUDY.replace("max_length", "bad_rows: drop, max_length"))
    begins = f"{len(rows):,} read, 16 bad and left out (4 empty, 4 equal answers, 4 null, 4 not text)"
    check_all_commands(folder, begins, fitting(sound, messages_of), "4 answers without a token, ")
