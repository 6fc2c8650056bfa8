"""The examples in the API's README and docstrings are run, and say what they say."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

import sweeper.api.study

ROOT = Path(__file__).parents[3]
HOW = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def test_the_examples_of_the_readme_are_what_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = doctest.testfile(str(ROOT / "sweeper/api/README.md"), module_relative=False, optionflags=HOW)
    assert (found.failed, found.attempted > 10) == (0, True)


def test_the_examples_of_docstrings_are_what_is_found() -> None:
    found = doctest.testmod(sweeper.api.study, optionflags=HOW)
    assert (found.failed, found.attempted > 2) == (0, True)
