"""Commands that train, and that steer what trains: run, retry, stop, pause, resume."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from studies.schema.normalize import seconds
from studies.text.plural import so_many
from sweeper.cli.detached.terminal import run_detached, wait_for
from sweeper.cli.options import Executor, Set, Storage, StudyName, Variant, Workers
from sweeper.cli.output import Json
from sweeper.cli.refusal import refuse
from sweeper.cli.shared import (
    Reuse,
    check_owner,
    command_line,
    load,
    refuse_foreign_runs,
    run_sweep,
    runnable,
    store_errors,
)

if TYPE_CHECKING:
    from studies.requests import Request


def run(
    context: typer.Context,
    study: StudyName,
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
    detach: Annotated[
        bool, typer.Option("--detach", help="in a process of its own, which goes on when this terminal closes")
    ] = False,
    json: Json = False,
) -> None:
    """Train what is missing of a study; run it again to resume."""
    how = Reuse(yes=yes, refresh=refresh, strict=strict)
    wanted = runnable(context, study, settings, executor, workers, storage)
    if detach:
        run_detached(wanted, verify, how, settings or [])
    else:
        run_sweep(wanted, verify, how=how)


def wait(
    study: StudyName,
    timeout: Annotated[str | None, typer.Option(help="wait for so long at most, as 90s, 30m or 2h")] = None,
    settings: Set = None,
) -> None:
    """Wait until the sweep that runs has ended; exits as `sweeper run` does: 0 done, 1 something is left to do."""
    longest = seconds(timeout)
    if isinstance(longest, str):
        refuse([f"--timeout {timeout}: must be a time, such as 90s, 30m or 2h."])
    wait_for(study, settings or [], longest)


def retry(
    context: typer.Context,
    study: StudyName,
    cause: Annotated[list[str] | None, typer.Option(help="only what failed so, as `status` says")] = None,
    settings: Set = None,
    executor: Executor = "process",
    workers: Workers = None,
    storage: Storage = None,
    json: Json = False,
) -> None:
    """Train those runs again that failed, and no others."""
    from dashboards.analysis.configs import distinct
    from sweeper.commands.retry import FAILED, NAMED, chosen_runs
    from sweeper.recorded.reading import answers_of

    unknown = sorted(set(cause or ()) - NAMED)
    if unknown:
        refuse([f"--cause {', '.join(unknown)}: valid are {', '.join(sorted(NAMED))}."])
    if _asked_to_retry(study, settings, tuple(cause or ())):
        return
    names = cause or FAILED
    wanted = runnable(context, study, settings, executor, workers, storage)
    check_owner(wanted)
    with store_errors():
        failed = chosen_runs(distinct(answers_of(wanted.asked).records), names)
    if not failed:
        typer.echo("No run of this study ended so: there is nothing to train again.")
        return
    typer.echo(f"Training {so_many(len(failed), 'run')} again.")
    run_sweep(wanted, retry=names)


def _asked_to_retry(study: str, settings: list[str] | None, causes: tuple[str, ...]) -> bool:
    """Ask the sweep that runs to train failed runs again; False where none runs."""
    from studies.requests import Retry
    from sweeper.cli.display import shown
    from sweeper.folder.standing import standing

    runs = run_folder(study, settings)
    found = standing(runs)
    if found is None or found.state != "running" or not _ask(runs, Retry(causes), found.sweep):
        return False
    process = shown(found.process)
    typer.echo(f"{process[:1].upper() + process[1:]} trains them again when its other runs have ended.")
    return True


def stop(
    study: StudyName,
    now: Annotated[bool, typer.Option("--now", help="at the next step of each run, not at its end")] = False,
    settings: Set = None,
) -> None:
    """Stop a sweep that runs in another terminal: finish what is in training and start nothing new."""
    from sweeper.cli.display import shown

    process = asked_to_stop(run_folder(study, settings), now=now)
    how = "stops at the next step of each run" if now else "finishes the runs in training and starts no others"
    typer.echo(f"{shown(process[:1].upper() + process[1:])} {how}. `sweeper run {study}` goes on from there.")


def asked_to_stop(runs: Path, *, now: bool) -> str:
    """Ask the sweep that runs to stop, and give its process; exits with 2 where none runs."""
    from studies.requests import Stop
    from sweeper.cli.display import shown
    from sweeper.folder.control import NotHere, ask_to_stop
    from sweeper.folder.standing import standing

    found = standing(runs)
    if found is not None and found.state == "running" and _ask(runs, Stop(now=now), found.sweep):
        return found.process
    try:  # a sweep that has just begun, or of an earlier version
        return f"process {ask_to_stop(runs, now=now)}"
    except NotHere as error:
        refuse([f"{error} ({shown(str(found))}.)" if found is not None else str(error)])


def take(study: StudyName, settings: Set = None) -> None:
    """Have the sweep that runs go on as its study file says now: with more of it, or another budget."""
    from studies.requests import Take
    from sweeper.cli.display import shown
    from sweeper.folder.standing import standing

    name, runs = load(study, settings).spec.study, run_folder(study, settings)
    found = standing(runs)
    if not Path(study).is_file():
        refuse([f"{study}: is no file; what a sweep takes is written in one."])
    running = found is not None and found.state == "running"
    answer = _ask(runs, Take(str(Path(study).resolve())), found.sweep) if found is not None and running else ""
    if not answer:
        again = command_line("run", study, settings or [])
        refuse([f"No sweep of {name} runs now. `{again}` trains what is new."])
    typer.echo(shown(f"{answer[:1].upper()}{answer[1:]}."))


def pause(study: StudyName, variant: Variant, settings: Set = None) -> None:
    """Ask for no more runs of one variant, now and in later sweeps, until it is resumed."""
    _pause(study, variant, settings, hold=True)
    typer.echo(f"{variant} is paused; its runs in training go on. Let it go on with: sweeper resume {study} {variant}")


def resume(study: StudyName, variant: Variant, settings: Set = None) -> None:
    """Ask for runs of a paused variant again."""
    _pause(study, variant, settings, hold=False)
    typer.echo(f"{variant} goes on, in the sweep that runs or with: sweeper run {study}")


def run_folder(study: str, settings: list[str] | None) -> Path:
    from sweeper.folder.paths import places

    return places(load(study, settings, only_read=True).spec, Path.cwd(), None).runs


def _pause(study: str, variant: str, settings: list[str] | None, *, hold: bool) -> None:
    """Put a variant on the list of paused ones, or take it off; exits with 2 where there is no such variant."""
    from studies.requests import Pause, Resume
    from sweeper.folder.control import pause_problem, paused, set_paused
    from sweeper.folder.standing import standing

    variants = load(study, settings, only_read=True).variants
    runs = run_folder(study, settings)
    refuse_foreign_runs(runs)
    held = paused(runs)
    problem = pause_problem(variant, hold, variants, held)
    if problem is not None:
        refuse([problem])
    found = standing(runs)
    asked = Pause(variant) if hold else Resume(variant)
    if found is not None and found.state == "running" and _ask(runs, asked, found.sweep):
        return
    try:
        set_paused(runs, held | {variant} if hold else held - {variant})
    except OSError as error:
        refuse([f"{error.filename or runs}: {error.strerror}."])


def _ask(runs: Path, request: Request, sweep: str) -> str:
    """What the sweep that runs answers; "" where it has just ended. Exits with 2 where it refuses or says nothing."""
    from sweeper.cli.display import shown
    from sweeper.folder.control import NotHere
    from sweeper.folder.standing import ask

    try:
        answer = ask(runs, request, sweep)
    except NotHere as error:
        refuse([str(error)])
    except OSError as error:
        refuse([f"{error.filename or runs}: {error.strerror}."])
    if answer.outcome == "refused":
        refuse([shown(answer.message)])
    return answer.message if answer.outcome == "done" else ""
