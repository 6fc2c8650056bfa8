"""Text of studies, data and stores as the page may show it: without secrets, and with nothing that acts on a screen."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from studies.text.redact import redact
from studies.text.visible import visible_lines


def words(text: Any) -> str:
    """The text; "" for None."""
    return "" if text is None or text == "" else _words(str(text))


@lru_cache(maxsize=1 << 12)
def _words(text: str) -> str:
    """Names are shown again and again, and each time all secrets would be looked for."""
    return visible_lines(str(redact(text)))
