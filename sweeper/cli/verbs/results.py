"""Commands that read what was found: status, table, report, evaluate, export, ui."""

from __future__ import annotations

import os
import socket
import sqlite3
import sys
from collections.abc import Collection, Sequence
from contextlib import closing, suppress
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from studies.text.mistakes import Mistake, of_option
from studies.text.plural import so_many
from studies.text.redact import redact
from sweeper.cli.inputs import recorded_in, refuse_output
from sweeper.cli.options import Executor, JudgeFunction, JudgeModel, Set, StudyName, Workers
from sweeper.cli.output import Json, quiet_libraries
from sweeper.cli.refusal import refuse
from sweeper.cli.shared import (
    check_owner,
    command_line,
    load,
    runnable,
    screen_width,
    store_errors,
    tell_whose,
)

if TYPE_CHECKING:
    from dashboards.tables.comparison import Comparison
    from dashboards.tables.formats import Format
    from dashboards.tables.grids import Grid
    from studies.records import Judge
    from studies.spec import Study
    from sweeper.cli.shared import RunRequest
    from sweeper.documents.status import StatusDocument


RecordsFile = Annotated[Path | None, typer.Option("--records", help="a file of `sweeper records`, not the store")]


def status(
    context: typer.Context,
    study: StudyName,
    settings: Set = None,
    failed: Annotated[bool, typer.Option("--failed", help="which runs failed, by cause, with a log of each")] = False,
    json: Json = False,
) -> None:
    """Count a study's runs by variant, scenario and state, with rate and time left."""
    loaded = load(study, settings, only_read=True)
    context.obj.say(shown_status(loaded, failed=failed, prints=not json))


def shown_status(study: Study, *, failed: bool, prints: bool) -> StatusDocument:
    """Give how far a study is, and print it too where that is wanted."""
    from dashboards.analysis.configs import distinct
    from sweeper.cli.display import Screen, print_failed, print_status
    from sweeper.documents.status import StatusDocument, failed_runs, status_counts, sweep_state
    from sweeper.folder.control import paused
    from sweeper.folder.paths import places
    from sweeper.folder.standing import standing
    from sweeper.recorded.reading import answers_of

    with store_errors():
        tell_whose(study.spec)
        answers = answers_of(study)
    records, console = distinct(answers.records), Screen()
    found = standing(runs := places(study.spec, Path.cwd(), None).runs)
    held, notes = sorted(paused(runs) & study.variants.keys()), tuple(answers.notes())
    if prints and failed:
        print_failed(study, records, console)
    elif prints:
        print_status(study, records, console)
        for note in [*notes, *([] if found is None else [str(found)])]:
            console.print(note, soft_wrap=True, markup=False)
        if held:
            console.print(f"paused: {', '.join(held)}")
    counts, broken = status_counts(study, records), failed_runs(records) if failed else None
    return StatusDocument(study.spec.study, counts, sweep_state(found), tuple(held), notes, broken)


def table(
    context: typer.Context,
    study: StudyName,
    format: Annotated[str, typer.Option(help="text, markdown, csv, json or html")] = "text",
    rows: Annotated[str | None, typer.Option(help="setting whose values make the rows of a grid, such as beta")] = None,
    columns: Annotated[str | None, typer.Option(help="and the columns, such as learning_rate")] = None,
    output: Annotated[Path | None, typer.Option(help="write to this file")] = None,
    everything: Annotated[bool, typer.Option("--all", help="all that was measured, not the short table alone")] = False,
    file: RecordsFile = None,
    settings: Set = None,
    json: Json = False,
) -> None:
    """Print the answer and the table that it rests on, or a grid of two settings, rebuilt from MLflow alone."""
    from dashboards.report.study import written
    from dashboards.tables.formats import FORMATS, render_grids
    from dashboards.tables.grids import listed

    kinds: dict[str, Format] = {name: name for name in FORMATS}
    problems = _table_problems(format, kinds, rows, columns, file)
    if json and format in kinds and format not in ("text", "json"):
        problems.append(of_option("--format", format, "--json asks for json: leave one of the two out."))
    if problems:
        refuse(problems)
    loaded, kind = load(study, settings, only_read=True), kinds["json" if json else format]
    if output is not None:
        refuse_output(output, study, loaded.spec, file)
    width = screen_width() if output is None else None
    with store_errors():
        if file is None:
            tell_whose(loaded.spec)
        if rows is not None and columns is not None:
            grids = _grids(loaded, rows, columns)
            context.obj.say(listed(grids))
            text = str(redact(render_grids(grids, loaded.spec.objective, kind, width)))
        else:
            table = _compared(loaded, file)
            context.obj.say(table)
            text = written(table, kind, width, everything=everything)
    if output is not None:
        _write(output, text)
    elif not json:
        typer.echo(text, nl=False)


