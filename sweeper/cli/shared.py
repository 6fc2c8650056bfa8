"""What commands share: a study loaded or refused, a sweep run to its table. Knows no Optuna, MLflow or torch."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from studies.text.plural import so_many
from studies.text.redact import REDACTED, note_settings
from studies.text.secret_values import holds_secret

if TYPE_CHECKING:
    from studies.records import DataConfig
    from studies.spec import Arm, StudySpec
    from sweeper.ownership.owner import ForeignStudy
    from sweeper.recorded.state import StudyState
    from trainers.data.pairs import DataError
    from trainers.data.sources import Rows


@dataclass(frozen=True)
class Wanted:
    """A sweep that somebody asked for; `command` asked for it, `again` goes on with it, `failed` lists what failed."""

    study: str
    spec: StudySpec
    arms: Mapping[str, Arm]
    text: str
    executor: str
    workers: int | None
    storage: str | None
    again: str
    failed: str
    command: str


def runnable(
    context: typer.Context,
    study: str,
    settings: list[str] | None,
    executor: str,
    workers: int | None,
    storage: str | None,
) -> Wanted:
    """The sweep, checked as far as that can be done before anything is written; exits with 2 on any mistake."""
    from studies.spec import not_yet

    if executor not in ("process", "inline"):
        refuse([f"--executor {executor}: there is no such executor; valid are process and inline."])
    spec, arms, text = load(study, settings)
    if not_yet(spec):
        refuse(not_yet(spec))
    warn_of_code(spec)
    refuse_bad_base(spec, arms)
    look_at_data(spec, arms)
    again = command_line("run", study, settings or []) + _storage_words(context)
    failed = command_line("status", study, settings or [], "--failed")
    return Wanted(study, spec, arms, text, executor, workers, storage, again, failed, _command(context))


def command_line(command: str, study: str, settings: Sequence[str], *options: str) -> str:
    """A command to copy. A secret setting keeps its name, and a shell refuses what stands in place of its value."""
    words = [shlex.join(["sweeper", command, study, *options])]
    for setting in settings:
        name, _, value = setting.partition("=")
        told = f"{shlex.quote(name)}={REDACTED}" if holds_secret(name, value) else shlex.quote(setting)
        words.append(f"--set {told}")
    return " ".join(words)


def _command(context: typer.Context) -> str:
    """The command as it was given, to copy."""
    words = [f"sweeper {context.info_name}"]
    for parameter in context.command.params:
        name = str(parameter.name)
        source, value = context.get_parameter_source(name), context.params[name]
        if source is None or source.name != "COMMANDLINE" or name == "storage":
            continue
        options = parameter.opts[:1] if parameter.param_type_name == "option" else []
        for one in value if isinstance(value, list | tuple) else [value]:
            words.append(shlex.join(options if one is True else [*options, str(one)]))
    return " ".join(words) + _storage_words(context)


def _storage_words(context: typer.Context) -> str:
    """The option --storage where it was given in the command; its variable holds for the next one as well."""
    from dashboards.store.databases import OPTUNA, word

    source, url = context.get_parameter_source("storage"), context.params.get("storage")
    given = url and source is not None and source.name == "COMMANDLINE"
    return f" --storage {word(OPTUNA, str(url))}" if given else ""


def check_owner(wanted: Wanted) -> None:
    """Exit with 2 where somebody else's study has this name, before anything is written."""
    from dashboards.store.records import store_uri
    from sweeper.commands.run import one_at_a_time, places
    from sweeper.ownership.owner import ForeignStudy, refuse_foreign
    from sweeper.search.storage import StorageError, check_stores

    where = places(wanted.spec, Path.cwd(), wanted.storage)
    refuse_foreign_runs(where.runs)
    with store_errors():
        try:
            with one_at_a_time(where.folder):
                check_stores(where.storage, store_uri(where.tracking, where.folder))
            refuse_foreign(wanted.spec.study, where)
        except ForeignStudy as error:
            _refuse_foreign(wanted, error)
        except StorageError as error:
            refuse([str(error)])


def refuse_foreign_runs(runs: Path) -> None:
    """Exit with 2 where the folder of a study's runs holds what no sweep has made."""
    from sweeper.folder.own_folder import ForeignFolder, refuse_foreign_folder

    try:
        refuse_foreign_folder(runs)
    except ForeignFolder as error:
        refuse([str(error)])


