"""Whose a study is, with real Optuna storages, runs folders and MLflow stores."""

from __future__ import annotations

import itertools
import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient

from dashboards.store import sqlite_runs
from dashboards.store.connection import StoreError
from dashboards.store.mlflow_tags import SUPERSEDED
from dashboards.store.records import load_records
from studies.records.format import FORMAT
from studies.spec import load_study
from sweeper.folder.names import MARK_FILE
from sweeper.ownership.owner import Found, Mark, Survey, Whose, whose
from sweeper.tracking.tracker import Tracker
from tests.sweeper.conftest import SweptOnce

Sweeper = Callable[..., Any]
STUDY = """
study: small
trainer: formula
base: {model_name_or_path: embedded, use_peft: true, lora_r: 8, max_steps: 4}
variants: {ipo: {}}
space: {beta: {low: 0.01, high: 1.0, log: true}}
budget: {trials: 2}
objective: {metric: ranking_gain}
"""
RUN = ("run", "study.yaml", "--executor", "inline")


def mark(name: str) -> Mark:
    return Mark(name, "alice@there", "/work", str(FORMAT), "1.0")


KEYS, OTHERS = frozenset({"k1", "k2"}), frozenset({"k3"})
OPTUNA = {"": Found(), "old": Found(holds=frozenset({"small/ipo/clean"})), "A": Found(mark("A")), "B": Found(mark("B"))}
FOLDER = OPTUNA | {"old": Found(holds=KEYS), "other": Found(holds=OTHERS), "A": Found(mark("A"), KEYS)}
MLFLOW = {"": Found(), "old": Found(holds=KEYS), "A": Found(mark("A"), KEYS), "C": Found(mark("C"), OTHERS)}
CASES = list(itertools.product(OPTUNA, FOLDER, MLFLOW, (False, True)))


def decided(optuna: str, folder: str, mlflow: str, private: bool) -> Whose:
    return whose(Survey(OPTUNA[optuna], FOLDER[folder], MLFLOW[mlflow], private))


def test_two_ids_in_our_own_places_are_two_studies() -> None:
    found = {decided(o, f, m, p) for o, f, m, p in CASES if {o, f} == {"A", "B"}}
    assert found == {Whose.FOREIGN}


def test_the_id_of_one_of_our_own_places_makes_a_study_in_mlflow_ours() -> None:
    found = {decided(o, f, m, p) for o, f, m, p in CASES if m == "A" and "A" in (o, f) and "B" not in (o, f)}
    assert found == {Whose.OURS}


def test_another_id_in_mlflow_is_somebody_elses() -> None:
    ids = {"A", "B"}
    found = {decided(o, f, m, p) for o, f, m, p in CASES if m == "C" and (ids & {o, f} or not p)}
    assert found == {Whose.FOREIGN}


def test_a_store_in_the_working_folder_that_was_recorded_there_is_ours_when_both_others_are_lost() -> None:
    assert decided("", "", "C", True) is Whose.OURS
    assert decided("", "", "C", False) is Whose.FOREIGN


def test_a_study_is_new_only_where_no_place_knows_it() -> None:
    new = [(o, f, m) for o, f, m, p in CASES if decided(o, f, m, p) is Whose.NEW]
    assert set(new) == {("", "", "")}


def test_a_store_that_is_lost_or_new_gets_our_id() -> None:
    known = [(o, f) for o, f, *_ in CASES if (o or f) and {o, f} != {"A", "B"}]
    assert {decided(o, f, "", False) for o, f in known} == {Whose.OURS}


@pytest.mark.parametrize(
    ("optuna", "folder", "answer"),
    [
        ("", "", Whose.FOREIGN),
        ("old", "", Whose.OURS),
        ("A", "", Whose.OURS),  # killed before the id was in MLflow
        ("", "old", Whose.OURS),
        ("", "A", Whose.OURS),
        ("old", "old", Whose.OURS),
        ("", "other", Whose.FOREIGN),  # its runs are none of these
        ("old", "other", Whose.FOREIGN),
        ("A", "other", Whose.FOREIGN),
    ],
)
def test_runs_of_an_earlier_version_are_ours_where_optuna_or_the_folder_has_them(
    optuna: str, folder: str, answer: Whose
) -> None:
    assert decided(optuna, folder, "old", False) is answer


