"""What figures are drawn from: the standings of a study's strata, its comparison and what else was read of its runs.

Knows no store and no picture.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from dashboards.analysis.strata import StratumResults, Trial
from dashboards.figures.figure import Look, looks
from dashboards.statistics.estimates import Estimate, block_mean
from dashboards.statistics.scale import Scale
from dashboards.statistics.stability import failures
from dashboards.tables.comparison import Comparison, Row
from dashboards.tuned.answer import Answer
from dashboards.tuned.losses import Tuned, nats
from dashboards.tuned.replicates import measure
from studies.records import RunRecord, Scalar

Curve = Sequence[tuple[int, float]]
"""(step, value), by step."""

TRL_BETA = 0.1
"""`DPOConfig.beta` where nobody sets it."""


@dataclass(frozen=True)
class Config:
    """One config (trial) outside of the confirm phase: its mean over blocks in the scale's unit and its mean KL, None
    where they were not measured in all of its blocks. `unbiased`: it was chosen without a look at results.
    """

    trial: int
    knobs: Mapping[str, Scalar]
    value: float | None
    kl: float | None
    failed: bool
    unbiased: bool
    runs: tuple[RunRecord, ...]

    def number(self, knob: str) -> float | None:
        """The knob as a number, None where it is none."""
        value = self.knobs.get(knob)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


@dataclass(frozen=True)
class Material:
    """All that figures are drawn from.

    `noise`: of each kind of label noise ("" where there is but one), scenario -> share of its labels that are flipped,
    scenarios that differ in nothing else. `betas`: variant -> beta of its runs that have no such
    knob. `curves`: run id -> metric -> its values by step, of evidence runs of their stratum.
    """

    standings: tuple[StratumResults, ...]
    comparison: Comparison
    scale: Scale
    noise: Mapping[str, Mapping[str, float]]
    betas: Mapping[str, float]
    curves: Mapping[str, Mapping[str, Curve]]

    @cached_property
    def drift(self) -> float | None:
        """Nats a sequence at which the objective is read on the way, None where it is the value at the end."""
        return self.standings[0].objective.at_drift if self.standings else None

    @cached_property
    def has_replicates(self) -> bool:
        """Whether a stratum is all replicates of a condition, each with a best config of its own."""
        return any(found.planned for found in self.comparison.tuned)

    @cached_property
    def runs(self) -> Mapping[str, RunRecord]:
        """All runs by their id."""
        return {run.run_id: run for standing in self.standings for run in standing.records}

    def told(self, scenario: str) -> tuple[Tuned, Answer] | None:
        """What the losses gain in a scenario, and what that says."""
        pairs = zip(self.comparison.tuned, self.comparison.answers, strict=True)
        return next((pair for pair in pairs if pair[0].condition == scenario), None)

    def value(self, run: RunRecord) -> float | None:
        """The run's objective in the scale's unit: at the drift that it is read at, else at the end of training."""
        if self.drift is None:
            return self.scale.value(run)
        reading = measure(run, self.standings[0].objective, self.scale).reading
        return None if reading is None else self.scale.in_unit([reading.value], run)[0]

    @cached_property
    def variants(self) -> tuple[str, ...]:
        """In the study's order."""
        return tuple(dict.fromkeys(s.stratum.variant for s in self.standings))

    @cached_property
    def scenarios(self) -> tuple[str, ...]:
        """In the study's order."""
        return tuple(dict.fromkeys(s.stratum.scenario for s in self.standings))

    @cached_property
    def looks(self) -> Mapping[str, Look]:
        """How each variant is drawn."""
        return looks(self.variants, self.comparison.baseline)

    def of(self, scenario: str) -> tuple[StratumResults, ...]:
        """The strata of a scenario."""
        return tuple(s for s in self.standings if s.stratum.scenario == scenario)

    def row(self, standing: StratumResults) -> Row:
        """The stratum's row in the table."""
        return self._rows[standing.stratum.variant, standing.stratum.scenario]

    @cached_property
    def _rows(self) -> Mapping[tuple[str, str], Row]:
        return {(row.variant, row.scenario): row for row in self.comparison.rows}

    def configs(self, standing: StratumResults) -> tuple[Config, ...]:
        """The stratum's configs that came to an end, failed ones among them."""
        return self._configs[standing.stratum.variant, standing.stratum.scenario]

    @cached_property
    def _configs(self) -> Mapping[tuple[str, str], tuple[Config, ...]]:
        return {(s.stratum.variant, s.stratum.scenario): self._configs_of(s) for s in self.standings}

    def _configs_of(self, standing: StratumResults) -> tuple[Config, ...]:
        own = [run for trial in standing.ended for run in trial.runs]
        failed = set(failures(own, self.scale).anywhere)
        return tuple(self._config(trial, trial.failed or trial.number in failed) for trial in standing.ended)

    def _config(self, trial: Trial, failed: bool) -> Config:
        blocks: dict[int, list[float]] = defaultdict(list)
        for run in trial.runs if trial.complete else ():
            if (value := self.value(run)) is not None:
                blocks[run.block].append(value)
        means = [sum(of) / len(of) for of in blocks.values()]
        kls = [run.metrics["kl"] for run in trial.runs if "kl" in run.metrics] if trial.complete else []
        return Config(
            trial=trial.number,
            knobs=trial.runs[0].knobs,
            value=sum(means) / len(means) if means else None,
            kl=sum(kls) / len(kls) if kls else None,
            failed=failed,
            unbiased=all(run.phase == "unbiased" for run in trial.runs),
            runs=trial.runs,
        )

    def best(self, standing: StratumResults) -> Estimate | None:
        """The objective of the stratum's best config in the scale's unit, by the runs that measure it; None where one
        of them never comes to the drift that it is read at.
        """
        values = [(run.block, self.value(run)) for run in standing.evidence]
        blocks: dict[int, list[float]] = defaultdict(list)
        for block, value in values:
            if value is None:
                return None
            blocks[block].append(value)
        errors = [self.scale.error(run) for run in standing.evidence] if self.drift is None else []
        return block_mean(blocks, errors) if blocks else None

    @property
    def quality(self) -> str:
        """The objective with its unit, as the label of an axis."""
        if self.drift is None:
            return self.measured
        unit = {"U": "share of the oracle's", self.scale.metric: ""}.get(self.scale.unit, self.scale.unit)
        return f"{self.scale.metric} at {nats(self.drift)}" + (f" ({unit})" if unit else "")

    @property
    def measured(self) -> str:
        """What the objective is read from, with its unit."""
        unit = self.scale.unit
        shown = {"U": f"of the oracle's gain at {self.scale.budget} nats", self.scale.metric: ""}.get(unit, unit)
        return f"{self.scale.metric} ({shown})" if shown else self.scale.metric

    @property
    def untrained(self) -> str:
        """What lies at 0 of the objective, "" where nothing known does."""
        return "untrained" if self.scale.starts_at_zero else ""
