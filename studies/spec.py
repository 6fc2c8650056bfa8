"""The door to study files: their types, how one is loaded and checked, and how a trial becomes a run config."""

from __future__ import annotations

from studies.loading.load import foreign_code, load_study, not_yet, shipped_studies
from studies.records import Judge
from studies.schema.scenarios import arms_in, in_scenario
from studies.schema.types import (
    MOST_AXES,
    MOST_DRIFT,
    Budget,
    Confirm,
    Distribution,
    Expectation,
    FloatRange,
    IntRange,
    Notify,
    Objective,
    Output,
    Probe,
    ResolvedVariant,
    Resources,
    Rungs,
    Runs,
    Scenario,
    Simplex,
    SlurmJobs,
    StudyError,
    StudySpec,
    Values,
    Variant,
)
from studies.schema.variants import arms, knob_settings, resolve_run, scenario_data
from studies.study import Study

__all__ = [
    "MOST_AXES",
    "ResolvedVariant",
    "Budget",
    "Confirm",
    "Distribution",
    "Expectation",
    "FloatRange",
    "IntRange",
    "Judge",
    "MOST_DRIFT",
    "Notify",
    "Objective",
    "Output",
    "Probe",
    "Resources",
    "Rungs",
    "Runs",
    "Scenario",
    "Simplex",
    "SlurmJobs",
    "Study",
    "StudyError",
    "StudySpec",
    "Values",
    "Variant",
    "arms",
    "arms_in",
    "foreign_code",
    "in_scenario",
    "knob_settings",
    "load_study",
    "not_yet",
    "resolve_run",
    "scenario_data",
    "shipped_studies",
]
