"""Exports the best config of a study as files that stock `trl dpo --config` runs; trains nothing and writes to no
store.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from dashboards.analysis.configs import distinct, number_of
from dashboards.analysis.confirmed import about
from dashboards.analysis.strata import DRIFT
from dashboards.statistics.estimates import Estimate
from dashboards.store.mlflow_tags import decode
from dashboards.tables.comparison import Comparison, Row
from dashboards.tables.notes import edge_notes
from dashboards.tuned.losses import nats
from studies.design.points import CONFIRM
from studies.loading.plain_text import escaped
from studies.losses.free_settings import free_problems
from studies.records import DATA_DIGEST, NORM_FACT, PRECOMPUTE, PROBE, WEIGHT_FACT, RunConfig, RunRecord, State
from studies.schema.contents import changed_since, sources
from studies.schema.knob_problems import name_problem
from studies.spec import Study, StudySpec
from studies.text.plural import so_many
from studies.text.redact import redact
from sweeper.commands.exported import Exported
from sweeper.planning.plan import show_knobs

# Facts of a run that depend on its hardware and change its numbers or whether it runs at all.
HARDWARE = ("bf16", "fp16", "use_cpu", "gradient_checkpointing", "dtype")


class ExportError(Exception):
    """There is nothing to export as requested; says what there is."""


def export_best(
    study: Study,
    records: Sequence[RunRecord],
    table: Comparison,
    variant: str | None,
    trial: int | None,
    output: Path,
) -> Exported:
    """Write `output` and, beside it, `<stem>-data` (and `<stem>-model` for the embedded model).

    Without `variant` the best of all variants in the study's first scenario, by the objective; in a study with
    replicates the loss that its answer names, by the settings of its middle replicate. Raises ExportError.
    """
    spec, rows = study.spec, table.rows
    if spec.replicates is None:
        scenario, step = next(iter(spec.scenarios)), None
        row, number = _choose(spec, rows, scenario, variant, trial)
    else:
        row, number, step = _choose_tuned(table, variant, trial)
        scenario = row.scenario
    number = number_of(records, row.variant, scenario, number)
    record = _run_of(distinct(records), row.variant, scenario, number)
    _check_knobs(record)
    config = study.run_config(record)
    _check_sources(config, record)
    trained = _as_trained(config, record)
    from trainers.data.pairs import DataError
    from trainers.export_files import write_export
    from trainers.models.bases import UnusableModel

    data = output.with_name(f"{output.stem}-data")

    def text_of(model: str, digest: str) -> str:
        settings = redact(stopped_at(step, trl_settings(trained, record, model, data, output)))
        about_run = (row, config, record, digest)
        head = _head(spec, *about_run, rows) if spec.replicates is None else _tuned_head(table, *about_run, step)
        text = head + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
        _check_text(text, settings, output)
        return text

    text_of(str(trained.settings["model_name_or_path"]), "")  # refused before anything is written
    try:
        model, digest = write_export(
            trained, data, output.with_name(f"{output.stem}-model"), record.facts.get(DATA_DIGEST)
        )
    except (DataError, UnusableModel, OSError) as error:
        raise ExportError(f"The run's model or data cannot be read: {error}") from error
    output.write_text(text_of(model, digest), encoding="utf-8")
    return Exported.of(record, scenario, number, step, output, data, model, digest)


def _check_knobs(record: RunRecord) -> None:
    """Raises ExportError where the store has a knob that no study may have: what is exported is trusted by TRL."""
    for knob, value in record.knobs.items():
        wrong = None if knob.startswith("loss_weights.") else name_problem(knob)
        wrong = wrong or next((f"{path} {text}" for path, text in free_problems(knob, value)), None)
        if wrong is not None:
            raise ExportError(
                f"Trial {record.trial} of {record.variant} cannot be exported: MLflow run {record.run_id} says that "
                f"its knob {escaped(knob)} is {escaped(str(value))!r}: {wrong}."
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
    settings = {**config.settings, "loss_weights": _measured(config, record, WEIGHT_FACT)}
    return config.model_copy(update={"settings": settings, "balance": None})


def _measured(config: RunConfig, record: RunRecord, fact: str) -> list[Any]:
    """A fact that the run has for each of its losses."""
    try:
        return [decode(record.facts[f"{fact}{loss}"]) for loss in config.settings["loss_type"]]
    except KeyError as missing:
        raise ExportError(
            f"MLflow run {record.run_id} does not tell {missing} (a tag of it), and without it TRL cannot repeat a run "
            f"with balance: {config.balance}. Delete the run in MLflow and run the study again."
        ) from missing


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
    if variant is None and said.use is None:
        raise ExportError(f"{said.text} Name a loss with --variant to export its settings all the same.")
    loss = here[variant or str(said.use)]
    if loss.chosen is None:
        raise ExportError(f"No replicate of {loss.variant} has been judged yet: run the study first.")
    cell, number = loss.chosen
    row = next(row for row in table.rows if (row.variant, row.scenario) == (loss.variant, cell))
    return row, number, loss.step


_CONSTANT = ("constant", "constant_with_warmup")


def stopped_at(step: int | None, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a training that ends at a step: by `max_steps` where the learning rate is constant by then, else
    as a checkpoint, since a schedule that ends earlier is another training.
    """
    if step is None:
        return settings
    if settings.get("lr_scheduler_type") in _CONSTANT:
        return {**settings, "max_steps": step}
    return {**settings, "save_strategy": "steps", "save_steps": step}


