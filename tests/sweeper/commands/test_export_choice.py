"""Which config is exported where nobody names one: of numbers that compare, and none that is unfit to use."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from dashboards.analysis.strata import Stratum
from dashboards.tables.comparison import Row, comparison
from studies.records import RunRecord
from studies.spec import Objective, StudySpec, Variant
from sweeper.commands.export import ExportError, _choose
from tests.dashboards.generated import a_record

GOLD = Objective(metric="gold", constraints={"kl": {"max": 2.0}})
SPEC = StudySpec(study="small", base={}, variants={"sigmoid": Variant(), "ipo": Variant()}, objective=GOLD)


def runs(variant: str, gold: float, phase: str = "unbiased", kl: float = 1.0) -> list[RunRecord]:
    blocks = (0,) if phase == "unbiased" else (3, 4, 5)
    metrics = {"gold": gold, "kl": kl}
    return [
        a_record(variant=variant, block=b, phase=phase, metrics=metrics, run_id=f"{variant}-{phase}-{b}")
        for b in blocks
    ]


def rows(records: Sequence[RunRecord], objective: Objective = GOLD) -> Sequence[Row]:
    strata = [Stratum(name, "clean", (name,), 1) for name in ("sigmoid", "ipo")]
    return comparison(records, objective, strata, baseline="sigmoid", source="embedded").rows


def chosen(records: Sequence[RunRecord], variant: str | None = None, objective: Objective = GOLD) -> str:
    spec = SPEC.model_copy(update={"objective": objective})
    return _choose(spec, rows(records, objective), "clean", variant, None)[0].variant


def test_a_number_that_chose_its_own_config_is_never_set_against_a_retested_one() -> None:
    search = [*runs("sigmoid", 1.0), *runs("ipo", 9.0)]
    assert chosen(search) == "ipo"
    half = [*search, *runs("sigmoid", 1.0, "confirm")]
    with pytest.raises(ExportError, match=r"ipo has not been trained again .* run the study to its end first, or name"):
        chosen(half)
    assert chosen(half, "ipo") == "ipo"
    assert chosen([*half, *runs("ipo", 0.5, "confirm")]) == "sigmoid"


def test_what_broke_the_bound_when_retested_does_not_win() -> None:
    records = [*runs("sigmoid", 1.0), *runs("ipo", 9.0), *runs("sigmoid", 1.0, "confirm")]
    assert chosen([*records, *runs("ipo", 9.0, "confirm", kl=3.0)]) == "sigmoid"
    both = [r.model_copy(update={"metrics": {**r.metrics, "kl": 3.0}}) if r.phase == "confirm" else r for r in records]
    with pytest.raises(ExportError, match=r"ipo broke the bound when retested .KL 3.00, at most 2"):
        chosen([*both, *runs("ipo", 9.0, "confirm", kl=3.0)])


def test_word_salad_is_not_exported_and_the_remedy_is_told() -> None:
    free = Objective(metric="gold")
    salad = [
        r.model_copy(update={"metrics": {**r.metrics, "kl": 136.0, "kl_per_token": 12.0}})
        for r in [*runs("sigmoid", 1.0), *runs("ipo", 9.0)]
    ]
    with pytest.raises(
        ExportError, match=r"No trial of small is fit to use: sigmoid has no config fit to use .0 of 1."
    ):
        chosen(salad, objective=free)
    assert chosen([*runs("sigmoid", 1.0), *salad[1:]], objective=free) == "sigmoid"
