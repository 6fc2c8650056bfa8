"""Stores that users have: what format 1 recorded is read, exported and not trained again.

`tests/stores/format-1.tar.xz` is the working folder of six small studies, as the last version of format 1 (commit
5c57d47) left it: study files, pairs, both databases, run folders, and the table of each study in JSON. The folder
`model` that two of them train is a copy of the embedded model and was left out.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from trainers.interface import TRAINERS
from trainers.world.paths import model_path

Sweeper = Callable[..., Any]
STORE = Path(__file__).parents[2] / "stores" / "format-1.tar.xz"
STUDIES = ("formula", "adaptive", "joint", "embedded", "local", "judged")
RUNS = {"formula": 36, "adaptive": 8, "joint": 6, "embedded": 4, "local": 4, "judged": 2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "sweeps"
    with tarfile.open(STORE) as archive:
        archive.extractall(place, filter="data")
    shutil.copytree(model_path(), place / "model")
    return place


@pytest.fixture
def trained_by_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is trained anew: for that it is, and not for its numbers."""
    monkeypatch.setitem(TRAINERS, "dpo", TRAINERS["formula"])


def run(sweeper: Sweeper, folder: Path, study: str, *options: str) -> Any:
    return sweeper(folder, "run", f"{study}.yaml", "--executor", "inline", *options)


def numbers(table: str) -> list[Any]:
    """What a table in JSON says of each stratum."""
    rows = json.loads(table)["rows"]
    return [
        (r["variant"], r["scenario"], r["trials_done"], r["best"] and r["best"]["estimate"], r["kl"], r["knobs"])
        for r in rows
    ]


def tags(folder: Path, key: str) -> list[str]:
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        return [value for (value,) in database.execute("select value from tags where key = ?", (key,))]


@pytest.mark.parametrize("study", STUDIES)
def test_the_table_is_the_one_of_then_before_and_after_a_run_that_trains_nothing(
    sweeper: Sweeper, folder: Path, study: str
) -> None:
    then = numbers((folder / f"{study}.table.json").read_text())
    assert numbers(sweeper(folder, "table", f"{study}.yaml", "--format", "json").stdout) == then
    for _ in range(2):
        ended = run(sweeper, folder, study)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert f"0 runs trained, {RUNS[study]} were there already" in ended.stdout
    assert numbers(sweeper(folder, "table", f"{study}.yaml", "--format", "json").stdout) == then
    assert tags(folder, "superseded") == []


def test_what_format_1_did_not_record_is_told_once(sweeper: Sweeper, folder: Path) -> None:
    first, second = run(sweeper, folder, "local"), run(sweeper, folder, "local")
    assert "4 runs of an earlier version of sweeper are taken over. What model model and tokenizer" in first.stdout
    assert "taken over" not in second.stdout
    assert "taken over" not in run(sweeper, folder, "embedded").stdout  # which ships with the project


@pytest.mark.usefixtures("trained_by_the_formula")
def test_strict_leaves_behind_what_cannot_be_checked_and_stays_so(sweeper: Sweeper, folder: Path) -> None:
    refused = run(sweeper, folder, "local", "--strict")
    assert refused.returncode == 2
    assert "4 finished runs would be left behind" in refused.stderr
    assert "not what model model and tokenizer model held" in refused.stderr
    assert "0 runs trained" in run(sweeper, folder, "embedded", "--strict").stdout
    trained = run(sweeper, folder, "local", "--strict", "--yes")
    assert "4 runs trained, 0 were there already" in trained.stdout
    assert "0 runs trained, 4 were there already" in run(sweeper, folder, "local").stdout


