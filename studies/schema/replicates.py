"""Replicates: the comparison of a study made several times, each time on pairs of its own.

In replicate r of a scenario every variant is tuned by its own n points on one draw of the pairs, and what it chose is
trained once more on another, each draw with a seed of its own. So the luck of points, draws and seeds lies in the
spread between replicates
(Bouthillier et al., arXiv 2103.03098), and a loss is compared as people use it: tuned with n trials, then trained.

A replicate of a scenario is a scenario to all that trains, records and searches: `clean#3`. Only what plans and what
compares puts those of one condition together again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from studies.records import REPLICATE_BLOCKS
from studies.schema.types import Confirm, Runs, StudySpec

_SEEDS = 2**32  # what torch and numpy take


class Cell(NamedTuple):
    """One replicate of a scenario. `number` counts from 1; None where the study has no replicates."""

    condition: str
    number: int | None

    @property
    def name(self) -> str:
        """As which runs know it."""
        return self.condition if self.number is None else f"{self.condition}#{self.number}"

    @property
    def tuning_block(self) -> int:
        """The draw of pairs that its points are tried on."""
        return REPLICATE_BLOCKS + 2 * ((self.number or 1) - 1)

    @property
    def judging_block(self) -> int:
        """The draw that what was chosen is judged on."""
        return self.tuning_block + 1


def cell_of(scenario: str) -> Cell:
    """The cell that a scenario's name tells. No scenario of a file that is right has a # in its name."""
    condition, _, number = scenario.rpartition("#")
    return Cell(condition, int(number)) if condition and number.isdecimal() else Cell(scenario, None)


def by_condition(scenarios: Iterable[str]) -> dict[str, list[str]]:
    """The scenarios that the file names, each with its replicates, or itself where it has none."""
    found: dict[str, list[str]] = {}
    for name in scenarios:
        found.setdefault(cell_of(name).condition, []).append(name)
    return found


def with_replicates(spec: StudySpec) -> StudySpec:
    """The study with its scenarios' replicates in their places, the first of all scenarios first: a sweep that is
    stopped has whole ones.
    """
    if spec.replicates is None:
        return spec
    numbers = range(1, spec.replicates + 1)
    cells = {Cell(name, number).name: scenario for number in numbers for name, scenario in spec.scenarios.items()}
    return spec.model_copy(update={"scenarios": cells})


def as_in_file(spec: StudySpec) -> StudySpec:
    """The study with the scenarios that its file names: `with_replicates` the other way round."""
    scenarios = {cell_of(name).condition: scenario for name, scenario in spec.scenarios.items()}
    return spec if spec.replicates is None else spec.model_copy(update={"scenarios": scenarios})


def in_cell(spec: StudySpec, scenario: str) -> StudySpec:
    """The study with the points and draws of one replicate; as it is where it has none."""
    cell = cell_of(scenario)
    if spec.replicates is None or cell.number is None:
        return spec
    first, draw = spec.runs.seeds[0], 2 * (cell.number - 1)
    changed = {
        "sampler_seed": (spec.sampler_seed + cell.number - 1) % _SEEDS,
        "runs": Runs(blocks=(cell.tuning_block,), seeds=((first + draw) % _SEEDS,)),
        "confirm": Confirm(top=1, blocks=(cell.judging_block,), seeds=((first + draw + 1) % _SEEDS,)),
        "replicates": None,  # it is one of them now
    }
    return spec.model_copy(update=changed)
