"""Exports the best config of a study as files that stock `trl dpo --config` runs; trains nothing and writes to no
store.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dashboards.analysis.configs import distinct, number_of
from dashboards.analysis.confirmed import about
from dashboards.store.mlflow_tags import decode
from dashboards.tables.comparison import Comparison, Row
from studies.design.points import CONFIRM
from studies.loading.plain_text import escaped
from studies.losses.free_settings import free_problems
from studies.records import DATA_DIGEST, EMBEDDED_MODELS, PRECOMPUTE, PROBE, WEIGHT_FACT, RunConfig, RunRecord, State
from studies.schema.contents import changed_since, sources
from studies.schema.knob_problems import name_problem
from studies.schema.paths import existing, read_by
from studies.spec import Study, StudySpec
from studies.text.files import read_bytes
from studies.text.redact import redact
from sweeper.commands.exported import Exported
from sweeper.commands.sharing.heads import CONSTANT, ExportError, NoLossNamed, head, measured, tuned_head

__all__ = [
    "Chosen",
    "ExportError",
    "NoLossNamed",
    "choose",
    "export_best",
    "placed",
    "stopped_at",
    "trl_settings",
    "write_best",
]

_HEAD = "# study "  # begins a line of every file that is written here
_ELSEWHERE = "name another place with --output"
# Facts of a run that depend on its hardware and change its numbers or whether it runs at all.
HARDWARE = ("bf16", "fp16", "use_cpu", "gradient_checkpointing", "dtype")


@dataclass(frozen=True)
class Chosen:
    """The run that is exported: its row, what is recorded of it, its config as the file gives it and as TRL was given
    it, and the step at which its training ends (None: its own last).
    """

    row: Row
    record: RunRecord
    config: RunConfig
    trained: RunConfig
    step: int | None


def export_best(
    study: Study,
    records: Sequence[RunRecord],
    table: Comparison,
    variant: str | None,
    trial: int | None,
    output: Path,
) -> Exported:
    """Write the run that `choose` gives by `write_best`. Raises ExportError."""
    return write_best(study, table, choose(study, records, table, variant, trial), output)


def choose(
    study: Study, records: Sequence[RunRecord], table: Comparison, variant: str | None, trial: int | None
) -> Chosen:
    """The run to export. Without `variant` the best of all variants in the study's first scenario, by the objective; in
    a study with replicates the loss that its answer names, by the settings of its middle replicate. Raises ExportError.
    """
    spec = study.spec
    if spec.replicates is None:
        scenario, step = next(iter(spec.scenarios)), None
        row, number = _choose(spec, table.rows, scenario, variant, trial)
    else:
        row, number, step = _choose_tuned(table, variant, trial)
        scenario = row.scenario
    number = number_of(records, row.variant, scenario, number)
    record = _run_of(distinct(records), row.variant, scenario, number)
    _check_knobs(record)
    config = study.run_config(record)
    _check_sources(config, record)
    return Chosen(row, record, config, _as_trained(config, record), step)


def write_best(study: Study, table: Comparison, chosen: Chosen, output: Path) -> Exported:
    """Write `output` and, beside it, `<stem>-data` (and `<stem>-model` where the model is not on the Hub as it was
    trained). All places in it are whole paths: it means the same wherever it is used. Raises ExportError.
    """
    from trainers.data.pairs import DataError
    from trainers.export_files import write_export
    from trainers.models.bases import UnusableModel

    spec, row, record, trained, step = study.spec, chosen.row, chosen.record, chosen.trained, chosen.step
    output = output.absolute()
    data, model_folder = (output.with_name(f"{output.stem}-{part}") for part in ("data", "model"))
    _check_outputs(spec, output, data, model_folder)

    def text_of(model: str, digest: str) -> str:
        asked = stopped_at(step, trl_settings(trained, record, placed(model), data, output))
        settings = redact(asked)
        _check_places(asked, settings)
        about_run = (row, chosen.config, record, digest)
        top = head(spec, *about_run, table.rows) if spec.replicates is None else tuned_head(table, *about_run, step)
        text = top + _how_to_use(output) + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
        _check_text(text, settings, output)
        return text

    text_of(str(trained.settings["model_name_or_path"]), "")  # refused before anything is written
    try:
        model, digest = write_export(trained, data, model_folder, record.facts.get(DATA_DIGEST))
    except (DataError, UnusableModel, OSError) as error:
        raise ExportError(f"The run's model or data cannot be read: {error}") from error
    output.write_text(text_of(model, digest), encoding="utf-8")
    return Exported.of(record, step, output, data, model, digest)


def _check_outputs(spec: StudySpec, output: Path, *folders: Path) -> None:
    """Refuse to write over a file that no export wrote, and over what the study reads. Raises ExportError."""
    for key, name in read_by(spec).items():
        place = None if name in EMBEDDED_MODELS else existing(name)
        for folder in folders:
            if place is not None and place.resolve().is_relative_to(folder.resolve()):
                raise ExportError(f"{folder.name} would be written, where {name} lies, which {key} reads: {_ELSEWHERE}")
    try:
        text = read_bytes(output, links=True).decode(errors="replace") if os.path.lexists(output) else _HEAD
    except OSError as error:
        raise ExportError(f"{output}: {error.strerror}.") from error
    if not any(line.startswith(_HEAD) for line in text.splitlines()):
        raise ExportError(f"{output.name} is there already, and no export has written it: {_ELSEWHERE}")


def placed(model: str) -> str:
    """A model as it is named from any folder: by its whole path where it lies here, else by its id on the Hub."""
    here = existing(model)
    return model if here is None else str(here.absolute())


def _how_to_use(output: Path) -> str:
    use = f"from any folder: {shlex.join(['trl', 'dpo', '--config', str(output)])}"
    return f"# {escaped(redact(use))}\n# it reads and writes the places named below; to move it, export it to there\n"


def _check_places(asked: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raises ExportError where a place cannot be written down: without its secret it is another."""
    for name in ("model_name_or_path", "dataset_name", "output_dir"):
        if asked[name] != settings[name]:
            raise ExportError(
                f"{name} {settings[name]}: the path holds a secret, which is never written: export to another folder "
                "with --output, or give the folder another name."
            )


