"""Any bytes given as preference pairs are pairs or are refused: in time, in words, with nothing created."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, event, given, settings

from studies.records import DataConfig
from tests.robustness.data_files import data_files
from tests.robustness.harness import call, check_refusal, contents, folder_with, in_time
from trainers.data.pairs import DataError, check_data, load_pairs
from trainers.world.paths import model_path

# Without `explain`, which traces every line and would count as time of the program.
patient = settings(
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
    phases=[phase for phase in Phase if phase is not Phase.explain],
)
OF_THE_MODEL = ("pairs left", "chat template does not take", "no token of its own")
STUDY = b"study: s\nbase: {model_name_or_path: org/model}\nvariants: {sigmoid: {}}\n"


# Strict as many templates are.
TEMPLATE = """
{%- for m in messages %}
{%- if m.role not in ("user", "assistant") %}{{ raise_exception("no such role") }}{% endif %}
{{- m.role }}: {{ m.content }}
{% endfor %}
{%- if add_generation_prompt %}assistant:{% endif %}"""


@functools.cache
def tokenizer() -> Any:
    from trainers.models.tokenizer import load_tokenizer

    loaded = load_tokenizer(str(model_path()), revision=None, trust_remote_code=False)
    loaded.chat_template = TEMPLATE
    return loaded


def pairs_or_refusal(name: str, content: bytes) -> None:
    """The check finds every fault that is one for any model: what it passes has pairs, or too few, or some that this
    model does not take.
    """
    study = STUDY + f"data: {{path: {name}, max_length: null}}\n".encode()
    with folder_with({"study.yaml": study, name: content}) as folder:
        data = DataConfig(path=name, max_length=None)
        with in_time():
            problems = check_data(data)
        if problems:
            event("refused by the check")
            check_refusal(*call("run", "study.yaml"))
        else:
            try:
                with in_time(10.0):  # an answer of 100,000 tokens has to be counted
                    pairs = load_pairs(data, 0, tokenizer())
                event("has pairs")
                assert pairs.train
                assert pairs.evaluation
            except DataError as error:
                said = str(error)
                event("refused with the model")
                assert any(words in said for words in OF_THE_MODEL), said
        assert contents(folder) == {"study.yaml", name}


@pytest.mark.slow
@settings(patient, max_examples=80)
@given(data_files())
def test_no_data_file_gives_a_traceback_or_leaves_anything(file: tuple[str, bytes]) -> None:
    pairs_or_refusal(*file)


@pytest.mark.soak
@settings(patient, max_examples=1000)
@given(data_files())
def test_no_data_file_of_1000_gives_a_traceback_or_leaves_anything(file: tuple[str, bytes]) -> None:
    pairs_or_refusal(*file)