@pytest.mark.usefixtures("trained_by_the_formula")
def test_a_model_that_changes_after_its_runs_were_taken_over_leaves_them_behind(sweeper: Sweeper, folder: Path) -> None:
    run(sweeper, folder, "local")
    weights = bytearray((folder / "model" / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model" / "model.safetensors").write_bytes(weights)
    refused = run(sweeper, folder, "local")
    assert "4 finished runs would be left behind: model changed in model since" in refused.stderr
    assert "4 runs trained, 0 were there already" in run(sweeper, folder, "local", "--yes").stdout


@pytest.mark.parametrize("low", ["0.0001", "0.06"])
def test_runs_of_another_range_are_left_behind(sweeper: Sweeper, folder: Path, low: str) -> None:
    study = folder / "formula.yaml"
    study.write_text(study.read_text().replace("low: 0.05", f"low: {low}"))
    assert "36 finished runs would be left behind" in sweeper(folder, "plan", "formula.yaml").stdout


def test_runs_of_another_sampler_are_left_behind(sweeper: Sweeper, folder: Path) -> None:
    for study, old, new, runs in (
        ("formula", "budget:", "sampler_seed: 7\nbudget:", 36),
        ("adaptive", "sampler: tpe", "sampler: random", 8),
    ):
        file = folder / f"{study}.yaml"
        file.write_text(file.read_text().replace(old, new))
        assert f"{runs} finished runs would be left behind" in sweeper(folder, "plan", f"{study}.yaml").stdout


def test_pairs_that_changed_since_are_told_and_neither_trained_nor_exported(sweeper: Sweeper, folder: Path) -> None:
    pairs = folder / "pairs.jsonl"
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    swapped = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in swapped))
    exported = sweeper(folder, "export", "local.yaml")
    assert exported.returncode == 2
    assert "data changed in pairs.jsonl since" in exported.stderr
    assert not list(folder.glob("best*"))
    assert "4 finished runs would be left behind: data changed in pairs.jsonl since" in (
        sweeper(folder, "plan", "local.yaml").stdout
    )
    refused = run(sweeper, folder, "local")
    assert refused.returncode == 2
    assert "data changed in pairs.jsonl since" in refused.stderr
    assert "--yes" in refused.stderr


@pytest.mark.slow
def test_a_lost_optuna_db_costs_no_run(sweeper: Sweeper, folder: Path) -> None:
    (folder / "optuna.db").unlink()
    shutil.rmtree(folder / "runs" / "adaptive")
    for study in ("formula", "adaptive", "joint"):
        assert f"0 runs trained, {RUNS[study]} were there already" in run(sweeper, folder, study).stdout


def test_a_lost_mlflow_db_costs_no_run_either(sweeper: Sweeper, folder: Path, empty_mlflow: Path) -> None:
    then = numbers((folder / "local.table.json").read_text())
    shutil.copyfile(empty_mlflow, folder / "mlflow.db")
    ended = run(sweeper, folder, "local")
    assert "0 runs trained, 4 were there already" in ended.stdout
    assert numbers(sweeper(folder, "table", "local.yaml", "--format", "json").stdout) == then
    assert sweeper(folder, "export", "local.yaml").returncode == 0


def test_the_export_of_an_old_run_is_what_it_trained_on(sweeper: Sweeper, folder: Path) -> None:
    result = json.loads(next((folder / "runs" / "local").glob("*/result.json")).read_text())
    exported = sweeper(folder, "export", "local.yaml")
    assert exported.returncode == 0, exported.stderr
    assert f"data digest {result['facts']['digest']}" in (folder / "best.yaml").read_text()


ADAPTIVE_RANGE = ("beta: {low: 0.05", "beta: {low: 0.01")


def edit(folder: Path, study: str, old: str, new: str) -> None:
    file = folder / f"{study}.yaml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("study", "old", "new"),
    [
        ("adaptive", *ADAPTIVE_RANGE),  # a range that holds all that was tried
        pytest.param("joint", *ADAPTIVE_RANGE, marks=pytest.mark.slow),
        ("joint", "at: [0.5]", "at: [0.25]"),
        pytest.param("joint", "eta: 3", "eta: 2", marks=pytest.mark.slow),
        pytest.param("joint", "rungs: {at: [0.5], eta: 3}\n", "", marks=pytest.mark.slow),
        pytest.param("adaptive", "sampler: tpe", "sampler: tpe\nsampler_seed: 7", marks=pytest.mark.slow),
    ],
)
def test_what_was_asked_before_an_edit_is_left_behind_by_plan_table_and_run_and_comes_back_with_the_file(
    sweeper: Sweeper, folder: Path, study: str, old: str, new: str
) -> None:
    then = numbers((folder / f"{study}.table.json").read_text())
    edit(folder, study, old, new)
    assert f"{RUNS[study]} finished runs would be left behind" in sweeper(folder, "plan", f"{study}.yaml").stdout
    table = sweeper(folder, "table", f"{study}.yaml", "--format", "json").stdout
    assert {done for _, _, done, *_ in numbers(table)} == {0}
    assert run(sweeper, folder, study).returncode == 2
    ended = run(sweeper, folder, study, "--yes")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    if "eta" not in old:  # under other rungs the same points are trained the same, and are found in their folders
        assert f"{RUNS[study]} runs trained, 0 were there already" in ended.stdout
    edit(folder, study, new or "budget:", old if new else f"{old}budget:")
    assert f"0 runs trained, {RUNS[study]} were there already" in run(sweeper, folder, study).stdout
    assert numbers(sweeper(folder, "table", f"{study}.yaml", "--format", "json").stdout) == then


