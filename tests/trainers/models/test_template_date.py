"""Chat templates that ask what day it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from studies.records import DataConfig, EvaluationConfig, RunConfig
from trainers.bundle import write_bundle
from trainers.models.template_date import on_day
from trainers.models.tokenizer import UnusableModel, load_tokenizer
from trainers.world.paths import model_path

TEMPLATE = (
    "{%- if strftime_now is defined %}{%- set day = strftime_now('%d %b %Y') %}{%- endif %}"
    "a review of {{ day }} :{% for m in messages %} {{ m['content'] }}{% endfor %}"
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(model_path(), folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.mark.parametrize("quote", ["'", '"'])
def test_the_day_stands_where_the_template_asks_for_it(quote: str) -> None:
    asked = f"{{{{ strftime_now({quote}%d %b %Y{quote}) }}}}"
    assert on_day(asked, "2026-11-28") == "{{ '28 Nov 2026' }}"


@pytest.mark.parametrize("template", ["{{ strftime_now(format) }}", "{{ strftime_now('%d %H:%M') }}"])
def test_a_template_that_no_day_answers_is_refused_with_the_remedy(template: str) -> None:
    with pytest.raises(ValueError, match="write a format of day, month and year into the template"):
        on_day(template, "2026-11-28")


def test_a_tokenizer_that_is_told_a_day_writes_that_day(model: Path) -> None:
    messages = [{"role": "user", "content": "x"}]
    told = load_tokenizer(str(model), None, False, "2025-01-31")
    assert told.apply_chat_template(messages, tokenize=False) == "a review of 31 Jan 2025 : x"


def test_a_model_whose_template_no_day_answers_is_named(model: Path) -> None:
    (model / "chat_template.jinja").write_text("{{ strftime_now('%H') }}")
    with pytest.raises(UnusableModel, match=str(model)):
        load_tokenizer(str(model), None, False, "2025-01-31")


def test_a_template_that_asks_nothing_is_left_as_it_is(model: Path) -> None:
    (model / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    assert load_tokenizer(str(model), None, False, "2025-01-31").chat_template == "{{ messages[0]['content'] }}"
    assert json.loads((model / "tokenizer_config.json").read_text())


def test_an_export_carries_the_day_that_the_run_was_told(model: Path, tmp_path: Path) -> None:
    rows = [
        {
            "prompt": [{"role": "user", "content": f"{i}"}],
            "chosen": [{"role": "assistant", "content": "fans liked the pace ."}],
            "rejected": [{"role": "assistant", "content": "the pace was dreary ."}],
        }
        for i in range(8)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = RunConfig(
        study="s",
        variant="v",
        scenario="clean",
        trial=0,
        block=0,
        seed=0,
        settings={"model_name_or_path": str(model)},
        knobs={},
        data=DataConfig(path=str(tmp_path / "pairs.jsonl"), eval_rows=2),
        evaluation=EvaluationConfig(),
        content={"date": "2025-01-31"},
    )
    name, _ = write_bundle(config, tmp_path / "best-data", tmp_path / "best-model")
    assert name == str(tmp_path / "best-model")
    exported = load_tokenizer(name, None, False)  # as anybody loads it, on any day
    assert exported.apply_chat_template(rows[0]["prompt"], tokenize=False) == "a review of 31 Jan 2025 : 0"
    assert (tmp_path / "best-model" / "model.safetensors").is_symlink()
    assert (model / "chat_template.jinja").read_text() == TEMPLATE
