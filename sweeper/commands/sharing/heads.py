"""The comment at the head of an exported config: where it comes from, and how far to believe it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from typing import Any

from dashboards.analysis.strata import DRIFT
from dashboards.statistics.estimates import Estimate
from dashboards.store.mlflow_tags import decode
from dashboards.tables.comparison import Comparison, Row
from dashboards.tables.notes import edge_notes
from dashboards.tuned.losses import nats
from studies.loading.plain_text import escaped
from studies.records import NORM_FACT, RunConfig, RunRecord
from studies.spec import StudySpec
from studies.text.plural import so_many
from studies.text.redact import redact
from sweeper.planning.plan import show_knobs


class ExportError(Exception):
    """There is nothing to export as requested; says what there is."""


class NoLossNamed(ExportError):
    """The answer names no loss to export; `shortly`: for who has read the answer."""

    def __init__(self, text: str, shortly: str) -> None:
        super().__init__(text)
        self.shortly = shortly


CONSTANT = ("constant", "constant_with_warmup")
"""Schedules whose learning rate is constant after the warm-up."""


def tuned_head(table: Comparison, row: Row, config: RunConfig, record: RunRecord, digest: str, step: int | None) -> str:
    """The comment at the head of the file, for a study with replicates."""
    found, said = table.tuned[0], table.answers[0]
    loss = next(one for one in found.losses if one.variant == row.variant)
    drift = "" if found.drift is None else f" at {nats(found.drift)} from the start"
    kept = (
        ""
        if step is None or config.settings.get("lr_scheduler_type") in CONSTANT
        else f" (take the checkpoint of step {step})"
    )
    gain = "none measured" if loss.gained is None else _interval(loss.gained)
    lines = [
        said.text,
        f"study {record.study}, variant {row.variant}, cell {row.scenario}, trial {record.trial}",
        f"data draw {record.block}, seed {record.seed}, run {record.run_id}, key {record.key}",
        f"settings: {show_knobs(record.knobs) or 'none'}{f'; stopped at step {step}' if step else ''}{kept}",
        *_weights(config, record),
        f"gain of {row.variant} over the untrained model{drift}, in {found.unit}: {gain}, over judging runs; the "
        f"settings are those of the replicate in the middle",
        f"beside {said.use or 'it'}: as good {', '.join(said.as_good) or 'none'}; undecided "
        f"{', '.join(said.undecided) or 'none'}",
        f"data digest {digest}",
        f"trained on {record.facts.get('device', 'unknown')}; {packages()}; written {date.today().isoformat()}",
    ]
    return "".join(f"# {escaped(redact(line))}\n" for line in lines)


def head(spec: StudySpec, row: Row, config: RunConfig, record: RunRecord, digest: str, rows: Sequence[Row]) -> str:
    """The comment at the head of the file: where the config comes from and how reliable it is."""
    best = row.best
    if best is not None and best.trial == record.trial:
        how = (
            "on fresh data draws and seeds"
            if best.basis == "confirmed"
            else f"selected as best of {so_many(best.trials, 'trial')} by it"
        )
        objective = f"{spec.objective.metric} {_interval(best.estimate)} ({how})"
    else:
        objective = f"{spec.objective.metric} {record.metrics.get(spec.objective.metric, float('nan')):.4g}"
    lines = [
        f"study {spec.study}, variant {row.variant}, scenario {row.scenario}, trial {record.trial}",
        f"data draw {record.block}, seed {record.seed}, run {record.run_id}, key {record.key}",
        f"settings: {show_knobs(record.knobs) or 'none'}",
        *_weights(config, record),
        f"objective: {objective}",
        *_doubts(spec, row, record),
        f"cannot be told apart from it: {_ties(row, rows)}",
        f"data digest {digest}",
        f"trained on {record.facts.get('device', 'unknown')}; {packages()}; written {date.today().isoformat()}",
    ]
    return "".join(f"# {escaped(redact(line))}\n" for line in lines)


def packages() -> str:
    """The versions that made it."""
    return ", ".join(f"{name} {version(name)}" for name in ("dpo-sweeper", "trl", "transformers", "peft", "torch"))


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
    norms = measured(config, record, NORM_FACT)
    said = [f"{loss} {share:.3g} over {norm:.3g}" for loss, share, norm in zip(losses, shares, norms, strict=True)]
    return [f"loss_weights: shares of the gradient over its norm before training: {', '.join(said)}"]


def measured(config: RunConfig, record: RunRecord, fact: str) -> list[Any]:
    """A fact that the run has for each of its losses."""
    try:
        return [decode(record.facts[f"{fact}{loss}"]) for loss in config.settings["loss_type"]]
    except KeyError as missing:
        raise ExportError(
            f"MLflow run {record.run_id} does not tell {missing} (a tag of it), and without it TRL cannot repeat a run "
            f"with balance: {config.balance}. Delete the run in MLflow and run the study again."
        ) from missing


def _interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.4g}, no interval from {so_many(estimate.blocks, 'data draw')}"
    return f"{estimate.value:.4g} [{estimate.low:.4g}, {estimate.high:.4g}], 95% over {estimate.blocks} data draws"


def _ties(row: Row, rows: Sequence[Row]) -> str:
    """Variants whose interval overlaps the chosen one's; a note where there are no intervals."""
    chosen = _bounds(row)
    if chosen is None:
        return "not assessed (too few data draws for an interval)"
    others = [(other.variant, _bounds(other)) for other in rows if other is not row and other.scenario == row.scenario]
    tied = [name for name, bounds in others if bounds and bounds[0] <= chosen[1] and chosen[0] <= bounds[1]]
    return ", ".join(tied) or "none (by overlap of 95% intervals)"


def _bounds(row: Row) -> tuple[float, float] | None:
    if row.best is None or row.best.estimate.low is None or row.best.estimate.high is None:
        return None
    return row.best.estimate.low, row.best.estimate.high
