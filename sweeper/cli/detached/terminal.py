"""A sweep in a process of its own, as the terminal starts it and waits for it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from studies.schema.replicates import as_in_file
from studies.text.files import write_whole
from studies.text.redact import redact
from sweeper.cli.inputs import said_if_long
from sweeper.cli.refusal import refuse
from sweeper.cli.shared import Reuse, RunRequest, begin, command_line, load

if TYPE_CHECKING:
    from studies.spec import Study
    from sweeper.commands.detached.start import Began


def run_detached(wanted: RunRequest, verify: int, how: Reuse, settings: Sequence[str]) -> None:
    """Start a sweep in a process of its own, and say how to follow and stop it once it runs; exits as `sweeper run`
    does where it does not come to run.
    """
    from sweeper.cli.display import shown

    try:
        found = begin_detached(wanted, verify, how, settings)
    except KeyboardInterrupt:
        typer.echo("Stopped before the sweep began: nothing was trained.", err=True)
        raise typer.Exit(1) from None
    wanted.output.say(found)
    typer.echo(f"Sweep {found.sweep} of {found.study} runs as process {found.process}, and goes on by itself.")
    for what, text in (
        ("its log", found.log),
        ("follow it to its end", command_line("wait", wanted.study, settings)),
        ("see where it is", command_line("status", wanted.study, settings)),
        ("stop it", command_line("stop", wanted.study, settings)),
    ):
        typer.echo(f"  {f'{what}:':22}{shown(text)}")


def begin_detached(wanted: RunRequest, verify: int, how: Reuse, settings: Sequence[str]) -> Began:
    """Start a sweep in a process of its own, and give it once it runs; exits as `sweeper run` does where it does
    not come to run.
    """
    from sweeper.cli.display import shown
    from sweeper.commands.detached.order import Order
    from sweeper.commands.detached.start import NotBegun, start
    from sweeper.folder.names import ASKED_FILE

    begin(wanted, how)
    order = Order(
        study=wanted.study,
        text=wanted.text,
        settings=tuple(settings),
        executor=wanted.executor,
        workers=wanted.workers,
        storage=wanted.storage,
        verify=verify,
        refresh=how.refresh,
        strict=how.strict,
        again=wanted.again,
        failed=wanted.failed,
        command=wanted.command,
    )
    with said_if_long("Starting the sweep ..."):
        found = start(order, wanted.asked.spec.study, wanted.where)
    if isinstance(found, NotBegun):
        for line in found.warnings:
            typer.echo(shown(line), err=True)
        if found.problems:
            refuse(found.problems)
        raise typer.Exit(found.code)
    if wanted.text is not None:
        write_whole(wanted.where.runs / ASKED_FILE, redact(_as_asked(wanted.asked)))
    return found


def _as_asked(study: Study) -> str:
    """The study with its changed keys, as a file that loads as it was asked."""
    import yaml

    asked = as_in_file(study.spec).model_dump(mode="json", exclude_defaults=True, exclude={"notices"})
    return str(yaml.safe_dump(asked, sort_keys=False, allow_unicode=True))


def wait_for(study: str, settings: list[str], longest: float | None) -> None:
    """Wait for the sweep that runs, showing its progress, and exit as it ended."""
    from sweeper.cli.display import Display, Screen, shown
    from sweeper.commands.detached.follow import exit_code, follow, progress_of
    from sweeper.folder.events import Happening, Heartbeat
    from sweeper.folder.paths import places

    spec = load(study, settings, only_read=True).spec
    runs = places(spec, Path.cwd(), None).runs
    deadline = None if longest is None else time.monotonic() + longest
    try:
        with Display(spec.study, Screen()) as display:

            def see(event: Happening) -> None:
                if isinstance(event, Heartbeat):
                    display.progress(progress_of(event))

            found = follow(runs, see, deadline)
    except KeyboardInterrupt:
        typer.echo("The sweep goes on. Stop it with: " + shown(command_line("stop", study, settings)))
        raise typer.Exit(1) from None
    if found is None:
        refuse([f"No sweep of {spec.study} has run in this folder: there is nothing to wait for."])
    typer.echo(shown(str(found)))
    if found.state == "running":
        typer.echo(f"It has not ended within {longest:g} s, and goes on.", err=True)
        raise typer.Exit(1)
    code = exit_code(found)
    following = command_line("table" if code == 0 else "run", study, settings)
    typer.echo(f"{'See its answer' if code == 0 else 'Go on'} with: {shown(following)}")
    raise typer.Exit(code)
