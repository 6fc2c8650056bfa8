"""Carries out what `sweeper export` is asked for beside the exported file: merge, register, push."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from dashboards.tables.comparison import Comparison
from sweeper.commands.export import Chosen
from sweeper.commands.exported import Exported
from sweeper.commands.sharing.card import Sharing, public
from sweeper.commands.sharing.folder import write_shared
from sweeper.commands.sharing.heads import ExportError
from sweeper.commands.sharing.hub import PushError, check_name, licences_of, push
from sweeper.commands.sharing.weights import Weights, new_folder
from sweeper.tracking.registry import name_problem, register

__all__ = ["PushError", "Wanted", "carry_out", "check_wanted"]


@dataclass(frozen=True)
class Wanted:
    """What is wanted beside the exported file. `push`: a name on the Hub, whose folder `dry_run` only writes; `merge`:
    where to write a plain model; `register`: a name in the Model Registry; `adapter`: what `trl dpo` has trained.
    """

    push: str | None = None
    public: bool = False
    dry_run: Path | None = None
    merge: Path | None = None
    register: str | None = None
    adapter: Path | None = None

    @property
    def weights(self) -> bool:
        """Whether weights are needed."""
        return any((self.push, self.merge, self.register))


def check_wanted(wanted: Wanted) -> None:
    """Raises ExportError for options that do not go together, and for what could not be written."""
    if wanted.push is None and (wanted.public or wanted.dry_run):
        raise ExportError("--public and --dry-run are for --push-to-hub ORG/NAME: give that too.")
    if wanted.adapter and not wanted.weights:
        raise ExportError("--adapter is for --push-to-hub, --merge and --register: give one of them too.")
    if wanted.push is not None:
        check_name(wanted.push)
    if wanted.register is not None and (wrong := name_problem(wanted.register)):
        raise ExportError(f"--register {wanted.register}: {wrong}.")
    for folder in filter(None, (wanted.merge, wanted.dry_run)):
        new_folder(folder)


def carry_out(
    wanted: Wanted,
    chosen: Chosen,
    table: Comparison,
    weights: Weights,
    commands: Sequence[str],
    uri: str,
    written: Exported,
) -> Iterator[tuple[str, Exported]]:
    """Do what is wanted, one thing after the other; gives each in a sentence, and `written` with all that was done by
    then, which stays where the next one fails. `uri`: of the study's store. Raises ExportError, StoreError and
    PushError.
    """
    if (folder := wanted.merge) is not None:
        _merge(chosen, weights, folder)
        loads = f"AutoModelForCausalLM.from_pretrained({str(folder)!r})"
        written = replace(written, merged=str(folder.absolute()))
        yield f"Wrote {folder}, a plain model: {loads}.", written
    shared = Sharing(chosen, table, str(wanted.push or wanted.register), commands, weights.is_adapter)
    if (name := wanted.register) is not None:
        named = replace(shared, repository=name)
        with _written(named, weights) as place:
            version = register(uri, name, chosen.record.run_id, place, _tags(named))
        written = replace(written, registered=f"{name}/{version}")
        yield f"Registered version {version} of {name} in MLflow's Model Registry.", written
    if wanted.push is not None and (folder := wanted.dry_run) is not None:
        _write(shared, weights, folder)
        written = replace(written, shared=str(folder.absolute()))
        yield f"Wrote {folder}, as it would be pushed to {wanted.push}. Nothing was sent.", written
    elif wanted.push is not None:
        asked = replace(shared, licences=licences_of(shared.base, shared.data))
        with _written(asked, weights) as place:
            address = push(place, wanted.push, public=wanted.public)
        said = f"Pushed to {address}. Read its card, and fill in the licences where they are unknown."
        yield said, replace(written, shared=address)


@contextmanager
def _written(shared: Sharing, weights: Weights) -> Iterator[Path]:
    """The folder that is shared, for as long as it is needed."""
    with TemporaryDirectory(prefix="sweeper-share-") as place:
        _write(shared, weights, Path(place))
        yield Path(place)


def _write(shared: Sharing, weights: Weights, folder: Path) -> None:
    try:
        write_shared(shared, weights, folder)
    except OSError as error:
        raise ExportError(f"{error.filename or folder}: {error.strerror}.") from error


def _merge(chosen: Chosen, weights: Weights, folder: Path) -> None:
    from trainers.export_files import write_plain_model
    from trainers.models.bases import UnusableModel

    try:
        write_plain_model(chosen.config, weights.folder, folder)
    except (UnusableModel, OSError) as error:
        raise ExportError(f"--merge: {error}.") from error


def _tags(shared: Sharing) -> dict[str, str]:
    record = shared.chosen.record
    return {
        "study": record.study,
        "variant": record.variant,
        "loss": "+".join(shared.chosen.config.settings["loss_type"]),
        "settings": json.dumps(dict(record.knobs), sort_keys=True),
        "stop_step": str(shared.chosen.step or "its own last"),
        "key": record.key,
        "answer": "".join(public(said.text) for said in shared.table.answers[:1]),
    }