def _write(output: Path, text: str) -> None:
    """Write the file; exits with 2 where that cannot be."""
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        refuse([of_option("--output", output, f"{error.strerror}.", str(error.strerror))])


def _table_problems(
    format: str, kinds: Collection[str], rows: str | None, columns: str | None, file: Path | None
) -> list[Mistake | str]:
    """What is wrong with the options of `table`."""
    problems: list[Mistake | str] = []
    if format not in kinds:
        valid = f"valid are {', '.join(kinds)}."
        problems.append(of_option("--format", format, valid, "is no format of a table", valid))
    if (rows is None) != (columns is None) or (rows is not None and rows == columns):
        problems.append(
            "--rows and --columns: a grid needs two different settings, such as --rows beta --columns learning_rate."
        )
    if file is not None and rows is not None:
        problems.append("--records: a grid is made from the store; leave --rows and --columns out.")
    return problems


def _compared(loaded: Study, file: Path | None) -> Comparison:
    """The comparison, of the store's records or a file's. Raises StoreError."""
    from dashboards.report.study import comparison_in, comparison_of
    from sweeper.recorded.reading import answers_of

    return (
        comparison_of(loaded, answers_of(loaded)) if file is None else comparison_in(loaded, recorded_in(file, loaded))
    )


def records(
    study: StudyName,
    output: Annotated[Path, typer.Option(help="file to write")] = Path("records.jsonl.gz"),
    settings: Set = None,
) -> None:
    """Write the records that the study's tables are made of as one small file, which `table --records` reads."""
    from dashboards.report.study import recorded_of
    from dashboards.store.records_file import records_bytes
    from sweeper.recorded.reading import answers_of

    loaded = load(study, settings, only_read=True)
    refuse_output(output, study, loaded.spec)
    with store_errors():
        tell_whose(loaded.spec)
        found = recorded_of(loaded, answers_of(loaded))
    whole = records_bytes(found, keep=frozenset({loaded.spec.objective.metric}))
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_bytes(whole)
    except OSError as error:
        refuse([f"--output {output}: {error.strerror}."])
    typer.echo(f"Wrote {output}: {so_many(len(found.records), 'run')}, {len(whole) / 1024:.0f} KiB.")


def report(
    study: StudyName,
    output: Annotated[Path, typer.Option(help="page to write")] = Path("report.html"),
    file: RecordsFile = None,
    settings: Set = None,
) -> None:
    """Write table, figures and samples as one page that opens without a network, rebuilt from MLflow alone."""
    from dashboards.report.study import report_of
    from sweeper.recorded.reading import answers_of

    loaded = load(study, settings, only_read=True)
    refuse_output(output, study, loaded.spec, file)
    with store_errors("Reading the runs and drawing the figures ..."):
        if file is None:
            tell_whose(loaded.spec)
        runs = answers_of(loaded).records if file is None else recorded_in(file, loaded).records
        page = report_of(loaded, runs, _compared(loaded, file), stored=file is None).page
    _write(output, page)
    typer.echo(f"Wrote {output}. Open it in a browser; it needs no network.")


def evaluate(
    context: typer.Context,
    study: StudyName,
    judge_model: JudgeModel = None,
    judge_function: JudgeFunction = None,
    only_best: Annotated[
        bool, typer.Option("--only-best", help="only each variant's best trial in a scenario")
    ] = False,
    adapter: Annotated[str | None, typer.Option(help="measure this adapter of yours beside the losses instead")] = None,
    model: Annotated[str | None, typer.Option(help="measure this model of yours beside the losses instead")] = None,
    settings: Set = None,
    executor: Executor = "process",
    workers: Workers = None,
) -> None:
    """Score runs with a judge, by kept samples or adapters, or measure a model from elsewhere; trains nothing."""
    from studies.records import JUDGED
    from sweeper.cli.verbs.elsewhere import elsewhere_problems, measure_elsewhere

    judged = _judge_settings(judge_model, judge_function)
    if problems := elsewhere_problems(adapter, model, only_best=only_best):
        refuse(problems)
    wanted = runnable(context, study, [*(settings or []), *judged], executor, workers, None)
    check_owner(wanted)
    if path := adapter or model:
        measure_elsewhere(wanted, path, is_adapter=adapter is not None)
        typer.echo(f"Next: {command_line('table', study, [*(settings or []), *judged])}")
        return
    judge, spec = _score(wanted, only_best=only_best), wanted.asked.spec
    metric = "win_rate" if judge.pairwise is not None or spec.replicates is not None else "gold"
    more = [] if spec.objective.metric in JUDGED else [f"objective.metric={metric}"]
    typer.echo(f"Next: {command_line('table', study, [*(settings or []), *judged, *more])}")


