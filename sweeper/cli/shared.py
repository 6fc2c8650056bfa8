"""What commands share: a study loaded or refused, a sweep run to its table. Knows no Optuna, MLflow or torch."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from studies.schema.replicates import as_in_file
from studies.text.mistakes import Mistake
from studies.text.plural import so_many
from studies.text.redact import REDACTED, note_settings
from studies.text.secret_values import holds_secret
from sweeper.cli.inputs import base_notes, look_at_data, refuse_bad_base, said_if_long, warn_of_code
from sweeper.cli.output import Events, Output, quiet_libraries
from sweeper.cli.refusal import Ended, refuse, refuse_unknown_executor

if TYPE_CHECKING:
    from studies.spec import Study, StudySpec
    from sweeper.folder.paths import StudyPaths
    from sweeper.loop.progress import Outcome
    from sweeper.measuring.verify import Verification
    from sweeper.ownership.owner import ForeignStudy
    from sweeper.recorded.state import StudyState


@dataclass(frozen=True)
class RunRequest:
    """A sweep that somebody asked for, with `settings`; `command` asked for it, `again` goes on with it, `failed` lists
    what failed; `output`: where its events and its answer go as JSON; `text`: the study, where it is no file.
    """

    study: str
    asked: Study
    executor: str
    workers: int | None
    storage: str | None
    again: str
    failed: str
    command: str
    output: Output
    text: str | None = None
    in_own_process: bool = False
    settings: tuple[str, ...] = ()

    @property
    def where(self) -> StudyPaths:
        """Paths and URLs of the study."""
        from sweeper.folder.names import SWEEP_LOG
        from sweeper.folder.paths import places

        found = places(self.asked.spec, Path.cwd(), self.storage)
        return replace(found, log=found.runs / SWEEP_LOG) if self.in_own_process else found


def runnable(
    context: typer.Context,
    study: str,
    settings: list[str] | None,
    executor: str,
    workers: int | None,
    storage: str | None,
) -> RunRequest:
    """The sweep, checked as far as that can be done before anything is written; exits with 2 on any mistake."""
    asked = checked(study, settings, executor)
    refuse_uncounted(asked.spec, executor, workers)
    again = command_line("run", study, settings or []) + storage_words(context)
    failed = command_line("status", study, settings or [], "--failed")
    return RunRequest(
        study,
        asked,
        executor,
        workers,
        storage,
        again,
        failed,
        _command(context),
        context.obj,
        settings=tuple(settings or ()),
    )


def checked(study: str, settings: list[str] | None, executor: str, text: str | None = None) -> Study:
    """The study of a sweep, with model, data and code looked at; exits with 2 on any mistake."""
    from studies.spec import not_yet

    refuse_unknown_executor(executor)
    asked = load(study, settings, text)
    if not_yet(asked.spec):
        refuse(not_yet(asked.spec))
    warn_of_code(asked.spec)
    refuse_bad_base(asked)
    look_at_data(asked)
    return asked


def refuse_uncounted(spec: StudySpec, executor: str, workers: int | None) -> None:
    """Exit with 2 where workers are on other machines and nobody says how many, or their key is none."""
    from sweeper.executors.registry import problem

    wrong = problem(executor, workers or spec.resources.workers)
    if wrong:
        refuse([wrong])


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
    return " ".join(words) + storage_words(context)


def storage_words(context: typer.Context) -> str:
    """The option --storage where it was given in the command; its variable holds for the next one as well."""
    from dashboards.store.databases import OPTUNA, word

    source, url = context.get_parameter_source("storage"), context.params.get("storage")
    given = url and source is not None and source.name == "COMMANDLINE"
    return f" --storage {word(OPTUNA, str(url))}" if given else ""


def check_owner(wanted: RunRequest) -> None:
    """Exit with 2 where somebody else's study has this name, before anything is written."""
    from dashboards.store.connection import store_uri
    from sweeper.folder.control import one_at_a_time
    from sweeper.ownership.owner import ForeignStudy, refuse_foreign
    from sweeper.search.storage import StorageError, check_stores

    where = wanted.where
    refuse_foreign_runs(where.runs)
    with store_errors():
        try:
            with one_at_a_time(where.folder):
                check_stores(where.storage, store_uri(where.tracking, where.folder))
            refuse_foreign(wanted.asked.spec.study, where)
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


