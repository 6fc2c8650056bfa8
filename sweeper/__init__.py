"""The verbs: plan, run, status, table, export; asks Optuna, hands runs to an executor, records in MLflow.

From Python: `sweeper.load("mine.yaml")`; see `sweeper/api/README.md`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeper.api import Answer, Best, Estimate, Figure, Plan, Refused, Status, Study, load

__all__ = ["Answer", "Best", "Estimate", "Figure", "Plan", "Refused", "Status", "Study", "load"]


def __getattr__(name: str) -> Any:
    """A public name, loaded when it is first asked for: workers and the command line need none of them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sweeper import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
