"""`ls`, `rm` and `open`: what is kept is listed and found, and a removal takes one study and nothing else."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient

from sweeper.commands.kept import removal
from sweeper.tracking.experiment import removal as entries
from tests.sweeper.cli.test_json import check
from trainers.run_folder.results import is_run_folder

Sweeper = Callable[..., Any]
STUDY = """
study: {}
trainer: formula
base: {{model_name_or_path: embedded, max_steps: 2, learning_rate: 1.0e-5}}
variants: {{sigmoid: {{}}}}
"""


def sweep(sweeper: Sweeper, folder: Path, *names: str) -> None:
    for name in names:
        (folder / f"{name}.yaml").write_text(STUDY.format(name))
        ended = sweeper(folder, "run", f"{name}.yaml", "--executor", "inline")
        assert ended.returncode == 0, ended.stderr


def listed(sweeper: Sweeper, folder: Path) -> dict[str, dict[str, Any]]:
    found = json.loads(sweeper(folder, "ls", "--json").stdout)
    check(found)
    return {study["name"]: study for study in found["studies"]}


def kept(folder: Path) -> dict[str, Any]:
    """All that is kept in the stores and folders, by study."""
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiments = {e.name: e.experiment_id for e in client.search_experiments(view_type=3) if e.name != "Default"}
    runs = {
        name: sorted(run.info.run_id for run in client.search_runs([number], run_view_type=3))
        for name, number in experiments.items()
    }
    searches = optuna.get_all_study_names(f"sqlite:///{folder}/optuna.db")
    files = sorted(str(p.relative_to(folder)) for p in folder.glob("*/*/**/*") if not p.name.startswith("events"))
    names = sorted({*runs, *(name.partition("/")[0] for name in searches)})
    return {
        name: (
            runs.get(name),
            sorted(one for one in searches if one.partition("/")[0] == name),
            [file for file in files if file.split("/")[1] == name],
        )
        for name in names
    }


def test_a_removed_study_is_gone_from_all_three_and_the_others_are_as_they_were(
    sweeper: Sweeper, tmp_path: Path
) -> None:
    others = ("Small", "small-2", "smal_", "small.yaml", "smallx")
    sweep(sweeper, tmp_path, "small", *others)
    before = kept(tmp_path)
    assert {*listed(sweeper, tmp_path)} == {"small", *others}
    shown = sweeper(tmp_path, "rm", "small")
    assert (shown.returncode, kept(tmp_path)) == (2, before)  # nobody was there to be asked
    assert "2 runs" in shown.stdout
    assert "1 trial" in shown.stdout
    told = json.loads(sweeper(tmp_path, "rm", "small", "--json").stdout)
    check(told)
    assert (told["removed"], kept(tmp_path)) == (False, before)
    gone = json.loads(sweeper(tmp_path, "rm", "small", "--yes", "--json").stdout)
    assert gone == {**told, "removed": True}
    assert kept(tmp_path) == {name: before[name] for name in sorted(others)}
    assert {*listed(sweeper, tmp_path)} == {*others}
    again = sweeper(tmp_path, "rm", "small", "--yes")
    assert (again.returncode, "Nothing is kept of a study 'small'" in again.stderr) == (2, True)
    anew = sweeper(tmp_path, "run", "small.yaml", "--executor", "inline")
    assert "1 run trained, 0 were there already" in anew.stdout
    assert {name: now for name, now in kept(tmp_path).items() if name != "small"} == {n: before[n] for n in others}


@pytest.mark.parametrize("name", ["sm*", "%", "small/", "../small", ".", "", "Default", "sweep", "small/sweep"])
def test_a_name_is_taken_as_it_is(sweeper: Sweeper, tmp_path: Path, name: str) -> None:
    sweep(sweeper, tmp_path, "small")
    before = kept(tmp_path)
    refused = sweeper(tmp_path, "rm", "--yes", "--", name)
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    assert kept(tmp_path) == before


def test_nothing_goes_through_a_link(sweeper: Sweeper, tmp_path: Path) -> None:
    outside, here = tmp_path / "outside", tmp_path / "here"
    for place in (outside / "logs", outside / "adapter", outside / "runs", here):
        place.mkdir(parents=True)
        (place / "precious").write_text("x")
    (here / "precious").unlink()
    (here / "runs").symlink_to(outside / "runs")
    sweep(sweeper, here, "small")
    runs = here / "runs" / "small"
    (run,) = filter(is_run_folder, runs.iterdir())
    (runs / "0123456789ab").symlink_to(outside / "adapter")
    (run / "adapter").symlink_to(outside / "adapter")
    (artifacts,) = (here / "mlartifacts" / "small").glob("*/artifacts/config.json")
    (artifacts.parent / "more").symlink_to(outside / "adapter")
    ended = sweeper(here, "rm", "small", "--yes")
    assert ended.returncode == 0, ended.stderr
    assert {path.name for path in runs.iterdir()} == {"0123456789ab", "study.json", run.name}
    assert [path.name for path in run.iterdir()] == ["adapter"], "a link is never a sweep's"
    assert len(list(outside.rglob("precious"))) == 3
    assert not (here / "mlartifacts" / "small").exists()


def test_a_run_folder_that_is_a_link_is_refused(sweeper: Sweeper, tmp_path: Path) -> None:
    sweep(sweeper, tmp_path, "small")
    (tmp_path / "runs" / "small").rename(tmp_path / "elsewhere")
    (tmp_path / "runs" / "small").symlink_to(tmp_path / "elsewhere")
    before = kept(tmp_path)
    refused = sweeper(tmp_path, "rm", "small.yaml", "--yes")
    assert (refused.returncode, "is no real folder" in refused.stderr) == (2, True)
    assert kept(tmp_path) == before


def test_artifacts_that_a_link_leads_to_stay(sweeper: Sweeper, tmp_path: Path) -> None:
    sweep(sweeper, tmp_path, "small")
    (tmp_path / "mlartifacts" / "small").rename(tmp_path / "kept")
    (tmp_path / "mlartifacts" / "small").symlink_to(tmp_path / "kept")
    count = len(list((tmp_path / "kept").rglob("*")))
    assert sweeper(tmp_path, "rm", "small", "--yes").returncode == 0
    assert len(list((tmp_path / "kept").rglob("*"))) == count


def test_files_that_no_sweep_has_made_stay_and_the_study_begins_anew(sweeper: Sweeper, tmp_path: Path) -> None:
    sweep(sweeper, tmp_path, "small")
    (tmp_path / "runs/small/notes.txt").write_text("mine")
    (tmp_path / "runs/small/ffffffffffff").mkdir()
    (tmp_path / "runs/small/ffffffffffff/thesis.txt").write_text("mine")
    ended = sweeper(tmp_path, "rm", "small", "--yes")
    assert "notes.txt, which no sweep has made" in ended.stdout
    assert (tmp_path / "runs/small/ffffffffffff/thesis.txt").read_text() == "mine"
    assert (tmp_path / "runs/small/notes.txt").exists()
    anew = sweeper(tmp_path, "run", "small.yaml", "--executor", "inline")
    assert "1 run trained, 0 were there already" in anew.stdout


def test_a_study_of_somebody_else_in_shared_stores_is_refused(
    sweeper: Sweeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, mine = tmp_path / "theirs", tmp_path / "mine"
    theirs.mkdir()
    mine.mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    sweep(sweeper, theirs, "small")
    sweep(sweeper, mine, "other")
    shutil_state = (theirs / "runs/small/study.json").read_text()
    refused = sweeper(mine, "rm", "small", "--yes")
    assert (refused.returncode, "Nothing was removed." in refused.stderr) == (2, True)
    assert "name of its own" not in refused.stderr
    monkeypatch.setenv("OPTUNA_STORAGE", f"sqlite:///{theirs}/optuna.db")
    there = sweeper(mine, "rm", "other", "--yes")
    assert there.returncode == 0, there.stderr
    assert sweeper(theirs, "table", "small.yaml").returncode == 0
    assert (theirs / "runs/small/study.json").read_text() == shutil_state


def test_what_runs_is_refused(sweeper: Sweeper, tmp_path: Path) -> None:
    sweep(sweeper, tmp_path, "small")
    before = kept(tmp_path)
    with (tmp_path / "runs/small/sweep.lock").open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused = sweeper(tmp_path, "rm", "small", "--yes")
    assert (refused.returncode, "is being run already" in refused.stderr) == (2, True)
    assert kept(tmp_path) == before


@pytest.mark.parametrize("store", ["mlflow.db", "optuna.db"])
def test_a_store_that_cannot_be_written_is_told_before_anything_goes(
    sweeper: Sweeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    sweep(sweeper, tmp_path, "small")
    before, access = kept(tmp_path), os.access
    with monkeypatch.context() as patch:
        patch.setattr(
            os, "access", lambda path, mode: access(path, mode) and (mode != os.W_OK or store not in str(path))
        )
        refused = sweeper(tmp_path, "rm", "small", "--yes")
    assert (refused.returncode, "cannot be written" in refused.stderr) == (2, True)
    assert kept(tmp_path) == before


def test_runs_that_somebody_logged_by_hand_are_not_removed(sweeper: Sweeper, tmp_path: Path) -> None:
    sweep(sweeper, tmp_path, "small")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    client.create_run(client.get_experiment_by_name("small").experiment_id)
    client.create_experiment("mine", artifact_location=tmp_path.as_uri())
    before = kept(tmp_path)
    for name in ("small", "mine"):
        assert sweeper(tmp_path, "rm", name, "--yes").returncode == 2
    assert kept(tmp_path) == before
    assert "mine" not in listed(sweeper, tmp_path)


def test_what_lies_in_a_runs_folder_and_is_not_the_runs_stays(sweeper: Sweeper, tmp_path: Path) -> None:
    sweep(sweeper, tmp_path, "small")
    run = next(path.parent for path in (tmp_path / "runs/small").glob("*/result.json"))
    (run / "best-merged").mkdir()
    (run / "best-merged/model.safetensors").write_text("weights")
    (run / "notes.txt").write_text("mine")
    ended = sweeper(tmp_path, "rm", "small", "--yes")
    assert ended.returncode == 0, ended.stderr
    assert "notes.txt, which no sweep has made" in ended.stdout
    assert sorted(path.name for path in run.iterdir()) == ["best-merged", "notes.txt"]
    assert (run / "best-merged/model.safetensors").read_text() == "weights"


def test_what_somebody_keeps_in_folders_of_fixed_names_stays(sweeper: Sweeper, tmp_path: Path) -> None:
    sweep(sweeper, tmp_path, "small")
    runs, base = tmp_path / "runs" / "small", f"reference/{'a' * 32}"
    ours = [
        "logs/worker-0.log",
        "logs/door.key",
        "logs/door.port",
        "requests/0a.json",
        f"{base}/{'b' * 32}.safetensors",
        f"{base}/lock",
    ]
    others = ["logs/thesis.log", "requests/old/1.json", "reference/model.safetensors", f"{base}/notes.txt"]
    for name in (*ours, *others):
        (runs / name).parent.mkdir(parents=True, exist_ok=True)
        (runs / name).write_text(name)
    ended = sweeper(tmp_path, "rm", "small", "--yes")
    assert ended.returncode == 0, ended.stderr
    assert "reference/model.safetensors" in ended.stdout
    left = {path.relative_to(runs).as_posix() for path in runs.rglob("*") if path.is_file()}
    assert left == {*others, "study.json"}


def test_a_study_whose_model_is_registered_is_not_removed(sweeper: Sweeper, tmp_path: Path) -> None:
    sweep(sweeper, tmp_path, "small")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    run = client.search_runs([client.get_experiment_by_name("small").experiment_id])[0].info
    client.create_registered_model("mine")
    client.create_model_version("mine", f"{run.artifact_uri}/registered/0", run_id=run.run_id)
    before = kept(tmp_path)
    refused = sweeper(tmp_path, "rm", "small", "--yes")
    assert (refused.returncode, "Model Registry holds mine/1" in refused.stderr) == (2, True)
    assert kept(tmp_path) == before


def test_a_removal_that_was_killed_can_be_done_again(
    sweeper: Sweeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep(sweeper, tmp_path, "small", "other")
    before = kept(tmp_path)["other"]

    def killed(*_: object) -> None:
        raise OSError(5, "Input/output error", "runs/small")

    for part in ("remove_entry", "remove_ours"):
        with monkeypatch.context() as patch:
            patch.setattr(removal, part, killed)
            refused = sweeper(tmp_path, "rm", "small", "--yes")
            assert (refused.returncode, "Traceback" in refused.stderr) == (2, False)
    assert sweeper(tmp_path, "rm", "small", "--yes").returncode == 0
    assert kept(tmp_path) == {"other": before}


def test_a_server_only_hides_what_it_deletes_so_that_the_name_is_freed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[tuple[str, ...]] = []
    client = SimpleNamespace(
        get_experiment=lambda _: SimpleNamespace(lifecycle_stage="active"),
        rename_experiment=lambda number, name: called.append(("rename", number, name[:15])),
        delete_experiment=lambda number: called.append(("delete", number)),
        _tracking_client=SimpleNamespace(store=object()),
    )
    monkeypatch.setattr(entries, "connect", lambda _: client)
    entries.remove_entry("http://x", tmp_path, "small", entries.StoredEntry("7", ("a",), (), (), ()))
    assert called == [("rename", "7", "small (removed "), ("delete", "7")]


def test_a_run_is_found_by_its_ids_and_by_its_trial(sweeper: Sweeper, tmp_path: Path) -> None:
    sweep(sweeper, tmp_path, "small", "other")
    found = json.loads(sweeper(tmp_path, "open", "sigmoid/0", "--study", "small", "--json").stdout)
    check(found)
    (run,) = found["runs"]
    assert Path(run["folder"]) == tmp_path / "runs/small" / run["key"]
    assert run["page"].endswith(f"/runs/{run['run_id']}")
    assert len(json.loads(sweeper(tmp_path, "open", "sigmoid/0", "--json").stdout)["runs"]) == 2
    by_id = json.loads(sweeper(tmp_path, "open", run["run_id"], "--json").stdout)
    assert by_id["runs"] == [run]
    refused = sweeper(tmp_path, "open", "sigmoid/7")
    assert (refused.returncode, "sigmoid/3" in refused.stderr) == (2, True)


def test_a_folder_without_studies_is_said_to_be_one_and_stays_empty(sweeper: Sweeper, tmp_path: Path) -> None:
    assert "No study is kept here" in sweeper(tmp_path, "ls").stdout
    assert sweeper(tmp_path, "open", "abc").returncode == 2
    assert sweeper(tmp_path, "rm", "small", "--yes").returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_a_study_is_as_far_as_its_runs_are_not_as_what_is_measured_after_them(tmp_path: Path) -> None:
    from sweeper.commands.kept.listing import _runs_counted
    from sweeper.folder.events import Heartbeat
    from sweeper.folder.steering.event_log import EventLog

    tmp_path.joinpath("runs").mkdir()
    log = EventLog(tmp_path / "runs", "0123456789ab", lambda _: None)
    log.append(Heartbeat("h", "m", 1, "train", planned=144, done=139))
    log.append(Heartbeat("h", "m", 1, "speed", planned=1, done=0, what="speed of steps"))
    counted = _runs_counted(tmp_path / "runs")
    assert counted is not None
    assert (counted.done, counted.planned) == (139, 144)
