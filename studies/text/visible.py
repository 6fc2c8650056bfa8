"""Text in which every character is visible that would act on a terminal or on how the text is read; knows no secret.

What is escaped: control characters but newline and tab, format characters (directions, joiners, marks of no width,
tags), separators of lines and paragraphs, halves of characters. Written as Python writes them: `\\x1b`, `\\u202e`.
"""

from __future__ import annotations

import json
import re
from typing import Final

__all__ = ["visible", "visible_but_for_rich", "visible_json", "visible_lines"]

# The categories Cc, Cf, Zl, Zp and Cs of Unicode, and all of the block of tags, of which some are not assigned.
_HIDDEN: Final = (
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890-\u0891\u08e2\u180e\u200b-\u200f"
    r"\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_ALL: Final = re.compile(_HIDDEN)
_RETURN: Final = re.compile(r"\r\n?")
# What rich writes of its own accord: style, link, cursor, and the lines that it writes anew.
_RICH: Final = (
    r"\x1b\[[0-9;]*m|\x1b\]8;[^;\x00-\x1f\x7f-\x9f]*;[^\x00-\x20\x7f-\x9f]*\x1b\\"
    r"|\x1b\[[0-9]*[ABCDGHJK]|\x1b\[\?(?:25|1049)[hl]|\r"
)
_ALL_OR_RICH: Final = re.compile(f"(?P<rich>{_RICH})|{_HIDDEN}")


def visible(text: str) -> str:
    """`text` with what would act on a terminal escaped; what is already visible stays as it is."""
    return _ALL.sub(_escaped, text)


def visible_lines(text: str) -> str:
    """The same of a piece of a stream. A carriage return ends a line: what it would write over stays to be read."""
    return visible(_RETURN.sub("\n", text))


def visible_json(text: str) -> str:
    """JSON that says the same, and that a terminal may be sent."""
    return _ALL.sub(lambda match: json.dumps(match[0])[1:-1], text)


def visible_but_for_rich(text: str) -> str:
    """The same for what rich has laid out of text that is visible: what it added stays."""
    return _ALL_OR_RICH.sub(lambda match: match[0] if match["rich"] else _escaped(match), text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
