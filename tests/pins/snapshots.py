"""How a pinned fact is written down and compared: as JSON beside the tests, a short entry to a line, so that a
difference reads as one.
"""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
WIDTH = 120
SHOWN = 60  # lines of a difference


def written(value: Any, indent: int = 0) -> str:
    """JSON in which whatever fits stands on one line, in the order of its keys."""
    flat = json.dumps(value, sort_keys=True, ensure_ascii=False)
    if len(flat) + indent <= WIDTH - 20 or not value or not isinstance(value, dict | list):
        return flat
    inside = " " * (indent + 1)
    if isinstance(value, dict):
        lines = [f"{inside}{json.dumps(name)}: {written(value[name], indent + 1)}" for name in sorted(value)]
        return "{\n" + ",\n".join(lines) + "\n" + " " * indent + "}"
    return "[\n" + ",\n".join(inside + written(item, indent + 1) for item in value) + "\n" + " " * indent + "]"


def file_of(name: str) -> Path:
    """Where the fact `name` is kept."""
    return FOLDER / f"{name}.json"


def difference(name: str, found: Any) -> str:
    """What changed of a fact since it was written down, line by line; empty where nothing did."""
    before, now = file_of(name).read_text(encoding="utf-8").splitlines(), written(found).splitlines()
    lines = list(difflib.unified_diff(before, now, "pinned", "found", lineterm="", n=2))
    more = [f"... and {len(lines) - SHOWN} lines more"] if len(lines) > SHOWN else []
    return "\n".join([*lines[:SHOWN], *more])
