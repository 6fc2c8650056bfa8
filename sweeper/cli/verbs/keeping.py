"""Commands on what is kept: ls, restore, rm, open."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from studies.schema.replicates import as_in_file
from studies.text.mistakes import Mistake
from studies.text.plural import so_many
from sweeper.cli import completion
from sweeper.cli.inputs import recorded_in, said_if_long
from sweeper.cli.options import Set, Storage, StudyName
from sweeper.cli.output import Json, quiet_libraries
from sweeper.cli.refusal import refuse
from sweeper.cli.shared import command_line, load, storage_words, store_errors

if TYPE_CHECKING:
    from sweeper.commands.kept.removal import Removal
    from sweeper.folder.paths import StudyPaths

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def ls(context: typer.Context, json: Json = False) -> None:
    """List the studies that are kept in this folder: runs done, state, last change, size on disk."""
    from sweeper.cli.display import Screen, print_table
    from sweeper.commands.kept.listing import kept_studies

    with store_errors():
        found = kept_studies(Path.cwd())
    context.obj.say(found)
    if json:
        return
    if not found.studies:
        typer.echo("No study is kept here: neither in the MLflow store nor in a run folder.")
        return
    others = any(study.owner for study in found.studies)
    rows = []
    for study in found.studies:
        runs = str(study.done) if study.planned is None else f"{study.done}/{study.planned}"
        when = "" if study.changed is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(study.changed))
        rows.append([study.name, runs, study.state, when, in_bytes(study.bytes), *[study.owner or ""] * others])
    print_table(("study", "runs", "state", "last change", "size", *["of"] * others), rows, Screen())


def restore(
    context: typer.Context,
    study: StudyName,
    file: Annotated[Path, typer.Argument(metavar="RECORDS", help="a file of `sweeper records`")],
    settings: Set = None,
    storage: Storage = None,
) -> None:
    """Put the runs of a file of `sweeper records` into this folder's store, from where `sweeper run` goes on."""
    from sweeper.cli.display import shown
    from sweeper.commands.kept.restored import NotRestorable, restore_runs
    from sweeper.folder.control import AlreadyRunning
    from sweeper.folder.own_folder import ForeignFolder
    from sweeper.folder.paths import places
    from sweeper.ownership.owner import ForeignStudy
    from sweeper.recorded.contents import as_found
    from sweeper.search.storage import StorageError

    loaded = load(study, settings)
    quiet_libraries()
    with store_errors(f"Restoring {loaded.spec.study} ..."):
        found = recorded_in(file, loaded, "RECORDS")
        text = as_in_file(loaded.spec).model_dump_json(indent=2, exclude_defaults=True)
        where = places(loaded.spec, Path.cwd(), storage)
        try:
            done = restore_runs(as_found(loaded, typer.echo, reach=False), text, found, where, typer.echo)
        except (NotRestorable, AlreadyRunning, ForeignFolder, ForeignStudy, StorageError) as error:
            refuse([f"{file} was not restored: {shown(str(error))}"])
        except OSError as error:
            refuse([f"{error.filename or where.folder}: {error.strerror}. The same command goes on from there."])
    there = f", {done.there} were there already" if done.there else ""
    typer.echo(f"Restored {so_many(done.runs, 'run')} of {loaded.spec.study}{there}.")
    if done.left_out:
        why = "runs in training, models from elsewhere, or what the study file does not ask for now"
        typer.echo(f"Left out: {so_many(done.left_out, 'record')}, of {why}.")
    typer.echo(f"Next: {command_line('run', study, settings or [])}{storage_words(context)}")


