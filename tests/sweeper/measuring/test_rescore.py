"""Scoring finished runs with a judge: which are scored, what MLflow then holds, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dashboards.store.histories import load_samples
from dashboards.store.records import load_records
from studies.design.answers import sort
from studies.design.identity import questions
from studies.design.measurers import asked_of, chosen, left_out, under
from studies.records import Cause, Judge, Measurement, RunConfig, RunRecord, RunResult, Shown
from studies.spec import Study, StudySpec, arms, load_study, resolve_run
from sweeper.executors import Inline
from sweeper.measuring.remeasure import Scored
from sweeper.measuring.rescore import EvaluateError, Selection, best_runs, score, select, summary
from sweeper.tracking.tracker import Tracker

SHARED = Path(__file__).resolve().parents[4] / "shared"
STUDY = """
study: judged
base: {model_name_or_path: org/model, use_peft: true, max_steps: 12}
data: {path: org/pairs}
variants: {sigmoid: {}, ipo: {}}
space: {beta: {low: 0.1, high: 1.0}}
budget: {trials: 3}
"""
SCORED = {"gold": 7.0}  # what was measured of a run that was trained with a judge
JUDGE = "evaluate.judge.reward_model=org/judge"


class RecordedStudy:
    """A study whose runs were recorded in a real store, with a folder for each."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs = folder, folder / "runs" / "judged"
        (folder / "study.yaml").write_text(STUDY)
        self.tracker = Tracker(None, folder)
        self.open()

    def open(self) -> None:
        """Have runs answer what the study file asks now."""
        self.tracker.open_study(self.spec(), STUDY, questions(Study.of(self.spec())))

    def spec(self, *settings: str) -> StudySpec:
        return load_study(self.folder / "study.yaml", settings)

    def config(self, trial: int, variant: str, *settings: str, beta: float = 0.0) -> RunConfig:
        spec, knobs = self.spec(*settings), {"beta": beta or 0.1 + 0.3 * trial}
        return resolve_run(spec, arms(spec)[variant], "clean", trial=trial, knobs=knobs, block=0, seed=0)

    def add(self, trial: int, worth: str | None, variant: str = "sigmoid", *settings: str, **measured: float) -> str:
        """A finished run, with an adapter that is worth `worth` where that is given."""
        config = self.config(trial, variant, *settings)
        values = {"ranking_gain": 0.1 * trial, "margin": 2.0, "kl": 1.0, **measured}
        facts = {"judge": Judge(reward_model="org/judge").name} if "gold" in measured else {}
        result = RunResult(
            key=config.key,
            cause=Cause.FINISHED,
            measurements=tuple(Measurement(n, v, 0.5, 12, (v, v)) for n, v in values.items()),
            facts={**facts, "steps": 12},
        )
        run_id = self.tracker.start_run(config, 1, "unbiased")
        self.tracker.finish_run(run_id, config, result)
        if worth is not None:
            (self.runs / config.key / "adapter").mkdir(parents=True)
            (self.runs / config.key / "adapter" / "gold.txt").write_text(worth)
        return run_id

    def records(self) -> dict[str, RunRecord]:
        return {record.run_id: record for record in load_records(self.tracker.uri, "judged")}

    def select(self, *settings: str, only_best: bool = False) -> Selection:
        spec = self.spec(*settings)
        records = list(self.records().values())
        only = best_runs(Study.of(spec), records) if only_best else None
        answers = sort(Study.of(spec), records, lambda _facts, _config: None)
        return select(Study.of(spec), answers, self.runs, only)

    def score(self, *settings: str, **options: Any) -> tuple[Selection, Scored, list[str]]:
        said: list[str] = []
        selection = self.select(*settings, **options)
        executor = Inline("tests.sweeper.scoring_trainers:Scores")
        return selection, score(selection, executor, self.tracker, said.append), said


@pytest.fixture
def study(tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch) -> RecordedStudy:
    shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    return RecordedStudy(tmp_path)


