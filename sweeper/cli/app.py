"""The command line: parse, call, print. Knows no Optuna, MLflow or torch; heavy modules load inside the commands."""

from __future__ import annotations

import json
import os
import shlex
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from studies.text.plural import so_many
from studies.text.redact import note_command, redact, redact_output
from studies.text.visible import visible
from sweeper.cli.shared import (
    Reuse,
    base_notes,
    check_owner,
    command_line,
    load,
    look_at_data,
    quiet_libraries,
    read_data,
    refuse,
    refuse_bad_base,
    refuse_foreign_runs,
    run_sweep,
    runnable,
    screen_width,
    store_errors,
    tell_whose,
    try_data,
    warn_of_code,
)

if TYPE_CHECKING:
    from dashboards.tables.formats import Format
    from studies.spec import Arm, StudySpec


class _Commands(typer.core.TyperGroup):
    """The commands, which know the secrets among their words before they complain of any."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        note_command(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            told = vars(error)  # of typer's own: it is printed in a box, which may break a secret in two
            if isinstance(told.get("message"), str):
                told["message"] = visible(redact(told["message"]))
            raise


app = typer.Typer(
    cls=_Commands,
    help="Which DPO loss, with which settings, for my model and my data?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Study = Annotated[str, typer.Argument(metavar="STUDY", help="path of a study file, or the name of a shipped study")]
Variant = Annotated[str, typer.Argument(help="name of a variant")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="change a key, as base.max_steps=60")]
Executor = Annotated[str, typer.Option(help="process (warm worker processes) or inline (this process)")]
Workers = Annotated[int | None, typer.Option(min=1, help="worker processes  (default: a GPU each, else a core)")]
Storage = Annotated[
    str | None,
    typer.Option(
        envvar="OPTUNA_STORAGE",
        help="URL of Optuna's storage; one with a password belongs in the variable, as all users of a machine see "
        "options  (default: sqlite:///optuna.db)",
    ),
]


SAFE_PATH = {"PYTHONSAFEPATH": "1"}
"""In the environment: no Python process that is started from here takes code from the working folder."""


def main() -> None:
    """Entry point of the command `sweeper`."""
    os.environ |= SAFE_PATH
    redact_output()
    app()


@app.command()
def init(
    file: Annotated[Path, typer.Argument(help="study file to write")],
    model: Annotated[str, typer.Option(help="Hub id or path of the base model")] = "embedded",
    dataset: Annotated[str, typer.Option(help="Hub id, file or folder of the preference pairs")] = "embedded",
) -> None:
    """Write a study file to start from."""
    from studies.loading.plain_text import text_problem
    from sweeper.cli.display import shown

    given = {"FILE": str(file), "--model": model, "--dataset": dataset}
    problems = [f"{name} {text!r}: {wrong}." for name, text in given.items() if (wrong := text_problem(text))]
    if problems:
        refuse(problems)
    if file.exists():
        refuse([f"{file} exists already: give another name, or remove it first."])
    told = _write_starter(file, model, dataset)
    typer.echo(f"Wrote {file}. Look at what it would run with: sweeper plan {file}")
    for line in told:
        typer.echo(f"data: {shown(line)}")


def _write_starter(file: Path, model: str, dataset: str) -> list[str]:
    """Write the study, with what its reader must know of the data, which it gives."""
    from studies.records import DataConfig
    from studies.spec import StudyError, arms, load_study
    from sweeper.commands.init import UNREAD, remark_on, write_starter

    if dataset == "embedded":
        write_starter(file, model, dataset)
        return []
    rows = read_data(DataConfig(path=dataset, bad_rows="drop"))
    if rows is None:
        write_starter(file, model, dataset, UNREAD, drops=True)
        return []
    if isinstance(rows, Exception):
        write_starter(file, model, dataset, "The data cannot be used as they are; sweeper plan says why.")
        return ["no run could use them yet:", *rows.problems]
    remark, drops = remark_on(rows.read, rows.dropped)
    write_starter(file, model, dataset, remark, drops=drops)
    try:
        spec = load_study(str(file), ())
    except StudyError:  # `plan` tells
        return [remark]
    problems, notes = try_data(rows, spec, arms(spec))
    told = ["no run could use them yet:", *problems] if problems else notes
    return [remark, *told, *rows.notes]


@app.command()
def plan(
    study: Study,
    settings: Set = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="worker processes  (default: a GPU each, else a core)")
    ] = None,
) -> None:
    """Show every trial that a study would run and, once a sweep has found out, what it costs; writes nothing."""
    from studies.spec import not_yet
    from sweeper.cli.display import Screen, print_plan, shown
    from sweeper.planning.plan import make_plan
    from sweeper.recorded.contents import as_found
    from sweeper.recorded.state import standing_of

    spec, arms, _ = load(study, settings)
    warn_of_code(spec)
    refuse_foreign_runs(_runs_of(spec))
    refuse_bad_base(spec, arms)
    print_plan(make_plan(spec, arms), Screen())
    look_at_data(spec, arms)
    with store_errors():
        tell_whose(spec)
        found = as_found(spec, arms, typer.echo, reach=False)
        for line in standing_of(found, arms).lines():
            typer.echo(shown(line))
    _print_cost(found, arms, workers)
    for notice in (*spec.notices, *base_notes(spec, arms), *not_yet(spec)):
        typer.echo(f"note: {shown(notice)}")


@app.command()
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


@app.command()
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


@app.command()
def stop(
    study: Study,
    now: Annotated[bool, typer.Option("--now", help="at the next step of each run, not at its end")] = False,
    settings: Set = None,
) -> None:
    """Stop a sweep that runs in another terminal: finish what is in training and start nothing new."""
    from sweeper.folder.control import NotHere, ask_to_stop

    try:
        process = ask_to_stop(_run_folder(study, settings), now=now)
    except NotHere as error:
        refuse([str(error)])
    how = "stops at the next step of each run" if now else "finishes the runs in training and starts no others"
    typer.echo(f"Process {process} {how}. `sweeper run {study}` goes on from there.")


@app.command()
def pause(study: Study, variant: Variant, settings: Set = None) -> None:
    """Ask for no more runs of one variant, now and in later sweeps, until it is resumed."""
    _pause(study, variant, settings, hold=True)
    typer.echo(f"{variant} is paused; its runs in training go on. Let it go on with: sweeper resume {study} {variant}")


@app.command()
def resume(study: Study, variant: Variant, settings: Set = None) -> None:
    """Ask for runs of a paused variant again."""
    _pause(study, variant, settings, hold=False)
    typer.echo(f"{variant} goes on, in the sweep that runs or with: sweeper run {study}")


@app.command()
def status(
    study: Study,
    settings: Set = None,
    failed: Annotated[bool, typer.Option("--failed", help="which runs failed, by cause, with a log of each")] = False,
) -> None:
    """Count a study's runs by stratum and state, with rate and time left."""
    from dashboards.analysis.configs import distinct
    from sweeper.cli.display import Screen, print_failed, print_status
    from sweeper.folder.control import paused
    from sweeper.recorded.reading import answers_of

    spec, arms, _ = load(study, settings)
    with store_errors():
        tell_whose(spec)
        answers = answers_of(spec, arms)
    records, console = distinct(answers.records), Screen()
    if failed:
        print_failed(spec, arms, records, console)
        return
    print_status(spec, arms, records, console)
    for note in answers.notes():
        console.print(note, soft_wrap=True, markup=False)
    held = sorted(paused(_run_folder(study, settings)) & arms.keys())
    if held:
        console.print(f"paused: {', '.join(held)}")


