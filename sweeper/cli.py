"""The command line: parse, call, print. Knows no Optuna, MLflow or torch; heavy modules load inside the commands."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from studies.redact import redact, redact_output

if TYPE_CHECKING:
    from rich.console import Console

    from dashboards.rendering import Format
    from dashboards.tables import Comparison
    from studies.records import RunRecord
    from studies.spec import Arm, StudySpec
    from sweeper.progress import Outcome

app = typer.Typer(
    help="Which DPO loss, with which settings, for my model and my data?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Study = Annotated[str, typer.Argument(metavar="STUDY", help="path of a study file, or the name of a shipped study")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="change a key, as base.max_steps=60")]
Storage = Annotated[str | None, typer.Option(help="URL of Optuna's storage  [default: sqlite:///optuna.db]")]


def main() -> None:
    """Entry point of the command `sweeper`."""
    redact_output()
    app()


@app.command()
def init(
    file: Annotated[Path, typer.Argument(help="study file to write")],
    model: Annotated[str, typer.Option(help="Hub id or path of the base model")] = "embedded",
    dataset: Annotated[str, typer.Option(help="Hub id, file or folder of the preference pairs")] = "embedded",
) -> None:
    """Write a study file to start from."""
    from sweeper.starter import write_starter

    if file.exists():
        _refuse([f"{file} exists already: give another name, or remove it first."])
    write_starter(file, model, dataset)
    typer.echo(f"Wrote {file}. Look at what it would run with: sweeper plan {file}")


@app.command()
def plan(
    study: Study,
    settings: Set = None,
    pilot: Annotated[bool, typer.Option("--pilot", help="train a few steps to measure time and memory")] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="worker processes  [default: a GPU each, else a core]")
    ] = None,
) -> None:
    """Show every trial that a study would run and, once a pilot has measured, what it costs; keeps nothing else."""
    from rich.console import Console

    from studies.spec import not_yet
    from sweeper.plan import make_plan
    from sweeper.show import print_plan, shown

    spec, arms, _ = _load(study, settings)
    print_plan(make_plan(spec, arms), Console(highlight=False))
    _print_cost(spec, arms, workers, measure=pilot)
    for notice in (*spec.notices, *not_yet(spec)):
        typer.echo(f"note: {shown(notice)}")
    _warn_of_code(spec)


@app.command()
def run(
    study: Study,
    settings: Set = None,
    executor: Annotated[str, typer.Option(help="process (warm worker processes) or inline (this process)")] = "process",
    workers: Annotated[
        int | None, typer.Option(min=1, help="worker processes  [default: a GPU each, else a core]")
    ] = None,
    storage: Storage = None,
    verify: Annotated[int, typer.Option(min=0, help="train so many finished runs again alone, and compare")] = 0,
) -> None:
    """Train what is missing of a study; run it again to resume."""
    from rich.console import Console

    from studies.spec import not_yet
    from sweeper.search import StorageError, check_storage
    from sweeper.session import AlreadyRunning, places, run_session
    from sweeper.show import Display, print_verification

    if executor not in ("process", "inline"):
        _refuse([f"--executor {executor}: there is no such executor; valid are process and inline."])
    spec, arms, text = _load(study, settings)
    if not_yet(spec):
        _refuse(not_yet(spec))
    _check_data(spec)
    again = shlex.join(["sweeper", "run", study, *(word for setting in settings or [] for word in ("--set", setting))])
    where = places(spec, Path.cwd(), storage)
    try:
        check_storage(where.storage)
    except StorageError as error:
        _refuse([str(error)])
    console = Console(highlight=False)
    _warn_of_code(spec)
    _quiet_libraries()
    with _store_errors(), Display(spec.study, console) as display:
        try:
            outcome, verified = run_session(
                spec,
                arms,
                text,
                where,
                executor,
                workers,
                display.progress,
                display.say,
                lambda: _files(spec, arms),
                verify,
            )
        except (AlreadyRunning, StorageError) as error:
            _refuse([str(error)])
        except KeyboardInterrupt:
            display.say(f"Stopped at once. Go on with: {again}")
            raise typer.Exit(1) from None
    if outcome.undelivered:
        console.print(f"MLflow is away and misses {outcome.undelivered} records; they are kept in {where.runs}.")
    else:
        with _store_errors():
            typer.echo(_render(_comparison(spec, arms), "text", _screen()), nl=False)
    if verified is not None:
        print_verification(verified, console)
    _tell_end(outcome, study, again, console)


@app.command()
def status(study: Study, settings: Set = None) -> None:
    """Count a study's runs by stratum and state, with rate and time left."""
    from rich.console import Console

    from sweeper.show import print_status

    spec, arms, _ = _load(study, settings)
    with _store_errors():
        records = _records(spec)
    print_status(spec, arms, records, Console(highlight=False))


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
    from dashboards.rendering import FORMATS

    kinds: dict[str, Format] = {name: name for name in FORMATS}
    problems = [] if format in kinds else [f"--format {format}: valid are {', '.join(FORMATS)}."]
    if (rows is None) != (columns is None) or (rows is not None and rows == columns):
        problems.append(
            "--rows and --columns: a grid needs two different knobs, such as --rows beta --columns learning_rate."
        )
    if problems:
        _refuse(problems)
    spec, arms, _ = _load(study, settings)
    width = _screen() if output is None else None
    with _store_errors():
        if rows is not None and columns is not None:
            text = _grids(spec, rows, columns, kinds[format], width)
        else:
            text = _render(_comparison(spec, arms), kinds[format], width)
    if output is None:
        typer.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")


