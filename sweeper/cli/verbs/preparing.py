"""Commands before a sweep: init, plan, doctor."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweeper.cli.inputs import base_notes, look_at_data, refuse_bad_base, warn_of_code
from sweeper.cli.options import Executor, Hours, JudgeFunction, JudgeModel, Model, Set, StudyName, Workers
from sweeper.cli.output import Json
from sweeper.cli.refusal import refuse, refuse_unknown_executor
from sweeper.cli.shared import load, refuse_foreign_runs, store_errors, tell_whose

if TYPE_CHECKING:
    from studies.spec import Study, StudySpec
    from sweeper.documents.plan import PlanDocument, PlannedDisk, PlannedTraining


def init(
    file: Annotated[Path, typer.Argument(help="study file to write")],
    model: Model = "embedded",
    data: Annotated[str, typer.Option(help="Hub id, file or folder of the preference pairs")] = "embedded",
    hours: Hours = 8.0,
    judge_model: JudgeModel = None,
    judge_function: JudgeFunction = None,
    dataset: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Write a study file that fits a model, its data and your hours, with a comment on every number."""
    from sweeper.cli.display import shown
    from sweeper.cli.starting import given_problems, looked_at, machine, try_study
    from sweeper.commands.starter.design import design
    from sweeper.commands.starter.judge import NamedJudge
    from sweeper.commands.starter.text import study_text

    data = data if dataset is None else dataset  # as the option was called
    judge = NamedJudge(judge_model, judge_function)
    given = {"FILE": str(file), "--model": model, "--data": data, **judge.options}
    problems = given_problems(given, hours, model, data) + judge.problems(data)
    if problems:
        refuse(problems)
    if os.path.lexists(file):
        refuse([f"{file} exists already: give another name, or remove it first."])
    facts = looked_at(model, data)
    designed = judge.within(design(facts, hours, machine(None)))
    text = study_text(facts, designed, file, _head(file))
    told = try_study(text, facts, file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        refuse([f"{file}: {error.strerror}."])
    typer.echo(f"Wrote {file}. Look at what it would run with: sweeper plan {file}")
    typer.echo(f"model: {shown(facts.model.in_words())}")
    for line in told:
        typer.echo(f"data: {shown(line)}")
    for line in designed.told:
        typer.echo(f"note: {shown(line)}")


def _head(file: Path) -> tuple[str, ...]:
    return (
        "A study: one question. Change what you like; every number is a proposal.",
        f"    sweeper plan {file}     what it would run, and what so many runs can show",
        f"    sweeper run {file}      trains what is missing; the same command goes on after a stop",
    )


def plan(
    context: typer.Context,
    study: StudyName,
    settings: Set = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="worker processes  (default: a GPU each, else a core)")
    ] = None,
    json: Json = False,
) -> None:
    """Show every trial that a study would run and, once a sweep has found out, what it costs; writes nothing."""
    context.obj.say(shown_plan(load(study, settings), workers, everything=not json))


def shown_plan(loaded: Study, workers: int | None, *, everything: bool) -> PlanDocument:
    """Print what a study would run, or with less than everything what there is to say of it; and give it."""
    from studies.spec import not_yet
    from sweeper.cli.display import Screen, print_plan, shown
    from sweeper.documents.plan import plan_document
    from sweeper.planning.plan import make_plan
    from sweeper.recorded.contents import as_found
    from sweeper.recorded.state import standing_of

    warn_of_code(loaded.spec)
    refuse_foreign_runs(_runs_of(loaded.spec))
    refuse_bad_base(loaded)
    planned = make_plan(loaded)
    if everything:
        print_plan(planned, Screen())
    data = look_at_data(loaded)
    with store_errors():
        tell_whose(loaded.spec)
        found = as_found(loaded, typer.echo, reach=False)
        state = standing_of(found)
    for line in state.lines():
        typer.echo(shown(line))
    cost = _cost(found, workers)
    notes = (*loaded.spec.notices, *base_notes(loaded), *not_yet(loaded.spec))
    for notice in notes:
        typer.echo(f"note: {shown(notice)}")
    return plan_document(loaded, planned, state, *cost, data, notes)


def doctor(
    context: typer.Context,
    study: Annotated[
        str | None, typer.Argument(metavar="STUDY", help="study whose workers are on other machines")
    ] = None,
    settings: Set = None,
    executor: Executor = "process",
    workers: Workers = None,
    json: Json = False,
) -> None:
    """Show versions, devices and stores, and what is missing; with --executor slurm or hosts, for workers there too."""
    from sweeper.cli.display import Screen
    from sweeper.commands.doctor import DoctorDocument, examine, print_findings
    from sweeper.executors import ELSEWHERE

    refuse_unknown_executor(executor)
    spec = None if study is None else load(study, settings).spec
    findings = examine(Path.cwd())
    if executor in ELSEWHERE:
        from sweeper.commands.doctor_elsewhere import Elsewhere, examine_elsewhere

        here = Path.cwd()
        asked = Elsewhere(here / "runs", workers) if spec is None else Elsewhere.of(spec, here, workers)
        findings += examine_elsewhere(executor, asked)
    good = all(finding.good for finding in findings)
    if not json:
        print_findings(findings, Screen())
    context.obj.say(DoctorDocument(good, findings))
    if not good:
        raise typer.Exit(1)


def _runs_of(spec: StudySpec) -> Path:
    """As `places` of sweeper.commands.run, which loads the stores."""
    return Path.cwd() / spec.output.folder / spec.study


def _cost(study: Study, workers: int | None) -> tuple[PlannedTraining | None, PlannedDisk | None]:
    """Print what an earlier sweep found of time and memory, and what the study takes on disk; and give it."""
    spec = study.spec
    from studies.design.counts import planned_runs
    from sweeper.documents.plan import planned_bytes, planned_training
    from sweeper.planning.placement import describe, kept_sizing, worker_count

    found, count, disk = kept_sizing(study, _runs_of(spec), workers), worker_count(spec, workers), None
    if found is not None:
        typer.echo(describe(found, planned_runs(study), count))
    if spec.trainer == "dpo":
        from sweeper.planning.disk import describe_disk, planned_disk

        chosen = found.chosen.together if found is not None else None
        together = chosen if spec.resources.together is None else spec.resources.together
        use = planned_disk(study, count, 1 if together is None else together)
        model = str(spec.base.get("model_name_or_path"))
        typer.echo(describe_disk(use, model, guessed=together is None))
        disk = planned_bytes(use, guessed=together is None)
    return planned_training(study, found, count), disk


def check_data(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Hub id, file or folder of preference pairs")],
    model: Annotated[
        str | None, typer.Option(help="count lengths in the tokens of this model, and try its template")
    ] = None,
) -> None:
    """Show what is in a data set and what is wrong with it, without a study; trains and writes nothing."""
    from sweeper.cli.starting import given_problems, print_check, rows_of
    from sweeper.commands.check_data import check

    given = {"DATA": data} | ({"--model": model} if model is not None else {})
    problems = given_problems(given, hours=1.0)
    if data == "embedded":
        problems.append("DATA embedded: the embedded world draws its own pairs, so there is nothing to check.")
    if problems:
        refuse(problems)
    found = check(data, model, rows_of)
    if found.unreadable and not found.sections:
        refuse(list(found.unreadable))
    print_check(found, data, model)
    if found.unusable:
        raise typer.Exit(1)
