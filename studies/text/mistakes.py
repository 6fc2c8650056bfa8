"""One mistake in what somebody asked for: the sentence that people read, and its parts for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Mistake:
    """A mistake. `key`: the key path of a study file, or the option; `value`: what stands there; `rule`: what it must
    be; `remedy`: what to write or do instead. A part that is told in `message` alone is None; so is a value that is
    not there.
    """

    key: str | None
    value: Any
    rule: str | None
    remedy: str | None
    message: str


@dataclass(frozen=True)
class Problems:
    """Why a command was refused (exit code 2), every mistake; or why a sweep that had begun could not go on (1)."""

    schema: ClassVar[str] = "error/1"
    problems: tuple[Mistake, ...]


def of_option(option: str, value: Any, wrong: str, rule: str | None = None, remedy: str | None = None) -> Mistake:
    """A mistake in an option of a command: its message is `OPTION VALUE: WRONG`."""
    return Mistake(option, value, rule, remedy, f"{option} {value}: {wrong}")


def as_mistakes(problems: Iterable[Mistake | str]) -> tuple[Mistake, ...]:
    """Mistakes, those of which only the sentence is known among them, each once."""
    found = (one if isinstance(one, Mistake) else Mistake(None, None, None, None, one) for one in problems)
    return tuple({one.message: one for one in found}.values())


def value_at(node: Any, path: str) -> Any:
    """The value at a key path such as `variants.a.base.beta` in nested mappings and lists; None where there is none.

    Names may have dots themselves: the longest that fits is taken.
    """
    return _at(node, path.split("."))


def _at(node: Any, steps: Sequence[str]) -> Any:
    if not steps:
        return node
    if isinstance(node, list | tuple):
        fits = steps[0].isdecimal() and int(steps[0]) < len(node)
        return _at(node[int(steps[0])], steps[1:]) if fits else None
    if not isinstance(node, dict):
        return None
    for length in range(len(steps), 0, -1):
        name = ".".join(steps[:length])
        if name in node and (found := _at(node[name], steps[length:])) is not None:
            return found
    return None
