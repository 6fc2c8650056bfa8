"""What `probe` of a study file asks for, checked; knows neither how a run is timed nor what its time says."""

from __future__ import annotations

from studies.parts import StudySpec
from studies.resolve import Problem

FEWEST_ROUNDS, MOST_ROUNDS = 5, 1000
FEWEST_STEPS, MOST_STEPS = 20, 10_000


def probe_problems(spec: StudySpec) -> list[Problem]:
    """Every mistake about the probe."""
    probe = spec.probe
    if probe is None:
        return []
    if spec.mode == "search":
        text = "compares the pace of variants, and mode: search compares none: leave it out, or use mode: compare"
        return [Problem("probe", text)]
    problems = []
    if not FEWEST_ROUNDS <= probe.rounds <= MOST_ROUNDS:
        text = (
            f"{probe.rounds} must be at least {FEWEST_ROUNDS}, below which the interval of a ratio says nothing, and "
            f"at most {MOST_ROUNDS}"
        )
        problems.append(Problem("probe.rounds", text))
    if not FEWEST_STEPS <= probe.steps <= MOST_STEPS:
        text = (
            f"{probe.steps} must be at least {FEWEST_STEPS}, since the first 10 steps of a run are not timed, and at "
            f"most {MOST_STEPS}"
        )
        problems.append(Problem("probe.steps", text))
    if len(spec.variants) == 1:
        problems.append(
            Problem("probe", "has one variant to time and none to compare it with: add one, or leave it out")
        )
    return problems