# What follows has two people, each with a folder, and one MLflow store.


@pytest.fixture
def shared(empty_mlflow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    shutil.copyfile(empty_mlflow, tmp_path / "shared.db")
    uri = f"sqlite:///{tmp_path}/shared.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("LOGNAME", "bob k.")
    for name, steps in (("alice", 4), ("bob", 6), ("eve", 8)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "study.yaml").write_text(STUDY.replace("max_steps: 4", f"max_steps: {steps}"))
    return uri


def ids(folder: Path, uri: str) -> set[str]:
    """The ids that the three places have."""
    url = f"sqlite:///{folder}/optuna.db"
    kept = optuna.load_study(study_name="small/sweep", storage=url).user_attrs["mark"]["id"]
    here = json.loads((folder / "runs" / "small" / MARK_FILE).read_text())["id"]
    return {kept, here, tags(uri)["sweeper.id"]}


def tags(uri: str) -> dict[str, str]:
    found: dict[str, str] = MlflowClient(uri).get_experiment_by_name("small").tags
    return found


def remedy(stderr: str) -> list[str]:
    """The command that a refusal gives, without `sweeper`."""
    return shlex.split(stderr.strip().rpartition("name of its own: ")[2])[1:]


def test_a_study_of_somebody_else_is_refused_before_anything_is_written(
    sweeper: Sweeper, shared: str, tmp_path: Path
) -> None:
    alice, bob, eve = (tmp_path / name for name in ("alice", "bob", "eve"))
    assert sweeper(alice, *RUN).returncode == 0
    before = [r.run_id for r in load_records(shared, "small")]
    refused = sweeper(bob, *RUN, "--workers", "3")
    assert refused.returncode == 2, refused.stdout
    assert f"in {alice}, last heard of 2" in refused.stderr
    assert [file.name for file in bob.iterdir()] == ["study.yaml"]
    assert [r.run_id for r in load_records(shared, "small")] == before
    experiment = MlflowClient(shared).get_experiment_by_name("small").experiment_id
    assert not [r for r in MlflowClient(shared).search_runs([experiment]) if SUPERSEDED in r.data.tags]

    command = remedy(refused.stderr)
    assert command == [*RUN, "--workers", "3", "--set", "study=small-bob-k."]
    for trained in (2, 0):  # it works as it stands, and goes on with its own
        ran = sweeper(bob, *command)
        assert ran.returncode == 0, ran.stderr
        assert f"{trained} runs trained" in ran.stdout
    assert remedy(sweeper(bob, *RUN).stderr)[-1] == "study=small-bob-k."
    assert remedy(sweeper(eve, *RUN).stderr)[-1] == "study=small-bob-k.-2", "the first name is taken"


def test_a_study_of_somebody_else_is_read_and_not_written(sweeper: Sweeper, shared: str, tmp_path: Path) -> None:
    assert sweeper(tmp_path / "alice", *RUN).returncode == 0
    for verb in (["table", "study.yaml"], ["status", "study.yaml"]):
        assert sweeper(tmp_path / "bob", *verb).returncode == 0
    refused = sweeper(tmp_path / "bob", "retry", "study.yaml", "--cause", "worker_lost", "--cause", "collapsed")
    assert refused.returncode == 2, refused.stdout
    assert remedy(refused.stderr) == [
        *("retry", "study.yaml", "--cause", "worker_lost", "--cause", "collapsed", "--set", "study=small-bob-k.")
    ]
    judged = sweeper(tmp_path / "bob", "evaluate", "study.yaml", "--only-best", "--set", "trainer=dpo")
    assert judged.returncode == 2
    assert remedy(judged.stderr)[-1] == "study=small-bob-k."
    assert [file.name for file in (tmp_path / "bob").iterdir()] == ["study.yaml"]


@pytest.mark.parametrize(
    "lost", [pytest.param("o", marks=pytest.mark.slow), "f", "m", "om", pytest.param("fm", marks=pytest.mark.slow)]
)
def test_the_id_survives_the_loss_of_any_but_the_last_place_that_makes_it_ours(
    sweeper: Sweeper, shared: str, tmp_path: Path, empty_mlflow: Path, lost: str
) -> None:
    alice = tmp_path / "alice"
    assert sweeper(alice, *RUN).returncode == 0
    before = ids(alice, shared)
    assert len(before) == 1
    if "o" in lost:
        for file in alice.glob("optuna.db*"):
            file.unlink()
    if "f" in lost:
        shutil.rmtree(alice / "runs")
    if "m" in lost:
        client = MlflowClient(shared)
        client.rename_experiment(client.get_experiment_by_name("small").experiment_id, "gone")
    again = sweeper(alice, *RUN)
    assert again.returncode == 0, again.stderr
    assert ids(alice, shared) == before


def test_with_both_of_our_own_places_lost_a_shared_study_is_nobodys_to_take(
    sweeper: Sweeper, shared: str, tmp_path: Path
) -> None:
    alice = tmp_path / "alice"
    assert sweeper(alice, *RUN).returncode == 0
    shutil.move(alice, tmp_path / "away")
    alice.mkdir()
    shutil.copyfile(tmp_path / "bob" / "study.yaml", alice / "study.yaml")
    assert sweeper(alice, *RUN).returncode == 2
    moved = sweeper(tmp_path / "away", *RUN)  # the folder took its id along
    assert moved.returncode == 0, moved.stderr
    assert "0 runs trained" in moved.stdout
    assert tags(shared)["sweeper.folder"] == str(tmp_path / "away")


def test_a_store_of_ones_own_goes_on_when_optuna_and_the_runs_folder_are_gone(
    sweeper: Sweeper, tmp_path: Path, empty_mlflow: Path
) -> None:
    shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db")
    (tmp_path / "study.yaml").write_text(STUDY)
    assert sweeper(tmp_path, *RUN).returncode == 0
    before = tags(f"sqlite:///{tmp_path}/mlflow.db")["sweeper.id"]
    (tmp_path / "optuna.db").unlink()
    shutil.rmtree(tmp_path / "runs")
    again = sweeper(tmp_path, *RUN)
    assert again.returncode == 0, again.stderr
    assert ids(tmp_path, f"sqlite:///{tmp_path}/mlflow.db") == {before}


def test_a_deleted_study_is_its_owners_to_restore(sweeper: Sweeper, shared: str, tmp_path: Path) -> None:
    assert sweeper(tmp_path / "alice", *RUN).returncode == 0
    client = MlflowClient(shared)
    client.delete_experiment(client.get_experiment_by_name("small").experiment_id)
    assert sweeper(tmp_path / "bob", *RUN).returncode == 2
    assert client.get_experiment_by_name("small").lifecycle_stage == "deleted"
    assert "0 runs trained" in sweeper(tmp_path / "alice", *RUN).stdout


def test_two_storages_of_one_name_are_not_mixed(
    sweeper: Sweeper, shared: str, tmp_path: Path, empty_mlflow: Path
) -> None:
    alice, bob = tmp_path / "alice", tmp_path / "bob"
    shutil.copyfile(empty_mlflow, bob / "mlflow.db")
    assert sweeper(alice, *RUN).returncode == 0
    private = [*RUN, "--storage", f"sqlite:///{alice}/optuna.db"]
    with pytest.MonkeyPatch.context() as own:
        own.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{bob}/mlflow.db")
        assert sweeper(bob, *RUN).returncode == 0
        refused = sweeper(bob, *private)
    assert refused.returncode == 2, refused.stdout
    assert f"of {tags(shared)['sweeper.owner']} in {alice}, and" in refused.stderr
    assert remedy(refused.stderr)[-1] == "study=small-bob-k."


@pytest.mark.parametrize("place", ["write_mark", "claim"])
def test_a_kill_between_the_places_is_mended_by_the_next_sweep(
    sweeper: Sweeper, shared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        if place == "claim":
            broken.setattr(Tracker, "claim", killed)
        else:
            broken.setattr("sweeper.ownership.owner.os.replace", killed)
        assert sweeper(tmp_path / "alice", *RUN).returncode == 1
    assert sweeper(tmp_path / "alice", *RUN).returncode == 0
    assert len(ids(tmp_path / "alice", shared)) == 1


def forget(folder: Path, uri: str) -> None:
    """Make of a study what an earlier version left."""
    optuna.delete_study(study_name="small/sweep", storage=f"sqlite:///{folder}/optuna.db")
    (folder / "runs" / "small" / MARK_FILE).unlink()
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("small")
    for name in experiment.tags:
        if name.startswith("sweeper."):
            client.delete_experiment_tag(experiment.experiment_id, name)


def test_a_study_of_an_earlier_version_goes_on_where_it_was_recorded_and_nowhere_else(
    sweeper: Sweeper, shared: str, tmp_path: Path, empty_mlflow: Path
) -> None:
    alice, bob = tmp_path / "alice", tmp_path / "bob"
    shutil.copyfile(empty_mlflow, bob / "mlflow.db")
    with pytest.MonkeyPatch.context() as own:  # bob has a study of this name, in a store of his own
        own.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{bob}/mlflow.db")
        assert sweeper(bob, *RUN).returncode == 0
        forget(bob, f"sqlite:///{bob}/mlflow.db")
    assert sweeper(alice, *RUN).returncode == 0
    forget(alice, shared)
    for name in ("bob", "eve"):
        refused = sweeper(tmp_path / name, *RUN)
        assert refused.returncode == 2, refused.stdout
        assert "earlier version" in refused.stderr
    again = sweeper(alice, *RUN)
    assert again.returncode == 0, again.stderr
    assert "0 runs trained, 2 were there" in again.stdout
    assert len(ids(alice, shared)) == 1


def test_who_makes_the_experiment_first_has_it(shared: str, tmp_path: Path) -> None:
    spec = load_study(tmp_path / "alice" / "study.yaml")
    first, second = (Tracker(shared, tmp_path / name) for name in ("alice", "bob"))
    assert first.claim(spec, asdict(mark("A")))
    assert not second.claim(spec, asdict(mark("B")))
    assert tags(shared)["sweeper.id"] == "A"
    assert first.claim(spec, asdict(mark("A")))


# Formats.


@pytest.mark.parametrize("verb", [["table"], ["status"], ["report"], ["export"], ["retry"], ["run"]])
def test_a_study_in_a_newer_format_is_refused_by_every_command_that_reads_or_writes_it(
    sweeper: Sweeper, tmp_path: Path, recorded: Path, verb: list[str]
) -> None:
    shutil.copytree(recorded, tmp_path, dirs_exist_ok=True)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("small")
    assert experiment.tags["sweeper.format"] == "2"
    for name, text in (("format", "3"), ("version", "9.1")):
        client.set_experiment_tag(experiment.experiment_id, f"sweeper.{name}", text)
    refused = sweeper(tmp_path, *verb, "study.yaml")
    assert refused.returncode == 2, refused.stdout
    assert "'small'" in refused.stderr
    assert f"{tmp_path}/mlflow.db is in format 3, written by sweeper 9.1" in refused.stderr
    assert "upgrade" in refused.stderr


def test_an_optuna_storage_in_a_newer_format_is_refused(sweeper: Sweeper, tmp_path: Path, recorded: Path) -> None:
    shutil.copytree(recorded, tmp_path, dirs_exist_ok=True)
    kept = optuna.load_study(study_name="small/sweep", storage=f"sqlite:///{tmp_path}/optuna.db")
    kept.set_user_attr("mark", kept.user_attrs["mark"] | {"format": "3", "version": "9.1"})
    refused = sweeper(tmp_path, *RUN)
    assert refused.returncode == 2, refused.stdout
    assert "optuna.db is in format 3, written by sweeper 9.1" in refused.stderr


def test_both_readers_of_mlflow_see_a_newer_format(
    sweeper: Sweeper, tmp_path: Path, recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(recorded, tmp_path, dirs_exist_ok=True)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert len(load_records(uri, "small")) == 2
    client = MlflowClient(uri)
    client.set_experiment_tag(client.get_experiment_by_name("small").experiment_id, "sweeper.format", "3")
    for schemas in (sqlite_runs.KNOWN_SCHEMAS, frozenset[str]()):
        monkeypatch.setattr(sqlite_runs, "KNOWN_SCHEMAS", schemas)
        with pytest.raises(StoreError, match="format 3"):
            load_records(uri, "small")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, swept_once: SweptOnce) -> Path:
    """A folder in which the study was run."""
    return swept_once(tmp_path_factory.mktemp("recorded"), STUDY)


# Readers, and a folder that was moved.


@pytest.mark.parametrize(
    "verb",
    [
        ["table"],
        ["table", "--format", "json"],
        ["status"],
        ["report"],
        ["plan"],
        pytest.param(["export"], marks=pytest.mark.slow),  # it loads TRL
    ],
)
def test_who_reads_the_study_of_somebody_else_is_told_whose_it_is(
    sweeper: Sweeper, shared: str, tmp_path: Path, verb: list[str]
) -> None:
    assert sweeper(tmp_path / "alice", *RUN).returncode == 0
    read = [verb[0], "study.yaml", *verb[1:]]
    own, other = sweeper(tmp_path / "alice", *read), sweeper(tmp_path / "bob", *read)
    assert own.returncode == 0, own.stderr
    assert other.returncode == 0 or verb == ["export"], other.stderr  # whose file names other data
    assert "note: The study 'small'" not in own.stderr
    told = [line for line in other.stderr.splitlines() if line.startswith("note: The study 'small'")]
    assert len(told) == 1
    assert f"is of {tags(shared)['sweeper.owner']} in {tmp_path}/alice, and not of this folder" in told[0]
    assert "--set study=small-" in told[0]
    if verb[-1] == "json":
        json.loads(other.stdout)


def test_a_moved_folder_that_lost_all_but_its_own_store_goes_on(
    sweeper: Sweeper, tmp_path: Path, recorded: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    shutil.copytree(recorded, first)
    assert sweeper(first, *RUN).returncode == 0
    first.rename(second)
    (second / "optuna.db").unlink()
    shutil.rmtree(second / "runs")
    again = sweeper(second, *RUN)
    assert again.returncode == 0, again.stderr
    assert "0 runs trained, 2 were there" in again.stdout


def test_a_copied_folder_that_lost_all_but_its_own_store_is_told_what_works(
    sweeper: Sweeper, tmp_path: Path, recorded: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    shutil.copytree(recorded, first)
    assert sweeper(first, *RUN).returncode == 0
    shutil.copytree(first, second)
    (second / "optuna.db").unlink()
    shutil.rmtree(second / "runs")
    refused = sweeper(second, *RUN)
    assert refused.returncode == 2
    kept = first / "runs" / "small" / MARK_FILE
    assert f"copy {kept} to {second}/runs/small" in refused.stderr
    assert "put one of these two back" not in refused.stderr
    (second / "runs" / "small").mkdir(parents=True)
    shutil.copy(kept, second / "runs" / "small")
    again = sweeper(second, *RUN)
    assert again.returncode == 0, again.stderr
    assert "0 runs trained, 2 were there" in again.stdout