def _refuse_foreign(wanted: RunRequest, error: ForeignStudy) -> NoReturn:
    """Exit with 2 and the same command for a study of another name."""
    refuse([f"{error} {wanted.command} {shlex.join(['--set', f'study={error.free}'])}"])


@dataclass(frozen=True)
class Reuse:
    """How a sweep treats what is recorded: whether finished runs are left behind without asking, what lies on the Hub
    is taken as it is now, and runs of an earlier version are left behind of whose sources nothing was recorded. `word`:
    how finished runs are left behind.
    """

    yes: bool = False
    refresh: bool = False
    strict: bool = False
    word: str = "--yes"


def run_sweep(wanted: RunRequest, verify: int = 0, retry: Collection[str] = (), how: Reuse = Reuse()) -> None:
    """Run a sweep and print its table; exits with 1 where something is left to train, with 2 where it did not begin."""
    from dashboards.report.study import kept_files
    from sweeper.cli.display import Display, Screen, both, shown
    from sweeper.commands.run import run_session
    from sweeper.commands.session.next_version import version_with
    from sweeper.commands.sharing.notify import Notifier
    from sweeper.folder.control import AlreadyRunning
    from sweeper.folder.own_folder import ForeignFolder
    from sweeper.loop.progress import Interrupted
    from sweeper.ownership.owner import ForeignStudy
    from sweeper.recorded.reading import answers_of
    from sweeper.search.storage import StorageError

    where, again = wanted.where, wanted.again
    asked = begin(wanted, how)
    text = as_in_file(wanted.asked.spec).model_dump_json(indent=2, exclude_defaults=True)
    with (
        store_errors(""),
        Display(asked.spec.study, Screen()) as display,
        Events(wanted.output) as events,
        Notifier(asked.spec, where.runs, display.say) as notifier,
    ):
        try:
            outcome, verified, asked = run_session(
                *(asked, text, where, wanted.executor, wanted.workers, display.progress, display.say),
                table=lambda study: notifier.with_answer(kept_files(study, answers_of(study), display.say)),
                verify_runs=verify,
                retry=retry,
                strict=how.strict,
                watch_events=notifier.after(both(events.add, display.event)),
                next_version=version_with(wanted.settings, wanted.study),
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
            raise Ended((Mistake(None, None, None, again, str(error)),)) from None
        except KeyboardInterrupt:
            display.say(f"Stopped at once. Go on with: {shown(again)}")
            raise Ended((Mistake(None, None, None, again, "Stopped at once."),)) from None
    if outcome.unusable:
        refuse([f"No run of {asked.spec.study} can be trained, and the sweep has ended: {outcome.unusable}"])
    print_outcome(wanted, asked, outcome, verified, where)


def begin(wanted: RunRequest, how: Reuse) -> Study:
    """The study with what its sources hold now; exits with 2 where its sweep must not or shall not begin."""
    from sweeper.cli.display import shown
    from sweeper.recorded.contents import as_found
    from sweeper.recorded.state import standing_of

    check_owner(wanted)
    for notice in base_notes(wanted.asked):
        typer.echo(f"note: {shown(notice)}")
    quiet_libraries()
    with store_errors("Looking at data, models and what is recorded ..."):
        asked = as_found(wanted.asked, typer.echo, refresh=how.refresh)
        state = standing_of(asked, storage=wanted.where.storage, strict=how.strict)
    _ask_to_leave(state, how, asks=wanted.output.stream is None and sys.stdin.isatty())
    return asked


def print_outcome(
    wanted: RunRequest, asked: Study, outcome: Outcome, verified: Verification | None, where: StudyPaths
) -> None:
    """Print the table, what was trained and how to go on; exits with 1 where something is left to do."""
    from dashboards.analysis.configs import distinct
    from dashboards.analysis.failures import summary, tell
    from dashboards.report.progress import not_needed
    from dashboards.report.study import comparison_of, written
    from sweeper.cli.display import Screen, print_verification, shown
    from sweeper.documents.run import run_document
    from sweeper.recorded.reading import answers_of

    console, again, failed, text, table, fewer = Screen(), wanted.again, tell(outcome.failures), "", None, ""
    if outcome.undelivered:
        console.print(
            f"MLflow is away and misses {so_many(outcome.undelivered, 'record')}; they are kept in {where.runs}."
        )
    else:
        with store_errors():
            answers = answers_of(asked)  # what the table and `sweeper status` count, of earlier sweeps too
            table = comparison_of(asked, answers)
            text = written(table, "text", screen_width(), everything=False)
            if not outcome.has_ended_runs:
                text = "Nothing is known yet: no run has ended.\n"
        records = distinct(answers.records)
        failed, fewer = summary(records), not_needed(asked, records)
    ending = f"{failed}: {shown(wanted.failed)}" if failed else "no run failed."
    told = " ".join(filter(None, (f"{outcome.in_words}; {ending}", outcome.why_stopped)))
    console.print(told + (fewer and f"\n{fewer}"), soft_wrap=True, markup=False)
    typer.echo(text, nl=False)  # the answer stands last, where the eye is
    if verified is not None:
        print_verification(verified, console)
    if outcome.unmeasured and not outcome.undelivered:
        kept = "could not be measured again; their numbers are as they were."
        console.print(f"{so_many(outcome.unmeasured, 'finished run')} {kept}")
    left = bool(outcome.undelivered or outcome.unmeasured or not outcome.whole)
    if outcome.undelivered:
        last = f"Deliver them, once it is back, with: {shown(again)}"
    elif left:
        last = f"Go on with: {shown(again)}"
    else:
        first = None if table is None or not table.tuned[0].planned else table.answers[0]  # which `export` looks at
        export = f"sweeper export {wanted.study}, " if first is None or first.use or first.start else ""
        last = f"Next: sweeper report {wanted.study}, {export}or browse the runs: sweeper ui"
    console.print(last, soft_wrap=True, markup=False)
    wanted.output.say(run_document(asked.spec.study, outcome, table, verified, again))
    if left:
        raise typer.Exit(1)


def _ask_to_leave(state: StudyState, how: Reuse, *, asks: bool) -> None:
    """Say which finished runs the sweep would leave behind, and begin only where that is wanted. `asks`: whether
    somebody is there to be asked.
    """
    from studies.design.answers import leaving

    lines = leaving(state.left)
    if state.done >= state.planned:  # where nothing is trained, nothing is lost by looking elsewhere
        return
    for line in state.unasked:
        typer.echo(line)
    if not lines:
        return
    if how.yes or not asks:
        for line in lines:
            typer.echo(line, err=not how.yes)
        if not how.yes:
            refuse(
                [f"Nothing was trained. Put the file or its data back, or go on without those runs with {how.word}."]
            )
        return
    for line in lines:
        typer.echo(line)
    if not typer.confirm("They stay in MLflow and come back with what they answer. Go on without them?"):
        raise typer.Exit(2)


def load(study: str, settings: list[str] | None, text: str | None = None, *, only_read: bool = False) -> Study:
    """The study with its variants made whole; exits with 2 on any mistake in its file. `text` and `only_read`: as
    `load_study` has them.
    """
    from studies.spec import Study, StudyError, load_study

    try:
        spec = load_study(study, settings or (), text, only_read=only_read)
        note_settings(spec.model_dump(mode="json"))
        return Study.of(spec)
    except StudyError as error:
        refuse(error.mistakes)


def tell_whose(spec: StudySpec) -> None:
    """Say on standard error whose the study is where it is not of this folder; it may be read. Raises StoreError."""
    from dashboards.store.connection import StoreError, store_uri
    from dashboards.store.mlflow_tags import marks_in
    from dashboards.store.records import load_study_tags
    from sweeper.folder.own_folder import read_mark

    here, uri = Path.cwd(), store_uri(None, Path.cwd())
    tags, runs = load_study_tags(uri, spec.study), here / spec.output.folder / spec.study
    known = marks_in(tags).get("id")
    if known is None or (read_mark(runs) or {}).get("id") == known:
        return
    from sweeper.cli.display import shown
    from sweeper.ownership.owner import notice_of  # which takes .3 s to load
    from sweeper.search.storage import StorageError, storage_url

    try:
        notice = notice_of(spec.study, runs, storage_url(None, here), uri, tags)
    except StorageError as error:
        raise StoreError(str(error)) from error
    if notice is not None:
        typer.echo(f"note: {shown(notice)}", err=True)


def screen_width() -> int | None:
    """Columns of the terminal, None where the output goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


@contextmanager
def store_errors(doing: str = "Reading what is recorded ...") -> Iterator[None]:
    """Exit with 2 and the store's own words where it is missing or cannot be used. `doing`: said on a terminal where it
    takes long; "": what is done inside tells of itself.
    """
    from dashboards.store.connection import StoreError

    try:
        with said_if_long(doing) if doing and sys.stderr.isatty() else nullcontext():
            yield
    except StoreError as error:
        refuse([str(error)])
