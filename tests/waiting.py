"""Waiting for other processes: a busy machine makes them late, which is no failure."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

PATIENCE: Final = 600.0
"""Seconds after which what is waited for will never come. No test is about how long it takes."""
FOREVER: Final = 2 * PATIENCE
"""Seconds that end after every patience: for what must be ended by others, and never comes to its end by itself."""


def wait_until(happened: Callable[[], object], otherwise: str | Callable[[], object]) -> None:
    """Look again and again until something has happened; `otherwise` says what is wrong where it never does."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, otherwise if isinstance(otherwise, str) else otherwise()
        time.sleep(0.02)
