"""Commands that train, and that steer what trains: run, retry, stop, pause, resume."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from studies.text.plural import so_many
from sweeper.cli.options import Executor, Set, Storage, Study, Variant, Workers
from sweeper.cli.refusal import refuse
from sweeper.cli.shared import (
    Reuse,
    check_owner,
    load,
    refuse_foreign_runs,
    run_sweep,
    runnable,
    store_errors,
)

if TYPE_CHECKING:
    pass


def run(
    context: typer.Context,
    study: Study,
    settings: Set = None,
    executor: Executor = "process",
    workers: Workers = None,
    storage: Storage = None,
    verify: Annotated[int, typer.Option(min=0, help="train so many finished runs again alone, and compare")] = 0,
    yes: Annotated[bool, typer.Option("--yes", help="leave finished runs behind without asking")] = False,
    refresh: Annotated[bool, typer.Option("--refresh", help="take what the Hub has now, not at the first run")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="leave runs of an earlier version behind that cannot be checked")
    ] = False,
) -> None:
    """Train what is missing of a study; run it again to resume."""
    how = Reuse(yes=yes, refresh=refresh, strict=strict)
    run_sweep(runnable(context, study, settings, executor, workers, storage), verify, how=how)


def retry(
    context: typer.Context,
    study: Study,
    cause: Annotated[list[str] | None, typer.Option(help="only what failed so, as `status` says")] = None,
    settings: Set = None,
    executor: Executor = "process",
    workers: Workers = None,
    storage: Storage = None,
) -> None:
    """Train those runs again that failed, and no others."""
    from dashboards.analysis.configs import distinct
    from sweeper.commands.retry import FAILED, NAMED, chosen_runs
    from sweeper.recorded.reading import answers_of

    unknown = sorted(set(cause or ()) - NAMED)
    if unknown:
        refuse([f"--cause {', '.join(unknown)}: valid are {', '.join(sorted(NAMED))}."])
    names = cause or FAILED
    wanted = runnable(context, study, settings, executor, workers, storage)
    check_owner(wanted)
    with store_errors():
        failed = chosen_runs(distinct(answers_of(wanted.spec, wanted.arms).records), names)
    if not failed:
        typer.echo("No run of this study ended so: there is nothing to train again.")
        return
    typer.echo(f"Training {so_many(len(failed), 'run')} again.")
    run_sweep(wanted, retry=names)


def stop(
    study: Study,
    now: Annotated[bool, typer.Option("--now", help="at the next step of each run, not at its end")] = False,
    settings: Set = None,
) -> None:
    """Stop a sweep that runs in another terminal: finish what is in training and start nothing new."""
    from sweeper.folder.control import NotHere, ask_to_stop

    try:
        process = ask_to_stop(run_folder(study, settings), now=now)
    except NotHere as error:
        refuse([str(error)])
    how = "stops at the next step of each run" if now else "finishes the runs in training and starts no others"
    typer.echo(f"Process {process} {how}. `sweeper run {study}` goes on from there.")


def pause(study: Study, variant: Variant, settings: Set = None) -> None:
    """Ask for no more runs of one variant, now and in later sweeps, until it is resumed."""
    _pause(study, variant, settings, hold=True)
    typer.echo(f"{variant} is paused; its runs in training go on. Let it go on with: sweeper resume {study} {variant}")


def resume(study: Study, variant: Variant, settings: Set = None) -> None:
    """Ask for runs of a paused variant again."""
    _pause(study, variant, settings, hold=False)
    typer.echo(f"{variant} goes on, in the sweep that runs or with: sweeper run {study}")


def run_folder(study: str, settings: list[str] | None) -> Path:
    from sweeper.folder.paths import places

    return places(load(study, settings)[0], Path.cwd(), None).runs


def _pause(study: str, variant: str, settings: list[str] | None, *, hold: bool) -> None:
    """Put a variant on the list of paused ones, or take it off; exits with 2 where there is no such variant."""
    from sweeper.folder.control import paused, set_paused

    _, arms, _ = load(study, settings)
    runs = run_folder(study, settings)
    refuse_foreign_runs(runs)
    held = paused(runs)
    if variant not in arms and (hold or variant not in held):
        refuse([f"{variant}: the study has no such variant; it has {', '.join(arms)}."])
    if hold and not arms.keys() - held - {variant}:
        refuse([f"{variant}: no other variant would be left to train; `sweeper stop {study}` stops the sweep."])
    try:
        set_paused(runs, held | {variant} if hold else held - {variant})
    except OSError as error:
        refuse([f"{error.filename or runs}: {error.strerror}."])