@pytest.mark.parametrize(
    ("study", "old", "new"),
    [
        ("adaptive", "budget:", "objective: {metric: ranking_gain, direction: maximize}\nbudget:"),
        ("joint", "budget:", "objective: {metric: kl, direction: minimize}\nbudget:"),
        ("joint", "budget:", "question: Which?\nbudget:"),
    ],
)
def test_an_edit_that_asks_the_same_keeps_the_runs_of_an_old_store(
    sweeper: Sweeper, folder: Path, study: str, old: str, new: str
) -> None:
    edit(folder, study, old, new)
    assert "left behind" not in sweeper(folder, "plan", f"{study}.yaml").stdout
    assert f"0 runs trained, {RUNS[study]} were there already" in run(sweeper, folder, study).stdout


def test_of_two_ranges_that_format_1_searched_each_keeps_its_own_trials(sweeper: Sweeper, folder: Path) -> None:
    """Format 1 put a stratum of another range aside under the context's name and searched on under its own."""
    then = numbers((folder / "adaptive.table.json").read_text())
    with closing(sqlite3.connect(folder / "optuna.db")) as database:
        for variant in ("sigmoid", "ipo"):
            name = f"adaptive/{variant}/clean"
            (context,) = database.execute(
                "select value_json from study_user_attributes join studies using (study_id) where study_name = ?",
                (name,),
            ).fetchone()
            aside = f"{name}@{json.loads(context)}"
            database.execute("update studies set study_name = ? where study_name = ?", (aside, name))
            made = database.execute("insert into studies (study_name) values (?)", (name,))
            database.execute(
                "insert into study_user_attributes (study_id, key, value_json) values (?, 'context', '\"0\"')",
                (made.lastrowid,),
            )
            (sibling,) = database.execute("select study_id from studies where study_name = ?", (aside,)).fetchone()
            database.execute(
                "insert into study_directions (direction, study_id, objective) "
                "select direction, ?, objective from study_directions where study_id = ?",
                (made.lastrowid, sibling),
            )
        # of one of the runs Optuna says that it was of the other range
        (trial,) = database.execute(
            "select trial_id from trials where number = 3 and study_id = ?", (sibling,)
        ).fetchone()
        database.execute("update trials set study_id = ?, number = 0 where trial_id = ?", (made.lastrowid, trial))
        database.commit()
    plan = sweeper(folder, "plan", "adaptive.yaml").stdout
    assert "7 of 8 runs done, 1 missing." in plan
    assert "1 finished run would be left behind" in plan
    edit(folder, "adaptive", *ADAPTIVE_RANGE)
    assert "8 finished runs would be left behind" in sweeper(folder, "plan", "adaptive.yaml").stdout
    edit(folder, "adaptive", *reversed(ADAPTIVE_RANGE))
    assert "1 run trained, 7 were there already" in run(sweeper, folder, "adaptive", "--yes").stdout
    now = numbers(sweeper(folder, "table", "adaptive.yaml", "--format", "json").stdout)
    assert [done for _, _, done, *_ in now] == [done for _, _, done, *_ in then]


def test_without_optuna_db_a_trial_that_a_range_holds_is_taken_for_one_of_it(sweeper: Sweeper, folder: Path) -> None:
    (folder / "optuna.db").unlink()
    edit(folder, "adaptive", *ADAPTIVE_RANGE)
    assert "left behind" not in sweeper(folder, "plan", "adaptive.yaml").stdout
    assert "0 runs trained, 8 were there already" in run(sweeper, folder, "adaptive").stdout