def _refuse_foreign(wanted: Wanted, error: ForeignStudy) -> NoReturn:
    """Exit with 2 and the same command for a study of another name."""
    refuse([f"{error} {wanted.command} {shlex.join(['--set', f'study={error.free}'])}"])


@dataclass(frozen=True)
class Reuse:
    """How a sweep treats what is recorded: whether finished runs are left behind without asking, what lies on the Hub
    is taken as it is now, and runs of an earlier version are left behind of whose sources nothing was recorded.
    """

    yes: bool = False
    refresh: bool = False
    strict: bool = False


def run_sweep(wanted: Wanted, verify: int = 0, retry: Collection[str] = (), how: Reuse = Reuse()) -> None:
    """Run a sweep and print its table; exits with 1 where something is left to train, with 2 where it did not begin."""
    from dashboards.analysis.configs import distinct
    from dashboards.analysis.failures import counted, summary, tell
    from sweeper.cli.display import Display, Screen, print_verification, shown
    from sweeper.commands.run import Interrupted, places, run_session
    from sweeper.folder.control import AlreadyRunning
    from sweeper.folder.own_folder import ForeignFolder
    from sweeper.ownership.owner import ForeignStudy
    from sweeper.recorded.contents import as_found
    from sweeper.recorded.reading import answers_of, comparison_of, kept_files, written
    from sweeper.recorded.state import standing_of
    from sweeper.search.storage import StorageError

    spec, arms, again = wanted.spec, wanted.arms, wanted.again
    where = places(spec, Path.cwd(), wanted.storage)
    check_owner(wanted)
    console = Screen()
    for notice in base_notes(spec, arms):
        typer.echo(f"note: {shown(notice)}")
    quiet_libraries()
    with store_errors():
        spec = as_found(spec, arms, typer.echo, refresh=how.refresh)
        _ask_to_leave(standing_of(spec, arms, storage=where.storage, strict=how.strict), how)
    with store_errors(), Display(spec.study, console) as display:
        try:
            outcome, verified = run_session(
                *(spec, arms, wanted.text, where, wanted.executor, wanted.workers, display.progress, display.say),
                table=lambda: kept_files(spec, arms, display.say),
                verify_runs=verify,
                retry=retry,
                strict=how.strict,
            )
        except ForeignStudy as error:
            _refuse_foreign(wanted, error)
        except (AlreadyRunning, ForeignFolder, StorageError) as error:
            refuse([str(error)])
        except OSError as error:
            refuse([f"{error.filename or where.folder}: {error.strerror}. A sweep writes into the folder it runs in."])
        except Interrupted as error:
            typer.echo(f"error: {error}", err=True)
            display.say(f"The sweep ends here; what is finished is kept. Go on with: {shown(again)}")
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            display.say(f"Stopped at once. Go on with: {shown(again)}")
            raise typer.Exit(1) from None
    if outcome.unusable:
        refuse([f"No run of {spec.study} can be trained, and the sweep has ended: {outcome.unusable}"])
    failed = tell(outcome.failures)
    if outcome.undelivered:
        console.print(
            f"MLflow is away and misses {so_many(outcome.undelivered, 'record')}; they are kept in {where.runs}."
        )
    else:
        with store_errors():
            answers = answers_of(spec, arms)  # what the table and `sweeper status` count, of earlier sweeps too
            typer.echo(written(comparison_of(spec, arms, answers), "text", screen_width()), nl=False)
        records = distinct(answers.records)
        failed, outcome = summary(records), replace(outcome, failures=counted(records))
    if verified is not None:
        print_verification(verified, console)
    ending = f"{failed}: {shown(wanted.failed)}" if failed else "no run failed."
    reused = f"{outcome.reused} {'was' if outcome.reused == 1 else 'were'} there already"
    done = f"{so_many(outcome.trained, 'run')} trained, {reused}"
    console.print(f"{done}; {ending}", soft_wrap=True, markup=False)
    if outcome.undelivered:
        console.print(f"Deliver them, once it is back, with: {shown(again)}", soft_wrap=True, markup=False)
        raise typer.Exit(1)
    if outcome.unmeasured:
        console.print(
            f"{so_many(outcome.unmeasured, 'finished run')} could not be measured again; their numbers are as they "
            "were."
        )
    if not outcome.whole or outcome.unmeasured:
        console.print(f"Go on with: {shown(again)}", soft_wrap=True, markup=False)
        raise typer.Exit(1)
    console.print(f"Next: sweeper report {wanted.study}, sweeper export {wanted.study}, or browse the runs: sweeper ui")


