"""Who measured a run: a newer evaluator or judge trains nothing again, loses no number, and two are never mixed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from dashboards.store.histories import load_samples
from dashboards.store.records import load_records
from studies.design.identity import goal_of
from studies.design.measurers import Measurers, asked_of, chosen, left_out, under
from studies.records import Cause, Measurer, Numbers, RunConfig, RunRecord, State
from studies.records.metrics import EVALUATOR
from studies.schema.contents import Source
from studies.spec import StudySpec, arms, resolve_run
from sweeper.executors import EXECUTORS
from sweeper.executors.inline import Inline
from trainers.contents import read_content
from trainers.interface import TRAINERS

Sweeper = Callable[..., Any]
JUDGED = """
study: judged
base: {model_name_or_path: org/model, use_peft: true, max_steps: 12, per_device_train_batch_size: 4}
data: {path: pairs.jsonl, eval_rows: 2}
variants: {sigmoid: {}, hinge: {}}
space: {beta: {values: [0.1, 0.2, 0.4]}}
sampler: grid
evaluate: {judge: {function: "short:reward"}}
objective: {metric: gold}
resources: {together: 0}
output: {keep: all}
"""
LONG_IS_GOOD = "def reward(prompts, completions):\n    return [float(len(text)) for text in completions]\n"
LONG_IS_BAD = "def reward(prompts, completions):\n    return [-2.0 * len(text) for text in completions]\n"
RAISES = "def reward(prompts, completions):\n    return 1 / 0\n"


class Folder:
    """A working folder in which runs cost nothing, see `scoring_trainers`."""

    def __init__(self, path: Path, sweeper: Sweeper) -> None:
        self.path, self._sweeper = path, sweeper
        rows = [{"prompt": f"q{i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(8)]
        (path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def write(self, judge: str, study: str = JUDGED) -> None:
        (self.path / "short.py").write_text(judge)
        (self.path / "study.yaml").write_text(study)

    def call(self, verb: str, *arguments: str) -> Any:
        inline = ("--executor", "inline") if verb in ("run", "evaluate") else ()
        return self._sweeper(self.path, verb, "study.yaml", *inline, *arguments)

    def run(self, judge: str, study: str = JUDGED) -> str:
        self.write(judge, study)
        done = self.call("run")
        assert done.returncode == 0, done.stdout + done.stderr
        return str(done.stdout)

    def golds(self, *arguments: str) -> dict[str, float]:
        """Variant -> the gold that the table gives its best trial."""
        rows = json.loads(self.call("table", "--format", "json", *arguments).stdout)["rows"]
        return {row["variant"]: row["best"]["estimate"]["value"] for row in rows}

    def notes(self) -> str:
        return str(self.call("table", "--format", "markdown").stdout)

    def records(self) -> list[RunRecord]:
        return load_records(f"sqlite:///{self.path}/mlflow.db", "judged")

    def told(self, variant: str) -> dict[float, tuple[str, float | None]]:
        """Beta -> state and value of Optuna's trial."""
        url = f"sqlite:///{self.path}/optuna.db"
        trials = optuna.load_study(study_name=f"judged/{variant}/clean", storage=url).trials
        return {t.params["beta"]: (t.state.name, t.value) for t in trials}