def _score(wanted: RunRequest, *, only_best: bool) -> Judge:
    """Have the study's judge score its finished runs, and give the judge; exits with 2 where that is refused, with 1
    where something is left to do.
    """
    from dashboards.store.connection import store_uri
    from sweeper.cli.display import shown
    from sweeper.folder.control import AlreadyRunning
    from sweeper.loop.progress import Interrupted
    from sweeper.measuring.rescore import EvaluateError, best_runs, score_all, select, summary
    from sweeper.recorded.contents import as_found, with_judge
    from sweeper.recorded.reading import answers_of, found_answers
    from sweeper.tracking.scores import fetch_samples

    asked, where, workers = wanted.asked, wanted.where, wanted.workers
    quiet_libraries()
    with store_errors(""):
        answers = found_answers(found := as_found(asked, typer.echo, reach=False))
        try:
            only = best_runs(asked, answers_of(asked).records) if only_best else None
            judged_by = with_judge(found, typer.echo)
            uri = store_uri(None, Path.cwd())
            selection = select(
                judged_by, answers, where.runs, only, lambda run: fetch_samples(uri, run.run_id, where.runs / run.key)
            )
            scored = score_all(
                judged_by.spec, selection, where, wanted.executor, workers, lambda line: typer.echo(shown(line))
            )
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
    return selection.judge


def ui(
    study: Annotated[
        str | None, typer.Argument(metavar="STUDY", help="study file or name that the page opens at")
    ] = None,
    port: Annotated[int, typer.Option(help="port on this machine")] = 5000,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    mlflow: Annotated[bool, typer.Option("--mlflow", help="MLflow's own pages alone")] = False,
) -> None:
    """Open one live page to watch, compare and steer the studies in this folder, with MLflow's pages beside it."""
    from dashboards.store.connection import store_uri
    from sweeper.commands.page.serve import is_installed

    uri = store_uri(None, Path.cwd())
    if not mlflow and not is_installed():
        typer.echo("The live page needs `pip install 'nicegui>=3,<4'`; these are MLflow's own pages.")
    if mlflow or not is_installed():
        return _mlflow_ui(uri, port, host)
    quiet_libraries()
    _mend(uri, create=True)
    _refuse_taken(host, port)
    words = ["-P", "-m", "sweeper.commands.page", host, str(port), *([study] if study is not None else [])]
    os.execv(sys.executable, [sys.executable, *words])


def _refuse_taken(host: str, port: int) -> None:
    """Exit with 2 where something listens there already, or nothing may."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as asked:
            asked.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            asked.bind((host, port))
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        refuse([of_option("--port", str(port), f"{why}; give another one, such as --port {port + 1}.")])


def _mend(uri: str, *, create: bool) -> None:
    """Have the artifacts of a moved folder found. `create`: there may be no store yet."""
    from dashboards.live.reading.database import Database
    from dashboards.store.addresses import sqlite_file
    from dashboards.store.connection import check_store, connect
    from sweeper.tracking.experiment.moved import are_elsewhere, mend_artifacts

    if uri.startswith(("http://", "https://")):
        return
    with store_errors():
        if create and not check_store(uri):
            return
        file = sqlite_file(uri)
        database = None if file is None else Database.of(file, None)
        if database is not None:
            with closing(database), suppress(sqlite3.Error):  # which MLflow says more of
                if not database.read(lambda store: are_elsewhere(store, Path.cwd())):
                    return
        news = mend_artifacts(connect(uri), uri, Path.cwd())
    if news:
        typer.echo(news)


def _mlflow_ui(uri: str, port: int, host: str) -> None:
    """Become the process of MLflow's own pages."""
    from dashboards.live.doors.mlflow_command import server_command, server_environment
    from dashboards.store.databases import shown
    from dashboards.store.records import study_pages

    if uri.startswith(("http://", "https://")):
        refuse([f"MLflow runs at {uri} already: open that address in a browser."])
    with store_errors():
        pages = study_pages(uri)
    _mend(uri, create=False)
    typer.echo(f"MLflow UI of {shown(uri)} on http://{host}:{port}")
    for study, page in pages.items():
        typer.echo(f"  {study}: http://{host}:{port}{page}")
    if host not in ("127.0.0.1", "localhost", "::1"):
        typer.echo(f"warning: everybody who reaches {host} can read and change all studies; MLflow asks nobody's name")
    os.environ |= server_environment(uri)
    os.execv(sys.executable, server_command(host, port))


def _judge_settings(model: str | None, function: str | None) -> list[str]:
    """A judge of the command line as a setting that replaces the study's."""
    given = {"reward_model": model, "function": function}
    judge = {name: value for name, value in given.items() if value is not None}
    return [f"evaluate.judge={dumps(judge)}"] if judge else []


def _grids(study: Study, rows: str, columns: str) -> Sequence[Grid]:
    from dashboards.tables.grids import GridError, grids
    from sweeper.recorded.reading import answers_of

    try:
        return grids(answers_of(study).records, study.spec.objective, rows, columns)
    except GridError as error:
        refuse([str(error)])
