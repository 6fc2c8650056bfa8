"""Reads untrusted YAML: plain values only, bounded in size, in depth and in what its aliases grow to.

PyYAML's safe loader builds no foreign object, but keeps the last of two keys, expands merge keys without end, and lets
Python's own errors out. Values are mappings, lists, text, numbers, truth values and null.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Final

import yaml

# A study of a thousand fixed points is a tenth of each.
MOST_BYTES: Final = 512 << 10
MOST_VALUES: Final = 20_000
DEEPEST: Final = 30
MOST_KEYS: Final = 300
LARGEST: Final = 2**63 - 1
_LONGEST_SHOWN: Final = 60
_WRITTEN_OUT: Final = "once aliases (*name) are written out; a study has fewer"
_TOO_MANY: Final = f"there are more than {MOST_VALUES} keys and values up to here, {_WRITTEN_OUT}"
_TOO_DEEP: Final = f"values lie more than {DEEPEST} levels deep, {_WRITTEN_OUT}"

_PLAIN_TAGS: Final = frozenset(
    f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null", "merge")
)


class UnusableYaml(Exception):
    """Text that is not YAML, or is YAML that is not read; `problems` says where and what to do, without the file."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def read_text(path: Path) -> str:
    """The text of a file of at most `MOST_BYTES` in UTF-8, with or without a byte order mark. Raises UnusableYaml."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UnusableYaml([f"cannot be read: {getattr(error, 'strerror', None) or error}"]) from error
    if len(content) > MOST_BYTES:
        raise UnusableYaml(
            [f"is larger than {MOST_BYTES >> 10} KiB: a study is a short file, and data go into a file that it names"]
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnusableYaml(
            [f"is not UTF-8 text (byte {error.start} is {content[error.start]:#04x}): save it as UTF-8"]
        ) from error


def parse(text: str) -> Any:
    """What the YAML `text` says. Raises UnusableYaml."""
    try:
        return yaml.load(text, Loader=_Loader)
    except UnusableYaml:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        tabs = "; indent with spaces, not tabs" if "'\\t'" in (error.problem or "") else ""
        raise UnusableYaml([f"is not YAML{where}: {error.problem or error.context}{tabs}"]) from error
    except yaml.reader.ReaderError as error:
        raise UnusableYaml(
            [f"is not YAML: character {error.character:#x} at position {error.position} cannot stand in it; remove it"]
        ) from error
    except yaml.YAMLError as error:
        raise UnusableYaml([f"is not YAML: {error}"]) from error


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, refusing what a study never needs and what would take memory or time without end."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._composed = count(1)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if next(self._composed) > MOST_VALUES:  # here too, as reading half a megabyte of them takes long
            raise _too_much(self.get_mark(), _TOO_MANY)
        return super().compose_node(parent, index)

    def compose_document(self) -> yaml.Node | None:
        try:
            node = super().compose_document()
        except RecursionError:
            raise _too_much(self.get_mark(), _TOO_DEEP) from None
        problems = [] if node is None else list(dict.fromkeys(_problems(node, "", (), count(1))))
        if problems:
            raise UnusableYaml(problems)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep=deep)
        except (ValueError, OverflowError, KeyError, AttributeError, TypeError, IndexError) as error:
            # `!!int x`, a number of 5,000 digits: PyYAML lets Python's own errors out.
            tag = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(
                None, None, f"{_shown(node.value)} cannot be read as {tag}", node.start_mark
            ) from error
        if isinstance(value, int) and abs(value) > LARGEST:
            raise _too_much(node.start_mark, f"{_shown(node.value)} is larger than a whole number of 64 bits can be")
        return value


def _too_much(mark: yaml.Mark, text: str) -> UnusableYaml:
    return UnusableYaml([f"line {mark.line + 1}: {text}"])


def _problems(node: yaml.Node, path: str, within: tuple[yaml.Node, ...], counted: Iterator[int]) -> Iterator[str]:
    """What is wrong with a node and with what it holds: tags that are not plain values, text that no terminal, file
    name or database takes, keys that stand twice, of which YAML would silently keep the last.

    Aliases are written out on the way, `counted` by values. Raises UnusableYaml where that is too much.
    """
    mark, line = node.start_mark, f"line {node.start_mark.line + 1}"
    if node in within:
        raise _too_much(mark, "an alias (*name) lies within the value that it stands for; write out what is meant")
    if len(within) >= DEEPEST:
        raise _too_much(mark, _TOO_DEEP)
    if next(counted) > MOST_VALUES:
        raise _too_much(mark, _TOO_MANY)
    within = (*within, node)
    if node.tag not in _PLAIN_TAGS:
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        words = "a date or time" if kind == "timestamp" else f"of the kind {_shown(kind)}"
        value = f"{_shown(node.value)} " if isinstance(node, yaml.ScalarNode) else ""
        yield f"{line}: {value}is read as {words}: put text in quotes and leave tags (!) out"
    if isinstance(node, yaml.ScalarNode) and not all(map(_writable, node.value)):
        yield f"{line}: {_shown(node.value)} holds a control character or half of a character: remove it"
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            yield from _problems(item, f"{path}{i}.", within, counted)
    if isinstance(node, yaml.MappingNode):
        if len(node.value) > MOST_KEYS:
            yield f"{line}: {len(node.value)} keys in one mapping, {MOST_KEYS} at most are read"
        seen: dict[str, int] = {}
        for key, value in node.value:
            is_text = isinstance(key, yaml.ScalarNode)
            name, at = f"{path}{repr(key.value[:_LONGEST_SHOWN])[1:-1] if is_text else '?'}", key.start_mark.line + 1
            if is_text and key.value in seen and key.value != "<<":
                yield f"{name}: stands twice, at lines {seen[key.value]} and {at}: keep one"
            seen |= {key.value: at} if is_text else {}
            yield from _problems(key, f"{name}.", within, counted)
            yield from _problems(value, f"{name}.", within, counted)


def _writable(character: str) -> bool:
    return character in "\n\t\r" or unicodedata.category(character) not in ("Cc", "Cs")


def _shown(value: Any) -> str:
    """A scalar as it can be printed, not longer than a line. No part of a longer one: it may be a secret's."""
    text = value if isinstance(value, str) else type(value).__name__
    return repr(text) if len(text) <= _LONGEST_SHOWN else f"a text of {len(text)} characters"
