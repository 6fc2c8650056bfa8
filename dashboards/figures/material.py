"""What figures are drawn from: the standings of a study's strata, its comparison and what else was read of its runs.

Knows no store and no picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from dashboards.analysis.strata import StratumResults
from dashboards.figures.figure import Look, looks
from dashboards.statistics.estimates import Estimate, block_mean
from dashboards.statistics.scale import Scale
from dashboards.statistics.stability import failures
from dashboards.tables.comparison import Comparison, Row
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
    knob. `curves`: run id -> metric -> its values by step, of runs that speak for their stratum.
    """

    standings: tuple[StratumResults, ...]
    comparison: Comparison
    scale: Scale
    noise: Mapping[str, Mapping[str, float]]
    betas: Mapping[str, float]
    curves: Mapping[str, Mapping[str, Curve]]

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
        return {(s.stratum.variant, s.stratum.scenario): _configs(s, self.scale) for s in self.standings}

    def best(self, standing: StratumResults) -> Estimate | None:
        """The objective of the stratum's best config in the scale's unit, by the runs that speak for it."""
        if not standing.speak:
            return None
        blocks: dict[int, list[float]] = {}
        for run in standing.speak:
            blocks.setdefault(run.block, []).append(self.scale.in_unit([run.metrics[self.scale.metric]], run.block)[0])
        return block_mean(blocks, [self.scale.error(run) for run in standing.speak])

    @property
    def quality(self) -> str:
        """The objective with its unit, as the label of an axis."""
        unit = self.scale.unit
        shown = {"U": "of the oracle's gain at 2 nats", self.scale.metric: ""}.get(unit, unit)
        return f"{self.scale.metric} ({shown})" if shown else self.scale.metric

    @property
    def untrained(self) -> str:
        """What lies at 0 of the objective, "" where nothing known does."""
        return "untrained" if self.scale.starts_at_zero else ""


def _configs(standing: StratumResults, scale: Scale) -> tuple[Config, ...]:
    own = [run for trial in standing.ended for run in trial.runs]
    failed = set(failures(own, scale).configs)
    found = []
    for trial in standing.ended:
        values = scale.by_block(trial.runs) if trial.complete else {}
        kls = [run.metrics["kl"] for run in trial.runs if "kl" in run.metrics] if trial.complete else []
        found.append(
            Config(
                trial=trial.number,
                knobs=trial.runs[0].knobs,
                value=sum(values.values()) / len(values) if values else None,
                kl=sum(kls) / len(kls) if kls else None,
                failed=trial.failed or trial.number in failed,
                unbiased=all(run.arm == "unbiased" for run in trial.runs),
                runs=trial.runs,
            )
        )
    return tuple(found)
