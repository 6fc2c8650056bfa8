"""What is printed uses the words of the glossary (studies/README.md), not those of the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOMS = ("sweeper", "studies", "trainers", "dashboards")
OF_THE_CODE = re.compile(
    r"\b(knobs?|unbiased|arms?|stratum|strata|superseded|confirm (?:phase|runs?)|for want of)\b", re.IGNORECASE
)


def _texts(path: Path) -> Iterator[tuple[int, str]]:
    """The texts of a file with their lines: strings of several words, and what a command prints as its help."""
    tree = ast.parse(path.read_text())
    of_code = () if path.parent.name == "verbs" else (ast.Module, ast.ClassDef, ast.FunctionDef)
    documented = (node for node in ast.walk(tree) if isinstance(node, of_code))
    unseen = {id(node.body[0].value) for node in documented if isinstance(node.body[0], ast.Expr)}
    unseen |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)} if of_code else set()
    unseen |= {id(node.msg) for node in ast.walk(tree) if isinstance(node, ast.Assert)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or id(node) in unseen:
            continue
        if isinstance(node.value, str) and " " in node.value.strip():
            yield node.lineno, node.value


@pytest.mark.parametrize("room", ROOMS)
def test_texts_that_are_printed_use_the_words_of_the_glossary(room: str) -> None:
    found = [
        f"{path}:{line}: {text[:100]}"
        for path in sorted((Path(__file__).parents[1] / room).rglob("*.py"))
        for line, text in _texts(path)
        if OF_THE_CODE.search(text)
    ]
    assert not found, "\n".join(found)
