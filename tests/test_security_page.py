"""What the page on security names as held is there: the code and the tests."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "sweeper" / "security.md"
NAMED = re.compile(r"`([^`]+)`")


def held() -> list[tuple[str, str, str]]:
    """The rows of the table: threat, where it is held, tests."""
    lines = PAGE.read_text().partition("## What holds each promise")[2].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")]
    return [(threat, places, tests) for threat, places, tests in rows[1:]]


def test_every_test_that_holds_a_promise_is_there() -> None:
    files = list((ROOT / "tests").rglob("test_*.py"))
    functions = re.findall(r"^def test_(\w+)", "\n".join(file.read_text() for file in files), re.MULTILINE)
    names = {name for _, _, tests in held() for name in NAMED.findall(tests)}
    assert len(names) > 30
    assert names - {file.name for file in files} - {*functions} == set()


def test_all_code_that_holds_a_promise_is_there() -> None:
    modules = [file.relative_to(ROOT).as_posix() for room in ("sweeper", "studies", "trainers", "dashboards")
               for file in (ROOT / room).rglob("*.py")]  # fmt: skip
    for threat, places, tests in held():
        assert NAMED.findall(places), threat
        assert NAMED.findall(tests), threat
        for place in NAMED.findall(places):
            path, _, function = place.partition(": ")
            found = [m for m in modules if m.endswith(path) or f"{path}/" in m]
            assert found, place
            assert not function or any(f"def {function}(" in (ROOT / m).read_text() for m in found), place