def test_scores_stand_in_the_runs_own_record_beside_what_was_measured_before(study: RecordedStudy) -> None:
    run_id = study.add(1, "2.5")
    before = study.records()[run_id]
    _, done, said = study.score(JUDGE)
    record = study.records()[run_id]
    assert (done.written, done.failed) == (1, {})
    assert record.metrics == {**before.metrics, "gold": 2.5, "gold_per_token": 0.25}
    assert record.errors == {**before.errors, "gold": 0.25, "gold_per_token": 0.025}
    assert record.halves == {**before.halves, "gold": (1.5, 3.5)}
    assert record.facts == {**before.facts, "judge": "reward model org/judge", "reference_gold": "-0.5"}
    assert (record.key, record.state, record.cause) == (before.key, before.state, before.cause)
    assert said == ["1/1 sigmoid clean t1 b0 s0: gold 2.5 ± 0.25 (gold)"]


def test_a_run_that_has_the_scores_is_not_scored_again(study: RecordedStudy) -> None:
    study.add(0, "1.0")
    study.score(JUDGE)
    study.add(1, "2.0")
    selection, done, _ = study.score(JUDGE)
    assert (len(selection.scored), done.written) == (1, 1)
    assert summary(selection, done)[0] == "1 run scored by reward model org/judge, 1 had been."


def test_another_judge_takes_the_place_of_the_first(study: RecordedStudy) -> None:
    run_id = study.add(0, "1.0", "sigmoid", JUDGE, **SCORED)  # measured in training, at step 12
    assert len(study.select(JUDGE).scored) == 1
    _, done, _ = study.score(JUDGE, "evaluate.judge.label=1")
    record = study.records()[run_id]
    assert done.written == 1
    assert (record.metrics["gold"], record.facts["judge"]) == (1.0, "reward model org/judge, label 1")
    (former,) = record.former
    assert (former.by.judge, former.metrics) == ("reward model org/judge", {"gold": 7.0})


def test_nothing_of_an_earlier_judge_is_shown_beside_the_new_scores(study: RecordedStudy) -> None:
    config = study.config(0, "sigmoid", JUDGE)
    run_id = study.tracker.start_run(config, 1, "unbiased")
    points = [
        Measurement(name, value, None, step, halves=(value, value))
        for name in ("gold", "accuracy")
        for step, value in ((6, 0.5), (12, 0.75))
    ]
    old = Shown(prompt="a", before="b", after="c", gold_after=0.75)
    facts = {"judge": "reward model org/judge"}
    result = RunResult(key=config.key, cause=Cause.FINISHED, measurements=tuple(points), facts=facts, samples=(old,))
    study.tracker.finish_run(run_id, config, result)
    before = study.records()[run_id]
    assert set(before.curves) == set(before.curve_halves) == {"gold", "accuracy"}
    (study.runs / config.key / "adapter").mkdir(parents=True)
    (study.runs / config.key / "adapter" / "gold.txt").write_text("1.0")
    study.score(JUDGE, "evaluate.judge.label=1")
    after = study.records()[run_id]
    assert set(after.curves) == set(after.curve_halves) == {"accuracy"}
    (shown,) = load_samples(study.tracker.uri, [run_id], study.tracker._folder)[run_id]
    assert shown.gold_after == 1.0


def test_runs_without_an_adapter_are_named_with_the_remedy(study: RecordedStudy) -> None:
    study.add(0, None)
    study.add(1, "1.0")
    selection, done, _ = study.score(JUDGE)
    assert done.written == 1
    (about,) = [s for s in summary(selection, done) if "no adapter and cannot be scored" in s]
    assert "1 finished run keeps" in about
    assert "sigmoid clean t0 b0 s0" in about
    assert "output: {keep: all}" in about


def golds(study: RecordedStudy, *settings: str) -> tuple[list[float | None], list[str]]:
    """The gold of each run, oldest first, as tables of the study see it, and what they say of it."""
    asked = asked_of(study.spec(*settings))
    records = list(study.records().values())
    who = chosen(records, asked)
    return [under(r, who).metrics.get("gold") for r in records], left_out(records, asked, who)


