"""The command that hands on what a study found: export."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from studies.text.mistakes import Mistake
from studies.text.places import PLACE
from sweeper.cli.inputs import refuse_output, warn_of_code
from sweeper.cli.options import Set, StudyName
from sweeper.cli.output import Json, quiet_libraries
from sweeper.cli.refusal import Ended, refuse
from sweeper.cli.shared import command_line, load, store_errors, tell_whose

if TYPE_CHECKING:
    from collections.abc import Sequence

    from studies.spec import Study
    from sweeper.commands.exported import Exported
    from sweeper.commands.sharing.share import Wanted


def export(
    context: typer.Context,
    study: StudyName,
    variant: Annotated[str | None, typer.Option(help="the best trial of this variant")] = None,
    trial: Annotated[int | None, typer.Option(help="this trial of the variant")] = None,
    output: Annotated[Path, typer.Option(help="file to write")] = Path("best.yaml"),
    push_to_hub: Annotated[
        str | None, typer.Option(metavar="ORG/NAME", help="push adapter, settings and a card to the Hub, for you alone")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="push for all to see")] = False,
    dry_run: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="write what would be pushed there, and send nothing")
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="write a plain model, the adapter in its weights")] = False,
    register: Annotated[
        str | None, typer.Option(metavar="NAME", help="make a version of it in MLflow's Model Registry")
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="what `trl dpo` trained, where the run keeps nothing")
    ] = None,
    settings: Set = None,
    json: Json = False,
) -> None:
    """Write the best config as a file that stock `trl dpo --config` runs; push, merge or register its adapter."""
    from sweeper.cli.display import shown
    from sweeper.commands.sharing.share import PushError, Wanted

    quiet_libraries()
    loaded = load(study, settings)
    refuse_output(output, study, loaded.spec)
    warn_of_code(loaded.spec)
    merged = output.with_name(f"{output.stem}-merged") if merge else None
    wanted = Wanted(push_to_hub, public, dry_run, merged, register, adapter)
    choice = [*_option("--variant", variant), *_option("--trial", trial)]
    choice += [] if output == Path("best.yaml") else _option("--output", output)
    try:
        context.obj.say(_export(loaded, study, settings or [], variant, trial, output, choice, wanted))
    except PushError as error:
        typer.echo(f"error: {shown(str(error))}", err=True)
        raise Ended((Mistake(None, None, None, None, str(error)),)) from None


def _export(
    loaded: Study,
    study: str,
    settings: Sequence[str],
    variant: str | None,
    trial: int | None,
    output: Path,
    choice: Sequence[str],
    wanted: Wanted,
) -> Exported:
    from dashboards.report.study import comparison_of
    from dashboards.store.connection import store_uri
    from sweeper.cli.display import shown
    from sweeper.commands.export import ExportError, choose, write_best
    from sweeper.commands.sharing.share import carry_out, check_wanted
    from sweeper.commands.sharing.weights import Retraining, find_weights
    from sweeper.folder.paths import places
    from sweeper.recorded.contents import as_found
    from sweeper.recorded.reading import answers_of

    notes: list[str] = []
    more = [*choice, *_options(wanted)]
    again = command_line("export", study, settings, *more)
    how = Retraining(command_line("export", study, settings, *choice), output, again)
    # In the card: no place of this machine, and a dry run writes the very card.
    pushed = [*_option("--variant", variant), *_option("--trial", trial), *_options(replace(wanted, dry_run=None))]
    name, public = Path(study).name, [_without_place(setting) for setting in settings]
    made = [command_line("run", name, public), command_line("export", name, public, *pushed)]
    with store_errors("Reading the runs and writing the files ..."):
        try:
            check_wanted(wanted)
            tell_whose(loaded.spec)
            answers = answers_of(loaded)
            notes = answers.notes()
            found = as_found(loaded, typer.echo, reach=False)
            table = comparison_of(loaded, answers)
            chosen = choose(found, answers.records, table, variant, trial)
            runs = places(loaded.spec, Path.cwd(), None).runs
            weights = find_weights(chosen, runs, wanted.adapter, how) if wanted.weights else None
            written = write_best(found, table, chosen, output)
            train = shlex.join(["trl", "dpo", "--config", str(output)])
            typer.echo(f"Wrote {output} ({written}). Train it with: {train}")
            if weights is not None:
                store = store_uri(None, Path.cwd())
                for said, so_far in carry_out(wanted, chosen, table, weights, made, store, written):
                    typer.echo(shown(said))
                    written = so_far
        except ExportError as error:
            refuse([" ".join([str(error), *notes])])
    return written


def _without_place(setting: str) -> str:
    """A setting for others to read: what lies on this machine is not named."""
    name, _, value = setting.partition("=")
    return f"{name}={PLACE}" if value and Path(value).exists() else setting


def _options(wanted: Wanted) -> list[str]:
    """The options of what is wanted, to give again; without the adapter, which is told with them."""
    flags = [("--public", wanted.public), ("--merge", wanted.merge is not None)]
    named = [("--push-to-hub", wanted.push), ("--dry-run", wanted.dry_run), ("--register", wanted.register)]
    words = [word for name, value in named for word in _option(name, value)]
    return [*words, *(name for name, is_set in flags if is_set)]


def _option(name: str, value: object) -> list[str]:
    return [] if value is None else [name, str(value)]
