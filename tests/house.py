"""How large the parts of the house are: `python -m tests.house`, and `tests/test_house.py` holds the limits.

Lines are counted with blanks and docstrings, of a class or function without its decorators. `__init__.py` and
`__main__.py` do not count as files of a folder: they are its door. A file, class or function is known by its bare
name, so that it may move.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
ROOMS = ("studies", "trainers", "dashboards", "sweeper")
DOORS = ("__init__.py", "__main__.py")

LIMITS: Mapping[str, int] = {
    "files in a folder": 9,
    "lines of a class": 200,
    "lines of a function": 60,
    "lines of a file": 400,
}
SWEEP_LINES = 149


def figures() -> dict[str, dict[str, int]]:
    """Every size by what it is of: the largest, where two have one name."""
    found: dict[str, dict[str, int]] = {kind: {} for kind in LIMITS}
    for kind, name, size in _sizes():
        found[kind][name] = max(size, found[kind].get(name, 0))
    return found


def above(found: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """What is larger than its limit."""
    return {kind: {name: size for name, size in of.items() if size > LIMITS[kind]} for kind, of in found.items()}


def in_circles() -> set[str]:
    """Modules that import themselves by way of others, for the sake of a type too."""
    graph = grimp.build_graph(*ROOMS, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    return {module for module in imports if module in _reached(imports, module)}


def _reached(imports: Mapping[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    todo = set(imports[start])
    while todo:
        module = todo.pop()
        found.add(module)
        todo |= imports[module] - found
    return found


def _sizes() -> Iterator[tuple[str, str, int]]:
    files = [file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py"))]
    folders = Counter(str(file.parent.relative_to(ROOT)) for file in files if file.name not in DOORS)
    yield from (("files in a folder", folder, count) for folder, count in folders.items())
    for file in files:
        text = file.read_text(encoding="utf-8")
        yield "lines of a file", file.name, len(text.splitlines())
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                yield "lines of a class", node.name, _lines(node)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield "lines of a function", node.name, _lines(node)


def _lines(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def main() -> None:
    """Print the figures."""
    found = figures()
    for kind, large in above(found).items():
        sys.stdout.write(f"{kind}: at most {LIMITS[kind]}; {len(large)} of {len(found[kind])} above\n")
        for name, size in sorted(large.items(), key=lambda one: -one[1]):
            sys.stdout.write(f"  {name}: {size}\n")
    sys.stdout.write(f"Sweep: {found['lines of a class']['Sweep']} lines, at most {SWEEP_LINES}\n")
    sys.stdout.write(f"import circles: {', '.join(sorted(in_circles())) or 'none'}\n")


if __name__ == "__main__":
    main()
