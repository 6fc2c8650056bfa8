"""The width of good learning rates against surfaces of which it is known."""

from __future__ import annotations

import numpy as np
import pytest

from dashboards.statistics.replicated.width import good_rates

Points = dict[int, list[tuple[float, float]]]


def box(width: float, replicates: int = 16, points: int = 16, noise: float = 0.0, seed: int = 0) -> Points:
    """Plateau of 1 over `width` decades around -3, falling steeply beyond; strengths of which half lose a little."""
    draws = np.random.default_rng(seed)
    found: Points = {}
    for r in range(replicates):
        rates = -4.0 + 2.0 * (draws.permutation(points) + draws.random(points)) / points
        scores = 1.0 - 4.0 * np.maximum(np.abs(rates + 3.0) - width / 2, 0.0) - 0.2 * (draws.random(points) < 0.5)
        found[r] = list(zip(rates.tolist(), (scores + draws.normal(0.0, noise, points)).tolist(), strict=True))
    return found


@pytest.mark.parametrize("width", [0.4, 0.8, 1.2])
def test_the_width_of_a_plateau_is_found(width: float) -> None:
    # .9 of the best is reached .025 decades beyond either edge; a bin has .1 decades
    found = good_rates(box(width), -4.0, -2.0)
    assert found.value == pytest.approx(width + 0.05, abs=0.12)
    assert found.low <= found.value <= found.high


def test_a_wider_plateau_is_wider_with_noise_too() -> None:
    narrow, wide = (good_rates(box(width, 12, 8, noise=0.03), -4.0, -2.0) for width in (0.3, 1.0))
    assert narrow.high < wide.low


def test_a_flat_loss_fills_the_box_and_one_that_gains_nothing_has_no_width() -> None:
    flat = {r: [(-4.0 + i / 4, 0.5) for i in range(8)] for r in range(12)}
    assert good_rates(flat, -4.0, -2.0).value == pytest.approx(2.0)
    assert good_rates({r: [(x, -1.0) for x, _ in of] for r, of in flat.items()}, -4.0, -2.0) is None


def test_a_single_good_bin_is_as_wide_as_its_linear_slopes_are_high() -> None:
    # 4 bins of .5 decades: only the third reaches 1, so that .9 is passed a tenth of a bin before and behind its middle
    scores = [0.0, 0.0, 1.0, 0.0]
    points = {r: [(-3.75 + 0.5 * i, score) for i, score in enumerate(scores)] for r in range(12)}
    assert good_rates(points, -4.0, -2.0).value == pytest.approx(0.1)


@pytest.mark.slow
def test_the_interval_is_that_of_replicates_resampled_one_by_one() -> None:
    points = box(0.6, 12, 8, noise=0.1)
    found = good_rates(points, -4.0, -2.0)
    draws = np.random.default_rng(9)
    widths = []
    for _ in range(400):
        drawn = draws.integers(0, 12, 12)
        widths.append(good_rates({i: points[int(r)] for i, r in enumerate(drawn)}, -4.0, -2.0).value)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(widths, [0.025, 0.975])), abs=0.08)


def test_few_replicates_have_no_interval_and_few_points_no_width() -> None:
    found = good_rates(box(0.8, 6, 8), -4.0, -2.0)
    assert (found.low, found.high, found.blocks) == (None, None, 6)
    assert good_rates(box(0.8, 2, 8), -4.0, -2.0) is None
    assert good_rates({}, -4.0, -2.0) is None
    assert good_rates({r: [(-3.9, 0.5)] * 8 for r in range(12)}, -4.0, -2.0) is None  # nothing known of other rates
    with pytest.raises(ValueError, match="width"):
        good_rates(box(0.8), -2.0, -4.0)
