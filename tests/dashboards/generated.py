"""Records as a sweep would leave them, generated: single ones, and whole pools with the noise that was measured."""

from __future__ import annotations

from typing import Any

from studies.records import CONSEQUENCES, Cause, RunRecord, State


def a_record(cause: Cause | None = Cause.FINISHED, **changes: Any) -> RunRecord:
    """One run, complete unless its cause says otherwise; a cause of None leaves it running."""
    fields: dict[str, Any] = {
        "run_id": f"{changes.get('variant', 'sigmoid')}-{changes.get('trial', 0)}-{changes.get('block', 0)}",
        "key": "k",
        "study": "pool",
        "variant": "sigmoid",
        "scenario": "clean",
        "trial": 0,
        "block": 0,
        "seed": 0,
        "attempt": 1,
        "state": CONSEQUENCES[cause].told if cause else State.RUNNING,
        "cause": cause,
        "arm": "unbiased",
        "knobs": {"beta": 0.1},
        "metrics": {},
        "errors": {},
        "facts": {"source": "embedded"},
    }
    return RunRecord(**(fields | changes))