def _ask_to_leave(state: StudyState, how: Reuse) -> None:
    """Say which finished runs the sweep would leave behind, and begin only where that is wanted."""
    from studies.design.answers import leaving

    lines = leaving(state.left)
    if not lines or state.done >= state.planned:  # where nothing is trained, nothing is lost by looking elsewhere
        return
    if how.yes or not sys.stdin.isatty():
        for line in lines:
            typer.echo(line, err=not how.yes)
        if not how.yes:
            refuse(["Nothing was trained. Put the file or its data back, or go on without those runs with --yes."])
        return
    for line in lines:
        typer.echo(line)
    if not typer.confirm("They stay in MLflow and come back with what they answer. Go on without them?"):
        raise typer.Exit(2)


def load(study: str, settings: list[str] | None) -> tuple[StudySpec, Mapping[str, Arm], str]:
    """The study, its arms and its file as they are recorded; exits with 2 on any mistake in it."""
    from studies.spec import StudyError, arms, load_study

    try:
        spec = load_study(study, settings or ())
        note_settings(spec.model_dump(mode="json"))
        return spec, arms(spec), spec.model_dump_json(indent=2, exclude_defaults=True)
    except StudyError as error:
        refuse(error.problems)


def tell_whose(spec: StudySpec) -> None:
    """Say on standard error whose the study is where it is not of this folder; it may be read. Raises StoreError."""
    from dashboards.store.addresses import sqlite_url
    from dashboards.store.records import MARK_PREFIX, StoreError, load_study_tags, store_uri
    from sweeper.folder.own_folder import read_mark

    here, uri = Path.cwd(), store_uri(None, Path.cwd())
    tags, runs = load_study_tags(uri, spec.study), here / spec.output.folder / spec.study
    known = tags.get(f"{MARK_PREFIX}id")
    if known is None or (read_mark(runs) or {}).get("id") == known:
        return
    from sweeper.cli.display import shown
    from sweeper.ownership.owner import notice_of  # which takes .3 s to load
    from sweeper.search.storage import StorageError

    try:
        notice = notice_of(spec.study, runs, sqlite_url(here / "optuna.db"), uri, tags)
    except StorageError as error:
        raise StoreError(str(error)) from error
    if notice is not None:
        typer.echo(f"note: {shown(notice)}", err=True)


def warn_of_code(spec: StudySpec) -> None:
    """Name the code from elsewhere that the study lets in, and what of the environment it gets, on standard error."""
    from studies.spec import foreign_code
    from sweeper.cli.display import shown

    for warning in foreign_code(spec):
        typer.echo(f"warning: {shown(warning)}", err=True)
    if spec.resources.env:
        typer.echo(f"warning: resources.env hands {', '.join(spec.resources.env)} to what trains and judges.", err=True)


def read_data(data: DataConfig) -> Rows | DataError | None:
    """The rows of local data, or why there are none; None of what lies elsewhere."""
    from sweeper.cli.display import shown
    from trainers.data.pairs import DataError, read_local

    try:
        with _said_if_long(f"Reading {shown(data.path)} ..."):
            return read_local(data)
    except DataError as error:
        return error


def try_data(rows: Rows, spec: StudySpec, arms: Mapping[str, Arm]) -> tuple[list[str], list[str]]:
    """What the tokenizers of a study make of rows: problems, and what to know."""
    from sweeper.cli.display import shown
    from trainers.preview import preview

    problems: list[str] = []
    notes: list[str] = []
    for data, where, models in _looks(spec, arms):
        for model, revision, code in models:
            with _said_if_long(f"Trying the tokenizer of {shown(model)} on rows of the data ..."):
                seen = preview(rows, data, model, revision, code, spec.runs.blocks[0])
            problems += [where + problem for problem in seen.problems]
            notes += [where + note for note in seen.notes]
    return list(dict.fromkeys(problems)), notes


def look_at_data(spec: StudySpec, arms: Mapping[str, Arm]) -> None:
    """Say what is made of local data, or exit with 2 where no run could use them, before any store is made."""
    from sweeper.cli.display import shown

    if spec.trainer != "dpo" or spec.data.path == "embedded":
        return
    rows = read_data(spec.data)
    if rows is None:
        return
    if isinstance(rows, Exception):
        refuse(rows.problems)
    problems, notes = try_data(rows, spec, arms)
    if problems:
        refuse(problems)
    left_out = bad_rows_line(rows.read, rows.dropped)
    if left_out and not any("bad and left out" in note for note in notes):
        notes.insert(0, left_out)
    for note in dict.fromkeys([*notes, *rows.notes]):
        typer.echo(f"data: {shown(note)}")


