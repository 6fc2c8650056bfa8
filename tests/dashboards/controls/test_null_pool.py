"""The controls on pools whose answer is known, and the rates that the procedure reaches with the measured noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from dashboards.controls.null_pool import (
    MOST_DIFFERENCES,
    REPEATS,
    Control,
    Deal,
    Pool,
    PoolError,
    controls,
    deal_of,
    pool_of,
    repeat,
)
from dashboards.statistics.scale import raw_scale, scale_of
from studies.records import Cause
from studies.spec import Objective, in_scenario, load_study
from tests.dashboards.generated import a_record, pool

U = scale_of(Objective(metric="gold"), "embedded")
TASKS = tuple(block % 6 for block in range(24))
DEAL = Deal(choose=3, judge=16)


def test_a_loss_without_noise_ties_with_itself_in_every_repeat() -> None:
    level = np.random.default_rng(0).random((32, 24, 1))
    same = Pool(np.repeat(level, 2, axis=2), TASKS)
    assert repeat(same, 0.03, DEAL) == {"tie": REPEATS}
    assert repeat(same, 0.03, DEAL, shift=0.06) == {"better": REPEATS}
    assert repeat(same, 0.03, DEAL, shift=-0.06) == {"worse": REPEATS}


def test_too_much_noise_is_inconclusive_and_not_a_tie() -> None:
    loud = Pool(np.random.default_rng(0).normal(0.0, 1.0, (12, 24, 2)), TASKS)
    counts = repeat(loud, 0.03, DEAL)
    assert counts["tie"] == 0
    assert counts["inconclusive"] > 0.9 * REPEATS


def test_blocks_that_chose_never_judge_and_arms_never_share_a_run() -> None:
    """Were a block used twice, or a run dealt to both arms, differences of distinct powers of two would show it."""
    values = 2.0 ** np.arange(2 * 19).reshape(1, 19, 2)
    from dashboards.controls.null_pool import _differences

    for seed in range(20):
        d = _differences(values, Deal(points=1, choose=3, judge=16), 0.0, np.random.default_rng(seed))
        assert len(set(np.abs(d).tolist())) == 16
        assert (d != 0).all()


def test_correction_makes_a_planted_effect_harder_to_find() -> None:
    noisy = pool_of(pool({"sigmoid": 0.0}, configs=12, blocks=range(12), seeds=2), U)
    deal = {tests: Deal(choose=3, judge=8, tests=tests) for tests in (1, 11)}
    found = {tests: repeat(noisy, 0.03, of, shift=0.06)["better"] for tests, of in deal.items()}
    assert found[11] < found[1]


@pytest.mark.parametrize(
    ("deal", "shape"),
    [(DEAL, (11, 24, 2)), (DEAL, (12, 18, 2)), (DEAL, (12, 24, 1))],
)
def test_a_pool_that_is_too_small_is_refused(deal: Deal, shape: tuple[int, int, int]) -> None:
    with pytest.raises(PoolError, match="The pool has"):
        repeat(Pool(np.zeros(shape), TASKS), 0.03, deal)


def test_the_pool_holds_configs_that_are_whole() -> None:
    gain = raw_scale("ranking_gain", by_task=False)

    def run(trial: int, block: int, seed: int, value: float, cause: Cause = Cause.FINISHED) -> object:
        return a_record(cause, trial=trial, block=block, seed=seed, metrics={"ranking_gain": value})

    records = [run(t, b, s, t + 0.1 * b + 0.01 * s) for t in (0, 1) for b in (4, 2) for s in (1, 0)]
    records += [run(2, 2, 0, 9.0), run(3, 2, 0, 9.0, Cause.NON_FINITE)]
    found = pool_of(records, gain)
    assert found.values == pytest.approx(np.array([[[0.2, 0.21], [0.4, 0.41]], [[1.2, 1.21], [1.4, 1.41]]]))
    assert found.tasks == (2, 4)
    with pytest.raises(PoolError, match="run the pool to its end"):
        pool_of([], gain)


@pytest.mark.parametrize(
    ("blocks", "confirm", "choose", "judge"),
    [(12, None, 3, 9), (16, None, 4, 12), (24, None, 6, 18), (16, 8, 4, 8), (16, 24, 4, 12)],
)
def test_a_quarter_of_a_pool_chooses_and_the_rest_judges_up_to_confirm_size(
    blocks: int, confirm: int | None, choose: int, judge: int
) -> None:
    assert deal_of(blocks, confirm, 11) == Deal(choose=choose, judge=judge, tests=11)


def test_the_shipped_pool_judges_on_as_many_blocks_as_the_smallest_confirm_phase_of_guide_small() -> None:
    """A tie is asked for at confirm size: on fewer blocks it is harder to show than in the studies themselves."""
    pool_blocks = in_scenario(load_study("controls"), "pool").runs.blocks
    guide = load_study("guide-small")
    confirms = [in_scenario(guide, name).confirm for name in guide.scenarios]
    assert deal_of(len(pool_blocks), None, 11).judge == min(len(c.blocks) for c in confirms if c is not None)


def over_pools(highest_kl: float, blocks: int, judge: int, pools: int = 12) -> list[Sequence[Control]]:
    """The controls on several generated pools of 32 configs with two runs of each."""
    found = []
    deal = replace(deal_of(blocks, None, tests=11), judge=judge)
    for seed in range(pools):
        records = pool({"sigmoid": 0.0}, configs=32, blocks=range(blocks), seeds=2, seed=seed, highest_kl=highest_kl)
        found.append(controls(pool_of(records, U), 0.03, deal, seed=seed))
    different = np.mean([c[0].counts["better"] + c[0].counts["worse"] for c in found])
    ties, planted = np.mean([c[0].counts["tie"] for c in found]), np.mean([c[2].counts["better"] for c in found])
    print(  # noqa: T201
        f"\nKL up to {highest_kl:g}, {judge} judging blocks, mean of {pools} pools: difference in {different:.1f} of "
        f"{REPEATS}, tie in {ties / REPEATS:.0%}, planted effect found in {planted / REPEATS:.0%} (Holm over 11)"
    )
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("blocks", "judge"), [(16, 12), (24, 16)])
def test_configs_at_a_budget_of_2_nats_pass_every_control_at_confirm_size(blocks: int, judge: int) -> None:
    assert all(control.held for of_pool in over_pools(2.4, blocks, judge) for control in of_pool)


@pytest.mark.slow
def test_where_runs_scatter_more_ties_need_twenty_blocks() -> None:
    """The best gold at KL 3 to 4, paired deviation .04 U: 16 blocks find the planted effect and show too few ties."""
    sixteen, twenty = over_pools(6.0, 24, 16), over_pools(6.0, 28, 20)
    assert all(planted.held for _, _, planted in [*sixteen, *twenty])
    ties = [np.mean([c[1].counts["tie"] for c in of]) / REPEATS for of in (sixteen, twenty)]
    assert ties[0] < 0.8 < ties[1]
    assert np.mean([c[0].counts["better"] + c[0].counts["worse"] for c in twenty]) <= MOST_DIFFERENCES * REPEATS
