"""What a sweep in a process of its own is told to do. It is handed over by standard input: arguments of a process can
be read by every user of a machine, and settings and addresses may hold secrets.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final

from pydantic import TypeAdapter


@dataclass(frozen=True)
class Order:
    """A sweep that was asked for and checked; the fields are those of `sweeper run`, and the commands to copy. `text`:
    the study itself, where it is no file.
    """

    study: str
    text: str | None
    settings: tuple[str, ...]
    executor: str
    workers: int | None
    storage: str | None
    verify: int
    refresh: bool
    strict: bool
    again: str
    failed: str
    command: str

    def words(self) -> list[str]:
        """As a command's words, from which secrets are known."""
        return [word for setting in self.settings for word in ("--set", setting)] + [self.storage or ""]


def written(order: Order) -> bytes:
    """An order as it is handed over."""
    return json.dumps(asdict(order)).encode()


def read(text: bytes) -> Order:
    """An order that was handed over."""
    return _READER.validate_json(text)


_READER: Final = TypeAdapter(Order)
