"""Facts about the language of the embedded world."""

from itertools import pairwise

import numpy as np
import pytest

from trainers.world.grammar import (
    ADJECTIVES,
    CONTENT_WORDS,
    END,
    GRADED,
    MAX_WORDS,
    MOODS,
    START,
    TOPICS,
    VERBS,
    Mood,
    grammar_bigrams,
    prompts,
    vocabulary,
    write_review,
)


def reviews(mood: Mood, n: int = 3000) -> list[list[str]]:
    rng = np.random.default_rng(1)
    return [write_review(rng, mood, TOPICS[i % len(TOPICS)]).split() for i in range(n)]


def test_the_vocabulary_is_small_and_holds_every_word() -> None:
    words = vocabulary()
    assert len(words) == len(set(words)) <= 96
    written = {word for mood in MOODS for review in reviews(mood) for word in review}
    asked = {word for mood in MOODS for prompt in prompts(mood) for word in prompt.split()}
    assert written | asked == set(words)


def test_graded_words_are_twelve_and_twelve_adjectives_and_six_verbs() -> None:
    assert sorted(GRADED[word].grade for word in ADJECTIVES) == sorted([-1.5, -1.0, -0.5, 0.5, 1.0, 1.5] * 4)
    assert sorted(GRADED[word].grade for word in VERBS) == [-1.5, -1.0, -0.5, 0.5, 1.0, 1.5]


def test_prompts_are_distinct_end_in_a_colon_and_have_one_length() -> None:
    assert len(set(prompts())) == 30
    assert {len(prompt.split()) for mood in MOODS for prompt in prompts(mood)} == {8}
    assert all(prompt.endswith(f" {START}") and " plain " in prompt for prompt in prompts())


def test_the_same_seed_writes_the_same_review_and_another_seed_another() -> None:
    first, again, other = (
        [write_review(rng, "plain", "film") for _ in range(5)] for rng in map(np.random.default_rng, (3, 3, 4))
    )
    assert first == again != other


@pytest.mark.parametrize(("mood", "low", "high"), [("cold", 0.07, 0.13), ("plain", 0.46, 0.54), ("warm", 0.87, 0.93)])
def test_the_mood_steers_the_share_of_positive_words(mood: Mood, low: float, high: float) -> None:
    grades = [GRADED[word].grade for review in reviews(mood) for word in review if word in GRADED]
    assert low < sum(grade > 0 for grade in grades) / len(grades) < high


def test_reviews_have_the_piloted_lengths() -> None:
    tokens = [len(review) + 1 for review in reviews("plain")]
    assert 11.0 <= np.mean(tokens) <= 12.0
    assert np.percentile(tokens, 95) <= 20
    assert max(tokens) == 21 < MAX_WORDS


def test_content_words_do_not_repeat_within_a_review() -> None:
    for review in reviews("warm"):
        content = [word for word in review if word in CONTENT_WORDS]
        assert len(content) == len(set(content)), " ".join(review)


def test_the_bigrams_are_exactly_those_that_reviews_hold() -> None:
    lines = [(START, *review, END) for mood in MOODS for review in reviews(mood, 15000)]
    held = {pair for line in lines for pair in pairwise(line)}
    assert held == grammar_bigrams()
