"""The judge of a study: what is checked of it before anything runs, and that runs without one keep their keys."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from studies.design.identity import question_of
from studies.records import Judge
from studies.spec import Study, StudyError, arms, foreign_code, load_study, resolve_run

STUDY = """
study: judged
base: {model_name_or_path: org/model, use_peft: true, max_steps: 10}
data: {path: org/pairs}
variants: {sigmoid: {}}
evaluate: {judge: %s}
objective: {metric: gold}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_judge.py").write_text("raise SystemExit('nobody may import this to check a study')\n")
    return tmp_path


def load(folder: Path, judge: Any, text: str = STUDY) -> Any:
    (folder / "study.yaml").write_text(text % json.dumps(judge))
    return load_study(folder / "study.yaml")


def problems(folder: Path, judge: Any, text: str = STUDY) -> list[str]:
    with pytest.raises(StudyError) as refused:
        load(folder, judge, text)
    return [problem.partition("study.yaml: ")[2] for problem in refused.value.problems]


def classifier(folder: Path, **config: Any) -> Path:
    folder.mkdir()
    given = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "bad", "1": "so so", "2": "good"}}
    (folder / "config.json").write_text(json.dumps(given | config))
    return folder


def test_a_study_with_a_judge_may_have_gold_as_its_objective(folder: Path) -> None:
    spec = load(folder, {"reward_model": "org/judge", "revision": "abc", "label": "good"})
    assert spec.objective.metric == "gold"
    assert spec.evaluation.judge.name == "reward model org/judge, revision abc, label good"
    assert foreign_code(spec) == ()


def test_a_function_is_found_in_the_working_folder_and_not_imported(folder: Path) -> None:
    spec = load(folder, {"function": "my_judge:score"})
    assert "my_judge" not in sys.modules
    assert any("my_judge:score will run" in warning for warning in foreign_code(spec))


def test_a_reward_model_is_found_beside_the_study_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier(folder / "judge")
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    spec = load(folder, {"reward_model": "judge", "label": "good"})
    assert Path(spec.evaluation.judge.reward_model) == folder / "judge"


@pytest.mark.parametrize(
    ("judge", "words"),
    [
        ({}, ["evaluate.judge: must name one of reward_model, function and pairwise", "none is"]),
        ({"reward_model": "a/b", "function": "my_judge:score"}, ["reward_model and function are given"]),
        ({"pairwise": "score"}, ["evaluate.judge.pairwise", "module:name"]),
        ({"pairwise": "my_judge:score"}, ["objective.metric", "'gold' is no number that a pairwise judge gives"]),
        ({"reward_model": "http://host/model"}, ["evaluate.judge.reward_model", "'http://host/model'", "Hub id"]),
        ({"reward_model": "../../etc"}, ["no such folder", "Hub id"]),
        ({"reward_model": "org/judge; rm -rf ~"}, ["no such folder", "Hub id"]),
        ({"reward_model": "\0"}, ["holds a control character"]),
        ({"reward_model": "a/b", "max_length": 0}, ["evaluate.judge.max_length: 0 must be at least 1"]),
        ({"function": "score"}, ["evaluate.judge.function", "module:name", "my_judge:score"]),
        ({"function": "os.system('rm')"}, ["module:name"]),
        ({"function": "their_judge:score"}, ["no module their_judge in the working folder", "their_judge.py"]),
        ({"function": "pkg.their:score"}, ["no module pkg.their", "pkg/their.py"]),
        ({"function": "my_judge:score", "label": 1}, ["evaluate.judge.label: does nothing on a function"]),
        ({"function": "my_judge:score", "trust_remote_code": True}, ["trust_remote_code: does nothing"]),
        ({"reward_modl": "a/b"}, ["evaluate.judge.reward_modl: unknown key (did you mean reward_model?)"]),
        ("org/judge", ["evaluate.judge", "must be a mapping"]),
    ],
)
def test_a_wrong_judge_is_refused(folder: Path, judge: Any, words: list[str]) -> None:
    found = problems(folder, judge)
    assert any(all(word in problem for word in words) for problem in found), found


def test_a_judge_that_would_not_be_asked_is_refused(folder: Path) -> None:
    embedded = STUDY.replace("org/model", "embedded").replace("org/pairs", "embedded")
    assert any("gold reward of their own" in p for p in problems(folder, {"reward_model": "a/b"}, embedded))
    formula = STUDY.replace("study:", "trainer: formula\nstudy:")
    assert any("samples from no model" in p for p in problems(folder, {"reward_model": "a/b"}, formula))


