"""Text that goes on from a study into files, tables and terminals: one line, of characters that are seen."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, Final

from studies.schema.knob_problems import Problem
from studies.schema.types import NOT_WRITTEN, StudySpec
from studies.text.secret_values import holds_secret

_UNSEEN: Final[Mapping[str, str]] = {
    "Cc": "a control character",
    "Cf": "a format character",
    "Cs": "half of a character",
    "Zl": "a line break",
    "Zp": "a line break",
}
_BREAKS: Final = "\n\r\v\f\x85"
# A question is prose: it may have several lines, and the joiners that some scripts and emoji are written with.
_PROSE: Final = ("question",)
_IN_PROSE: Final = "\n\t\u200c\u200d"


def text_problems(spec: StudySpec) -> list[Problem]:
    """Every name and text of a study that could become more than one line, or act on what shows it."""
    whole = spec.model_dump(exclude=set(NOT_WRITTEN))
    whole["evaluate"] = whole.pop("evaluation")
    return [
        Problem(".".join(map(escaped, path)), wrong)
        for path, text in _texts(whole, ())
        if (wrong := _wrong_at(path, text)) is not None
    ]


def text_problem(text: str, *, allowed: str = "") -> str | None:
    """What a text holds that one line of a file or a terminal cannot, None where nothing."""
    for character in text:
        kind = _UNSEEN.get(unicodedata.category(character))
        if kind is not None and character not in allowed:
            named = "a line break" if character in _BREAKS else kind
            return f"holds {named} (U+{ord(character):04X}): write it on one line, of characters that are seen"
    return None


def escaped(text: str) -> str:
    """The text on one line, with what is not seen written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _texts(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every text, names included, with the key path that it stands at."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(str(key), (*path, str(key)))
            yield from _texts(item, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _texts(item, (*path, str(i)))


def _wrong_at(path: tuple[str, ...], text: str) -> str | None:
    wrong = text_problem(text, allowed=_IN_PROSE if path == _PROSE else "")
    if wrong is None:
        return None
    if any(holds_secret(step, text) for step in path):
        return f"its value {wrong}"  # which is not shown: in other words it would not be known as a secret
    return f"'{escaped(text)}' {wrong}"