@app.command()
def table(
    study: Study,
    format: Annotated[str, typer.Option(help="text, markdown, csv, json or html")] = "text",
    rows: Annotated[str | None, typer.Option(help="knob whose values make the rows of a grid, such as beta")] = None,
    columns: Annotated[str | None, typer.Option(help="and the columns, such as learning_rate")] = None,
    output: Annotated[Path | None, typer.Option(help="write to this file")] = None,
    settings: Set = None,
) -> None:
    """Print the comparison table, or a grid of two knobs, rebuilt from MLflow alone."""
    from dashboards.tables.formats import FORMATS
    from sweeper.recorded.reading import comparison_of, written

    kinds: dict[str, Format] = {name: name for name in FORMATS}
    problems = [] if format in kinds else [f"--format {format}: valid are {', '.join(FORMATS)}."]
    if (rows is None) != (columns is None) or (rows is not None and rows == columns):
        problems.append(
            "--rows and --columns: a grid needs two different knobs, such as --rows beta --columns learning_rate."
        )
    if problems:
        refuse(problems)
    spec, arms, _ = load(study, settings)
    width = screen_width() if output is None else None
    with store_errors():
        tell_whose(spec)
        if rows is not None and columns is not None:
            text = _grids(spec, arms, rows, columns, kinds[format], width)
        else:
            text = written(comparison_of(spec, arms), kinds[format], width)
    if output is None:
        typer.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")