def _tuned_head(
    table: Comparison, row: Row, config: RunConfig, record: RunRecord, digest: str, step: int | None
) -> str:
    """The comment at the head of the file, for a study with replicates."""
    found, said = table.tuned[0], table.answers[0]
    loss = next(one for one in found.losses if one.variant == row.variant)
    drift = "" if found.drift is None else f" at {nats(found.drift)} from the start"
    kept = (
        ""
        if step is None or config.settings.get("lr_scheduler_type") in _CONSTANT
        else f" (take the checkpoint of step {step})"
    )
    gain = "none measured" if loss.gained is None else _interval(loss.gained)
    beside = [name for name in said.as_good if name != row.variant]
    lines = [
        said.text,
        f"study {record.study}, variant {row.variant}, cell {row.scenario}, trial {record.trial}",
        f"block {record.block}, seed {record.seed}, run {record.run_id}, key {record.key}",
        f"knobs: {show_knobs(record.knobs) or 'none'}{f'; stopped at step {step}' if step else ''}{kept}",
        *_weights(config, record),
        f"gain of {row.variant} over the untrained model{drift}, in {found.unit}: {gain}, over judging runs; the "
        f"settings are those of the replicate in the middle",
        f"cannot be told apart from it: {', '.join(beside) or 'none'}",
        f"data digest {digest}",
        f"trained on {record.facts.get('device', 'unknown')}; {_packages()}; written {date.today().isoformat()}",
    ]
    return "".join(f"# {escaped(redact(line))}\n" for line in lines)


def _packages() -> str:
    return ", ".join(f"{name} {version(name)}" for name in ("dpo-sweeper", "trl", "transformers", "peft", "torch"))


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
            f"The best of {', '.join(waiting)} has not been trained again on fresh blocks, as that of "
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


def _head(spec: StudySpec, row: Row, config: RunConfig, record: RunRecord, digest: str, rows: Sequence[Row]) -> str:
    """The comment at the head of the file: where the config comes from and how reliable it is."""
    best = row.best
    if best is not None and best.trial == record.trial:
        how = (
            "on fresh blocks and seeds"
            if best.basis == "confirmed"
            else f"selected as best of {so_many(best.trials, 'trial')} by it"
        )
        objective = f"{spec.objective.metric} {_interval(best.estimate)} ({how})"
    else:
        objective = f"{spec.objective.metric} {record.metrics.get(spec.objective.metric, float('nan')):.4g}"
    lines = [
        f"study {spec.study}, variant {row.variant}, scenario {row.scenario}, trial {record.trial}",
        f"block {record.block}, seed {record.seed}, run {record.run_id}, key {record.key}",
        f"knobs: {show_knobs(record.knobs) or 'none'}",
        *_weights(config, record),
        f"objective: {objective}",
        *_doubts(spec, row, record),
        f"cannot be told apart from it: {_ties(row, rows)}",
        f"data digest {digest}",
        f"trained on {record.facts.get('device', 'unknown')}; {_packages()}; written {date.today().isoformat()}",
    ]
    return "".join(f"# {escaped(redact(line))}\n" for line in lines)


def _doubts(spec: StudySpec, row: Row, record: RunRecord) -> list[str]:
    """Warnings about the config."""
    is_best = row.best is not None and row.best.trial == record.trial
    found = [row.unfit] if is_best and row.unfit else []
    drift, limit = record.metrics.get(DRIFT), spec.objective.drift
    if drift is not None and limit is not None and drift > limit:
        found.append(f"too far from the start: {drift:.2g} nats a token, more than the bound of {limit:g}")
    return [*found, *(edge_notes([row]) if is_best else [])]


def _weights(config: RunConfig, record: RunRecord) -> list[str]:
    """Where the weights of a mixture that was balanced by gradient come from."""
    if not config.balance:
        return []
    losses = config.settings["loss_type"]
    shares = config.settings.get("loss_weights") or [1.0] * len(losses)
    norms = _measured(config, record, NORM_FACT)
    said = [f"{loss} {share:.3g} over {norm:.3g}" for loss, share, norm in zip(losses, shares, norms, strict=True)]
    return [f"loss_weights: shares of the gradient over its norm before training: {', '.join(said)}"]


def _interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.4g}, no interval from {so_many(estimate.blocks, 'block')}"
    return f"{estimate.value:.4g} [{estimate.low:.4g}, {estimate.high:.4g}], 95% over {estimate.blocks} blocks"


def _ties(row: Row, rows: Sequence[Row]) -> str:
    """Variants whose interval overlaps the chosen one's; a note where there are no intervals."""
    chosen = _bounds(row)
    if chosen is None:
        return "not assessed (too few blocks for an interval)"
    others = [(other.variant, _bounds(other)) for other in rows if other is not row and other.scenario == row.scenario]
    tied = [name for name, bounds in others if bounds and bounds[0] <= chosen[1] and chosen[0] <= bounds[1]]
    return ", ".join(tied) or "none (by overlap of 95% intervals)"


def _bounds(row: Row) -> tuple[float, float] | None:
    if row.best is None or row.best.estimate.low is None or row.best.estimate.high is None:
        return None
    return row.best.estimate.low, row.best.estimate.high
