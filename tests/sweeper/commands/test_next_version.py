"""Which study file a running sweep takes as its next version, and what it says of the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from studies.spec import Study, load_study
from sweeper.commands.session.next_version import version_with
from sweeper.folder.steering.rounds import NotTaken
from tests.sweeper.slow_study import STUDY

BEFORE = STUDY + "scenarios: {clean: {}, noisy: {label_flip: 0.2}}\n"


def taken(folder: Path, text: str, *settings: str) -> Study:
    file = folder / "study.yaml"
    file.write_text(BEFORE)
    now = Study.of(load_study(file, settings)).holding({"data somewhere": "as it was found"})
    file.write_text(text)
    return version_with(settings)(now, file)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("ipo: {}", "ipo: {}, hinge: {}"),
        ("trials: 10", "trials: 12"),
        ("trials: 10", "trials: 10, gpu_hours: 5"),
        ("noisy:", "noisier: {label_flip: 0.4}, noisy:"),
    ],
)
def test_more_of_a_study_is_taken_with_what_its_sources_hold(tmp_path: Path, before: str, after: str) -> None:
    found = taken(tmp_path, BEFORE.replace(before, after))
    assert found.spec.contents == {"data somewhere": "as it was found"}


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("max_steps: 10", "max_steps: 20", "takes no other base"),
        ("study: small", "study: other", "takes no other study"),
        ("ranking_gain", "margin", "takes no other objective"),
        ("high: 1.0", "high: 2.0", "takes no other space"),
        ("ipo: {}", "hinge: {}", "takes away or changes what is asked of ipo"),
        ("ipo: {}", "ipo: {space: {beta: {low: 0.5, high: 2.0}}}", "what is asked of ipo"),
        (", noisy: {label_flip: 0.2}", "", "what is asked of ipo, sigmoid"),
        ("flip: 0.2", "flip: 0.3", "what is asked of ipo, sigmoid"),
        ("trials: 10", "trials: none", "budget.trials"),
        ("ipo: {}", "ipo: {}, hinge: {base: {model_name_or_path: other/model}}", "has not looked at"),
        ("study: small", "question: why?\nstudy: small", "asks for nothing that the sweep does not train already"),
        ("resources: {", "notify: {command: [rm]}\nresources: {", "takes no other notify"),
    ],
)
def test_what_changes_the_question_of_runs_or_brings_code_or_data_is_refused_with_why(
    tmp_path: Path, before: str, after: str, said: str
) -> None:
    assert before in BEFORE
    with pytest.raises(NotTaken) as refused:
        taken(tmp_path, BEFORE.replace(before, after))
    assert said in str(refused.value)


def test_the_settings_of_the_sweep_stay(tmp_path: Path) -> None:
    found = taken(tmp_path, BEFORE.replace("ipo: {}", "ipo: {}, hinge: {}"), "budget.trials=2")
    assert found.spec.budget.trials == 2
    with pytest.raises(NotTaken, match="--set stays"):
        taken(tmp_path, BEFORE.replace("trials: 10", "trials: 12"), "budget.trials=2")


def test_a_file_that_is_gone_is_said(tmp_path: Path) -> None:
    now = Study.of(load_study("quickstart", ()))
    with pytest.raises(NotTaken, match="no such file"):
        version_with(())(now, tmp_path / "none.yaml")


def test_paths_begin_where_the_sweep_has_them_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sub").mkdir()
    Path("sub/pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    text = BEFORE + "data: {path: pairs.jsonl}\n"
    Path("sub/study.yaml").write_text(text)
    now = Study.of(load_study("sub/study.yaml"))
    Path("sub/study.yaml").write_text(text.replace("ipo: {}", "ipo: {}, hinge: {}"))
    found = version_with((), "sub/study.yaml")(now, (tmp_path / "sub/study.yaml").resolve())
    assert found.spec.data.path == "sub/pairs.jsonl"


def test_a_sweep_reads_no_other_file_for_whoever_asks(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(BEFORE)
    (tmp_path / "other.yaml").write_text("secret: text")
    now = Study.of(load_study(tmp_path / "study.yaml"))
    with pytest.raises(NotTaken, match="takes no other file") as refused:
        version_with((), str(tmp_path / "study.yaml"))(now, tmp_path / "other.yaml")
    assert "secret" not in str(refused.value)


def test_what_a_sweep_was_extended_to_is_not_taken_back(tmp_path: Path) -> None:
    with pytest.raises(NotTaken, match=r"trains budget.trials: 10 by now, and the file says 8: say 10 there"):
        taken(tmp_path, BEFORE.replace("trials: 10", "trials: 8").replace("ipo: {}", "ipo: {}, hinge: {}"))
