"""Judges that come later: which runs' samples they are shown, where those are, and what the table then says."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from dashboards.report.study import comparison_of
from dashboards.store.connection import StoreError
from dashboards.store.histories import load_kept_scores
from dashboards.store.records import load_records
from studies.design.answers import Answers, sort
from studies.design.identity import questions
from studies.design.measurers import asked_of, chosen, judge_at, under
from studies.records import Cause, Measurement, RunConfig, RunRecord, RunResult
from studies.samples.kept import KeptScores, KeptTexts, Scored, digest_of_prompt
from studies.schema.replicates import Cell
from studies.spec import Study, load_study
from sweeper.executors import Inline
from sweeper.measuring.remeasure import measure, stale
from sweeper.measuring.rescore import select
from sweeper.measuring.samples import unjudged
from sweeper.tracking.scores import fetch_samples
from sweeper.tracking.tracker import Tracker
from trainers.run_folder.kept_samples import add_evaluation

STUDY = """
study: kept
base: {model_name_or_path: org/model, use_peft: true, max_steps: 12}
data: {path: org/pairs}
baseline: sigmoid
variants: {sigmoid: {}, ipo: {}}
space: {beta: {low: 0.1, high: 1.0}}
budget: {trials: 1}
replicates: 3
evaluate: {prompts: 8, judge: {function: "judges:length"}}
objective: {metric: win_rate, tie_within: 0.03}
"""
JUDGES = (
    "def length(prompts, completions): return [len(c) for c in completions]\n"
    "def short(prompts, completions): return [-len(c) for c in completions]\n"
    "def longer(prompts, answers_a, answers_b):\n"
    "    return [float(len(a) > len(b)) for a, b in zip(answers_a, answers_b)]\n"
)
SHORT = 'evaluate.judge={function: "judges:short"}'
PROMPTS = tuple(f"say {i}" for i in range(8))


class Kept:
    """A study of three whole replicates in a real store; ipo writes the longer answers."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs, self.uri = folder, folder / "runs" / "kept", f"sqlite:///{folder}/mlflow.db"
        (folder / "study.yaml").write_text(STUDY)
        (folder / "judges.py").write_text(JUDGES)
        self.tracker = Tracker(None, folder)
        study = self.study()
        self.tracker.open_study(study.spec, STUDY, questions(study))
        for number in (1, 2, 3):
            for name, letters in (("sigmoid", 5), ("ipo", 9)):
                for judging in (False, True):
                    self._add(name, number, letters + number % 2, judging=judging)

    def study(self, *settings: str) -> Study:
        return Study.of(load_study(self.folder / "study.yaml", settings))

    def records(self) -> list[RunRecord]:
        return load_records(self.uri, "kept")

    def answers(self, study: Study) -> Answers[RunRecord]:
        """The records under those who are compared, as a table sees them."""
        sorted_ = sort(study, self.records(), lambda _facts, _config: None)
        who = chosen(sorted_.records, asked_of(study.spec))
        return sort(study, [under(run, who) for run in sorted_.records], lambda _facts, _config: None)

    def judge(self, study: Study) -> Sequence[str]:
        """Let the study's judges see what they have not; gives what is said."""
        said: list[str] = []
        tasks = unjudged(study, self.records(), self.runs)
        done = measure(tasks, Inline("trainers.adapter_evaluator:AdapterEvaluator"), self.tracker, said.append)
        assert done.failed == {}
        return said

    def _add(self, name: str, number: int, letters: int, *, judging: bool) -> None:
        study, cell = self.study(), Cell("clean", number)
        spec = study.within(cell.name).spec
        runs = spec.confirm if judging and spec.confirm is not None else spec.runs
        record = {"variant": name, "scenario": cell.name, "trial": 0, "block": runs.blocks[0], "seed": runs.seeds[0]}
        config = study.run_config(_Asked(**record, knobs={"beta": 0.5}))
        result = RunResult(
            key=config.key,
            cause=Cause.FINISHED,
            measurements=tuple(
                Measurement(metric, value, 0.1, 12)
                for metric, value in {"win_rate": 1.0, "gold": 5.0, "kl": 1.0, "margin": 1.0}.items()
            ),
            facts={"judge": "function judges:length"},
        )
        run_id = self.tracker.start_run(config, 1, "confirm" if judging else "unbiased")
        self.tracker.finish_run(run_id, config, result)
        if judging:
            _keep(self.runs / config.key, config, letters)
            self.tracker.log_samples(run_id, config.key)


class _Asked:
    """As much of a record as a study makes a config of."""

    def __init__(self, **fields: object) -> None:
        self.__dict__ |= fields


