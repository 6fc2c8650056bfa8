"""Rounds of tasks whose times are known, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import numpy as np
import pytest

from trainers.speed.measure import time_losses, time_steps
from trainers.speed.rounds import Task, Times, by_difference, by_ratio, one_round

Said = list[tuple[str, float | None]]


class Machine:
    """A clock by which tasks take what it is told of them, behind its noise and its drift."""

    def __init__(self, noise: float = 0.0, drift: float = 0.0, spikes: float = 0.0) -> None:
        self.noise, self.drift, self.spikes = noise, drift, spikes
        self.draw, self.asked, self.order = Random(1), 0.0, list[str]()
        self.mood = 1.0

    def task(self, name: str, seconds: float) -> Task:
        def run() -> None:
            self.order.append(name)
            self.asked = seconds

        return run

    def clock(self, task: Task) -> float:
        task()
        self.mood += self.drift
        spike = 3.0 if self.draw.random() < self.spikes else 1.0
        return self.asked * self.mood * (1 + self.noise * abs(self.draw.gauss(0, 1))) * spike


def nothing_said(doing: str, left: float | None) -> None:
    pass


def test_a_round_goes_there_in_random_order_and_back_the_same_way() -> None:
    machine, draw = Machine(), Random(0)
    tasks = {name: machine.task(name, 1.0) for name in "abcdef"}
    orders = []
    for _ in range(20):
        machine.order.clear()
        one_round(tasks, machine.clock, draw)
        assert machine.order[:6] == machine.order[6:][::-1]
        orders.append(machine.order[:6])
    assert all(sorted(order) == sorted(tasks) for order in orders)
    assert len({tuple(order) for order in orders}) > 15


def test_a_machine_that_gets_slower_at_a_steady_rate_changes_no_ratio() -> None:
    machine = Machine(drift=0.001)
    tasks = {name: machine.task(name, 1.0) for name in ("base", "same", *"abcdefgh")}
    rounds = [one_round(tasks, machine.clock, Random(i)) for i in range(200)]
    assert by_ratio(rounds, "same", "base").value == pytest.approx(1.0, abs=0.001)


@pytest.mark.parametrize("planted", [0.0, 0.0005, 0.03, -0.03])
def test_a_small_difference_of_a_small_part_is_found_behind_noise_and_spikes(planted: float) -> None:
    """The loss is a thirtieth of the step, noise is 20 % of it, and one time in ten is three times as long."""
    machine = Machine(noise=0.2, spikes=0.1)
    part = 1 / 30
    tasks = {"base": machine.task("base", part), "other": machine.task("other", part + planted)}
    rounds = [one_round(tasks, machine.clock, Random(i)) for i in range(200)]
    found = by_difference(rounds, "other", "base", 1.0)
    assert found.low <= found.value <= found.high
    assert found.value == pytest.approx(1 + planted, abs=0.004)
    assert found.high - found.low < 0.01


def covers(statistic: Callable[[list[Times]], tuple[float, float]], sigma: float) -> float:
    """How often the interval of two equal tasks holds 1, over simulated measurements of 75 rounds."""
    held, numbers = 0, np.random.default_rng(5)
    for _ in range(300):
        times = np.exp(numbers.normal(0, sigma, size=(75, 2, 2)))
        rounds: list[Times] = [{"base": (a[0], a[1]), "other": (b[0], b[1])} for a, b in times]
        low, high = statistic(rounds)
        held += low <= 1 <= high
    return held / 300


def test_both_intervals_hold_the_truth_nineteen_times_in_twenty() -> None:
    def difference(rounds: list[Times]) -> tuple[float, float]:
        found = by_difference(rounds, "other", "base", 30.0)
        return found.low, found.high

    def ratio(rounds: list[Times]) -> tuple[float, float]:
        found = by_ratio(rounds, "other", "base")
        return found.low, found.high

    assert covers(difference, 0.2) > 0.92
    assert covers(ratio, 0.12) > 0.92


def test_measuring_ends_when_every_interval_is_narrow_and_at_the_limit_otherwise() -> None:
    quiet, noisy = Machine(noise=0.01), Machine(noise=0.5)
    of = {"sigmoid": 1 / 30, "ipo": 1 / 30, "slow": 1 / 30 + 0.03}
    tasks = {name: quiet.task(name, seconds) for name, seconds in of.items()}
    found = time_losses(tasks, "sigmoid", 1.0, quiet.clock, nothing_said, most=20.0)
    assert found.rounds == 50
    assert (found.null.low < 1.0005, found.null.high > 0.9995) == (True, True)
    assert found.ratios["slow"].low > 1.02
    assert set(found.ratios) == {"ipo", "slow"}
    tasks = {name: noisy.task(name, seconds) for name, seconds in of.items()}
    cut = time_losses(tasks, "sigmoid", 1.0, noisy.clock, nothing_said, most=0.2)
    assert 0.2 <= cut.seconds < 5.0


def test_whole_steps_are_taken_for_so_many_rounds_and_say_how_long_they_take() -> None:
    machine, said = Machine(noise=0.05, spikes=0.05), list[tuple[str, float | None]]()
    asked = list[int]()

    def tasks(number: int) -> dict[str, Task]:
        asked.append(number)
        return {name: machine.task(name, seconds) for name, seconds in (("sigmoid", 1.0), ("slow", 1.06))}

    found = time_steps(tasks, "sigmoid", 100, machine.clock, lambda doing, left: said.append((doing, left)))
    assert found.rounds == 100
    assert asked[-100:] == list(range(100))
    assert 1.0 < found.ratios["slow"].low < 1.06 < found.ratios["slow"].high
    assert found.null.low < 1.0 < found.null.high
    assert len(said) == 100
    assert {doing for doing, _ in said} == {"100 rounds of whole steps"}
