"""Text of studies, data and stores as the page may show it: without secrets, and with nothing that acts on a screen."""

from __future__ import annotations

from typing import Any

from studies.text.redact import redact
from studies.text.visible import visible_lines


def words(text: Any) -> str:
    """The text; "" for None."""
    return "" if text is None else visible_lines(str(redact(str(text))))