def _keep(folder: Path, config: RunConfig, letters: int) -> None:
    """Samples of `letters` and more letters, of which the untrained model writes four."""
    written = {0: ("x" * 4,) * 8, 12: tuple("x" * (letters + i % 2) for i in range(8))}
    scores = {step: tuple(float(len(text)) for text in of) for step, of in written.items()}
    texts = KeptTexts(key=config.key, prompts=PROMPTS, texts=written, ended=dict.fromkeys(written, (True,) * 8))
    known = KeptScores(
        key=config.key,
        prompts=tuple(map(digest_of_prompt, PROMPTS)),
        seed=1,
        longest=16,
        tokens={step: tuple(map(len, of)) for step, of in written.items()},
        scored=(Scored(by=judge_at(config, "judge"), scores=scores),),
    )
    add_evaluation(folder, texts, known)


@pytest.fixture
def kept(tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch) -> Kept:
    shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "judges", raising=False)
    return Kept(tmp_path)


def rate(kept: Kept, study: Study) -> float:
    """How often ipo's samples beat sigmoid's, as the table has it."""
    (found,) = comparison_of(study, kept.answers(study)).tuned
    (ipo,) = (loss for loss in found.losses if loss.variant == "ipo")
    assert ipo.met is not None
    return ipo.met.rate.value


def test_a_table_sets_the_samples_head_to_head(kept: Kept) -> None:
    assert rate(kept, kept.study()) == 1.0
    assert unjudged(kept.study(), kept.records(), kept.runs) == ()


def test_a_judge_that_comes_later_reads_the_samples_in_mlflow_and_needs_no_adapter_and_no_folder(kept: Kept) -> None:
    shutil.rmtree(kept.runs)
    study = kept.study(SHORT)
    answers = sort(study, kept.records(), lambda _facts, _config: None)

    def fetch(run: RunRecord) -> None:
        fetch_samples(kept.uri, run.run_id, kept.runs / run.key)

    selection = select(study, answers, kept.runs, None, fetch)
    assert len(selection.tasks) == 6
    assert all(task.job.from_samples for task in selection.tasks)
    assert len(selection.gone) == 6  # those that tuned
    said = kept.judge(study)
    assert len(said) == 6
    assert rate(kept, study) == 0.0  # though the settings were chosen by the first judge
    assert rate(kept, kept.study()) == 1.0  # whose word stays
    assert unjudged(study, kept.records(), kept.runs) == ()


def test_a_second_judge_and_a_check_see_them_in_the_run_that_asks_and_once(kept: Kept) -> None:
    study = kept.study('evaluate.second_judge={function: "judges:short"}')
    assert stale(study, kept.records(), kept.runs) == ()
    assert len(kept.judge(study)) == 6
    assert unjudged(study, kept.records(), kept.runs) == ()
    (found,) = comparison_of(study, kept.answers(study)).tuned
    assert found.second is not None
    assert found.second.met["ipo"].rate.value == 0.0
    (now,) = {run.judged.judge for run in kept.records()}
    assert now == "function judges:length"


@pytest.mark.parametrize("held", ["as its last sweep kept it", "by its name alone"])
def test_a_second_judge_whose_function_was_edited_is_shown_as_it_is_now(kept: Kept, held: str) -> None:
    asked = kept.study('evaluate.second_judge={function: "judges:short"}')
    was, now = ({"judge function judges:short": content} for content in ("sha256:1", "sha256:2"))
    kept.judge(asked.holding(was))
    (kept.folder / "judges.py").write_text(JUDGES.replace("-len(c)", "len(c)"))
    sys.modules.pop("judges")
    kept.judge(asked.holding(now))
    if held == "as its last sweep kept it":  # who went back to what it was
        kept.tracker.open_study(asked.holding(was).spec, STUDY, questions(asked))
    (found,) = comparison_of(asked, kept.answers(asked)).tuned
    assert found.second is not None
    assert found.second.met["ipo"].rate.value == (0.0 if held == "as its last sweep kept it" else 1.0)


def test_a_baseline_of_another_name_is_shown_to_a_pairwise_judge_beside_the_others(kept: Kept) -> None:
    study = kept.study('evaluate.judge={pairwise: "judges:longer"}', "baseline=ipo")
    kept.judge(study)
    (found,) = comparison_of(study, kept.answers(study)).tuned
    (sigmoid,) = (loss for loss in found.losses if loss.variant == "sigmoid")
    assert sigmoid.met is not None
    assert sigmoid.met.rate.value == 0.0
    assert sigmoid.met.contradicted == 0.0


def test_scores_that_were_edited_are_named(kept: Kept) -> None:
    (file, *_) = (kept.folder / "mlartifacts").rglob("scores.json")
    file.write_text("{}")
    with pytest.raises(StoreError, match=r"samples/scores\.json of MLflow run .* cannot be read"):
        load_kept_scores(kept.uri, [run.run_id for run in kept.records()], kept.folder)


def test_a_store_behind_a_server_gives_the_same(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    found = load_kept_scores(kept.uri, [run.run_id for run in kept.records()], kept.folder)
    no_file: Callable[[str], None] = lambda _uri: None  # noqa: E731
    monkeypatch.setattr("dashboards.store.histories.sqlite_file", no_file)
    assert load_kept_scores(kept.uri, [run.run_id for run in kept.records()], kept.folder) == found
    assert len(found) == 6