_Model = tuple[str, str | None, bool]  # its name, its revision, whether its own code may run


def _looks(spec: StudySpec, arms: Mapping[str, Arm]) -> Iterator[tuple[DataConfig, str, Sequence[_Model]]]:
    """Data as scenarios have them, each once, with the scenarios' names where there are several, and the models that
    are trained on them. Flipped labels are the same pairs.
    """
    from studies.spec import arms_in, scenario_data

    found: dict[str, tuple[DataConfig, list[str], set[_Model]]] = {}
    for name, scenario in spec.scenarios.items():
        data = scenario_data(spec.data, scenario).model_copy(update={"label_flip": 0.0, "flip_by": "chance"})
        _, names, models = found.setdefault(data.model_dump_json(), (data, [], set()))
        names.append(name)
        models |= _models(arms_in(spec, arms, name))
    for data, names, models in list(found.values())[:_MOST_DATA]:
        where = f"{', '.join(names)}: " if len(found) > 1 else ""
        yield data, where, sorted(models, key=str)[:_MOST_MODELS]


def _models(arms: Mapping[str, Arm]) -> set[_Model]:
    from studies.schema.variants import possible

    return {
        (str(model), arm.settings.get("model_revision"), bool(arm.settings.get("trust_remote_code")))
        for arm in arms.values()
        for model in possible(arm).get("model_name_or_path", ())
    }


@contextmanager
def _said_if_long(what: str) -> Iterator[None]:
    """Inside, say on standard error what is done once it has taken two seconds."""
    told = Timer(_SILENT_SECONDS, lambda: typer.echo(what, err=True))
    told.daemon = True
    told.start()
    try:
        yield
    finally:
        told.cancel()


_SILENT_SECONDS = 2.0
_MOST_DATA = 4  # as scenarios have them, that are looked at before a sweep
_MOST_MODELS = 3  # whose tokenizers are asked before a sweep


def bad_rows_line(read: int, dropped: Counter[str]) -> str:
    """How many bad rows are left out, by kind; empty where there are none."""
    from trainers.data.rows import counted

    return f"{dropped.total():,} bad rows of {read:,} are left out ({counted(dropped)})." if dropped else ""


def refuse_bad_base(spec: StudySpec, arms: Mapping[str, Arm]) -> None:
    """Exit with 2 where a base cannot be trained with, as far as its small files tell, before any store is made."""
    from trainers.models.bases import base_problems

    problems = [problem for settings in _bases(spec, arms) for problem in base_problems(settings)]
    if problems:
        refuse(list(dict.fromkeys(problems)))


def base_notes(spec: StudySpec, arms: Mapping[str, Arm]) -> list[str]:
    """What becomes of bases that are adapters."""
    from trainers.models.bases import base_notices

    return list(dict.fromkeys(note for settings in _bases(spec, arms) for note in base_notices(settings)))


def _bases(spec: StudySpec, arms: Mapping[str, Arm]) -> list[Mapping[str, Any]]:
    """The settings of every base that runs may start from."""
    from studies.schema.variants import possible

    if spec.trainer != "dpo":
        return []
    return [
        {**arm.settings, "model_name_or_path": model}
        for arm in arms.values()
        for model in possible(arm).get("model_name_or_path", (None,))
        if model is not None
    ]


def screen_width() -> int | None:
    """Columns of the terminal, None where the output goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


@contextmanager
def store_errors() -> Iterator[None]:
    """Exit with 2 and the store's own words where it is missing or cannot be used."""
    from dashboards.store.records import StoreError

    try:
        yield
    except StoreError as error:
        refuse([str(error)])


def quiet_libraries() -> None:
    """Keep library chatter of this process out of the progress display."""
    import logging

    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


# A mistake is told with its value, which may be a page long: head and tail hold the place, the rule and the remedy.
_LONGEST_PROBLEM = 1500


def _shortened(problem: str) -> str:
    half = _LONGEST_PROBLEM // 2
    return problem if len(problem) <= _LONGEST_PROBLEM else f"{problem[:half]} ... {problem[-half:]}"


def refuse(problems: tuple[str, ...] | list[str]) -> NoReturn:
    """Print every problem on standard error and exit with 2."""
    from sweeper.cli.display import shown

    for problem in problems:
        typer.echo(f"error: {_shortened(shown(problem))}", err=True)
    raise typer.Exit(2)
