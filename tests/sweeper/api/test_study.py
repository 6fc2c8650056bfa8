"""A study in Python: loaded, planned, read; what is wrong with it is one exception."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import sweeper as api
from studies.design.identity import asked_of_files
from studies.spec import Study, load_study
from sweeper.folder.standing import standing
from sweeper.folder.steering.border import Border
from sweeper.tracking.experiment.new_store import make_store
from tests.sweeper.conftest import Sweeper

ROOT = Path(__file__).parents[3]
STUDY = {
    "study": "small",
    "question": "Is <b> as good?",
    "trainer": "formula",
    "base": {"model_name_or_path": "m", "max_steps": 20, "learning_rate": 1.0e-5},
    "data": {"path": "somewhere/data"},
    "baseline": "sigmoid",
    "variants": {"sigmoid": {}, "hinge": {}},
    "space": {"beta": {"low": 0.05, "high": 1.0, "log": True}},
    "replicates": 3,
    "evaluate": {"at": [0.1, 0.2, 0.5, 1.0]},
    "objective": {"metric": "ranking_gain", "at_drift": 2.0},
    "budget": {"trials": 2},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("swept")


@pytest.fixture
def swept(sweeper: Sweeper, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a study that the first test which asks for it has swept."""
    if not (folder / "study.yaml").exists():
        (folder / "study.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
        assert sweeper(folder, "run", "study.yaml", "--executor", "inline").returncode == 0
    monkeypatch.chdir(folder)
    return folder


def without_age(text: str) -> str:
    """A status without how long ago its sweep was heard of."""
    return re.sub(r"\S+ s ago", "", text)


def test_importing_sweeper_loads_nothing_that_takes_long() -> None:
    heavy = ("torch", "pandas", "mlflow", "optuna", "typer", "pydantic", "numpy")
    code = f"import sys, sweeper; print([m for m in {heavy} if m in sys.modules], 'load' in dir(sweeper))"
    found = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[] True\n"
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        api.lod  # noqa: B018


def test_loading_and_reading_a_study_loads_no_torch() -> None:
    code = (
        "import sys, sweeper\n"
        "study = sweeper.load('guide-binary', records='studies/results/guide-binary/records.jsonl.gz')\n"
        "study.answer(), study.results()\n"
        "print([m for m in ('torch', 'datasets', 'transformers', 'matplotlib') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-P", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_a_file_and_a_mapping_and_changed_keys_are_the_same_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text(yaml.safe_dump({**STUDY, "budget": {"trials": 5}}, sort_keys=False))
    by_file = api.load("study.yaml", set={"budget.trials": 2})
    by_mapping = api.load({**STUDY, "base": {**STUDY["base"], "learning_rate": 1e-05}})  # type: ignore[dict-item]
    assert by_file == by_mapping
    assert (by_file.variants, by_file.conditions) == (("sigmoid", "hinge"), ("clean",))
    assert str(by_file.plan()) == str(by_mapping.plan())
    changed = {"space.beta": {"values": [0.1, 0.2]}, "base.learning_rate": 1e-06, "base.max_steps": 7}
    assert "learning_rate=1e-06" in str(api.load(STUDY, set=changed).plan())


def test_results_are_a_row_a_run(swept: Path) -> None:
    study = api.load("study.yaml")
    runs = study.results()
    assert len(runs) == 18
    assert runs.superseded.sum() == 0
    assert set(runs.condition) == {"clean"}
    assert sorted(runs.replicate.unique()) == [1, 2, 3]
    assert set(runs.phase) == {"unbiased", "confirm"}
    assert {"task", "block", "seed", "evaluator", "state", "cause", "trial", "beta", "ranking_gain"} <= set(runs)
    assert runs.beta.between(0.05, 1.0).all()
    assert runs.ranking_gain.notna().all()
    other = api.load("study.yaml", set={"space.beta.high": 0.5}).results()
    assert other.superseded.all()
    assert set(other.superseded_because) == {"settings, space, sampler or evaluation of the study file are others now"}


def test_what_the_commands_print_and_python_has_are_the_same(sweeper: Sweeper, swept: Path) -> None:
    study = api.load("study.yaml")
    assert without_age(str(study.status())) == without_age(sweeper(swept, "status", "study.yaml").stdout)
    assert str(study.plan()) == sweeper(swept, "plan", "study.yaml").stdout
    assert study.status().running is False
    assert (study.status().planned, study.status().missing, study.plan().missing) == (18, 0, 0)
    said = study.answer()
    assert " ".join(str(said).split()) in " ".join(sweeper(swept, "table", "study.yaml").stdout.split())
    assert str(said) in study._repr_html_()
    assert "Is &lt;b&gt; as good?" in study._repr_html_()


@pytest.mark.slow
def test_what_is_recorded_is_read_from_a_file_too(sweeper: Sweeper, swept: Path) -> None:
    assert sweeper(swept, "records", "study.yaml").returncode == 0
    stored, recorded = api.load("study.yaml"), api.load("study.yaml", records="records.jsonl.gz")
    assert recorded.table().round(5).equals(stored.table().round(5))
    assert str(recorded.answer()) == str(stored.answer())
    assert recorded.figures["gains"].svg.startswith("<?xml")
    assert recorded.figures["gains"].save("gains.svg").read_text() == recorded.figures["gains"].svg
    assert set(recorded.figures) <= set(stored.figures), "the file has no curves of the training"
    with pytest.raises(api.Refused, match="run: the study is read from a file of records"):
        recorded.run()
    with pytest.raises(api.Refused, match="are of the study 'small', and 'quickstart' is asked for"):
        api.load("quickstart", records="records.jsonl.gz")


def test_best_names_the_settings_of_the_answer_or_of_a_loss(swept: Path) -> None:
    study = api.load("study.yaml")
    assert study.best("hinge").variant == "hinge"
    assert study.best("hinge").settings.keys() == {"beta"}
    with pytest.raises(api.Refused, match="the study has no such variant; it has sigmoid, hinge"):
        study.best("hing")
    said = study.answer()
    assert (said.use, said.start) == (None, "sigmoid")  # ranking_gain is too weak to name one
    assert study.best().variant == "sigmoid"


REFUSED: dict[str, Callable[[], Any]] = {
    "did you mean quickstart": lambda: api.load("quickstar"),
    "did you mean sigmoid": lambda: api.load({**STUDY, "variants": {"sigmoi": {}}}),
    "budget.trials": lambda: api.load(STUDY, set={"budget.trials": -1}),
    "there is no such place": lambda: api.load(STUDY, set={"study.x": 1}),
    "holds what no study file can": lambda: api.load({**STUDY, "question": object()}),
    "nowhere.gz": lambda: api.load(STUDY, records="nowhere.gz"),
    "no MLflow store": lambda: api.load(STUDY).status(),
    "There is no MLflow store": lambda: api.load(STUDY).answer(),
    "there is no such executor": lambda: api.load(STUDY).run(executor="cloud"),
    "workers: 0 must be 1 or more": lambda: api.load(STUDY).run(workers=0),
    'must be "detach" or "stop"': lambda: api.load(STUDY).run(on_interrupt="ignore"),
    "Nobody runs this study now": lambda: api.load(STUDY).stop(),
    "name one": lambda: api.load({**STUDY, "scenarios": {"a": {}, "b": {"rows": 64}}}).answer(),
    "There is no MLflow": lambda: api.load(STUDY).export("best.yaml"),
}


@pytest.mark.parametrize("told", REFUSED)
def test_what_cannot_be_done_raises_one_exception_and_makes_nothing(
    told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(api.Refused) as refused:
        REFUSED[told]()
    assert any(told in problem for problem in refused.value.problems)
    assert str(refused.value) == "\n".join(refused.value.problems)
    assert refused.value.__cause__ is None
    assert list(tmp_path.iterdir()) == []


def test_no_secret_of_a_mapping_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base = {**STUDY["base"], "hub_token": "kh81-secret-0f3c"}  # type: ignore[dict-item]
    with pytest.raises(api.Refused) as refused:
        api.load({**STUDY, "base": {**base, "learning_rate": "kh81-secret-0f3c"}})
    assert "kh81-secret-0f3c" not in str(refused.value)


@pytest.mark.slow
def test_a_mapping_is_swept_in_a_process_of_its_own_and_known_to_the_commands(
    sweeper: Sweeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_store(f"sqlite:///{tmp_path}/mlflow.db")
    study = api.load({**STUDY, "replicates": None}, set={"budget.trials": 1})
    ended = study.run(executor="inline")
    assert (ended.planned, ended.missing, ended.running) == (2, 0, False)
    said = capsys.readouterr().out
    found = standing(tmp_path / "runs" / "small")
    assert found is not None
    assert f"Sweep {found.sweep} runs as process {found.beat.process}" in said
    by_command = sweeper(tmp_path, "status", "runs/small/asked.yaml")
    assert without_age(by_command.stdout) == without_age(str(study.status()))


def test_run_attaches_only_to_a_sweep_that_asks_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    running, runs = Study.of(load_study("study.yaml", (), yaml.safe_dump(STUDY))), tmp_path / "runs" / "small"
    runs.mkdir(parents=True)
    with Border(runs, running, print), pytest.raises(api.Refused, match="asks something else"):
        api.load(STUDY, set={"base.max_steps": 30}).run(executor="inline")
    assert asked_of_files(running) == asked_of_files(running.holding({"x": "sha256:1"}))
    few, more = (Study.of(load_study("quickstart", [f"replicates={n}"])) for n in (2, 4))
    assert asked_of_files(few) == asked_of_files(more) != asked_of_files(running)
