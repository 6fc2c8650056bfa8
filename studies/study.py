"""A study as it is passed around: what the file says, and its variants made whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from studies.records import RunConfig, RunRecord
from studies.schema.scenarios import arms_in, in_scenario
from studies.schema.types import ResolvedVariant, StudySpec
from studies.schema.variants import arms, resolve_run


@dataclass(frozen=True)
class Study:
    """A study file and its resolved variants, of the whole study or of one of its scenarios."""

    spec: StudySpec
    variants: Mapping[str, ResolvedVariant]

    @classmethod
    def of(cls, spec: StudySpec) -> Study:
        """Resolve the variants of a study file. Raises StudyError where one cannot be."""
        return cls(spec, arms(spec))

    def holding(self, contents: Mapping[str, str]) -> Study:
        """The study with the contents that its sources are said to hold."""
        return replace(self, spec=self.spec.model_copy(update={"contents": contents}))

    def within(self, scenario: str) -> Study:
        """The study narrowed to one scenario: the variants, trials, runs and confirm phase that hold there."""
        return Study(in_scenario(self.spec, scenario), arms_in(self.spec, self.variants, scenario))

    def by_scenario(self) -> Iterator[tuple[str, Study]]:
        """Each scenario with the study narrowed to it, in the order of the file."""
        return ((name, self.within(name)) for name in self.spec.scenarios)

    def strata(self) -> Iterator[tuple[ResolvedVariant, str]]:
        """Each variant in each scenario that it takes part in."""
        return ((variant, name) for name, own in self.by_scenario() for variant in own.variants.values())

    def run_config(self, record: RunRecord) -> RunConfig:
        """The config that the file gives a recorded run. Raises ValueError for weights of another mixture."""
        return resolve_run(
            self.spec,
            self.variants[record.variant],
            record.scenario,
            trial=record.trial,
            knobs=record.knobs,
            block=record.block,
            seed=record.seed,
        )
