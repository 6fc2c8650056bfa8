"""Facts about what is told of data and tokenizer together before anything is trained."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from studies.records import DataConfig
from trainers.data.pairs import DataError, load_pairs, read_local
from trainers.preview import Preview, _answer, preview

EACH = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<end>{% endfor %}"
GENERATE = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
PLAIN = EACH + GENERATE
KNOWN = (
    "{% for m in messages %}{% if m.role in ('user', 'assistant') %}<|{{ m.role }}|>{{ m.content }}<end>{% endif %}"
    "{% endfor %}" + GENERATE
)
STRICT = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + PLAIN
TRIMMED = PLAIN.replace("m.content", "m.content | trim")


def tokenizer(template: str | None = None, merges: tuple[tuple[str, str], ...] = (), begin: bool = False) -> Any:
    names = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(merge) for merge in merges), "<s>"]
    found = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, list(merges)))
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    found.decoder = decoders.ByteLevel()
    if begin:
        found.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", len(names) - 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=found, bos_token="<s>", eos_token="<end>", pad_token="<pad>", chat_template=template
    )


def chat(number: int, *before: dict[str, str], role: str = "assistant", same: bool = False) -> dict[str, Any]:
    answers = (f"yes {number}", f"yes {number} " if same else f"no {number}")
    chosen, rejected = ([{"role": role, "content": text}] for text in answers)
    return {
        "prompt": [*before, {"role": "user", "content": f"Q{number}?"}],
        "chosen": chosen,
        "rejected": rejected,
    }


SYSTEM = {"role": "system", "content": "be good"}


@pytest.fixture
def look(look_by_process: Callable[..., Preview], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Preview]:
    """The same in this process, which has loaded transformers already."""

    def here(_command: list[str], *, input: bytes, **_more: Any) -> SimpleNamespace:
        return SimpleNamespace(stdout=json.dumps(_answer(json.loads(input))).encode())

    monkeypatch.setattr("trainers.preview.subprocess.run", here)
    return look_by_process


@pytest.fixture
def look_by_process(tmp_path: Path) -> Callable[..., Preview]:
    def look(rows: list[Any], model: Any, **options: Any) -> Preview:
        file = tmp_path / "p.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = DataConfig(path=str(file), **options)
        model.save_pretrained(tmp_path / "m")
        read = read_local(data)
        assert read is not None
        return preview(read, data, str(tmp_path / "m"), None, False, 0)

    return look


WAY = "Pairs of data draw 0: 60 read, 40 fit max_length 64, 1 of held-out prompts, 34 train, 5 held out, 4 prompts."


def test_the_way_of_rows_is_told(look_by_process: Callable[..., Preview]) -> None:
    rows = [
        {"prompt": f"Q{i % 30}", "chosen": f" yes {i}", "rejected": " no" * (40 if i < 20 else 1)} for i in range(60)
    ]
    assert look_by_process(rows, tokenizer(), max_length=64, eval_rows=5) == Preview(
        (),
        (WAY,),
        4,
    )


def test_rows_that_do_not_fit_are_named_as_the_cause_where_no_pair_is_left(look: Callable[..., Preview]) -> None:
    rows = [{"prompt": f"Q{i}", "chosen": f" yes {i}", "rejected": " no" * (40 if i > 3 else 1)} for i in range(60)]
    [problem] = look(rows, tokenizer(), max_length=64, eval_rows=9).problems
    assert "no training pairs left: of 60 read 56 are longer than the limits (max_length 64 tokens)" in problem
    assert "all 4 that fit are held out; raise the limits" in problem


def test_a_token_of_the_rows_that_the_model_has_no_row_for_is_named_with_its_place(
    look: Callable[..., Preview], tmp_path: Path
) -> None:
    model, rows = tokenizer(), [{"prompt": f"Q{i}", "chosen": f" yes {i}", "rejected": " no"} for i in range(60)]
    known = len(model)
    model.add_tokens(["<unheard>", "<seldom>"])
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(json.dumps({"vocab_size": known}))
    assert look(rows, model, eval_rows=5).problems == ()
    rows[7]["chosen"] = " yes <unheard>"
    [problem] = look(rows, model, eval_rows=5).problems
    assert f"'<unheard>' the id {known}, but its embedding has {known} rows" in problem
    assert "(it occurs in line 8)" in problem
    rows[7]["rejected"] = " no" * 99
    assert look(rows, model, eval_rows=5, max_length=64).problems == ()  # such a row is trained on by no run


def test_plain_text_beside_a_chat_template_is_told(look: Callable[..., Preview]) -> None:
    rows = [{"prompt": f"Q{i}", "chosen": f" yes {i}", "rejected": f" no {i}"} for i in range(30)]
    told = "so that the model's chat template is not used, nor would TRL use it: where the model is for chats"
    assert told not in " ".join(look(rows, tokenizer()).notes)
    assert told in " ".join(look(rows, tokenizer(PLAIN)).notes)
    assert told not in " ".join(look([chat(i) for i in range(30)], tokenizer(PLAIN)).notes)
    written = [{**row, "prompt": f"<s>{row['prompt']}"} for row in rows]
    assert told not in " ".join(look(written, tokenizer(PLAIN)).notes)


def test_all_that_is_told_of_rows_is_whole_sentences(look: Callable[..., Preview]) -> None:
    rows = [{"prompt": f"Q{i}", "chosen": f" yes {i}", "rejected": f" no {i}"} for i in range(30)]
    assert [note[-1] for note in look(rows, tokenizer(PLAIN)).notes] == [".", "."]


def test_of_rows_that_were_not_looked_at_nothing_is_told(look: Callable[..., Preview]) -> None:
    """The first that is drawn is too long."""
    long = {"prompt": "Q" * 2_000_000, "chosen": " yes", "rejected": " no"}
    seen = look([long, long], tokenizer(PLAIN))
    assert seen == Preview(notes=("The rows were not tokenised yet: one of them has over 1,500,000 characters.",))


def test_messages_without_a_template_are_told(look: Callable[..., Preview]) -> None:
    [problem] = look([chat(i) for i in range(30)], tokenizer()).problems
    assert "rows are messages but the model's tokenizer has no chat template" in problem


def test_answers_of_a_role_that_the_template_passes_over_are_refused(look: Callable[..., Preview]) -> None:
    [problem] = look([chat(i, role="model") for i in range(30)], tokenizer(KNOWN)).problems
    assert "all 30 rows looked at have answers without a token" in problem


def test_answers_that_the_template_makes_equal_are_left_out_and_told(look: Callable[..., Preview]) -> None:
    seen = look([chat(i, same=i % 3 == 0) for i in range(30)], tokenizer(TRIMMED))
    assert not seen.problems
    assert "30 read, 20 fit max_length 1024, 10 answers of the same tokens, " in seen.notes[0]
    [problem] = look([chat(i, same=True) for i in range(30)], tokenizer(TRIMMED)).problems
    assert "all 30 rows looked at have answers of the same tokens" in problem


def test_a_row_that_the_template_refuses_is_named_once(look: Callable[..., Preview]) -> None:
    rows = [chat(i, *([SYSTEM] if i in (7, 9) else [])) for i in range(30)]
    [problem] = look(rows, tokenizer(STRICT)).problems
    assert "line 8: the model's chat template does not take messages of the roles system, user" in problem
    assert "(2 of 30 rows looked at; or leave them out: --set data.bad_rows=drop)" in problem
    seen = look(rows, tokenizer(STRICT), bad_rows="drop")
    assert "30 read, 28 fit max_length 1024, 2 refused by the chat template, " in seen.notes[0]
    assert "30 of 30 rows looked at" in look([chat(i, SYSTEM) for i in range(30)], tokenizer(STRICT)).problems[0]


def test_prompts_without_a_token_are_named_or_left_out(look: Callable[..., Preview]) -> None:
    rows = [chat(i) for i in range(30)]
    rows[4]["prompt"][0]["role"] = "person"
    known = tokenizer(KNOWN.replace("{% if add_generation_prompt %}<|assistant|>{% endif %}", ""))
    [problem] = look(rows, known).problems
    assert "line 5: the prompt " in problem
    assert "has no token of its own" in problem
    assert "passes over messages of role 'person'; write the roles that it has" in problem
    assert "1 prompts without a token, " in look(rows, known, bad_rows="drop").notes[0]


def test_a_run_names_the_row_that_the_template_refuses(tmp_path: Path) -> None:
    rows = [chat(i, *([SYSTEM] if i == 7 else [])) for i in range(30)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"p\.jsonl, line 8: the model's chat template does not take"):
        load_pairs(DataConfig(path=str(tmp_path / "p.jsonl")), 0, tokenizer(STRICT))


@pytest.mark.parametrize(
    ("rows", "model", "told"),
    [
        (
            [{"prompt": f"Q{i}:", "chosen": f" yes {i}", "rejected": f" no {i}"} for i in range(30)],
            tokenizer(merges=((":", "Ġ"),)),
            "In 30 of 30 rows looked at prompt and answer are tokenised otherwise together",
        ),
        (
            [{"prompt": f"<s>Q{i}:", "chosen": f" yes {i}", "rejected": f" no {i}"} for i in range(30)],
            tokenizer(begin=True),
            "In 30 of 30 rows looked at the text begins with '<s>' twice",
        ),
        (
            [chat(i, SYSTEM) for i in range(30)],
            tokenizer(KNOWN),
            "In 30 of 30 rows looked at the chat template leaves out or changes what a message of role 'system' says",
        ),
    ],
    ids=["a merge over the border", "two begin tokens", "a system message passed over"],
)
def test_what_may_surprise_is_told_once(look: Callable[..., Preview], rows: Any, model: Any, told: str) -> None:
    seen = look(rows, model)
    assert not seen.problems
    assert len(seen.notes) == 2
    assert seen.notes[1].startswith(told)


def test_answers_of_a_role_that_the_template_writes_as_it_is_are_told(look: Callable[..., Preview]) -> None:
    seen = look(
        [chat(i, role="gpt") for i in range(30)], tokenizer(KNOWN.replace("'assistant')", "'assistant', 'gpt')"))
    )
    assert not seen.problems
    told = "an answer begins or ends with a message of role 'gpt', which is trained on as the assistant's."
    assert f"In 30 of 30 rows looked at {told}" in seen.notes


def test_of_much_data_some_rows_are_looked_at(look: Callable[..., Preview]) -> None:
    rows = [{"prompt": f"Q{i}", "chosen": " yes", "rejected": " no" * (99 if i % 2 else 1)} for i in range(9000)]
    seen = look(rows, tokenizer(), max_length=64)
    [fit] = map(int, re.findall(r"Of 300 rows looked at, (\d+) fit max_length 64", seen.notes[0]))
    assert 100 < fit < 200


def test_a_model_that_is_not_here_is_said_and_its_code_is_not_run(tmp_path: Path) -> None:
    row = {"prompt": "Q", "chosen": " yes", "rejected": " no"}
    (tmp_path / "p.jsonl").write_text(json.dumps(row))
    data = DataConfig(path=str(tmp_path / "p.jsonl"))
    read = read_local(data)
    assert read is not None
    [note] = preview(read, data, "no-such/model", None, False, 0).notes
    assert note == "The rows were not tokenised yet: no-such/model is not here, and is loaded by the first run."
    [note] = preview(read, data, "no-such/model", None, True, 0).notes
    assert "has code of its own" in note


def test_the_process_that_looks_loads_no_torch() -> None:
    code = "import sys, trainers.preview; print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
