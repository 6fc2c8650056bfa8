"""Which characters are escaped before a terminal gets them, and which stay."""

from __future__ import annotations

import json
import sys
import unicodedata

import pytest

from studies.text.visible import visible, visible_but_for_rich, visible_json
from tests.robustness.harness import in_time


def test_all_that_acts_on_a_terminal_or_on_the_order_of_text_is_escaped_and_nothing_else() -> None:
    hidden = {chr(code) for code in range(sys.maxunicode + 1) if visible(chr(code)) != chr(code)}
    acting = {
        chr(code)
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)) in ("Cc", "Cf", "Cs", "Zl", "Zp") and chr(code) not in "\n\t"
    }
    assert acting - hidden == set()
    assert {unicodedata.category(c) for c in hidden - acting} <= {"Cn", "Mn"}  # not assigned, or of the block of tags
    assert all(ord(c) >= 0xE0000 or unicodedata.category(c) == "Cn" for c in hidden - acting)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]52;c;ZWNobw==\x07", r"\x1b]52;c;ZWNobw==\x07"),
        ("\x9b31mred\x85", r"\x9b31mred\x85"),
        ("a\u202eb\u2066c\ufeff\U000e0041", r"a\u202eb\u2066c\ufeff\U000e0041"),
        ("half \ud83d", r"half \ud83d"),
        ("line\r\u2028over", r"line\x0d\u2028over"),
        ("Größe 模型 ❤️ ±3…\tand\nso\xa0on\u3000", "Größe 模型 ❤️ ±3…\tand\nso\xa0on\u3000"),
        (r"\x1b as text", r"\x1b as text"),
    ],
)
def test_what_is_escaped_is_written_as_python_writes_it(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(shown) == shown


def test_of_what_rich_wrote_its_own_stays() -> None:
    own = "\x1b[1;31mbold\x1b[0m\x1b]8;id=1;https://example.org/\x1b\\link\x1b]8;;\x1b\\\x1b[2K\x1b[1A\r\x1b[?25l"
    assert visible_but_for_rich(own) == own
    for foreign in ("\x1b]0;title\x07", "\x1b]52;c;x\x1b\\", "\x1bc", "\x1b[6n", "\x1b[20l", "\x1bP+q\x1b\\", "\x9b1m"):
        assert visible_but_for_rich(foreign) == visible(foreign)


@pytest.mark.parametrize("piece", ["\x1b", "\x1b[", "\x1b]8;", "\x1b]8;;", "\x1b[1", "a", "\r", "\u202e"])
def test_no_text_takes_long(piece: str) -> None:
    with in_time():
        visible_but_for_rich(piece * (400_000 // len(piece)))
        visible(piece * (400_000 // len(piece)))


def test_json_is_json_of_the_same_that_no_terminal_acts_on() -> None:
    said = ["\u202eleft", "\x9b31m\x7f", "模型 \U000e0041", "half \ud83d", "a\nb\t"]
    text = visible_json(json.dumps(said, indent=1, ensure_ascii=False))
    assert json.loads(text) == said
    assert visible(text) == text
    assert "模型" in text