def test_scores_of_two_judges_never_stand_in_one_table(study: RecordedStudy) -> None:
    study.add(0, None, "sigmoid", JUDGE, **SCORED)
    study.add(1, "1.0")
    study.score("evaluate.judge.reward_model=org/other")
    assert golds(study, JUDGE)[0] == [7.0, None]
    seen, (said,) = golds(study, "evaluate.judge.reward_model=org/other")
    assert seen == [None, 1.0]
    assert said.startswith(
        "Gold is compared without 1 finished run (1 sigmoid) that have none by reward model org/other, but by reward "
        "model org/judge. `sweeper run` measures again"
    )
    study.score(JUDGE)
    assert golds(study, "evaluate.judge.reward_model=org/other")[0] == [7.0, 1.0]


def test_the_best_alone_scored_by_another_judge_leaves_the_others_their_own(study: RecordedStudy) -> None:
    for trial in range(2):
        study.add(trial, str(trial))
    study.score(JUDGE)
    other = "evaluate.judge.reward_model=org/other"
    assert len(study.select(other, only_best=True).tasks) == 1
    study.score(other, only_best=True)
    seen, (said,) = golds(study, other)
    assert seen == [0.0, 1.0]
    assert said.startswith(
        "Gold is by reward model org/judge, as 2 of 2 finished runs have it; 1 has it by reward model org/other, which"
    )
    study.score(other)
    assert golds(study, other) == ([0.0, 1.0], [])


def test_runs_of_another_question_are_left_alone_and_named(study: RecordedStudy) -> None:
    study.add(0, "1.0")
    study.add(0, "1.0", "ipo")
    for setting in ("base.max_steps=99", "data.rows=5"):
        with pytest.raises(EvaluateError, match=r"No finished run can be scored. 2 finished runs answer another"):
            study.select(JUDGE, setting)
    selection = study.select(JUDGE, "variants={ipo: {}}")
    assert (len(selection.tasks), len(selection.others)) == (1, 1)


def test_two_variants_that_are_the_same_run_are_measured_once_and_written_twice(study: RecordedStudy) -> None:
    (study.folder / "study.yaml").write_text(STUDY.replace("ipo: {}", "same: {loss_type: sigmoid}"))
    study.open()
    study.add(0, "3.0")
    config = study.config(0, "same")
    again = study.tracker.start_run(config, 1, "unbiased")
    study.tracker.finish_run(again, config, RunResult(key=config.key, cause=Cause.FINISHED))
    selection, done, _ = study.score(JUDGE)
    assert (len(selection.tasks), done.written) == (1, 2)
    assert {record.metrics["gold"] for record in study.records().values()} == {3.0}


def test_a_run_that_the_judge_fails_on_is_told_and_the_others_are_scored(study: RecordedStudy) -> None:
    bad, good = study.add(0, "nonsense"), study.add(1, "1.0")
    _, done, said = study.score(JUDGE)
    assert done.written == 1
    assert done.failed == {"sigmoid clean t0 b0 s0": "refused: the judge cannot read nonsense"}
    assert any("failed: refused: the judge cannot read nonsense" in line for line in said)
    assert "gold" not in study.records()[bad].metrics
    assert "gold" in study.records()[good].metrics


def test_a_run_that_measures_otherwise_than_when_it_was_trained_is_named(study: RecordedStudy) -> None:
    study.add(0, "2.1")  # the margin was 2.0 ± .5
    study.add(1, "3.0")
    selection, done, _ = study.score(JUDGE)
    assert done.moved == ("sigmoid clean t1 b0 s0",)
    assert any("another margin or kl now" in sentence for sentence in summary(selection, done))


def test_only_the_best_trial_of_each_stratum_is_scored_where_that_is_asked(study: RecordedStudy) -> None:
    for variant in ("sigmoid", "ipo"):
        for trial in range(3):
            study.add(trial, "1.0", variant)
    selection = study.select(JUDGE, only_best=True)
    assert {task.records[0].trial for task in selection.tasks} == {2}
    assert len(selection.tasks) == 2
    with pytest.raises(EvaluateError, match="No trial is the best by gold"):
        study.select(JUDGE, "objective.metric=gold", only_best=True)


