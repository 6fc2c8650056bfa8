"""The unit in which a study's objective is compared."""

from __future__ import annotations

import pytest

from dashboards.statistics.scale import raw_scale, scale_of
from studies.design.counts import pairs_source
from studies.records import EMBEDDED, EMBEDDED_GPT2, EMBEDDED_MODELS, DataConfig
from studies.records.world_units import WHOLE_ANSWER, source_of, tasks
from studies.spec import Objective, load_study
from tests.dashboards.generated import a_record
from trainers.world.grammar import MAX_WORDS


def test_gold_of_the_embedded_world_is_in_u_with_its_own_region() -> None:
    scale = scale_of(Objective(metric="gold"), "embedded")
    assert (scale.unit, scale.tie_within, scale.sign) == ("U", 0.03, 1)
    best = a_record(block=7, metrics={"gold": tasks()[1].oracle["2"]})
    assert scale.value(best) == 1.0
    assert scale.task(7) == 1


@pytest.mark.parametrize("block", [102, 103, 150])
def test_draws_of_a_replicate_are_in_the_unit_of_its_own_task(block: int) -> None:
    scale = scale_of(Objective(metric="gold"), "embedded")
    best = a_record(block=block, metrics={"gold": tasks()[7].oracle["2"]})
    assert (scale.value(best), scale.task(block), tasks()[7].name) == (1.0, 7, "taste 2")


def test_real_data_are_compared_raw_within_what_the_study_says() -> None:
    scale = scale_of(Objective(metric="ranking_gain", tie_within=0.01), "org/pairs")
    assert (scale.unit, scale.tie_within, scale.task(7)) == ("share", 0.01, 7)
    assert scale_of(Objective(metric="ranking_gain"), "org/pairs").tie_within is None
    assert scale.value(a_record(metrics={"ranking_gain": 0.25})) == 0.25


def test_gold_that_asks_the_prompt_has_a_unit_of_its_own() -> None:
    scale = scale_of(Objective(metric="gold"), source_of(DataConfig(gold="prompt")))
    assert (scale.unit, scale.tie_within, scale.starts_at_zero) == ("U", 0.03, True)
    task = tasks(by_prompt=True)[1]
    best, untrained = (a_record(block=7, metrics={"gold": g}) for g in (task.oracle["2"], task.reference))
    assert (scale.value(best), scale.value(untrained), scale.task(7)) == (1.0, 0.0, 1)
    assert scale.error(a_record(block=7, errors={"gold": 0.1})) == task.in_units(0.1)
    assert task.oracle["2"] != tasks()[1].oracle["2"]
    assert source_of(DataConfig()) == "embedded"
    assert source_of(DataConfig(path="org/pairs", gold="prompt")) == "org/pairs"


@pytest.mark.parametrize("by_prompt", [False, True])
def test_gold_is_in_the_unit_of_the_model_that_was_trained(by_prompt: bool) -> None:
    """Whose untrained gold and whose oracle are its own: a study may have runs of both."""
    data = [DataConfig(path=name, gold="prompt" if by_prompt else "task") for name in EMBEDDED_MODELS]
    scale = scale_of(Objective(metric="gold", at_drift=1.0), source_of(data[0]))
    found = {}
    for one in data:
        task = tasks(by_prompt, one.path)[1]
        facts = {"source": source_of(one)}
        best, untrained = (
            a_record(block=7, metrics={"gold": g}, facts=facts) for g in (task.oracle["1"], task.reference)
        )
        assert (scale.value(best), scale.value(untrained)) == (1.0, 0.0)
        assert scale.in_unit([task.oracle["1"]], best) == [1.0]
        assert scale.error(a_record(block=7, errors={"gold": 0.1}, facts=facts)) == task.in_units(0.1, "1")
        found[one.path] = task
    assert found[EMBEDDED] != found[EMBEDDED_GPT2]


def test_a_run_that_does_not_say_whose_pairs_it_had_is_of_the_first_embedded_model() -> None:
    scale = scale_of(Objective(metric="gold"), "embedded")
    assert scale.value(a_record(block=7, metrics={"gold": tasks()[1].oracle["2"]}, facts={})) == 1.0


def test_gold_of_answers_that_are_cut_is_no_share_of_what_is_possible() -> None:
    """The untrained model's own are cut as well, and worth less than whole ones: against those it would have lost."""
    whole = load_study("quickstart", ())
    cut = load_study("quickstart", ("evaluate.max_new_tokens=8",))
    assert scale_of(whole.objective, pairs_source(whole)).unit == "U"
    scale = scale_of(cut.objective, pairs_source(cut))
    assert (scale.unit, scale.task(103)) == ("gold", 7)
    assert scale.gain(a_record(metrics={"gold": -2.0}, facts={"reference_gold": "-2.0"})) == 0.0
    assert WHOLE_ANSWER == MAX_WORDS


def test_less_is_better_where_the_objective_is_minimised() -> None:
    assert scale_of(Objective(metric="kl", direction="minimize"), "org/pairs").sign == -1
    assert raw_scale("kl", by_task=True).sign == -1


def test_seeds_are_averaged_within_their_block_and_gaps_left_out() -> None:
    scale = raw_scale("gold", by_task=False)
    runs = [a_record(block=1, metrics={"gold": g}) for g in (1.0, 2.0)] + [a_record(block=0, metrics={})]
    assert scale.by_block(runs) == {1: pytest.approx(1.5)}
