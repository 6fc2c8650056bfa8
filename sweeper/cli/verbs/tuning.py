"""The command that asks for no study file: tune."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from studies.text.plural import so_many
from sweeper.cli.inputs import refuse_bad_base, try_data
from sweeper.cli.options import Executor, JudgeFunction, JudgeModel, Model
from sweeper.cli.output import quiet_libraries
from sweeper.cli.refusal import refuse, refuse_unknown_executor
from sweeper.cli.shared import (
    RunRequest,
    check_owner,
    load,
    refuse_foreign_runs,
    run_sweep,
    runnable,
    store_errors,
)
from sweeper.cli.starting import say

if TYPE_CHECKING:
    from studies.spec import Study
    from sweeper.commands.tune import Asked
    from sweeper.measuring.run_time import RunTime


def tune(
    context: typer.Context,
    model: Model = "embedded",
    data: Annotated[str, typer.Option(help="Hub id, file or folder of the preference pairs")] = "embedded",
    hours: Annotated[float, typer.Option(help="hours that it may take")] = 8.0,
    gpus: Annotated[int | None, typer.Option(min=1, help="GPUs to use  (default: all)")] = None,
    output: Annotated[str | None, typer.Option(help="study file to write, or the folder for it")] = None,
    judge_model: JudgeModel = None,
    judge_function: JudgeFunction = None,
    executor: Executor = "process",
) -> None:
    """Find the loss and the settings for a model and its data within the hours; writes study file and best.yaml."""
    from sweeper.commands.starter.judge import NamedJudge
    from sweeper.commands.tune import Asked

    began = time.monotonic()
    asked = Asked(model, data, hours, gpus, output, NamedJudge(judge_model, judge_function))
    file = asked.file
    fresh, made = not os.path.lexists(file), not file.parent.exists()
    refuse_unknown_executor(executor)
    _refuse_what_is_wrong(asked, executor, fresh=fresh)
    if fresh:
        _write(asked, file, executor, began)
    else:
        typer.echo(f"Going on with {file}, which this command wrote.")
    try:
        wanted = replace(runnable(context, str(file), None, executor, gpus, None), again=asked.command)
        check_owner(wanted)
    except typer.Exit:
        if fresh:
            _take_back(file, folder=made)
        raise
    ended = 0
    try:
        run_sweep(_until(wanted, asked, began))
    except typer.Exit as end:
        ended = end.exit_code
        if ended != 1 or time.monotonic() - began < _ENOUGH * asked.seconds:
            raise  # stopped by hand, or it cannot go on: it is said how to go on
    if not _export(load(str(file), None), _best_of(file)) or ended:
        raise typer.Exit(1)


def _take_back(file: Path, *, folder: bool) -> None:
    """Remove a file that was written for a study that is refused, and the folder that was made for it."""
    with suppress(OSError):
        file.unlink(missing_ok=True)
        if folder:
            file.parent.rmdir()


_SHARE = 0.25  # of the hours, that a speed test may take ...
_LEAST_SECONDS = 300.0  # ... and however few they are: else it could not say how many would do
_ENOUGH = 0.6  # of the hours, after which a sweep that is not whole was ended by them


def _best_of(file: Path) -> Path:
    return file.with_name("best.yaml")


def _refuse_what_is_wrong(asked: Asked, executor: str, *, fresh: bool) -> None:
    """Exit with 2 and everything that is wrong with the command, before anything is written."""
    from sweeper.cli.starting import given_problems
    from sweeper.commands.starter.text import study_name
    from sweeper.commands.tune import why_not_ours
    from sweeper.executors import ELSEWHERE
    from sweeper.executors.process.devices import visible_gpus
    from trainers.data.sources import kind_of
    from trainers.models.bases import base_problems

    given = {"--model": asked.model, "--data": asked.data}
    given |= {"--output": asked.output} if asked.output is not None else {}
    given |= asked.judge.options
    problems = given_problems(given, asked.hours, asked.model, asked.data)
    problems += asked.judge.problems(asked.data)
    if executor in ELSEWHERE:
        problems.append(
            f"--executor {executor}: tune tests the speed of this machine and trains on it. For others write the study "
            f"with `sweeper init FILE`, and run it with `sweeper run FILE --executor {executor}`."
        )
    there = len(visible_gpus(os.environ)) if asked.gpus is not None else 0
    if asked.gpus is not None and asked.gpus > there:
        problems.append(f"--gpus {asked.gpus}: this machine shows {so_many(there, 'GPU')}; leave the option out.")
    problems += base_problems({"model_name_or_path": asked.model})
    if kind_of(asked.data) == "missing":
        problems.append(f"--data {asked.data}: there is no such file or folder, and it has not the form of a Hub id.")
    if not problems and not fresh:
        wrong = why_not_ours(asked.file, asked)
        problems += [wrong] if wrong is not None else []
    if not problems and fresh:
        problems += _unwritable(asked.file)
    best = _best_of(asked.file)
    if best.exists() and f"study {study_name(asked.file)}," not in best.read_text(encoding="utf-8", errors="replace"):
        problems.append(f"{best}: is there already and of another study; move it, or give another folder by --output.")
    if problems:
        refuse(problems)


def _unwritable(file: Path) -> list[str]:
    """Why the study file, or what its sweep keeps in the working folder, cannot be written."""
    there = next(place for place in file.parents if os.path.lexists(place))
    return [
        f"{place.absolute()}: {'is no folder' if not place.is_dir() else 'nothing can be written there'}."
        for place in dict.fromkeys((there, Path()))
        if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK))
    ]


def _refuse_taken(study: Study, file: Path) -> None:
    """Exit with 2 where a study has the name of one whose file is not written yet, before any run trains."""
    from dashboards.store.connection import StoreMissing, store_uri
    from dashboards.store.records import load_records
    from sweeper.folder.paths import places

    name, where = study.spec.study, places(study.spec, Path.cwd(), None)
    refuse_foreign_runs(where.runs)
    with store_errors():
        try:
            there = len(load_records(store_uri(where.tracking, where.folder), name))
        except StoreMissing:
            return
    if there:
        kept = f"{so_many(there, 'run')} of a study {name} {'is' if there == 1 else 'are'} recorded here"
        refuse([f"{kept}, and its file {file} is not there: put it back, or name another file with --output."])


def _write(asked: Asked, file: Path, executor: str, began: float) -> None:
    """Design the study by what its runs take here, and write it; exits with 2 where no run could use model or data, or
    the hours do for none.
    """
    from studies.text.files import write_whole
    from sweeper.cli.starting import looked_at, machine
    from sweeper.commands.starter.design import as_wished, design, timed
    from sweeper.commands.starter.text import study_text
    from sweeper.commands.tune import plan_lines, speed_lines, too_few_hours, what_shows_more
    from sweeper.planning.plan import make_plan
    from sweeper.planning.power import replicates_to_show

    facts = looked_at(asked.model, asked.data)
    if facts.unusable:
        refuse(list(facts.unusable))
    say(f"Model: {facts.model.in_words()}")
    for line in facts.in_words()[:1]:
        say(f"Data: {line}")
    guess = asked.judge.within(design(facts, asked.hours, machine(asked.gpus)))
    first = _study_of(study_text(facts, guess, file, ()), file)
    refuse_bad_base(first)
    if facts.rows is not None and (problems := try_data(facts.rows, first)[0]):
        refuse(problems)
    _refuse_taken(first, file)
    found = _speed_test(first, asked, executor)
    left = asked.seconds - (time.monotonic() - began)
    whole = asked.judge.within(as_wished(facts, asked.hours, replace(guess.machine, workers=found.workers)))
    designed = timed(whole, found, left)
    speed = speed_lines(found, designed)
    say(f"Speed test ({found.spent:.0f} s): {speed}.")
    if not designed.fits:
        refuse([too_few_hours(asked, designed, asked.seconds - left)])
    text = study_text(facts, designed, file, asked.head(speed))
    study = _study_of(text, file)
    needed = replicates_to_show(study.within(next(iter(study.spec.scenarios))))
    more = what_shows_more(whole, asked, found, needed)
    if os.path.lexists(file):
        refuse([f"{file}: another command has written it meanwhile. Give another file with --output."])
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, text)
    except OSError as error:
        refuse([f"{file}: {error.strerror}."])
    for line in plan_lines(designed, file, make_plan(study).power, more):
        say(line)


def _study_of(text: str, file: Path) -> Study:
    """The study of a file that is not written yet; exits with 2 where it is none."""
    from studies.spec import Study, StudyError, load_study

    try:
        return Study.of(load_study(str(file), (), text))
    except StudyError as error:
        refuse(error.problems)


def _speed_test(study: Study, asked: Asked, executor: str) -> RunTime:
    """What the study's runs take here; exits with 2 where none can be trained, with 1 at Ctrl-C and SIGTERM."""
    from studies.text.plural import duration_in_words
    from sweeper.cli.display import Display, Screen, shown
    from sweeper.commands.signals import as_interrupt
    from sweeper.commands.tune import rounded_up
    from sweeper.loop.progress import Screen as Shown
    from sweeper.measuring.run_time import NoRunTime, TooSlow, measure_run_time
    from sweeper.recorded.contents import as_found

    limit = max(_SHARE * asked.seconds, _LEAST_SECONDS)
    quiet_libraries()
    say(f"Speed test: some runs train for a while, {duration_in_words(limit)} at most, and are thrown away.")
    with store_errors():
        found = as_found(study, typer.echo)
    with Display(study.spec.study, Screen()) as display:
        try:
            screen = Shown(display.progress, display.say)
            with as_interrupt():
                return measure_run_time(found, executor, asked.gpus, limit, screen)
        except TooSlow as error:
            twice = f"--hours {rounded_up(2 * limit / _SHARE / 3600)} gives it twice as long"
            refuse([f"Speed test: {error} Nothing was written; {twice}."])
        except (NoRunTime, OSError, RuntimeError) as error:  # the last two: no disk, no workers
            refuse([f"Speed test: {error}"])
        except KeyboardInterrupt:
            display.say(f"Stopped; nothing was written. Again with: {shown(asked.command)}")
            raise typer.Exit(1) from None


