"""Takes places of this machine out of text that others will read: paths say who works where, and on what."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

PLACE: Final = "(a local path)"

# What leads somewhere on a machine: from its root, from somebody's home, or up from a folder. A slash behind a letter,
# a digit or another slash is a fraction, "and/or" or part of an address.
_STEP: Final = r"""[^\s\\/"'`<>|,;()\[\]{}]+"""
_PATH: Final = re.compile(
    rf"(?<![\w/.<~-])(?!/[A-Z_]+[\]>])(?:(?:file:/{{0,2}})?(?:~[\w-]*|\.\.?)?(?:/{_STEP})+/?|[A-Za-z]:(?:\\{_STEP})+|\\\\{_STEP}(?:\\{_STEP})+)"
)

# In quotes a path may hold spaces; also behind the key of a setting.
_QUOTED: Final = re.compile(r"""(["'])([\w.]+=)?(?:file:/{0,2})?(?:~[\w-]*|\.\.?)?/[^"'\n]*\1""")


def without_places(text: str) -> str:
    """The text with every path of this machine replaced, those of the working folder and of the user's home as wholes,
    whatever characters they hold.
    """
    known = {str(place) for place in (Path.cwd(), Path.cwd().resolve(), Path.home()) if len(place.parts) > 1}
    for place in sorted(known, key=len, reverse=True):
        text = text.replace(place, "/here")
    return _PATH.sub(PLACE, _QUOTED.sub(lambda found: f"{found[1]}{found[2] or ''}{PLACE}{found[1]}", text))