def rm(
    context: typer.Context,
    study: Annotated[
        str,
        typer.Argument(
            metavar="STUDY", help="name of a study in `sweeper ls`, or its file", autocompletion=completion.kept
        ),
    ],
    settings: Set = None,
    storage: Storage = None,
    yes: Annotated[bool, typer.Option("--yes", help="remove it without asking")] = False,
    json: Json = False,
) -> None:
    """Remove all that is kept of a study, for good: MLflow experiment, Optuna studies, run folder."""
    from dataclasses import replace

    from sweeper.cli.display import shown
    from sweeper.commands.kept.removal import NotRemovable, look, remove
    from sweeper.folder.control import AlreadyRunning
    from sweeper.folder.own_folder import ForeignFolder
    from sweeper.ownership.owner import ForeignStudy
    from sweeper.search.storage import StorageError

    name, where = _place(study, settings, storage)
    quiet_libraries()
    with store_errors(""):
        try:
            found = look(name, where)
            if not json:
                for line in _told(found):
                    typer.echo(shown(line))
            if not yes and not (not json and sys.stdin.isatty()):
                if json:
                    context.obj.say(found)
                    raise typer.Exit(1)
                refuse([Mistake("--yes", None, None, "--yes", "Nothing was removed: say --yes to remove it for good.")])
            if not yes and not typer.confirm("Remove all of this, for good?"):
                raise typer.Exit(1)
            with said_if_long(f"Removing {name} ..."):
                remove(name, where, typer.echo)
        except ForeignStudy as error:
            refuse([f"{str(error).partition(' Nothing was written.')[0]} Nothing was removed."])
        except (NotRemovable, AlreadyRunning, ForeignFolder, StorageError) as error:
            refuse([str(error)])
        except OSError as error:
            refuse([f"{error.filename or where.runs}: {error.strerror}. The same command goes on from there."])
    typer.echo(f"Removed {name}.")
    context.obj.say(replace(found, removed=True))


def open_run(
    context: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="id of a run, or VARIANT/TRIAL")],
    study: Annotated[str | None, typer.Option(help="name of the study that it is of")] = None,
    json: Json = False,
) -> None:
    """Say where a run's folder, log, adapter and MLflow page are."""
    from sweeper.cli.display import shown
    from sweeper.commands.kept.found import NoSuchRun, find_runs

    with store_errors():
        try:
            found = find_runs(Path.cwd(), run, study)
        except NoSuchRun as error:
            refuse([Mistake("RUN", run, None, None, str(error))])
    context.obj.say(found)
    if json:
        return
    for one in found.runs:
        place = f"{one.study}: {one.variant}, {one.scenario}, trial {one.trial}, data draw {one.block}, seed {one.seed}"
        typer.echo(shown(f"{place}: {one.cause or one.state.lower()}"))
        for what, path in (("folder", one.folder), ("log", one.log), ("adapter", one.adapter), ("page", one.page)):
            typer.echo(shown(f"  {what:8}{path or 'none is kept'}"))
    if not found.ui:
        typer.echo("The pages open while `sweeper ui` runs.")


def _place(study: str, settings: list[str] | None, storage: str | None) -> tuple[str, StudyPaths]:
    """The name and the places of a study, by its file or by its name in this folder."""
    from studies.schema.paths import existing
    from studies.spec import shipped_studies
    from sweeper.commands.kept.listing import run_folders
    from sweeper.folder.paths import StudyPaths, places
    from sweeper.search.storage import storage_url

    here = Path.cwd()
    file = existing(study)
    if settings or (file is not None and file.is_file()) or study in shipped_studies():
        spec = load(study, settings, only_read=True).spec
        return spec.study, places(spec, here, storage)
    wrong = "is no name of a study" if not study or "/" in study or study in (".", "..") else None
    if wrong is not None:
        refuse([Mistake("STUDY", study, wrong, "`sweeper ls` lists the studies here", f"{study!r} {wrong}.")])
    runs = dict(run_folders(here)).get(study, here / "runs" / study)
    return study, StudyPaths(here, runs, storage_url(storage, here), None)


def _told(found: Removal) -> list[str]:
    """What would go, in lines."""
    return [
        f"Of the study {found.study} would go:",
        f"  MLflow  {so_many(found.mlflow_runs, 'run')}, {in_bytes(found.artifact_bytes)} of artifacts: {found.mlflow}",
        f"  Optuna  {so_many(found.optuna_trials, 'trial')}: {found.optuna}",
        f"  folder  {so_many(found.folder_runs, 'run')}, {in_bytes(found.folder_bytes)}: {found.folder}",
        *(f"  stays   {path}, which no sweep has made" for path in found.stays),
    ]


def in_bytes(size: int) -> str:
    """A size as people read it."""
    number, unit = float(size), 0
    while number >= 1024 and unit < len(_UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{number:.0f} {_UNITS[unit]}" if unit == 0 or number >= 10 else f"{number:.1f} {_UNITS[unit]}"