@app.command()
def report(
    study: Study,
    output: Annotated[Path, typer.Option(help="page to write")] = Path("report.html"),
    settings: Set = None,
) -> None:
    """Write table, figures and samples as one page that opens without a network, rebuilt from MLflow alone."""
    from sweeper.recorded.reading import answers_of, comparison_of, report_of

    spec, arms, _ = load(study, settings)
    with store_errors():
        tell_whose(spec)
        answers = answers_of(spec, arms)
        page = report_of(spec, arms, answers.records, comparison_of(spec, arms, answers)).page
    try:
        output.write_text(page, encoding="utf-8")
    except OSError as error:
        refuse([f"--output {output}: {error.strerror}."])
    typer.echo(f"Wrote {output}. Open it in a browser; it needs no network.")


@app.command()
def evaluate(
    context: typer.Context,
    study: Study,
    judge_model: Annotated[str | None, typer.Option(help="Hub id or folder of a sequence classifier")] = None,
    judge_function: Annotated[str | None, typer.Option(help="your own function, as module:name")] = None,
    only_best: Annotated[bool, typer.Option("--only-best", help="only the best trial of each stratum")] = False,
    settings: Set = None,
    executor: Executor = "process",
    workers: Workers = None,
) -> None:
    """Score finished runs whose adapters are kept with a judge, this one or the study's; trains nothing."""
    from sweeper.cli.display import shown
    from sweeper.commands.run import Interrupted, places
    from sweeper.folder.control import AlreadyRunning
    from sweeper.measuring.rescore import EvaluateError, best_runs, score_all, select, summary
    from sweeper.recorded.contents import as_found, with_judge
    from sweeper.recorded.reading import answers_of, found_answers

    judged = _judge_settings(judge_model, judge_function)
    wanted = runnable(context, study, [*(settings or []), *judged], executor, workers, None)
    check_owner(wanted)
    spec, arms, where = wanted.spec, wanted.arms, places(wanted.spec, Path.cwd(), None)
    quiet_libraries()
    with store_errors():
        answers = found_answers(found := as_found(spec, arms, typer.echo, reach=False), arms)
        try:
            only = best_runs(spec, arms, answers_of(spec, arms).records) if only_best else None
            spec = with_judge(found, typer.echo)
            selection = select(spec, arms, answers, where.runs, only)
            scored = score_all(spec, selection, where, executor, workers, lambda line: typer.echo(shown(line)))
        except (EvaluateError, AlreadyRunning) as error:
            refuse([str(error)])
        except OSError as error:
            refuse([f"{error.filename or where.runs}: {error.strerror}."])
        except (Interrupted, KeyboardInterrupt) as error:
            typer.echo(f"error: {str(error) or 'stopped'}. What is scored is kept; the same command goes on.", err=True)
            raise typer.Exit(1) from None
    for sentence in summary(selection, scored):
        typer.echo(sentence)
    if scored.failed:
        raise typer.Exit(1)
    more = [] if spec.objective.metric.startswith("gold") else ["objective.metric=gold"]
    typer.echo(f"Next: {command_line('table', study, [*(settings or []), *judged, *more])}")


