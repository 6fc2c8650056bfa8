"""The command that asks for no study file: tune."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from studies.schema.replicates import as_in_file
from sweeper.cli.options import Executor, JudgeFunction, JudgeModel, Model
from sweeper.cli.refusal import refuse
from sweeper.cli.shared import (
    RunRequest,
    check_owner,
    load,
    print_outcome,
    quiet_libraries,
    run_sweep,
    runnable,
    store_errors,
)
from sweeper.cli.starting import say

if TYPE_CHECKING:
    from studies.spec import Study
    from sweeper.commands.tune import Asked, Tuning
    from sweeper.loop.progress import Outcome


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
    _refuse_what_is_wrong(asked, fresh=fresh)
    try:
        if fresh:
            _write(asked, file)
        else:
            typer.echo(f"Going on with {file}, which this command wrote.")
        wanted = replace(runnable(context, str(file), None, executor, gpus, None), again=asked.command)
        check_owner(wanted)
    except typer.Exit:
        if fresh:
            _take_back(file, folder=made)
        raise
    ended = 0
    try:
        _sweep(_until(wanted, asked, began), asked, file, began)
    except typer.Exit as end:
        ended = end.exit_code
        if ended != 1 or time.monotonic() - began < _ENOUGH * asked.seconds:
            raise  # stopped by hand, or it cannot go on: it is said how to go on
    if not _export(load(str(file), None), _best_of(file)) or ended:
        raise typer.Exit(1)


def _take_back(file: Path, *, folder: bool) -> None:
    """Remove a file that was written for a study that is refused, and the folder that was made for it."""
    file.unlink(missing_ok=True)
    with suppress(OSError):
        if folder:
            file.parent.rmdir()


_ENOUGH = 0.6  # of the hours, after which a sweep that is not whole was ended by them


def _best_of(file: Path) -> Path:
    return file.with_name("best.yaml")


def _refuse_what_is_wrong(asked: Asked, *, fresh: bool) -> None:
    """Exit with 2 and everything that is wrong with the command, before anything is written."""
    from studies.text.plural import so_many
    from sweeper.cli.starting import given_problems
    from sweeper.commands.starter.text import study_name
    from sweeper.commands.tune import why_not_ours
    from sweeper.executors.process.devices import visible_gpus
    from trainers.data.sources import kind_of
    from trainers.models.bases import base_problems

    given = {"--model": asked.model, "--data": asked.data}
    given |= {"--output": asked.output} if asked.output is not None else {}
    given |= asked.judge.options
    problems = given_problems(given, asked.hours, asked.model, asked.data)
    problems += asked.judge.problems(asked.data)
    there = len(visible_gpus(os.environ)) if asked.gpus is not None else 0
    if asked.gpus is not None and asked.gpus > there:
        problems.append(f"--gpus {asked.gpus}: this machine shows {so_many(there, 'GPU')}; leave the option out.")
    problems += base_problems({"model_name_or_path": asked.model})
    if kind_of(asked.data) == "missing":
        problems.append(f"--data {asked.data}: there is no such file or folder, and it has not the form of a Hub id.")
    if not problems and not fresh:
        wrong = why_not_ours(asked.file, asked)
        problems += [wrong] if wrong is not None else []
    best = _best_of(asked.file)
    if best.exists() and f"study {study_name(asked.file)}," not in best.read_text(encoding="utf-8", errors="replace"):
        problems.append(f"{best}: is there already and of another study; move it, or give another folder by --output.")
    if problems:
        refuse(problems)


def _write(asked: Asked, file: Path) -> None:
    """Design the study and write it; exits with 2 where no run could use model or data."""
    from studies.spec import Study, StudyError, load_study
    from studies.text.files import write_whole
    from sweeper.cli.starting import looked_at, machine
    from sweeper.commands.starter.design import design
    from sweeper.commands.starter.text import study_text
    from sweeper.commands.tune import plan_lines
    from sweeper.planning.plan import make_plan

    facts = looked_at(asked.model, asked.data)
    if facts.unusable:
        refuse(list(facts.unusable))
    designed = asked.judge.within(design(facts, asked.hours, machine(asked.gpus)))
    text = study_text(facts, designed, file, asked.head(designed))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, text)
    except OSError as error:
        refuse([f"{file}: {error.strerror}."])
    try:
        plan = make_plan(Study.of(load_study(str(file), ())))
    except StudyError as error:
        refuse(error.problems)
    say(f"Model: {facts.model.in_words()}")
    for line in facts.in_words()[:1]:
        say(f"Data: {line}")
    for line in plan_lines(designed, file, plan.power):
        say(line)


def _sweep(wanted: RunRequest, asked: Asked, file: Path, began: float) -> None:
    """Run the sweep and print its answer; where its file has no speed test yet, with as many replicates as the first
    runs show that the hours do for.
    """
    from studies.design.counts import planned_runs
    from sweeper.commands.tune import Tuning, untested
    from sweeper.folder.paths import places
    from sweeper.recorded.state import standing_of

    found, spec = untested(file.read_text(encoding="utf-8")), wanted.asked.spec
    if found is None or spec.replicates != found[0]:
        run_sweep(wanted)
        return
    tuning = Tuning(asked, file, *found, len(spec.variants), spec.budget.trials, began)
    outcome, study = _train(wanted, tuning)
    settled = replace(wanted, asked=study)
    if outcome.whole and standing_of(study).done < planned_runs(study):
        run_sweep(settled)  # the first runs had ended before it was known how many more there are to be
    else:
        print_outcome(settled, study, outcome, None, places(spec, Path.cwd(), wanted.storage))


def _train(wanted: RunRequest, tuning: Tuning) -> tuple[Outcome, Study]:
    """Train the fewest replicates, and all that the hours do for once that is known; with the study as it is then."""
    from dashboards.report.study import kept_files
    from studies.requests import Extend
    from sweeper.cli.display import Display, Screen, shown
    from sweeper.commands.run import run_session
    from sweeper.commands.sharing.notify import Notifier
    from sweeper.folder.control import AlreadyRunning
    from sweeper.folder.own_folder import ForeignFolder
    from sweeper.folder.paths import places
    from sweeper.folder.requests import put
    from sweeper.loop.progress import Interrupted, Progress
    from sweeper.recorded.contents import as_found
    from sweeper.recorded.reading import answers_of
    from sweeper.search.storage import StorageError

    quiet_libraries()
    where = places(wanted.asked.spec, Path.cwd(), wanted.storage)
    with store_errors():
        contents = as_found(wanted.asked, typer.echo).spec.contents
    first = tuning.first(wanted.asked).holding(contents)

    def study() -> Study:
        return tuning.settled(wanted.asked).holding(contents)

    with (
        store_errors(""),
        Display(first.spec.study, Screen()) as display,
        Notifier(first.spec, where.runs, display.say) as notifier,
    ):

        def show(progress: Progress) -> None:
            display.progress(progress)
            told = tuning.look(progress, time.monotonic())
            if told:
                display.say(f"Speed test: {told}.")
                if tuning.replicates > (first.spec.replicates or 0):
                    put(where.runs, Extend(replicates=tuning.replicates), "")

        try:
            outcome, _, _ = run_session(
                *(first, written(wanted.asked), where, wanted.executor, wanted.workers, show, display.say),
                table=lambda _: notifier.with_answer(kept_files(study(), answers_of(study()), display.say)),
                watch_events=notifier.after(lambda _line: None),
            )
        except (AlreadyRunning, ForeignFolder, StorageError) as error:
            refuse([str(error)])
        except Interrupted as error:
            typer.echo(f"error: {error}", err=True)
            display.say(f"The sweep ends here; what is finished is kept. Go on with: {shown(wanted.again)}")
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            display.say(f"Stopped at once. Go on with: {shown(wanted.again)}")
            raise typer.Exit(1) from None
    if outcome.unusable:
        refuse([f"No run of {first.spec.study} can be trained, and the sweep has ended: {outcome.unusable}"])
    if not outcome.stopped and (told := tuning.settle(outcome.trained, time.monotonic())):
        say(f"Speed test: {told}.")
    return outcome, study()


def written(study: Study) -> str:
    """The study as its file says it."""
    return as_in_file(study.spec).model_dump_json(indent=2, exclude_defaults=True)


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