def _until(wanted: RunRequest, asked: Asked, began: float) -> RunRequest:
    """The sweep with what is left of the hours as its budget."""
    spec = wanted.asked.spec
    left = max(asked.seconds - (time.monotonic() - began), 1.0)
    if spec.budget.wall_clock is None or spec.budget.wall_clock < left:
        return wanted  # as somebody has edited it
    budget = spec.budget.model_copy(update={"wall_clock": left})
    study = replace(wanted.asked, spec=spec.model_copy(update={"budget": budget}))
    return replace(wanted, asked=study)


def _export(study: Study, best: Path) -> bool:
    """Write the best config beside the study file, where the answer names one; whether it does."""
    from dashboards.report.study import comparison_of
    from sweeper.commands.export import ExportError, NoLossNamed, export_best
    from sweeper.recorded.contents import as_found
    from sweeper.recorded.reading import answers_of

    with store_errors():
        answers = answers_of(study)
        found = as_found(study, typer.echo, reach=False)
        try:
            export_best(found, answers.records, comparison_of(study, answers), None, None, best)
        except NoLossNamed as error:  # the answer stands above
            say(f"{best} is not written: {error.shortly}.")
            return False
        except ExportError as error:
            say(f"{best} is not written: {error}")
            return False
    typer.echo(f"Wrote {best}. Train it with: trl dpo --config {best}")
    return True
