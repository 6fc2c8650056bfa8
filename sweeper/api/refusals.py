"""What cannot be done, as one exception."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import typer

from dashboards.store.connection import StoreError
from studies.text.mistakes import Mistake, as_mistakes
from studies.text.redact import redact
from studies.text.visible import visible
from sweeper.cli import refusal


class Refused(Exception):
    """What was asked for cannot be done, and nothing was made. `problems`: every reason, a sentence each, with what to
    do; `mistakes`: the same in parts (key, value, rule, remedy).
    """

    def __init__(self, mistakes: Sequence[Mistake | str]) -> None:
        self.mistakes = as_mistakes(mistakes)
        self.problems = tuple(str(visible(redact(mistake.message))) for mistake in self.mistakes)
        super().__init__("\n".join(self.problems))


def refuse(*problems: str) -> NoReturn:
    """Raise Refused."""
    raise Refused(problems)


@contextmanager
def refusals() -> Iterator[None]:
    """Inside, what ends a command raises Refused."""
    try:
        yield
    except refusal.Refused as error:
        raise Refused(error.mistakes) from None
    except StoreError as error:
        raise Refused([str(error)]) from None
    except typer.Exit:
        raise Refused(["The sweep ended before it began; what it said stands above."]) from None
