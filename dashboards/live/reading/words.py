"""Text of studies, data and stores as the page may show it: without secrets, and with nothing that acts on a screen."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from studies.records import Failure
from studies.text.redact import redact
from studies.text.visible import visible_lines

LONGEST_KEPT: Final = 256  # characters


def words(text: Any) -> str:
    """The text; "" for None."""
    if text is None or text == "":
        return ""
    shown = str(text)
    return _kept(shown) if len(shown) <= LONGEST_KEPT else _words(shown)


# What a failure or the cause of an end says, in words of its own.
_WHY: Final = {
    **{str(failure): failure.meaning for failure in Failure if failure.meaning},
    "refused": "model, data, judge or settings cannot be trained so",
    "worker_lost": "its worker process was killed or is gone",
    "preempted": "its worker was told to go, as clusters do",
    "infrastructure": "a device, a disk or the network failed",
    "time_limit": "a limit of time ended it",
    "user_stop": "somebody stopped it",
    "paused": "it ended at a rung, and others went on",
}


_CALLED: Final = {"drifted": "changed length"}  # drift is the distance from the original model everywhere else


def why(kind: str) -> str:
    """A failure or a cause, with what it means: collapsed (its samples are empty or repeat themselves)."""
    return f"{spaced(kind)} ({_WHY[kind]})" if kind in _WHY else spaced(kind)


def spaced(name: str) -> str:
    """A name of this program as words: out_of_gpu_memory is out of gpu memory."""
    return _CALLED.get(name, name.replace("_", " "))


def measure_words(metric: str) -> str:
    """A metric as the page names it."""
    return "true reward" if metric == "gold" else words(metric)


@lru_cache(maxsize=1 << 12)
def _kept(text: str) -> str:
    """Names are shown again and again, and each time all secrets would be looked for; ends of logs are not kept."""
    return _words(text)


def _words(text: str) -> str:
    return visible_lines(str(redact(text)))