def _check_knobs(record: RunRecord) -> None:
    """Raises ExportError where the store has a knob that no study may have: what is exported is trusted by TRL."""
    for knob, value in record.knobs.items():
        wrong = None if knob.startswith("loss_weights.") else name_problem(knob)
        wrong = wrong or next((f"{path} {text}" for path, text in free_problems(knob, value)), None)
        if wrong is not None:
            raise ExportError(
                f"Trial {record.trial} of {record.variant} cannot be exported: MLflow run {record.run_id} says that "
                f"its setting {escaped(knob)} is {escaped(str(value))!r}: {wrong}."
            )


def _check_text(text: str, settings: Mapping[str, Any], output: Path) -> None:
    """Raises ExportError where a YAML reader would read anything but the settings."""
    try:
        read: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        read = str(error)
    if not isinstance(read, dict) or _as_json(read) != _as_json(settings):
        raise ExportError(f"{output} would not be read as it is meant, so it is not written: export another trial.")


def _as_json(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True, default=repr)


def _check_sources(config: RunConfig, record: RunRecord) -> None:
    """Raises ExportError where the run's sources have changed since."""
    named = sources(config.settings, config.data)
    changed = [named[role] for role, now in config.content.items() if record.content.get(role) not in (None, now)]
    gone = [str(named[role]) for role in record.content if role not in config.content and role in named]
    if not changed and not gone:
        return
    what = changed_since(changed) if changed else f"{' and '.join(gone)} cannot be read now"
    raise ExportError(
        f"Trial {record.trial} of {record.variant} cannot be exported: {what}. Put back what the run read, or run the "
        "study again on what is there now."
    )


def trl_settings(config: RunConfig, record: RunRecord, model: str, data: Path, output: Path) -> dict[str, Any]:
    """The flat mapping that `trl dpo` reads: the run's settings, those that depend on the hardware made explicit."""
    hardware = {name: decode(record.facts[name]) for name in HARDWARE if name in record.facts}
    settings = {**hardware, **config.settings, "model_name_or_path": model}
    if PRECOMPUTE in record.facts:
        settings[PRECOMPUTE] = decode(record.facts[PRECOMPUTE])
    return {
        # A null is kept: `max_length: null` is no limit, where TRL's default is one.
        **{name: list(v) if isinstance(v, tuple) else v for name, v in settings.items()},
        "dataset_name": str(data),
        "seed": config.seed,
        "output_dir": str(output.with_name(f"{output.stem}-adapter")),
        "report_to": "none",
        "eval_strategy": "no",
        "save_strategy": "no",
        "logging_nan_inf_filter": False,
    }


def _as_trained(config: RunConfig, record: RunRecord) -> RunConfig:
    """The config with the loss weights that TRL was given, where the run computed them from gradient shares."""
    if not config.balance:
        return config
    settings = {**config.settings, "loss_weights": measured(config, record, WEIGHT_FACT)}
    return config.model_copy(update={"settings": settings, "balance": None})