def test_what_lies_in_a_folder_must_be_a_classifier_with_the_class_that_is_asked_for(folder: Path) -> None:
    (folder / "nothing").mkdir()
    assert "config.json cannot be read" in problems(folder, {"reward_model": "nothing"})[0]
    classifier(folder / "lm", architectures=["LlamaForCausalLM"])
    assert "LlamaForCausalLM and no sequence classifier" in problems(folder, {"reward_model": "lm"})[0]
    classifier(folder / "three")
    assert "3 classes (0: bad, 1: so so, 2: good)" in problems(folder, {"reward_model": "three"})[0]
    assert "(did you mean good?)" in problems(folder, {"reward_model": "three", "label": "god"})[0]
    assert "3 is no class" in problems(folder, {"reward_model": "three", "label": 3})[0]
    assert load(folder, {"reward_model": "three", "label": 2}).evaluation.judge.label == 2
    classifier(folder / "many", id2label=None, num_labels=10**12)
    assert load(folder, {"reward_model": "many"})
    classifier(folder / "odd", id2label=["no mapping"], architectures="Bert")
    assert problems(folder, {"reward_model": "odd"})
    classifier(folder / "two", id2label={"0": "no", "1": "yes"})
    assert load(folder, {"reward_model": "two"}).evaluation.judge.label is None


def test_the_judge_makes_no_other_run(folder: Path) -> None:
    spec = load(folder, {"reward_model": "a/b"})
    evaluations = [
        spec.evaluation.model_copy(update={"judge": judge})
        for judge in (None, Judge(reward_model="a/b"), Judge(reward_model="a/b", label=1), Judge(function="a:b"))
    ]
    arm = arms(spec)["sigmoid"]
    asked = [spec.model_copy(update={"evaluation": evaluation}) for evaluation in evaluations]
    keys = {resolve_run(s, arm, "clean", trial=0, knobs={}, block=0, seed=0).key for s in asked}
    assert len(keys) == 1


JUDGED = STUDY.replace("gold}", "win_rate}").replace("{judge: %s}", "%s")
FIRST = {"function": "my_judge:score"}


@pytest.mark.parametrize(
    ("evaluate", "words"),
    [
        ({"second_judge": FIRST}, ["evaluate.second_judge", "no first one"]),
        ({"judge": FIRST, "second_judge": FIRST}, ["evaluate.second_judge: is the first one again"]),
        ({"judge": FIRST, "second_judge": {}}, ["evaluate.second_judge: must name one of"]),
        ({"judge": FIRST, "check": {"function": "their:check"}}, ["evaluate.check.function", "no module their"]),
        ({"judge": FIRST, "check": {"reward_model": "a/b"}}, ["evaluate.check.reward_model: unknown key"]),
    ],
)
def test_a_wrong_second_judge_or_check_is_refused(folder: Path, evaluate: Any, words: list[str]) -> None:
    found = problems(folder, evaluate, JUDGED + "replicates: 3\n")
    assert any(all(word in problem for word in words) for problem in found), found


def test_a_second_judge_and_a_check_need_runs_that_judge(folder: Path) -> None:
    both = {"judge": FIRST, "second_judge": {"pairwise": "my_judge:compare"}, "check": {"function": "my_judge:right"}}
    found = problems(folder, both, JUDGED)
    assert [problem.partition(":")[0] for problem in found] == ["evaluate.second_judge", "evaluate.check"]
    spec = load(folder, both, JUDGED + "replicates: 3\n")
    warned = " ".join(foreign_code(spec))
    for key in ("judge.function", "second_judge.pairwise", "check.function"):
        assert f"evaluate.{key}: Python code of" in warned


def test_who_looks_at_samples_makes_no_other_run(folder: Path) -> None:
    both = {"judge": FIRST, "second_judge": {"pairwise": "my_judge:compare"}, "check": {"function": "my_judge:right"}}
    keys, questions = set(), set()
    for evaluate in ({"judge": FIRST}, both, {"judge": {"pairwise": "my_judge:compare"}}):
        study = Study.of(load(folder, evaluate, JUDGED + "replicates: 3\n"))
        (variant, *_), (scenario, *_) = study.variants.values(), study.spec.scenarios
        questions.add(question_of(study.spec, scenario, variant))
        keys.add(resolve_run(study.spec, variant, scenario, trial=0, knobs={}, block=100, seed=0).key)
    assert (len(keys), len(questions)) == (1, 1)