def test_what_cannot_be_asked_is_refused(study: RecordedStudy, sweeper: Callable[..., Any]) -> None:
    for arguments, words in (
        ((), "--judge-model ORG/MODEL"),
        (("--judge-model", "a/b", "--judge-function", "os:getcwd"), "reward_model and function are given"),
        (("--judge-function", "nowhere:score"), "no module nowhere"),
        (("--judge-model", "a: {b"), "Hub id"),
        (("--judge-model", "a/b"), "No finished run"),
    ):
        refused = sweeper(study.folder, "evaluate", "study.yaml", *arguments)
        assert refused.returncode == 2, arguments
        assert words in refused.stderr, refused.stderr
        assert "Traceback" not in refused.stderr


# ---- a real model, real pairs, real adapters ------------------------------------------------------------------------

STORIES = f"""
study: stories
base:
  model_name_or_path: {SHARED / "models" / "stories260k"}
  use_peft: true
  lora_r: 4
  lora_target_modules: all-linear
  per_device_train_batch_size: 4
  max_steps: 4
  learning_rate: 5.0e-3
data: {{path: {SHARED / "data" / "stories_sentiment.jsonl"}, rows: 32, eval_rows: 16, max_length: 96}}
variants: {{sigmoid: {{}}, ipo: {{}}}}
space: {{beta: {{values: [0.1, 0.5]}}}}
budget: {{trials: 2}}
evaluate: {{prompts: 8, max_new_tokens: 12}}
resources: {{workers: 1, together: 2}}
output: {{keep: all}}
objective: {{unbounded: [drift]}}
"""
HAPPY = """
def score(prompts, completions):
    return [c.count("e") + len(p) / 100 for p, c in zip(prompts, completions)]
"""


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="no model stories260k with its pairs in shared/ beside the project")
def test_a_finished_sweep_of_a_real_model_is_scored_and_ranked_by_a_judge_and_nothing_is_trained_again(
    tmp_path: Path, empty_mlflow: Path, sweeper: Callable[..., Any]
) -> None:
    shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db")
    (tmp_path / "study.yaml").write_text(STORIES)
    (tmp_path / "happy_judge.py").write_text(HAPPY)
    trained = sweeper(tmp_path, "run", "study.yaml")
    assert trained.returncode == 0, trained.stderr
    judge = ("--judge-function", "happy_judge:score")
    scored = sweeper(tmp_path, "evaluate", "study.yaml", *judge)
    assert scored.returncode == 0, scored.stderr + scored.stdout
    assert "4 runs scored by function happy_judge:score, 0 had been." in scored.stdout
    assert "another margin" not in scored.stdout
    assert "Python code of happy_judge:score will run" in scored.stderr
    found = load_records(f"sqlite:///{tmp_path}/mlflow.db", "stories")
    assert len(found) == 4
    assert all(record.metrics["gold"] > 0 and record.errors["gold"] > 0 for record in found)
    assert {"length_baseline", "kl", "ranking_gain"} <= set(found[0].metrics)
    again = sweeper(tmp_path, "evaluate", "study.yaml", *judge)
    assert again.returncode == 0
    assert "0 runs scored by function happy_judge:score, 4 had been." in again.stdout
    (shown,) = [line for line in again.stdout.splitlines() if line.startswith("Next: sweeper table")]
    named = ("--set", "evaluate.judge.function=happy_judge:score", "--set", "objective.metric=gold")
    table = sweeper(tmp_path, "table", "study.yaml", "--format", "json", *named)
    assert "objective.metric=gold" in shown
    assert all(row["best"]["estimate"]["value"] > 0 for row in json.loads(table.stdout)["rows"])
    more = sweeper(tmp_path, "run", "study.yaml")
    assert "0 runs trained, 4 were there already" in more.stdout
