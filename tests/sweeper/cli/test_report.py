"""`sweeper report` and what a sweep leaves with its MLflow run: the same page and pictures, from MLflow alone."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from dashboards.report.build import kinds_of_noise
from studies.spec import Scenario, StudySpec, Variant
from tests.sweeper.conftest import Sweeper

STUDY = """
study: small
question: Which of two?
trainer: formula
base: {model_name_or_path: embedded, use_peft: true, lora_r: 8, max_steps: 6}
variants: {sigmoid: {}, ipo: {space: {beta: {low: 0.1, high: 10}}}}
space: {beta: {low: 0.01, high: 1.0, log: true}, learning_rate: {values: [1.0e-6, 1.0e-5, 1.0e-4]}}
baseline: sigmoid
confirm: {blocks: [1, 2, 3]}
budget: {trials: 6}
objective: {metric: ranking_gain}
"""


REPLICATES = """
study: again
question: Which of two, with labels that err?
trainer: formula
base: {model_name_or_path: m, max_steps: 20}
data: {path: somewhere/data}
variants: {sigmoid: {}, hinge: {}}
space: {beta: {low: 0.05, high: 1.0, log: true}, learning_rate: {low: 1.0e-6, high: 1.0e-4, log: true}}
scenarios: {clean: {}, flips: {label_flip: 0.2}}
baseline: sigmoid
sampler: sobol
replicates: 3
evaluate: {at: [0.1, 0.15, 0.22, 0.33, 0.5, 0.75, 1.0]}
objective: {metric: ranking_gain, at_drift: 2.0}
budget: {trials: 2}
"""


@pytest.fixture(autouse=True)
def sweeps_end_without_a_page() -> None:
    """Here they end with it."""


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Path:
    """A folder in which the study was run."""
    from typer.testing import CliRunner

    from sweeper.cli.app import app

    folder = tmp_path_factory.mktemp("swept")
    (folder / "study.yaml").write_text(STUDY)
    shutil.copyfile(empty_mlflow, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert CliRunner().invoke(app, ["run", "study.yaml", "--executor", "inline"]).exit_code == 0
    return folder


def test_the_report_is_that_of_the_sweep_and_needs_nothing_but_mlflow(
    sweeper: Sweeper, swept: Path, tmp_path: Path
) -> None:
    for name in ("study.yaml", "mlflow.db"):
        shutil.copy(swept / name, tmp_path)
    made = sweeper(tmp_path, "report", "study.yaml", "--output", "page.html")
    assert made.returncode == 0
    assert made.stderr.startswith("note: The study 'small' in the MLflow store")  # a copy of it is somebody else's
    (kept,) = (swept / "mlartifacts").rglob("report.html")
    page = (tmp_path / "page.html").read_text()
    assert page == kept.read_text()
    for words in (
        "Which of two?",
        "vs sigmoid",
        "Learning curves",
        "Sensitivity to beta",
        "Which settings matter",
        "Time line",
    ):
        assert words in page, words
    assert {f.name for f in tmp_path.iterdir()} == {"study.yaml", "mlflow.db", "page.html"}


def test_the_figures_are_pictures_among_the_artifacts_of_the_sweeps_run(swept: Path) -> None:
    (parent,) = (table.parent for table in (swept / "mlartifacts").rglob("table.md"))
    pictures = {f.name: ElementTree.parse(f).getroot() for f in (parent / "figures").iterdir()}
    wanted = {"comparison.svg", "price.svg", "curves.svg", "sensitivity-beta.svg", "parallel.svg", "timeline.svg"}
    assert wanted <= pictures.keys()
    assert all(root.tag.endswith("svg") for root in pictures.values())


@pytest.mark.slow
def test_the_report_of_replicates_is_of_conditions_and_never_of_one_of_them(sweeper: Sweeper, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(REPLICATES)
    ended = sweeper(tmp_path, "run", "study.yaml", "--executor", "inline")
    assert (ended.returncode, ended.stderr) == (0, "")
    made = sweeper(tmp_path, "report", "study.yaml")
    assert (made.returncode, made.stderr) == (0, "")
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"(clean|flips)#\d", page)
    for words in (
        "clean: ",
        "flips: ",
        "The same for flips",
        "3 replicates: in each, every loss tries",
        "Each loss, clean: 2 rows",
        "along the training, at equal drift",
        "Robustness to label noise",
        "Sensitivity to beta",
    ):
        assert words in page, words
    (parent,) = (table.parent for table in (tmp_path / "mlartifacts").rglob("table.md"))
    pictures = {f.name for f in (parent / "figures").iterdir()}
    assert {
        "ranking.svg",
        "ranking-flips.svg",
        "gains.svg",
        "gains-flips.svg",
        "paths.svg",
        "noise.svg",
        "sensitivity-beta.svg",
    } <= pictures
    assert not {"comparison.svg", "price.svg", "profile.svg"} & pictures


def test_a_picture_that_cannot_be_drawn_costs_neither_the_table_nor_the_sweep(
    sweeper: Sweeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("no picture")

    monkeypatch.setattr("dashboards.report.build.figures", broken)
    (tmp_path / "study.yaml").write_text(STUDY.replace("trials: 6", "trials: 1"))
    ended = sweeper(tmp_path, "run", "study.yaml", "--executor", "inline")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "The report could not be made (ZeroDivisionError: no picture)" in ended.stdout
    assert len(list((tmp_path / "mlartifacts").rglob("table.csv"))) == 1
    assert not list((tmp_path / "mlartifacts").rglob("report.html"))


def test_a_kind_of_noise_has_only_scenarios_that_differ_in_nothing_else() -> None:
    scenarios = {
        "clean": Scenario(),
        "flips": Scenario(label_flip=0.2),
        "small": Scenario(rows=100),
        "better": Scenario(pairs_from="better"),
        "better-flips": Scenario(pairs_from="better", label_flip=0.4),
    }
    spec = StudySpec(study="s", base={}, variants={"sigmoid": Variant()}, scenarios=scenarios)
    assert kinds_of_noise(spec) == {
        "": {"clean": 0.0, "flips": 0.2},
        "pairs_from better": {"better": 0.0, "better-flips": 0.4},
    }


def test_without_a_store_or_a_place_the_report_is_refused(sweeper: Sweeper, swept: Path, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    refused = sweeper(tmp_path, "report", "study.yaml")
    assert refused.returncode == 2
    assert "There is no MLflow store" in refused.stderr
    assert [f.name for f in tmp_path.iterdir()] == ["study.yaml"]
    refused = sweeper(swept, "report", "study.yaml", "--output", "nowhere/page.html")
    assert refused.returncode == 2
    assert "nowhere/page.html: No such file" in refused.stderr
