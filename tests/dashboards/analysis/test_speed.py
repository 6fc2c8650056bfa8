"""Paces from timed runs whose truth is known by construction, and what a table says of them."""

from __future__ import annotations

import csv
import io
import math
import random

import pytest

from dashboards.analysis.speed import paces
from dashboards.analysis.strata import Stratum, standings
from dashboards.controls.null_pool import PoolError, pool_of
from dashboards.statistics.scale import scale_of
from dashboards.tables.comparison import Comparison, comparison
from dashboards.tables.formats import render
from dashboards.tables.grids import GridError, grids
from studies.records import PROBE, Cause, RunRecord
from studies.spec import Objective
from tests.dashboards.generated import a_record

GOLD = Objective(metric="gold")
STRATA = [Stratum(name, "clean", (name,), 1) for name in ("sigmoid", "hinge", "bco_pair", "ipo")]


def timed(variant: str, pace: float, *, rounds: int = 12, noise: float = 0.01, mood: float = 0.3) -> list[RunRecord]:
    """`pace` steps a second, behind what a machine does to a whole round (`mood`) and to one run (`noise`)."""
    found = []
    for number in range(rounds):
        shared, own = random.Random(number), random.Random(f"{variant} {number}")
        speed = pace * math.exp(shared.gauss(0, mood) + own.gauss(0, noise))
        metrics = {"steps_per_second": speed, "peak_memory": 100.0 + number}
        facts = {"threads": "2", "device": "cpu"}
        of = {"variant": variant, "seed": number, "arm": PROBE, "metrics": metrics, "facts": facts}
        found.append(a_record(run_id=f"{variant}-{number}", **of))
    return found


def compared(*records: RunRecord) -> Comparison:
    return comparison(records, GOLD, STRATA, baseline="sigmoid")


def test_a_round_takes_out_what_the_machine_does_to_all_of_it() -> None:
    found = paces([*timed("sigmoid", 10), *timed("hinge", 10), *timed("bco_pair", 8), *timed("ipo", 12)], "sigmoid")
    assert {name: pace.word for name, pace in found.items()} == {
        "sigmoid": None,
        "hinge": "as fast",
        "bco_pair": "slower",
        "ipo": "faster",
    }
    ratio = found["bco_pair"].ratio
    assert ratio is not None
    assert ratio.low is not None
    assert ratio.high is not None
    assert ratio.value == pytest.approx(0.8, rel=0.01)
    assert ratio.low < ratio.value < ratio.high < 0.82
    assert found["hinge"].spread > 2  # the rounds themselves differ by much more than 3 %


def test_noise_within_rounds_leaves_it_inconclusive() -> None:
    found = paces([*timed("sigmoid", 10, noise=0.2), *timed("hinge", 10, noise=0.2)], "sigmoid")
    assert found["hinge"].word == "inconclusive"


def test_only_whole_runs_of_the_probe_are_timings() -> None:
    others = [r.model_copy(update={"arm": "unbiased"}) for r in timed("hinge", 10)]
    broken = [r.model_copy(update={"state": a_record(cause=Cause.NON_FINITE).state}) for r in timed("ipo", 10)]
    assert paces([*others, *broken], "sigmoid") == {}
    alone = paces(timed("hinge", 10), None)["hinge"]
    assert (alone.ratio, alone.word, alone.rounds, alone.peak_memory, alone.threads) == (None, None, 12, 105.5, "2")


def test_a_table_without_a_probe_shows_no_speed() -> None:
    table = compared(a_record(metrics={"gold": 1.0, "steps_per_second": 99.0}))
    assert "Steps/s" not in render(table, "text")
    assert "99" not in render(table, "markdown")
    (row, *_) = csv.DictReader(io.StringIO(render(table, "csv")))
    assert (row["steps_per_second"], row["speed"]) == ("", "")


def test_a_table_shows_ratio_interval_word_and_how_it_was_timed() -> None:
    table = compared(*timed("sigmoid", 10), *timed("hinge", 10), *timed("bco_pair", 8))
    text = render(table, "markdown")
    assert "| Steps/s | Speed |" in text
    assert "| as fast 1." in text or "| as fast 0.99" in text
    assert "| slower 0.8" in text or "| slower 0.79" in text
    assert "median of 12 rounds on cpu, 2 threads" in text
    rows = {row["variant"]: row for row in csv.DictReader(io.StringIO(render(table, "csv")))}
    assert (rows["sigmoid"]["speed"], rows["hinge"]["speed"], rows["ipo"]["speed"]) == ("", "as fast", "")
    assert float(rows["bco_pair"]["speed_low"]) < 0.8 < float(rows["bco_pair"]["speed_high"])
    assert rows["bco_pair"]["speed_rounds"] == "12"
    assert table.rows[2].run_ids["pace"] == tuple(f"bco_pair-{number}" for number in range(12))
    for format in ("text", "html", "json"):
        assert "as fast" in render(table, format)


def test_timed_runs_are_no_trials_failures_grids_or_controls() -> None:
    """Here they even measure gold, which the sweep does not let them."""
    golden = [r.model_copy(update={"metrics": r.metrics | {"gold": 9.0}}) for r in timed("sigmoid", 10)]
    golden += [a_record(arm=PROBE, variant="sigmoid", seed=20, cause=Cause.NON_FINITE)]
    own = a_record(variant="sigmoid", metrics={"gold": 1.0})
    (standing,) = standings([*golden, own], GOLD, STRATA[:1])
    assert standing.records == (own,)
    assert (len(standing.done), standing.failed, len(standing.speak)) == (1, (), 1)
    with pytest.raises(GridError):
        grids(golden, GOLD, "beta", "beta")
    with pytest.raises(PoolError):
        pool_of(golden, scale_of(GOLD, "embedded"))
