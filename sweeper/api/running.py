"""Runs a study from Python: starts its sweep in a process of its own, or attaches to it, and follows it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import typer

from studies.design.identity import asked_of_files
from studies.spec import Study
from sweeper.api.refusals import refuse
from sweeper.api.sources import Source
from sweeper.cli.detached.terminal import begin_detached
from sweeper.cli.display import Display, Screen, shown
from sweeper.cli.output import Output
from sweeper.cli.shared import Reuse, RunRequest, checked, command_line, refuse_uncounted
from sweeper.cli.verbs.running import asked_to_stop
from sweeper.commands.detached.follow import follow, progress_of
from sweeper.folder.events import Happening, Heartbeat
from sweeper.folder.paths import places
from sweeper.folder.standing import Standing, standing

OnInterrupt = Literal["detach", "stop"]


def run_study(
    source: Source,
    study: Study,
    *,
    workers: int | None,
    executor: str,
    storage: str | None,
    on_interrupt: OnInterrupt,
    leave_finished: bool,
) -> Standing | None:
    """Start a study's sweep, or attach to the one that runs, and follow it to its end; gives where it stands then."""
    problems = [] if workers is None or workers > 0 else [f"workers: {workers!r} must be 1 or more."]
    if on_interrupt not in ("detach", "stop"):
        problems.append(f'on_interrupt: {on_interrupt!r} must be "detach" or "stop".')
    if problems:
        refuse(*problems)
    runs = places(study.spec, Path.cwd(), None).runs
    found = standing(runs)
    if found is not None and found.state == "running":
        if found.beat.asked not in ("", asked_of_files(study)):
            refuse(
                f"The sweep of {study.spec.study!r} that runs, {found.process}, asks something else than this study: "
                "another base, data, evaluation, space, sampler, or other variants. Wait until it has ended, end it "
                f"with stop(), or give this one a name of its own: study='{study.spec.study}-2'."
            )
        typer.echo(
            f"Attached to the sweep that runs: {shown(found.process)}. It trains what it was asked for; what is "
            "missing of this study then, the next run() trains."
        )
    else:
        how = Reuse(yes=leave_finished, word="run(leave_finished=True)")
        word = source.word(study)
        wanted = _wanted(source, word, executor, workers, storage)
        began = begin_detached(wanted, 0, how, source.settings)
        typer.echo(f"Sweep {began.sweep} runs as process {began.process}; its log is {shown(began.log)}.")
    return _followed(study.spec.study, runs, on_interrupt)


def _wanted(source: Source, word: str, executor: str, workers: int | None, storage: str | None) -> RunRequest:
    """The sweep, checked; the commands to copy are those of the command line, which can go on with it."""
    settings = list(source.settings)
    asked = checked(source.study, settings, executor, source.text)
    refuse_uncounted(asked.spec, executor, workers)
    return RunRequest(
        study=word,
        asked=asked,
        executor=executor,
        workers=workers,
        storage=storage or os.environ.get("OPTUNA_STORAGE"),
        again=command_line("run", word, settings),
        failed=command_line("status", word, settings, "--failed"),
        command=command_line("run", word, settings),
        output=Output(None),
        text=source.text,
    )


def _followed(name: str, runs: Path, on_interrupt: OnInterrupt) -> Standing | None:
    """Follow the sweep to its end, or until an interrupt that only detaches."""
    try:
        return _shown(name, runs)
    except KeyboardInterrupt:
        if on_interrupt == "detach":
            typer.echo("The sweep goes on by itself: run() follows it again, and stop() ends it.")
            return standing(runs)
    process = asked_to_stop(runs, now=True)
    typer.echo(f"Stopping {shown(process)} at the next step of each run; run() goes on from there.")
    try:
        return _shown(name, runs)
    except KeyboardInterrupt:
        return standing(runs)


def _shown(name: str, runs: Path) -> Standing | None:
    with Display(name, Screen()) as display:

        def see(event: Happening) -> None:
            if isinstance(event, Heartbeat):
                display.progress(progress_of(event))

        return follow(runs, see)
