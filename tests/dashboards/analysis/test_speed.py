"""Paces from measurements whose truth is known by construction, and what a table says of them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from dashboards.analysis.speed import outdated, paces
from dashboards.analysis.strata import Stratum, standings
from dashboards.tables.comparison import Comparison, comparison
from dashboards.tables.formats import render
from dashboards.tables.grids import GridError, grids
from studies.design.answers import sort
from studies.records import PROBE, Cause, RunRecord
from studies.spec import Objective, Study, load_study
from tests.dashboards.generated import a_record
from tests.dashboards.timings import ASKED, measured, timed, timings

GOLD = Objective(metric="gold")
STRATA = [Stratum(name, "clean", (name,), 1) for name in ("sigmoid", "hinge", "bco_pair", "ipo", "big")]


@pytest.mark.parametrize(
    ("ratio", "half", "word"),
    [
        (1.001, 0.001, "as fast"),
        (1.02, 0.005, "as fast"),
        (0.98, 0.005, "as fast"),
        (1.025, 0.015, "slower"),
        (1.2, 0.01, "slower"),
        (0.9, 0.01, "faster"),
        (1.01, 0.04, "inconclusive"),
        (1.1, 0.2, "inconclusive"),
    ],
)
def test_the_interval_alone_decides_the_word(ratio: float, half: float, word: str) -> None:
    sure = measured({}).losses.null  # of the baseline against itself
    losses = timings({"hinge": ratio}, half).model_copy(update={"null": sure})
    found = paces([measured({}).model_copy(update={"losses": losses})], ASKED)
    assert found is not None
    loss = found.of["hinge"].loss
    assert loss is not None
    assert loss.word == word


def test_where_the_baseline_is_slower_than_itself_no_word_is_said() -> None:
    noisy = timed({"hinge": 1.0, "ipo": 1.1}, null=1.01, half=0.025)
    assert {name: pace.loss.word for name, pace in noisy.of.items() if pace.loss} == {
        "hinge": "as fast",
        "ipo": "slower",
    }
    found = timed({"hinge": 1.001, "ipo": 1.5}, null=1.05)
    assert {pace.loss.word for pace in found.of.values() if pace.loss} == {"inconclusive"}
    assert found.null.word == "slower"


def test_a_step_of_a_variant_takes_its_ratio_of_the_baselines() -> None:
    found = timed({"hinge": 1.5}, step=0.02).of
    assert found["sigmoid"].loss is None
    assert found["sigmoid"].seconds == 0.02
    assert found["hinge"].seconds == pytest.approx(0.03)


def test_the_newest_measurement_of_what_is_asked_counts_and_another_is_told_of() -> None:
    old, new, other = measured({"hinge": 1.2}), measured({"hinge": 1.0}), measured({"hinge": 2.0}, asked="before")
    found = paces([other, old, new], ASKED)
    assert found is not None
    assert found.of["hinge"].seconds == pytest.approx(0.02)
    assert outdated([other, old], ASKED) == []
    assert paces([other], ASKED) is None
    assert "sweeper run" in outdated([other], ASKED)[0]
    assert (paces([other], None), outdated([], ASKED)) == (None, [])


def compared(**given: object) -> Comparison:
    found = paces([measured({"hinge": 1.001, "bco_pair": 1.2}, **given)], ASKED)
    records = [a_record(variant=s.variant, metrics={"gold": 1.0, "steps_per_second": 99.0}) for s in STRATA]
    return comparison(records, GOLD, STRATA, baseline="sigmoid", speed=found)


def test_a_table_without_a_measurement_shows_no_speed_whatever_runs_say() -> None:
    table = comparison([a_record(metrics={"gold": 1.0, "steps_per_second": 99.0})], GOLD, STRATA, baseline="sigmoid")
    assert "Speed" not in render(table, "text")
    assert "99" not in render(table, "markdown")
    (row, *_) = csv.DictReader(io.StringIO(render(table, "csv")))
    assert (row["step_seconds"], row["speed"]) == ("", "")


def test_a_table_shows_word_ratio_interval_and_how_it_was_measured() -> None:
    table = compared(checked={"hinge": 1.004, "bco_pair": 1.21})
    text = render(table, "markdown")
    assert "| baseline: 20 ms a step |" in text
    assert "| as fast 1.001 [1.000, 1.002] |" in text
    assert "| slower 1.200 [1.199, 1.201] |" in text
    assert "75 rounds in random order and back, 4 s, on An abacus, 2026-11-29" in text
    assert "sigmoid against itself 1.000 [0.999, 1.001]" in text
    assert "Check by 75 rounds of whole steps: hinge as fast 1.004 [0.994, 1.014]; bco_pair slower" in text
    assert "The speed of big was not measured: its steps differ in lora_r" in text
    rows = {row["variant"]: row for row in csv.DictReader(io.StringIO(render(table, "csv")))}
    assert (rows["sigmoid"]["speed"], rows["hinge"]["speed"], rows["ipo"]["speed"]) == ("", "as fast", "")
    assert float(rows["bco_pair"]["step_ratio_low"]) < 1.2 < float(rows["bco_pair"]["step_ratio_high"])
    assert rows["bco_pair"]["speed_check"] == "slower"
    assert json.loads(render(table, "json"))["speed"]["null"]["word"] == "as fast"
    for format in ("text", "html"):
        assert "as fast" in render(table, format)


def test_timed_runs_of_an_earlier_version_are_no_trials_failures_grids_or_controls() -> None:
    golden = [a_record(phase=PROBE, variant="sigmoid", seed=seed, metrics={"gold": 9.0}) for seed in range(12)]
    golden += [a_record(phase=PROBE, variant="sigmoid", seed=20, cause=Cause.NON_FINITE)]
    own = a_record(variant="sigmoid", metrics={"gold": 1.0})
    (standing,) = standings([*golden, own], GOLD, STRATA[:1])
    assert standing.records == (own,)
    assert (len(standing.done), standing.failed, len(standing.evidence)) == (1, (), 1)
    with pytest.raises(GridError):
        grids(golden, GOLD, "beta", "beta")


def test_timed_runs_of_an_earlier_version_are_told_of_in_one_sentence_and_used_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(
        "study: s\ntrainer: formula\nbase: {model_name_or_path: embedded}\nvariants: {sigmoid: {}, hinge: {}}\n"
        "baseline: sigmoid\nspace: {beta: {values: [0.1]}}\nsampler: grid\nprobe: {rounds: 5, steps: 20}\n"
        "objective: {metric: ranking_gain}\nbudget: {trials: 1}\n"
    )
    study = Study.of(load_study(tmp_path / "study.yaml"))
    timed_then: list[RunRecord] = [a_record(phase=PROBE, variant="hinge", seed=seed) for seed in range(3)]
    answers = sort(study, timed_then, None)
    assert (answers.records, answers.finished_aside()) == ((), {})
    (said,) = answers.notes()
    assert said.startswith("3 finished runs of an earlier version's timing left aside")
    (notice,) = [text for text in study.spec.notices if text.startswith("probe.steps")]
    assert "leave it out" in notice
