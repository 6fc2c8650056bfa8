"""Frozen values as JSON that every reader takes: `{"schema": "NAME/VERSION", ...}`, without secrets."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel

from studies.text.redact import redact


def as_json(schema: str, value: Any, *, indent: int | None = None) -> str:
    """A mapping or the fields of a frozen type as one JSON object, `schema` first, then in their own order.

    Numbers are not rounded; one that is not finite is null. Characters beyond ASCII are escaped, so that the text acts
    on no terminal and survives every encoding.
    """
    return json.dumps({"schema": schema, **redact(plain(value), by_name=False)}, indent=indent, allow_nan=False)


def plain(value: Any) -> Any:
    """A value as JSON has it: frozen types as mappings of their fields, sets in order. Raises TypeError."""
    match value:
        case None | bool():
            return value
        case Enum():
            return plain(value.value)
        case int():
            return int(value)
        case str():
            return str(value)
        case float():
            return float(value) if math.isfinite(value) else None
        case BaseModel():
            return {name: plain(inside) for name, inside in value}
        case Mapping():
            return {_name(name): plain(inside) for name, inside in value.items()}
        case AbstractSet():
            return sorted((plain(inside) for inside in value), key=str)
        case list() | tuple():
            return [plain(inside) for inside in value]
        case PurePath():
            return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if hasattr(value, "item"):  # a number of numpy's
        return plain(value.item())
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _name(name: Any) -> str:
    found = plain(name)
    return found if isinstance(found, str) else json.dumps(found)