@app.command()
def export(
    study: Study,
    variant: Annotated[str | None, typer.Option(help="the best trial of this variant")] = None,
    trial: Annotated[int | None, typer.Option(help="this trial of the variant")] = None,
    output: Annotated[Path, typer.Option(help="file to write")] = Path("best.yaml"),
    settings: Set = None,
) -> None:
    """Write the best config as a file that stock `trl dpo --config` runs."""
    from sweeper.export import ExportError, export_best

    spec, arms, _ = _load(study, settings)
    with _store_errors():
        records = _records(spec)
        try:
            chosen = export_best(spec, arms, records, _comparison(spec, arms).rows, variant, trial, output)
        except ExportError as error:
            _refuse([str(error)])
    typer.echo(f"Wrote {output} ({chosen}). Train it with: trl dpo --config {output}")


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="port on this machine")] = 5000,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
) -> None:
    """Open the MLflow UI on the store in this folder."""
    from dashboards.load import store_uri, study_pages

    uri = store_uri(None, Path.cwd())
    if uri.startswith(("http://", "https://")):
        _refuse([f"MLflow runs at {uri} already: open that address in a browser."])
    with _store_errors():
        pages = study_pages(uri)
    typer.echo(f"MLflow UI of {redact(uri)} on http://{host}:{port}")
    for study, page in pages.items():
        typer.echo(f"  {study}: http://{host}:{port}{page}")
    if host not in ("127.0.0.1", "localhost", "::1"):
        typer.echo(f"warning: everybody who reaches {host} can read and change all studies; MLflow asks nobody's name")
    # In the environment, since every user of a machine can read the arguments of a process.
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", "--host", host, "--port", str(port)])


@app.command()
def doctor() -> None:
    """Show versions, devices and stores, and what is missing."""
    from rich.console import Console

    from sweeper.doctor import examine, print_findings

    findings = examine(Path.cwd())
    print_findings(findings, Console(highlight=False))
    if not all(finding.good for finding in findings):
        raise typer.Exit(1)


def _load(study: str, settings: list[str] | None) -> tuple[StudySpec, Mapping[str, Arm], str]:
    """The study, its arms and its file as they are recorded; exits with 2 on any mistake in it."""
    from studies.spec import StudyError, arms, load_study

    try:
        spec = load_study(study, settings or ())
        return spec, arms(spec), spec.model_dump_json(indent=2, exclude_defaults=True)
    except StudyError as error:
        _refuse(error.problems)


def _tell_end(outcome: Outcome, study: str, again: str, console: Console) -> None:
    """Say what was trained and what to do next; exits with 1 where that is to run the same command again."""
    from sweeper.show import shown

    console.print(f"{outcome.trained} runs trained, {outcome.reused} were there already, {outcome.failed} failed.")
    if outcome.undelivered:
        console.print(f"Deliver them, once it is back, with: {shown(again)}", soft_wrap=True, markup=False)
        raise typer.Exit(1)
    if outcome.stopped or outcome.failed:
        console.print(f"Go on with: {shown(again)}", soft_wrap=True, markup=False)
        raise typer.Exit(1)
    console.print(f"Next: sweeper export {study}, or browse the runs: sweeper ui")


def _warn_of_code(spec: StudySpec) -> None:
    """Name the code from elsewhere that the study lets in, on standard error."""
    from studies.spec import foreign_code

    for warning in foreign_code(spec):
        typer.echo(f"warning: {warning}", err=True)


