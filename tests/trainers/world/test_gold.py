"""Facts about the gold rewards: hand-computed values and the interior optimum."""

import numpy as np
import pytest

from trainers.world.gold import N_TASKS, TASKS, GoldTask, gold_reward
from trainers.world.grammar import ADJECTIVES, GRADED, vocabulary

EXTREMES = sorted({of(range(6, N_TASKS), key=lambda k: TASKS[k].power) for of in (min, max)})
"""Of the drawn tasks, those that most level and most part mild and strong words."""


def gold(text: str, ended: bool = True, task: int = 0) -> float:
    return gold_reward(text.split(), ended, task)


# Task 0 weighs every grade by .85; task 1 adjectives by -.95 and verbs by -.5.
@pytest.mark.parametrize(
    ("text", "ended", "task", "expected"),
    [
        ("the plot is very superb .", True, 0, 20 * 1.5 * 0.85 / 6),
        ("the plot is very superb .", True, 1, -20 * 1.5 * 0.95 / 6),
        ("fans loved the plot .", True, 0, 20 * 1.5 * 0.85 / 5 - 0.8),
        ("fans loved the plot .", True, 1, -20 * 1.5 * 0.5 / 5 - 0.8),
        ("fans loved the plot .", False, 0, 20 * 1.5 * 0.85 / 5 - 0.8 - 4),
        ("fans loved its superb plot . we hated its slow pace .", True, 0, 20 * 0.85 * 1.0 / 12),
        # superb and plot come twice: 2 of 6 content words; superb earns once
        ("the plot is superb and neat . the plot is very superb .", True, 0,
         20 * 0.85 * (1.5 + 0.5) / 13 - 4 * 2 / 6),
        # only "is is" is broken, of 9 neighbours
        ("the plot is is superb and neat .", True, 0, 20 * 0.85 * 2.0 / 8 - 15 / 9),
        # 16 words: 2 beyond 14
        ("it is a neat film with a bland plot . we liked its slow pace .", True, 0,
         20 * 0.85 * (0.5 - 0.5 + 0.5 - 0.5) / 16 - 0.3 * 2),
        ("", True, 0, -0.8 * 6 - 15),
        ("", False, 0, -0.8 * 6 - 4),
        ("superb", True, 0, -0.8 * 5 - 15),
    ],
)  # fmt: skip
def test_gold_is_the_formula(text: str, ended: bool, task: int, expected: float) -> None:
    assert gold(text, ended, task) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("task", [-1, N_TASKS])
def test_a_task_that_does_not_exist_is_refused(task: int) -> None:
    with pytest.raises(IndexError, match=f"task is {task}"):
        gold("the plot is superb .", task=task)


def test_drawn_tastes_are_balanced_within_their_ranges_and_the_same_everywhere() -> None:
    drawn = TASKS[6:]
    assert [task.direction for task in drawn] == [1, -1] * 12
    assert all(0.5 <= factor <= 1.1 for task in drawn for factor in (task.heart, task.craft, task.verb))
    assert all(0.5 <= task.power <= 1.5 for task in drawn)
    assert drawn[0] == GoldTask("taste 1", 1, heart=1.01, craft=0.95, verb=0.75, power=0.76)
    assert drawn[-1] == GoldTask("taste 24", -1, heart=0.77, craft=0.9, verb=1.1, power=1.42)


def test_there_are_at_least_four_tastes_and_both_directions() -> None:
    weights = {tuple(round(task.weight(graded), 6) for graded in GRADED.values()) for task in TASKS}
    assert len(weights) == N_TASKS >= 4
    assert {task.direction for task in TASKS} == {-1, 1}


@pytest.mark.parametrize("task", range(N_TASKS))
def test_more_of_the_wanted_words_pay_up_to_a_point_inside(task: int) -> None:
    wanted = sorted(
        (word for word in ADJECTIVES if TASKS[task].weight(GRADED[word]) > 0),
        key=lambda word: -TASKS[task].weight(GRADED[word]),
    )
    values = [gold(f"the plot is {' and '.join(wanted[:k])} .", task=task) for k in range(1, len(wanted) + 1)]
    best = int(np.argmax(values))
    assert 0 < best < len(wanted) - 1
    assert values[best] > max(values[0], values[-1]) + 1.0


@pytest.mark.parametrize("task", [*range(6), *EXTREMES])
def test_hill_climbing_from_anywhere_ends_in_a_short_clean_review(task: int) -> None:
    """No heap, loop or endless text beats a sentence: the climbed maximum is grammatical, of 6 to 14
    words, unrepeated.
    """
    summits = [
        _climb(start.split(), task) for start in ("fans loved its moving plot .", "the plot is moving .", "superb")
    ]
    value, words = max(summits)
    assert 6 <= len(words) <= 14
    assert gold_reward(words * 3, True, task) < value - 1.0
    assert gold_reward(words, False, task) < value - 1.0
    heap = [word for word in ADJECTIVES if TASKS[task].weight(GRADED[word]) > 0]
    assert all(gold_reward(heap[:k], True, task) < 0.0 for k in range(1, len(heap) + 1))
    assert len({word for word in words if word in GRADED}) == sum(word in GRADED for word in words)


def _climb(words: list[str], task: int) -> tuple[float, list[str]]:
    """Best single substitution, removal or insertion until none helps."""
    value = gold_reward(words, True, task)
    while True:
        places, anything = range(len(words) + 1), vocabulary()
        steps = [words[:i] + words[i + 1 :] for i in places[:-1]]
        steps += [[*words[:i], word, *words[i + drop :]] for i in places for word in anything for drop in (0, 1)]
        steps += [[*words[:i], "and", word, *words[i:]] for i in places for word in ADJECTIVES]
        best = max(steps, key=lambda step: gold_reward(step, True, task))
        if gold_reward(best, True, task) <= value + 1e-9:
            return value, words
        value, words = gold_reward(best, True, task), best
