"""Which recorded runs answer a study file, and what an edit, other data or a lost database cost."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

Sweeper = Callable[..., Any]
STUDY = """
study: asked
trainer: formula
base: {model_name_or_path: m, max_steps: 4}
data: {path: pairs.jsonl}
baseline: sigmoid
space: {beta: {low: 0.05, high: 1, log: true}, learning_rate: {low: 1.0e-6, high: 1.0e-4, log: true}}
variants: {sigmoid: {}, ipo: {}}
budget: {trials: 3}
"""


class Asked:
    """A study in a folder of its own, run and read by the command line."""

    def __init__(self, sweeper: Sweeper, folder: Path) -> None:
        self._sweeper, self.folder = sweeper, folder
        self.write(STUDY)
        self.pairs("a")

    def write(self, text: str) -> None:
        (self.folder / "study.yaml").write_text(text)

    def edit(self, old: str, new: str) -> None:
        text = (self.folder / "study.yaml").read_text()
        assert old in text
        self.write(text.replace(old, new))

    def pairs(self, chosen: str) -> None:
        row = {"prompt": "p", "chosen": chosen, "rejected": "r"}
        (self.folder / "pairs.jsonl").write_text(json.dumps(row) + "\n")

    def call(self, command: str, *options: str) -> Any:
        return self._sweeper(self.folder, command, "study.yaml", *options)

    def run(self, *options: str) -> str:
        """The last words of a sweep that came to its end."""
        ended = self.call("run", "--executor", "inline", *options)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return str(ended.stdout)

    def rows(self, *options: str) -> list[Any]:
        table = json.loads(self.call("table", "--format", "json", *options).stdout)
        return [(r["variant"], r["trials_done"], r["best"] and r["best"]["estimate"]["value"]) for r in table["rows"]]

    def superseded(self) -> int:
        with closing(sqlite3.connect(self.folder / "mlflow.db")) as database:
            return int(database.execute("select count(*) from tags where key = 'superseded'").fetchone()[0])


@pytest.fixture
def asked(sweeper: Sweeper, tmp_path: Path, empty_mlflow: Path) -> Asked:
    shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db")
    return Asked(sweeper, tmp_path)


def test_pairs_corrected_in_place_are_other_pairs(asked: Asked) -> None:
    asked.run()
    before = asked.rows()
    asked.pairs("b")
    refused = asked.call("run", "--executor", "inline")
    assert refused.returncode == 2
    assert "6 finished runs would be left behind: data changed in pairs.jsonl since (3 sigmoid, 3 ipo)." in (
        refused.stderr
    )
    assert asked.rows() == before  # nobody has asked for others yet
    assert "6 runs trained, 0 were there already" in asked.run("--yes")
    table = asked.call("table").stdout
    assert "6 finished runs left aside: data changed in pairs.jsonl since" in " ".join(table.split())
    asked.pairs("a")
    assert "0 runs trained, 6 were there already" in asked.run()
    assert asked.rows() == before
    assert asked.superseded() == 0


def test_pairs_that_were_written_again_or_moved_are_the_same(asked: Asked) -> None:
    asked.run()
    asked.pairs("a")  # another time of change
    assert "0 runs trained, 6 were there already" in asked.run()
    (asked.folder / "pairs.jsonl").rename(asked.folder / "moved.jsonl")
    asked.edit("pairs.jsonl", "moved.jsonl")
    assert "0 runs trained, 6 were there already" in asked.run()


def test_an_edit_that_leaves_runs_behind_is_told_by_every_command_before_anything_trains(asked: Asked) -> None:
    asked.run()
    before = asked.rows()
    for old, new in (
        ("low: 0.05", "low: 0.02"), ("budget:", "sampler_seed: 7\nbudget:"), ("max_steps: 4", "max_steps: 8")
    ):  # fmt: skip
        asked.write(STUDY)
        asked.edit(old, new)
        assert "6 finished runs would be left behind" in asked.call("plan").stdout
        assert asked.rows() == [("sigmoid", 0, None), ("ipo", 0, None)]
        for command in ("table", "status"):
            assert "6 finished runs left aside" in " ".join(asked.call(command).stdout.split())
        refused = asked.call("run", "--executor", "inline")
        assert refused.returncode == 2
        assert "--yes" in refused.stderr
    assert "6 runs trained, 0 were there already" in asked.run("--yes")
    asked.write(STUDY)
    assert "0 runs trained, 6 were there already" in asked.run()
    assert asked.rows() == before
    assert asked.superseded() == 0


def test_an_edit_that_extends_leaves_nothing_behind(asked: Asked) -> None:
    asked.run()
    there = 6
    for old, new, trained in (
        ("budget:", "question: Which?\nbudget:", 0),
        ("budget:", "objective: {metric: margin}\nbudget:", 0),
        ("trials: 3", "trials: 4", 2),
        ("ipo: {}", "ipo: {}, hinge: {}", 4),
        ("budget:", "runs: {blocks: [0, 1]}\nbudget:", 12),
    ):
        asked.edit(old, new)
        assert "left behind" not in asked.call("plan").stdout
        assert f"{trained} runs trained, {there} were there already" in asked.run()
        there += trained


def test_the_plan_counts_what_is_done_and_what_is_missing(asked: Asked) -> None:
    assert "runs done" not in asked.call("plan").stdout
    asked.run()
    asked.edit("trials: 3", "trials: 5")
    assert "6 of 10 runs done, 4 missing." in asked.call("plan").stdout


def test_a_setting_of_the_command_line_alone_shows_no_runs_of_another_question(asked: Asked) -> None:
    asked.run()
    assert asked.rows("--set", "base.max_steps=8") == [("sigmoid", 0, None), ("ipo", 0, None)]
    assert [done for _, done, _ in asked.rows()] == [3, 3]


def test_of_two_files_with_one_name_each_shows_its_own_runs(asked: Asked) -> None:
    asked.run()
    first = asked.rows()
    asked.edit("max_steps: 4", "max_steps: 8")
    asked.run("--yes")
    second = asked.rows()
    assert second != first
    asked.edit("max_steps: 8", "max_steps: 4")
    assert asked.rows() == first


@pytest.mark.parametrize("sampler", ["sobol", pytest.param("tpe", marks=pytest.mark.slow)])
def test_runs_are_taken_from_mlflow_where_optuna_db_and_the_run_folders_are_lost(asked: Asked, sampler: str) -> None:
    asked.edit("budget:", f"sampler: {sampler}\nconfirm: {{top: 1, blocks: [1, 2], seeds: [0]}}\nbudget:")
    asked.run()
    before = asked.rows()
    (asked.folder / "optuna.db").unlink()
    for place in (asked.folder / "runs" / "asked").iterdir():
        if place.is_dir():
            shutil.rmtree(place)
    assert "0 runs trained, 10 were there already" in asked.run()
    assert asked.rows() == before


def test_readers_look_at_no_data(asked: Asked) -> None:
    asked.run()
    before = asked.rows()
    (asked.folder / "pairs.jsonl").unlink()
    (asked.folder / "pairs.jsonl").mkdir()  # what is read as a file fails
    assert asked.rows() == before


SEARCH = STUDY.replace("study: asked", "study: asked\nmode: search").replace("trials: 3", "trials: 6")
UNTRIED = "hinge has no trial: the 6 trials of the search are spent on other variants."


@pytest.mark.slow
def test_a_variant_that_a_finished_search_gets_is_told_to_have_no_trial_and_gets_the_first_of_a_larger_budget(
    asked: Asked,
) -> None:
    asked.write(SEARCH)
    asked.run()
    for command in ("plan", "table", "status"):
        assert "has no trial" not in " ".join(asked.call(command).stdout.split())
    asked.edit("ipo: {}", "ipo: {}, hinge: {}")
    plan = asked.call("plan").stdout
    assert "6 of 6 runs done, 0 missing." in plan
    assert f"{UNTRIED} A larger budget.trials, such as 9, gives it some." in plan
    for command in ("table", "status"):
        assert UNTRIED in " ".join(asked.call(command).stdout.split())
    ended = asked.run()
    assert "0 runs trained, 6 were there already" in ended
    assert UNTRIED in " ".join(ended.split())
    asked.edit("trials: 6", "trials: 7")
    assert "6 of 7 runs done, 1 missing." in asked.call("plan").stdout
    ended = asked.run()
    assert "1 run trained, 6 were there already" in ended
    assert {variant: done for variant, done, _ in asked.rows()}["hinge"] == 1
    assert "has no trial" not in " ".join(asked.call("status").stdout.split())


@pytest.mark.parametrize(("old", "new"), [("max_steps: 4", "max_steps: 8"), ("low: 0.05", "low: 0.02")])
def test_of_two_changes_at_once_both_are_named(asked: Asked, old: str, new: str) -> None:
    asked.run()
    asked.pairs("b")
    asked.edit(old, new)
    both = (
        "6 finished runs would be left behind: data changed in pairs.jsonl since, and settings, space, sampler or "
        "evaluation of the study file are others now (3 sigmoid, 3 ipo)."
    )
    assert both in asked.call("plan").stdout
    assert both in asked.call("run", "--executor", "inline").stderr
    asked.edit(new, old)
    assert "data changed in pairs.jsonl since (3 sigmoid, 3 ipo)." in asked.call("plan").stdout
