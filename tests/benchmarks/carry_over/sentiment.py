"""The judge of the carry-over studies: VADER's compound score, by which the pairs of `stories_sentiment` were made."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any


def score(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """The sentiment of each completion alone, -1 to 1 (Hutto and Gilbert 2014; `vaderSentiment` of the dev extra)."""
    return [_analyzer().polarity_scores(text)["compound"] for text in completions]


@cache
def _analyzer() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()
