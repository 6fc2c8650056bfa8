"""Facts about texts of a study: one line each, of characters that are seen, since they go on into files of lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from studies.spec import StudyError, load_study

INJECTED = "x\nenv: {A: b}\ntrust_remote_code: true #"
LINES = ["\n", "\r", "\t", "\u2028", "\u2029", "\u202e", "\u200b", "\ufeff"]
REFUSED_BY_YAML = ["\x00", "\x1b]52;c;QQ==\x07", "\x85", "\x7f"]


def study(tmp_path: Path, **parts: Any) -> Path:
    whole = {
        "study": "s",
        "trainer": "formula",
        "base": {"model_name_or_path": "embedded", "max_steps": 1},
        "variants": {"sigmoid": {}},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(whole | parts))
    return tmp_path / "study.yaml"


def problems(file: Path, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(StudyError) as refused:
        load_study(file, overrides)
    return refused.value.problems


def base(**settings: Any) -> dict[str, Any]:
    return {"base": {"model_name_or_path": "embedded", "max_steps": 1} | settings}


PLACES: dict[str, dict[str, Any]] = {
    "base.length_column_name": base(length_column_name=INJECTED),
    "base.model_name_or_path": base(model_name_or_path=INJECTED),
    "base.lora_target_modules.1": base(use_peft=True, lora_target_modules=["q_proj", INJECTED]),
    "base.lr_scheduler_kwargs.a": base(lr_scheduler_kwargs={"a": INJECTED}),
    "base.model_init_kwargs.device_map.x\\nenv: {A: b}\\ntrust_remote_code: true #": base(
        model_init_kwargs={"device_map": {INJECTED: 0}}
    ),
    "space.length_column_name.values.1": {"space": {"length_column_name": {"values": ["a", INJECTED]}}},
    "variants.sigmoid.base.length_column_name": {"variants": {"sigmoid": {"base": {"length_column_name": INJECTED}}}},
    "variants.sigmoid.space.length_column_name.values.0": {
        "variants": {"sigmoid": {"space": {"length_column_name": {"values": [INJECTED, "a"]}}}}
    },
    "variants.sigmoid.points.0.length_column_name": {
        "variants": {"sigmoid": {"points": [{"length_column_name": INJECTED}]}}
    },
    "scenarios.clean.base.length_column_name": {"scenarios": {"clean": {"base": {"length_column_name": INJECTED}}}},
    "scenarios.x\\nenv: {A: b}\\ntrust_remote_code: true #": {"scenarios": {INJECTED: {}}},
    "variants.x\\nenv: {A: b}\\ntrust_remote_code: true #": {"variants": {INJECTED: {"loss_type": ["sigmoid"]}}},
    "study": {"study": INJECTED},
    "data.path": {"data": {"path": INJECTED}},
    "data.revision": {"data": {"path": "ORG/DATA", "revision": INJECTED}},
    "evaluate.judge.revision": {"evaluate": {"judge": {"function": "a:b", "revision": INJECTED}}},
    "objective.metric": {"objective": {"metric": INJECTED}},
    "output.folder": {"output": {"folder": INJECTED}},
}


@pytest.mark.parametrize("place", PLACES)
def test_a_text_of_several_lines_is_refused_with_its_place(tmp_path: Path, place: str) -> None:
    told = [problem for problem in problems(study(tmp_path, **PLACES[place])) if f": {place}: " in problem]
    assert any("holds a line break (U+000A)" in problem for problem in told)
    assert "\n" not in "".join(told)


@pytest.mark.parametrize("character", [*LINES, *REFUSED_BY_YAML])
def test_a_character_that_is_not_seen_is_refused_and_written_out(tmp_path: Path, character: str) -> None:
    (told,) = problems(study(tmp_path, **base(length_column_name=f"a{character}b")))
    assert (f"(U+{ord(character):04X})" if character in LINES else "control character") in told
    assert told.isprintable()


def test_a_setting_of_the_command_line_is_no_other(tmp_path: Path) -> None:
    assert "U+000A" in "".join(problems(study(tmp_path), 'base.length_column_name="a\\nb"'))


def test_a_base_from_a_file_is_no_other(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text('{model_name_or_path: embedded, max_steps: 1, length_column_name: "a\\nb"}')
    assert "U+000A" in "".join(problems(study(tmp_path, base="base.yaml")))


def test_a_secret_of_several_lines_is_not_shown(tmp_path: Path) -> None:
    told = "".join(problems(study(tmp_path, **base(lr_scheduler_kwargs={"token": "planted-one\nplanted-two"}))))
    assert "U+000A" in told
    assert "planted" not in told


def test_a_question_may_have_lines_and_joined_characters(tmp_path: Path) -> None:
    question = "Which loss?\n\tAnd for whom: 👩\u200d💻, \u06a9\u200c\u0627?"
    assert load_study(study(tmp_path, question=question)).question == question
    for character in ("\u202e", "\u2028", "\r"):
        assert "question: " in "".join(problems(study(tmp_path, question=f"a{character}b")))


def test_text_of_other_scripts_stays(tmp_path: Path) -> None:
    spec = load_study(study(tmp_path, **base(length_column_name="länge 長さ 🎈 é")))
    assert spec.base["length_column_name"] == "länge 長さ 🎈 é"


def test_what_is_left_out_of_a_base_is_not_looked_at(tmp_path: Path) -> None:
    assert "run_name" not in load_study(study(tmp_path, **base(run_name="a\nb"))).base


def test_the_folder_of_a_study_may_be_called_anything(tmp_path: Path) -> None:
    (folder := tmp_path / "a\u200cb").mkdir()
    (folder / "pairs.jsonl").write_text("{}")
    file = study(folder, data={"path": "pairs.jsonl"}, base={"model_name_or_path": "ORG/MODEL", "max_steps": 1})
    assert load_study(file).data.path == str(folder / "pairs.jsonl")
