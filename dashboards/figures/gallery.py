"""All figures of a study, in the order in which they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from dashboards.figures import gains, knobs, outcome, price
from dashboards.figures import over_time as course
from dashboards.figures.figure import Figure, Missing, slug
from dashboards.figures.material import Material
from dashboards.figures.parallel import parallel

Draw = Callable[[Material, str, str], Figure | Missing]


def figures(material: Material) -> Iterator[tuple[str, Figure | Missing]]:
    """(scenario, figure) for every figure, "" for those of the whole study; one after the other, since each takes time.

    Those of the first scenario come first, under plain names; the others' have the scenario in theirs.
    """
    if not material.scenarios:
        return
    first, *rest = material.scenarios
    one = _per_scenario(material)
    names: set[str] = {"timeline"}
    yield from ((first, draw(material, first, _unused(name, names))) for name, draw in one)
    for kind in material.noise or ("",):
        yield "", knobs.noise(material, kind, _unused(f"noise-{slug(kind)}" if kind else "noise", names))
    yield "", course.timeline(material, "timeline")
    for scenario in rest:
        yield from (
            (scenario, draw(material, scenario, _unused(f"{name}-{slug(scenario)}", names))) for name, draw in one
        )


def first_figures(material: Material) -> dict[str, Figure | Missing]:
    """Scenario -> the figure that stands beside its answer: what ranks the losses, or what each gains where they were
    not judged beside a baseline.
    """
    names: set[str] = set()
    found = {}
    for i, scenario in enumerate(material.scenarios):
        draw, kind = (gains.ranking, "ranking") if _is_ranked(material, scenario) else (gains.gains, "gains")
        found[scenario] = draw(material, scenario, _unused(f"{kind}-{slug(scenario)}" if i else kind, names))
    return found


def _is_ranked(material: Material, scenario: str) -> bool:
    told = material.told(scenario)
    return told is not None and any(loss.difference is not None for loss in told[0].losses)


def _gains(material: Material, scenario: str, name: str) -> Figure | Missing:
    """What each loss gains, where that is not the first figure."""
    if _is_ranked(material, scenario):
        return gains.gains(material, scenario, name)
    return Missing(name, "What each loss gains", "it stands beside the answer")


def _unused(name: str, names: set[str]) -> str:
    """The name, with a number where another figure has it: scenarios may differ in signs that no file name can have."""
    found = next(n for n in [name, *(f"{name}-{i}" for i in range(2, len(names) + 3))] if n not in names)
    names.add(found)
    return found


def _per_scenario(material: Material) -> list[tuple[str, Draw]]:
    """The name of every figure of a scenario, and what draws it. Replicates have a best config each, and what is read
    at a drift has no price in drift: no figure of one best config, or of values at the end, is drawn of these.
    """
    metric = material.scale.metric
    of_ends: list[tuple[str, Draw]] = [
        ("comparison", outcome.comparison),
        ("price", price.price),
        ("lead", price.lead),
        ("profile", outcome.profile),
        ("tuning", outcome.tuning),
    ]
    return [
        *([("gains", _gains)] if any(_is_ranked(material, name) for name in material.scenarios) else []),
        ("paths", gains.paths),
        *([] if material.has_replicates or material.drift is not None else of_ends),
        ("failed", outcome.failed),
        *((f"sensitivity-{slug(knob)}", partial(_sensitivity, knob)) for knob in knobs.knobs_of(material)),
        ("strength", knobs.strength),
        ("importance", knobs.weights_of_knobs),
        ("parallel", parallel),
        ("mixtures", knobs.mixtures),
        ("curves", course.margins),
        *((f"checkpoints-{slug(name)}", partial(_checkpoints, name)) for name in dict.fromkeys((metric, "kl"))),
    ]


def _checkpoints(metric: str, material: Material, scenario: str, name: str) -> Figure | Missing:
    return course.checkpoints(material, scenario, metric, name)


def _sensitivity(knob: str, material: Material, scenario: str, name: str) -> Figure | Missing:
    return knobs.sensitivity(material, scenario, knob, name)