def _choose(
    spec: StudySpec, rows: Sequence[Row], scenario: str, variant: str | None, trial: int | None
) -> tuple[Row, int]:
    """The row and trial to export."""
    here = {row.variant: row for row in rows if row.scenario == scenario}
    if variant is not None and variant not in here:
        raise ExportError(f"--variant {variant}: the study has no such variant; it has {', '.join(here)}.")
    if trial is not None and variant is None:
        if len(here) > 1:
            raise ExportError(f"--trial {trial}: trials count within a variant; add --variant, of {', '.join(here)}.")
        variant = next(iter(here))
    if variant is not None and trial is not None:
        return here[variant], trial
    done = [row for row in here.values() if row.best is not None and variant in (None, row.variant)]
    if not done:
        raise ExportError(_nothing(spec, [row for row in here.values() if variant in (None, row.variant)], variant))
    pick = max if spec.objective.direction == "maximize" else min
    row = pick(_alike(done) if variant is None else done, key=lambda r: r.best.estimate.value if r.best else 0.0)
    assert row.best is not None
    return row, row.best.trial


def _choose_tuned(table: Comparison, variant: str | None, trial: int | None) -> tuple[Row, int, int | None]:
    """The row, the trial and the step to stop at, of a study with replicates, in its first condition."""
    found, said = table.tuned[0], table.answers[0]
    here = {loss.variant: loss for loss in found.losses}
    if variant is not None and variant not in here:
        raise ExportError(f"--variant {variant}: the study has no such variant; it has {', '.join(here)}.")
    if trial is not None:
        raise ExportError(
            f"--trial {trial}: every replicate numbers its own trials; leave it out, and name a loss with --variant."
        )
    name = variant or said.use or said.start
    if name is None and not any(loss.tried for loss in found.losses):
        raise NoLossNamed(said.text, "no run has ended")
    if name is None:
        text = f"{said.text} Name a loss with --variant to export its settings all the same."
        raise NoLossNamed(text, "no loss is named; `sweeper export` writes the settings of one with --variant LOSS")
    loss = here[name]
    if loss.chosen is None:
        raise ExportError(f"No replicate of {loss.variant} has been judged yet: run the study first.")
    cell, number = loss.chosen
    row = next(row for row in table.rows if (row.variant, row.scenario) == (loss.variant, cell))
    return row, number, loss.step


def stopped_at(step: int | None, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a training that ends at a step: by `max_steps` where the learning rate is constant by then, else
    as a checkpoint, since a schedule that ends earlier is another training.
    """
    if step is None:
        return settings
    if settings.get("lr_scheduler_type") in CONSTANT:
        return {**settings, "max_steps": step}
    return {**settings, "save_strategy": "steps", "save_steps": step}


def _nothing(spec: StudySpec, rows: Sequence[Row], variant: str | None) -> str:
    """Why there is no best, and what to do."""
    what, unfit = variant or spec.study, [about(row.variant, row.unfit) for row in rows if row.unfit]
    if len(unfit) < len(rows):
        return f"No trial of {what} has finished within the objective's bounds yet: run the study first."
    return (
        f"No trial of {what} is fit to use: {'; '.join(unfit)}. Try lower learning rates or a stronger pull to the "
        "start (beta), or name a trial with --variant and --trial."
    )


def _alike(rows: Sequence[Row]) -> Sequence[Row]:
    """The rows whose numbers are comparable: those of the confirm phase, once it has begun.

    A number by which its own config was chosen is biased upwards, and beats a confirmed one by that alone. Raises
    ExportError where a variant is still to be confirmed, or none is fit to use after it was.
    """
    again = [row for row in rows if row.best is not None and row.best.basis == "confirmed"]
    fit = [row for row in again or rows if not row.unfit]
    waiting = [row.variant for row in rows if again and row not in again and not row.unfit]
    if waiting:
        raise ExportError(
            f"The best of {', '.join(waiting)} has not been trained again on fresh data draws, as that of "
            f"{', '.join(row.variant for row in again)} has, and the two numbers do not compare: run the study to its "
            "end first, or name one with --variant."
        )
    if not fit:
        raise ExportError(
            f"No best config is fit to use: {'; '.join(about(row.variant, row.unfit) for row in rows)}. Name one with "
            "--variant, or set another bound in objective.constraints."
        )
    return fit


def _run_of(records: Sequence[RunRecord], variant: str, scenario: str, trial: int) -> RunRecord:
    """The finished run of the trial with the lowest block and seed."""
    runs = [
        r
        for r in records
        if (r.variant, r.scenario, r.trial) == (variant, scenario, trial)
        and r.phase not in (CONFIRM, PROBE)
        and r.state is State.COMPLETE
    ]
    if not runs:
        raise ExportError(f"Trial {trial} of {variant} in {scenario} has no finished run to export.")
    return min(runs, key=lambda r: (r.block, r.seed))