@pytest.fixture
def one_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept runs are measured before the workers of the sweep are there: a second executor at a time breaks, as workers
    elsewhere come in by a door at one address.
    """
    is_open: set[Inline] = set()

    class OneAtATime(Inline):
        def __init__(self, trainer: str) -> None:
            if is_open:
                raise RuntimeError("Address already in use")
            super().__init__(trainer)
            is_open.add(self)

        def close(self, now: bool = False) -> None:
            super().close(now)
            is_open.discard(self)

    monkeypatch.setitem(EXECUTORS, "inline", lambda trainer, place: OneAtATime(trainer))


@pytest.fixture
def folder(
    tmp_path: Path, empty_mlflow: Path, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch, one_executor: None
) -> Folder:
    shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db")
    monkeypatch.setitem(TRAINERS, "dpo", "tests.sweeper.scoring_trainers:Trains")
    monkeypatch.setattr("sweeper.measuring.remeasure.EVALUATOR", "tests.sweeper.scoring_trainers:Measures")
    return Folder(tmp_path, sweeper)


# ---- whole sweeps ---------------------------------------------------------------------------------------------------


def test_a_changed_judge_scores_kept_adapters_anew_and_trains_nothing(folder: Folder) -> None:
    assert "6 runs trained" in folder.run(LONG_IS_GOOD)
    assert folder.golds() == {"sigmoid": 40.0, "hinge": 40.0}
    said = folder.run(LONG_IS_BAD)
    assert "Measuring 6 finished runs again, by evaluator-3 and function short:reward" in said
    assert "0 runs trained, 6 were there already" in said
    assert folder.golds() == {"sigmoid": -20.0, "hinge": -20.0}
    assert "as it was earlier" not in folder.notes()
    assert "sweeper run` measures again" not in folder.notes()
    assert folder.told("hinge") == {b: ("COMPLETE", -200.0 * b) for b in (0.1, 0.2, 0.4)}
    assert "Measuring" not in folder.run(LONG_IS_BAD)


@pytest.mark.slow
def test_what_the_former_judge_said_is_kept_and_comes_back_with_its_code(folder: Folder) -> None:
    folder.run(LONG_IS_GOOD)
    before = {r.run_id: r for r in folder.records()}
    folder.run(LONG_IS_BAD)
    for now in folder.records():
        (former,) = now.former
        then = before[now.run_id]
        assert former.by == then.judged
        assert former.by.content != now.judged.content
        for part in ("metrics", "errors", "halves"):
            gold = {n: v for n, v in getattr(then, part).items() if n in ("gold", "gold_per_token")}
            assert getattr(former, part) == gold
            assert gold
        assert {**now.metrics, **former.metrics} == then.metrics
        uri = f"sqlite:///{folder.path}/mlflow.db"
        shown = {
            name: load_samples(uri, [now.run_id], folder.path, {now.run_id: name})[now.run_id][0].gold_after
            for name in (former.samples, now.samples)
        }
        assert shown == {former.samples: then.metrics["gold"], now.samples: now.metrics["gold"]}
    said = folder.run(LONG_IS_GOOD)
    assert "Measuring" not in said
    assert "0 runs trained, 6 were there already" in said
    assert folder.golds() == {"sigmoid": 40.0, "hinge": 40.0}
    assert folder.told("sigmoid")[0.4] == ("COMPLETE", 40.0)


@pytest.mark.slow
def test_where_most_runs_keep_no_adapter_the_former_judge_is_shown_and_nothing_is_mixed(folder: Folder) -> None:
    study = JUDGED.replace("keep: all", "keep: best")
    folder.run(LONG_IS_GOOD, study)
    said = folder.run(LONG_IS_BAD, study)
    assert "Measuring 2 finished runs again" in said
    assert "0 runs trained, 6 were there already" in said
    assert folder.golds() == {"sigmoid": 40.0, "hinge": 40.0}
    sentence = (
        "Gold is by function short:reward as it was earlier, as 6 of 6 finished runs have it; 2 have it by function "
        "short:reward as it is now, which the study asks."
    )
    assert sentence in folder.notes()
    assert "output: {keep: all}" in folder.notes()
    assert sentence in folder.call("status").stdout
    assert folder.told("sigmoid") == {0.1: ("FAIL", None), 0.2: ("FAIL", None), 0.4: ("COMPLETE", -80.0)}
    assert "0 runs trained, 6 were there already" in folder.run(LONG_IS_BAD, study)
    assert "1 run trained" in folder.run(
        LONG_IS_BAD,
        study.replace("0.4]}}", "0.4]}}").replace("hinge: {}", "hinge: {}, ipo: {space: {beta: {values: [0.3]}}}"),
    )


def test_trials_that_tpe_learns_from_are_told_by_the_judge_of_now(folder: Folder) -> None:
    study = JUDGED.replace("{values: [0.1, 0.2, 0.4]}", "{low: 0.1, high: 1.0}").replace("grid", "tpe")
    folder.run(LONG_IS_GOOD, study + "budget: {trials: 3}\n")
    before = folder.told("sigmoid")
    assert "0 runs trained" in folder.run(LONG_IS_BAD, study + "budget: {trials: 3}\n")
    after = folder.told("sigmoid")
    assert after == {beta: ("COMPLETE", -2.0 * (value or 0.0)) for beta, (_, value) in before.items()}
    assert "2 runs trained, 6 were there already" in folder.run(LONG_IS_BAD, study + "budget: {trials: 4}\n")
    assert before.keys() < folder.told("sigmoid").keys()


@pytest.mark.slow
def test_a_judge_that_raises_costs_no_number_and_no_adapter(folder: Folder) -> None:
    study = JUDGED.replace("keep: all", "keep: best")
    folder.run(LONG_IS_GOOD, study)
    folder.write(RAISES, study)
    done = folder.call("run")
    assert done.returncode == 1
    assert "2 finished runs could not be measured again; their numbers are as they were." in done.stdout
    assert folder.golds() == {"sigmoid": 40.0, "hinge": 40.0}
    assert len(list(folder.path.glob("runs/judged/*/adapter"))) == 2
    folder.run(LONG_IS_BAD, study)
    assert {r.metrics["gold"] for r in folder.records() if r.former} == {-80.0}


def test_a_newer_evaluator_trains_nothing_and_the_table_says_who_measured(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = JUDGED.replace("keep: all", "keep: none")
    folder.run(LONG_IS_GOOD, study)
    before = folder.notes()
    monkeypatch.setattr("studies.records.metrics.EVALUATOR", "evaluator-4")
    assert "0 runs trained, 6 were there already" in folder.run(LONG_IS_GOOD, study)
    sentence = "Measured by evaluator-3, as 6 of 6 finished runs were; evaluator-4, which this version has, measured 0."
    after = folder.notes()
    assert sentence in after
    assert sentence in folder.call("status").stdout
    assert [line for line in after.splitlines() if sentence not in line] == before.splitlines()


def test_a_newer_evaluator_measures_kept_adapters_and_keeps_the_former_numbers(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.run(LONG_IS_GOOD)
    before = {r.run_id: r for r in folder.records()}
    monkeypatch.setattr("studies.records.metrics.EVALUATOR", "evaluator-4")
    assert "Measuring 6 finished runs again" in folder.run(LONG_IS_GOOD)
    for now in folder.records():
        assert now.measured == Measurer(evaluator="evaluator-4")
        assert now.metrics["margin"] == before[now.run_id].metrics["margin"] + 1.0
        assert {n.by.evaluator for n in now.former} == {"evaluator-3"}
        assert {name: v for n in now.former for name, v in n.metrics.items()} == before[now.run_id].metrics
    assert "Measured by" not in folder.notes()
    monkeypatch.setattr("studies.records.metrics.EVALUATOR", "evaluator-3")
    assert "Measuring" not in folder.run(LONG_IS_GOOD)


def test_two_judges_named_on_the_command_line_are_never_in_one_table(folder: Folder) -> None:
    folder.run(LONG_IS_GOOD)
    (folder.path / "other.py").write_text(LONG_IS_BAD)
    other = ("--judge-function", "other:reward", "--only-best")
    done = folder.call("evaluate", *other)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 runs scored by function other:reward" in done.stdout
    asked = ("--set", 'evaluate.judge={"function": "other:reward"}')
    assert folder.golds(*asked) == folder.golds() == {"sigmoid": 40.0, "hinge": 40.0}
    said = folder.call("table", "--format", "markdown", *asked).stdout
    assert "Gold is by function short:reward, as 6 of 6 finished runs have it; 2 have it by function other:rew" in said


def test_a_result_that_only_its_folder_has_keeps_the_judge_that_it_names(
    folder: Folder, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.run(LONG_IS_GOOD)
    shutil.copyfile(empty_mlflow, folder.path / "mlflow.db")
    (folder.path / "optuna.db").unlink()
    monkeypatch.setattr("studies.records.metrics.EVALUATOR", "evaluator-4")
    assert "0 runs trained, 6 were there already" in folder.run(LONG_IS_GOOD)
    assert {r.measured.evaluator for r in folder.records()} == {"evaluator-3"}
    assert "Measured by evaluator-3, as 6 of 6" in folder.notes()


# ---- records alone --------------------------------------------------------------------------------------------------


def test_a_version_that_changes_rounding_alone_is_the_same_measurer() -> None:
    """So that no run of before is measured again, or left out of a comparison, for its last digits."""
    assert Measurer(evaluator="evaluator-3.1") == Measurer(evaluator="evaluator-3") != Measurer(evaluator="evaluator-4")
    assert Measurer() == Measurer(evaluator=EVALUATOR.partition(".")[0])
    assert RunConfig.model_fields["evaluator"].get_default(call_default_factory=True) == EVALUATOR  # what a run is told


OLD, NEW = Measurer(evaluator="evaluator-3"), Measurer(evaluator="evaluator-4")
BY_OLD, BY_NEW = Measurers(OLD, OLD), Measurers(NEW, NEW)


def a_record(trial: int, by: Measurer, *former: Numbers, state: State = State.COMPLETE, **metrics: float) -> RunRecord:
    return RunRecord(
        run_id=str(trial),
        key="k",
        study="s",
        variant="ipo",
        scenario="clean",
        trial=trial,
        block=0,
        seed=0,
        attempt=1,
        state=state,
        cause=Cause.FINISHED,
        phase="unbiased",
        knobs={},
        metrics={"margin": 1.0, "train_seconds": 3.0, **metrics},
        errors={"margin": 0.5},
        facts={},
        measured=by,
        judged=by,
        former=former,
    )


def test_the_evaluator_that_is_asked_is_shown_where_as_many_runs_have_it_as_any_other() -> None:
    both = a_record(0, NEW, Numbers(by=OLD, gold=False, metrics={"margin": 9.0}))
    old = a_record(1, OLD)
    assert chosen([both, old], BY_NEW) == BY_OLD
    assert chosen([both], BY_NEW) == BY_NEW
    assert chosen([], BY_NEW) == BY_NEW
    assert [under(run, BY_OLD).metrics["margin"] for run in (both, old)] == [9.0, 1.0]


def test_of_a_run_that_was_not_measured_so_only_what_it_cost_and_whether_it_drifted_is_left() -> None:
    old = a_record(1, OLD, length_ratio=2.5)
    assert under(old, BY_NEW).metrics == {"train_seconds": 3.0, "length_ratio": 2.5}
    assert under(old, BY_NEW).errors == {}
    assert under(old, BY_OLD) is old
    (said,) = left_out([old, a_record(2, NEW), a_record(3, NEW)], BY_NEW, BY_NEW)
    assert said.startswith("No number is compared of 1 finished run (1 ipo) that evaluator-3 measured, and not")


def test_runs_that_broke_off_do_not_say_which_evaluator_is_shown() -> None:
    broken = [a_record(trial, OLD, state=State.PRUNED) for trial in range(3)]
    assert chosen([*broken, a_record(3, NEW)], BY_NEW) == BY_NEW
    assert left_out([*broken, a_record(3, NEW)], BY_NEW, BY_NEW) == []


def test_what_a_judge_holds_is_in_the_config_and_in_no_key() -> None:
    text = {"study": "s", "base": {"model_name_or_path": "org/model"}, "data": {"path": "org/pairs"}}
    spec = StudySpec.model_validate(
        {**text, "variants": {"ipo": {}}, "evaluation": {"judge": {"reward_model": "org/judge"}}}
    )
    known = spec.model_copy(update={"contents": {"reward model org/judge": "commit:abc"}})
    one, other = (resolve_run(s, arms(s)["ipo"], "clean", trial=0, knobs={}, block=0, seed=0) for s in (spec, known))
    assert (one.judge_content, other.judge_content) == (None, "commit:abc")
    assert one.key == other.key
    assert one.earlier_keys == other.earlier_keys
    assert asked_of(known).judged == Measurer(judge="reward model org/judge", content="commit:abc")
    assert goal_of(known) == goal_of(spec)
    gold = {"objective": known.objective.model_copy(update={"metric": "gold"})}
    assert goal_of(known.model_copy(update=gold)) != goal_of(spec.model_copy(update=gold))


# ---- what a judge holds ---------------------------------------------------------------------------------------------


def content(function: str) -> str | None:
    return read_content(Source("judge function", function))


def test_a_judge_is_its_code_and_that_of_the_folder_which_it_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short_judge.py").write_text("import json\nimport words_of_mine\n")
    alone = content("short_judge:reward")
    Path("words_of_mine.py").write_text("GOOD = 1\n")
    with_words = content("short_judge:reward")
    Path("words_of_mine.py").write_text("GOOD = 2\n")
    assert None not in {alone, with_words}
    assert len({alone, with_words, content("short_judge:reward")}) == 3
    Path("unrelated.py").write_text("")
    Path("words_of_mine.py").write_text("GOOD = 1\n")
    assert content("short_judge:other") == with_words
    assert content("no_such_judge:reward") is None


def test_a_judge_in_a_package_is_all_code_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("pkg_of_judges/__init__.py", "pkg_of_judges/one.py", "pkg_of_judges/deep/two.py"):
        Path(name).parent.mkdir(exist_ok=True, parents=True)
        Path(name).write_text("")
    before = content("pkg_of_judges.one:reward")
    Path("pkg_of_judges/deep/two.py").write_text("x = 1\n")
    assert before is not None
    assert content("pkg_of_judges.one:reward") not in (None, before)


def test_a_reward_model_is_its_weights_its_config_and_its_tokenizer(tmp_path: Path) -> None:
    def found() -> str | None:
        return read_content(Source("reward model", str(tmp_path)))

    seen = set()
    for name, text in (
        ("config.json", "{}"),
        ("model.safetensors", "w"),
        ("tokenizer.json", "t"),
        ("config.json", "[]"),
    ):
        (tmp_path / name).write_text(text)
        seen.add(found())
    assert len(seen) == 4
    (tmp_path / "README.md").write_text("moved")
    assert found() in seen


def test_the_plan_tells_what_a_changed_judge_measures_again(folder: Folder) -> None:
    folder.run(LONG_IS_GOOD)
    again = "finished runs would be measured again, by evaluator-3 and function short:reward."
    assert "measured again" not in folder.call("plan").stdout
    (folder.path / "short.py").write_text(LONG_IS_BAD)
    assert f"6 {again}" in folder.call("plan").stdout
    folder.run(LONG_IS_BAD)
    assert "measured again" not in folder.call("plan").stdout
