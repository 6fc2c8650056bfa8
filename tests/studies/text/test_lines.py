"""The first line of a text, and of what an error says."""

from __future__ import annotations

import pytest

from studies.text.lines import first_line, first_line_of


@pytest.mark.parametrize("text", ["one", "one\ntwo", "\n one\r\ntwo", "one\rtwo\n"])
def test_the_first_line_is_that_which_says_something(text: str) -> None:
    assert first_line(text) == "one"
    assert first_line_of(ValueError(text)) == "one"


@pytest.mark.parametrize("text", ["", " \n\n"])
def test_where_nothing_is_said_the_missing_is(text: str) -> None:
    assert first_line(text) == "no message"
    assert first_line(text, "") == ""
    assert first_line_of(ValueError(text)) == "ValueError"