def _check_data(spec: StudySpec) -> None:
    """Exit with 2 where local data cannot be used, before any store is made."""
    if spec.trainer != "dpo" or spec.data.path == "embedded":
        return
    from trainers.data import check_data

    problems = check_data(spec.data)
    if problems:
        _refuse(problems)


def _print_cost(spec: StudySpec, arms: Mapping[str, Arm], workers: int | None, *, measure: bool) -> None:
    """Print what a pilot found, a kept one or with `measure` a new one."""
    from sweeper.executors import Process
    from sweeper.placement import describe, kept_pilot, make_pilot, worker_count
    from sweeper.plan import planned_runs

    runs = Path.cwd() / spec.output.folder / spec.study  # as `places` of sweeper.session, which loads the stores
    found, reason = kept_pilot(spec, arms, runs, workers), ""
    if measure:
        _check_data(spec)
        pool = Process(spec.trainer, workers or spec.resources.workers, runs / "logs")
        try:
            found, reason = make_pilot(spec, arms, runs, workers, pool)
        finally:
            pool.close(now=True)
    if found is not None:
        typer.echo(describe(found, planned_runs(spec, arms), worker_count(spec, workers)))
    elif measure:
        typer.echo(f"No pilot: {reason}.")


def _comparison(spec: StudySpec, arms: Mapping[str, Arm]) -> Comparison:
    from dashboards.tables import comparison
    from dashboards.trials import Stratum
    from sweeper.plan import pairs_source
    from sweeper.points import quota

    each = len(spec.runs.blocks) * len(spec.runs.seeds)
    strata = [
        Stratum(arm.name, scenario, arm.losses, 0 if spec.mode == "search" else quota(spec, arm), each)
        for scenario in spec.scenarios
        for arm in arms.values()
    ]
    return comparison(
        _records(spec),
        spec.objective,
        strata,
        baseline=spec.baseline,
        source=pairs_source(spec),
        scenarios=spec.scenarios,
    )


def _records(spec: StudySpec) -> list[RunRecord]:
    from dashboards.load import load_records, store_uri

    # What an earlier form of the file asked for stays in MLflow, but is not what is asked now.
    asked = {(False, b, s) for b in spec.runs.blocks for s in spec.runs.seeds}
    if spec.confirm is not None:
        asked |= {(True, b, s) for b in spec.confirm.blocks for s in spec.confirm.seeds}
    found = load_records(store_uri(None, Path.cwd()), spec.study)
    return [r for r in found if (r.arm == "confirm", r.block, r.seed) in asked]


def _render(table: Comparison, format: Format, width: int | None = None) -> str:
    from dashboards.rendering import render

    text: str = redact(render(table, format, width))
    return text.rstrip("\n") + "\n"


def _grids(spec: StudySpec, rows: str, columns: str, format: Format, width: int | None) -> str:
    from dashboards.grids import GridError, grids
    from dashboards.rendering import render_grids

    try:
        found = grids(_records(spec), spec.objective, rows, columns)
        return str(redact(render_grids(found, spec.objective, format, width)))
    except GridError as error:
        _refuse([str(error)])


def _screen() -> int | None:
    """Columns of the terminal, None where the output goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _files(spec: StudySpec, arms: Mapping[str, Arm]) -> Mapping[str, str]:
    found = _comparison(spec, arms)
    return {
        "table.txt": _render(found, "text"),
        "table.md": _render(found, "markdown"),
        "table.csv": _render(found, "csv"),
    }


@contextmanager
def _store_errors() -> Iterator[None]:
    """Exit with 2 and the store's own words where it is missing or cannot be used."""
    from dashboards.load import StoreError

    try:
        yield
    except StoreError as error:
        _refuse([str(error)])


def _quiet_libraries() -> None:
    """Keep library chatter of this process out of the progress display."""
    import logging

    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)


# A mistake is told with its value, which may be a page long: head and tail hold the place, the rule and the remedy.
_LONGEST_PROBLEM = 1500


def _shortened(problem: str) -> str:
    half = _LONGEST_PROBLEM // 2
    return problem if len(problem) <= _LONGEST_PROBLEM else f"{problem[:half]} ... {problem[-half:]}"


def _refuse(problems: tuple[str, ...] | list[str]) -> NoReturn:
    """Print every problem on standard error and exit with 2."""
    from sweeper.show import shown

    for problem in problems:
        typer.echo(f"error: {_shortened(shown(problem))}", err=True)
    raise typer.Exit(2)
