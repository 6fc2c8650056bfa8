"""Head to head: hand-computed cases, what is not compared, and whether the intervals hold what they claim."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from dashboards.statistics.estimates import Floats, block_mean
from dashboards.statistics.replicated.head_to_head import Met, head_to_head
from studies.records import Measurer
from studies.records.paths import read_at, weights_at
from studies.samples.kept import KeptScores, Preferred, with_preferred, with_scores

JUDGE = Measurer(judge="function j:score", content="sha256:1")
END = {9: 1.0}


def kept(
    key: str,
    scores: Mapping[int, Sequence[float]],
    tokens: Mapping[int, Sequence[int]] | None = None,
    prompts: Sequence[str] | None = None,
) -> KeptScores:
    n = len(next(iter(scores.values())))
    lengths = tokens or {step: [5] * n for step in scores}
    bare = KeptScores(
        key=key * 12,
        prompts=tuple(prompts or (f"p{i}" for i in range(n))),
        seed=3,
        longest=8,
        tokens={step: tuple(of) for step, of in lengths.items()},
    )
    return with_scores(bare, JUDGE, scores)


def met(own: KeptScores, other: KeptScores, controlled: bool = False) -> Met:
    found = head_to_head(own, END, other, END, JUDGE, controlled=controlled)
    assert found is not None
    return found


def test_a_win_counts_one_a_tie_a_half() -> None:
    """Against 1 1 3 4: win, tie, loss, win. Share 2.5 of 4; error sd(1, .5, 0, 1) / 2."""
    own, other = kept("a", {9: [2, 1, 0, 5]}), kept("b", {9: [1, 1, 3, 4]})
    found = met(own, other)
    assert found.rate == 0.625
    assert found.error == pytest.approx(np.std([1, 0.5, 0, 1], ddof=1) / 2)
    assert found.contradicted is None
    assert met(other, own).rate == 0.375


def test_a_judge_that_saw_the_samples_of_some_prompts_alone_says_nothing() -> None:
    own, other = kept("a", {9: [2, 1, 0, 5]}), kept("b", {9: [1, 1, 3, 4]})
    half = with_scores(own, JUDGE, {9: [2, 1]})
    assert head_to_head(half, END, other, END, JUDGE, controlled=False) is None
    assert head_to_head(half, END, with_scores(other, JUDGE, {9: [1, 1]}), END, JUDGE, controlled=False) is None
    by = Measurer(judge="pairwise j:ask")
    preferred = Preferred(by=by, against="b" * 12, steps=((9, 9),), wins=((1, 0),), contradicted=((False, False),))
    assert head_to_head(with_preferred(own, preferred), END, other, END, by, controlled=False) is None


def test_samples_of_one_prompt_are_one_unit() -> None:
    """Two prompts, each twice: wins 1 1 0 0. The share is .5, the error that of two values of which one is 1."""
    own = kept("a", {9: [2, 2, 0, 0]}, prompts=["p", "p", "q", "q"])
    other = kept("b", {9: [1, 1, 1, 1]}, prompts=["p", "p", "q", "q"])
    found = met(own, other)
    assert (found.rate, found.prompts) == (0.5, 2)
    assert found.error == pytest.approx(np.std([1, 0], ddof=1) / math.sqrt(2))


def test_at_equal_length_a_judge_of_length_sees_none_better() -> None:
    """Half of the answers are longer by 4 and win, half shorter by 4 and lose, but one of each: .5 by symmetry."""
    scores = [1] * 9 + [-1] + [-1] * 9 + [1]
    tokens = [9] * 10 + [1] * 10
    own, other = kept("a", {9: scores}, {9: tokens}), kept("b", {9: [0] * 20}, {9: [5] * 20})
    assert met(own, other, controlled=True).rate == pytest.approx(0.5)
    longer = kept("a", {9: [*scores, *[1] * 18, -1, -1]}, {9: [*tokens, *[9] * 20]})
    base = kept("b", {9: [0] * 40}, {9: [5] * 40})
    assert met(longer, base).rate == 0.7
    assert met(longer, base, controlled=True).rate < 0.6


def test_at_a_drift_each_run_is_a_mixture_of_its_evaluations() -> None:
    """One prompt, ours by hand: .5 of step 4 and .5 of step 9 against 1 of step 9: .5 x 0 + .5 x 1."""
    own, other = kept("a", {0: [0], 4: [1], 9: [3]}), kept("b", {0: [0], 4: [1], 9: [2]})
    found = head_to_head(own, {4: 0.5, 9: 0.5}, other, {9: 1.0}, JUDGE, controlled=False)
    assert found is not None
    assert found.rate == 0.5
    assert head_to_head(own, {0: 1.0}, other, {0: 1.0}, JUDGE, controlled=False) == Met(0.5, None, 1)


def test_the_weights_are_those_by_which_a_metric_is_read_there() -> None:
    path = [(2, 0.4, 0.53), (4, 0.9, 0.58), (8, 2.0, 0.61)]
    for drift in (0.35, 0.5, 0.9, 1.5, 2.0):
        weights = weights_at(path, drift)
        assert weights is not None
        values = {0: 0.5, **{step: value for step, _, value in path}}
        reading = read_at(path, drift, 0.5)
        assert reading is not None
        assert sum(weights.values()) == pytest.approx(1)
        assert sum(weight * values[step] for step, weight in weights.items()) == pytest.approx(reading.value)
    assert weights_at(path, 3.0) is None  # it never gets there
    assert weights_at([(2, 9.0, 0.6)], 1.0) is None  # it jumps over it


def test_a_pairwise_judge_is_read_in_either_run() -> None:
    bare = [kept(key, {9: [0, 0]}).model_copy(update={"scored": ()}) for key in "ab"]
    said = Preferred(by=JUDGE, against="b" * 12, steps=((9, 9),), wins=((1.0, 0.5),), contradicted=((False, True),))
    own = with_preferred(bare[0], said)
    assert met(own, bare[1]).rate == 0.75
    assert met(bare[1], own).rate == 0.25
    assert met(own, bare[1]).contradicted == 0.5


def test_what_is_not_paired_or_not_judged_is_not_compared() -> None:
    own = kept("a", {9: [1, 2]})
    others = (
        kept("b", {9: [1, 2]}, prompts=["p0", "x"]),
        kept("b", {9: [1, 2]}).model_copy(update={"seed": 4}),
        kept("b", {9: [1, 2]}).model_copy(update={"scored": ()}),
        kept("b", {4: [1, 2]}),
    )
    for other in others:
        assert head_to_head(own, END, other, END, JUDGE, controlled=False) is None


@pytest.mark.parametrize("controlled", [False, True])
def test_intervals_hold_the_truth_as_often_as_they_claim(controlled: bool) -> None:
    """200 studies of 6 replicates, each of 80 prompts answered twice: the judge's taste differs by replicate and by
    prompt. Over replicates 95 % intervals hold the true rate in 92 to 98 of 100, over the prompts of one draw the rate
    of that draw in 92 to 97.
    """
    random = np.random.default_rng(5)
    over, inside, draws = 0, 0, 0
    truth = _mean_rate(random.normal(0.3, 0.4, 200_000))
    for _ in range(200):
        found = []
        for taste in random.normal(0.3, 0.4, 6):
            one = _a_draw(random, taste, controlled)
            found.append(one)
            if controlled:
                continue
            inside += abs(one.rate - _of_draw(taste)) < 1.96 * (one.error or 0.0)
            draws += 1
        whole = block_mean({i: [one.rate] for i, one in enumerate(found)})
        assert whole.low is not None
        assert whole.high is not None
        over += whole.low < truth < whole.high
    assert 0.92 <= over / 200 <= 0.98
    assert controlled or 0.92 <= inside / draws <= 0.97


SPREAD = 0.5  # of the taste for a prompt


def _a_draw(random: np.random.Generator, taste: float, controlled: bool) -> Met:
    tastes = np.repeat(taste + random.normal(0.0, SPREAD, 80), 2)
    wins = random.random(160) < 1 / (1 + np.exp(-tastes))
    prompts = [f"p{i // 2}" for i in range(160)]
    tokens = {9: [int(n) for n in random.integers(3, 9, 160)]} if controlled else None
    own = kept("a", {9: wins.astype(float).tolist()}, tokens, prompts)
    return met(own, kept("b", {9: [0.5] * 160}, None, prompts), controlled)


NODES: Floats = np.random.default_rng(6).normal(0.0, SPREAD, 20_000)


def _of_draw(taste: float) -> float:
    return float((1 / (1 + np.exp(-(taste + NODES)))).mean())


def _mean_rate(tastes: Floats) -> float:
    return float((1 / (1 + np.exp(-(tastes + np.resize(NODES, len(tastes)))))).mean())