@app.command()
def export(
    study: Study,
    variant: Annotated[str | None, typer.Option(help="the best trial of this variant")] = None,
    trial: Annotated[int | None, typer.Option(help="this trial of the variant")] = None,
    output: Annotated[Path, typer.Option(help="file to write")] = Path("best.yaml"),
    settings: Set = None,
) -> None:
    """Write the best config as a file that stock `trl dpo --config` runs."""
    from sweeper.commands.export import ExportError, export_best
    from sweeper.recorded.contents import as_found
    from sweeper.recorded.reading import answers_of, comparison_of

    spec, arms, _ = load(study, settings)
    warn_of_code(spec)
    with store_errors():
        tell_whose(spec)
        answers = answers_of(spec, arms)
        found = as_found(spec, arms, typer.echo, reach=False)
        rows = comparison_of(spec, arms, answers).rows
        try:
            chosen = export_best(found, arms, answers.records, rows, variant, trial, output)
        except ExportError as error:
            refuse([" ".join([str(error), *answers.notes()])])
    typer.echo(f"Wrote {output} ({chosen}). Train it with: trl dpo --config {output}")


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="port on this machine")] = 5000,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
) -> None:
    """Open the MLflow UI on the store in this folder."""
    from dashboards.store.databases import shown
    from dashboards.store.records import connect, store_uri, study_pages
    from sweeper.tracking.moved import mend_artifacts

    uri = store_uri(None, Path.cwd())
    if uri.startswith(("http://", "https://")):
        refuse([f"MLflow runs at {uri} already: open that address in a browser."])
    with store_errors():
        pages = study_pages(uri)
        news = mend_artifacts(connect(uri), uri, Path.cwd())
    if news:
        typer.echo(news)
    typer.echo(f"MLflow UI of {shown(uri)} on http://{host}:{port}")
    for study, page in pages.items():
        typer.echo(f"  {study}: http://{host}:{port}{page}")
    if host not in ("127.0.0.1", "localhost", "::1"):
        typer.echo(f"warning: everybody who reaches {host} can read and change all studies; MLflow asks nobody's name")
    # In the environment, since every user of a machine can read the arguments of a process.
    os.environ |= {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **SAFE_PATH}
    # uvicorn puts a folder of its own choice first among those of modules, the working folder where none is named.
    of_modules = shlex.quote(f"--app-dir={sysconfig.get_path('stdlib')}")
    server = ["mlflow", "ui", "--host", host, "--port", str(port), "--workers", "1", "--uvicorn-opts", of_modules]
    os.execv(sys.executable, [sys.executable, "-P", "-m", *server])


@app.command()
def doctor() -> None:
    """Show versions, devices and stores, and what is missing."""
    from sweeper.cli.display import Screen
    from sweeper.commands.doctor import examine, print_findings

    findings = examine(Path.cwd())
    print_findings(findings, Screen())
    if not all(finding.good for finding in findings):
        raise typer.Exit(1)


def _judge_settings(model: str | None, function: str | None) -> list[str]:
    """A judge of the command line as a setting that replaces the study's."""
    given = {"reward_model": model, "function": function}
    judge = {name: value for name, value in given.items() if value is not None}
    return [f"evaluate.judge={json.dumps(judge)}"] if judge else []


def _run_folder(study: str, settings: list[str] | None) -> Path:
    from sweeper.commands.run import places

    return places(load(study, settings)[0], Path.cwd(), None).runs


def _runs_of(spec: StudySpec) -> Path:
    """As `places` of sweeper.commands.run, which loads the stores."""
    return Path.cwd() / spec.output.folder / spec.study


def _pause(study: str, variant: str, settings: list[str] | None, *, hold: bool) -> None:
    """Put a variant on the list of paused ones, or take it off; exits with 2 where there is no such variant."""
    from sweeper.folder.control import paused, set_paused

    _, arms, _ = load(study, settings)
    runs = _run_folder(study, settings)
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


def _print_cost(spec: StudySpec, arms: Mapping[str, Arm], workers: int | None) -> None:
    """Print what an earlier sweep found of time and memory, and what the study takes on disk."""
    from sweeper.planning.placement import describe, kept_sizing, worker_count
    from sweeper.planning.plan import planned_runs

    found = kept_sizing(spec, arms, _runs_of(spec), workers)
    if found is not None:
        typer.echo(describe(found, planned_runs(spec, arms), worker_count(spec, workers)))
    if spec.trainer == "dpo":
        from sweeper.planning.disk import describe_disk, planned_disk

        chosen = found.chosen.together if found is not None else None
        together = chosen if spec.resources.together is None else spec.resources.together
        use = planned_disk(spec, arms, worker_count(spec, workers), 1 if together is None else together)
        model = str(spec.base.get("model_name_or_path"))
        typer.echo(describe_disk(use, model, guessed=together is None))


def _grids(spec: StudySpec, arms: Mapping[str, Arm], rows: str, columns: str, format: Format, width: int | None) -> str:
    from dashboards.tables.formats import render_grids
    from dashboards.tables.grids import GridError, grids
    from sweeper.recorded.reading import answers_of

    try:
        found = grids(answers_of(spec, arms).records, spec.objective, rows, columns)
        return str(redact(render_grids(found, spec.objective, format, width)))
    except GridError as error:
        refuse([str(error)])
