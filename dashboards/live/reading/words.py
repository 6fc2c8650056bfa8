"""Text of studies, data and stores as the page may show it: without secrets, and with nothing that acts on a screen."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from studies.text.redact import redact
from studies.text.visible import visible_lines

LONGEST_KEPT: Final = 256  # characters


def words(text: Any) -> str:
    """The text; "" for None."""
    if text is None or text == "":
        return ""
    shown = str(text)
    return _kept(shown) if len(shown) <= LONGEST_KEPT else _words(shown)


def spaced(name: str) -> str:
    """A name of this program as words: out_of_gpu_memory is out of gpu memory."""
    return name.replace("_", " ")


def measure_words(metric: str) -> str:
    """A metric as the page names it."""
    return "true reward" if metric == "gold" else words(metric)


@lru_cache(maxsize=1 << 12)
def _kept(text: str) -> str:
    """Names are shown again and again, and each time all secrets would be looked for; ends of logs are not kept."""
    return _words(text)


def _words(text: str) -> str:
    return visible_lines(str(redact(text)))
