"""Every README says what is true: its links lead somewhere, its studies load, its commands and messages exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from studies.spec import load_study, shipped_studies
from sweeper.cli.app import app
from tests.docs import ROOT, as_the_code_says

LONGEST = 180
RESULTS = "studies/results"
PLACES = ("*.md", *(f"{room}/**/*.md" for room in ("studies", "trainers", "dashboards", "sweeper", "tests")))
TEXTS = {
    str(file.relative_to(ROOT)): file.read_text(encoding="utf-8")
    for place in PLACES
    for file in sorted(ROOT.glob(place))
}
WITH_COMMANDS = sorted(name for name in TEXTS if name != "CHANGELOG.md")

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!`)\[(?:[^\]`]|`[^`]*`)*\]\(([^)\s]+)\)")
_FIGURE = re.compile(
    r"\d[\d.,]*\s?(?:%|s|seconds?|minutes?|hours?|times|MiB|nats|points|comparisons|parameters)\b|\d\.\d|\d of \d"
)


def prose(text: str) -> str:
    """The text without what stands in fences and comments."""
    return re.sub(r"<!--.*?-->", "", _FENCE.sub("", text), flags=re.DOTALL)


def headings(text: str) -> set[str]:
    """The anchors of a text's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def shown_commands(text: str) -> Iterator[str]:
    """Every command that a text shows: a line of code, or code within a line."""
    code = re.findall(r"^ {4}(.+)$", text, re.MULTILINE) + re.findall(r"`([^`\n]+)`", prose(text))
    code += [line for kind, block in _FENCE.findall(text) if kind in ("", "bash", "sh") for line in block.splitlines()]
    yield from (line.partition(" #")[0].strip() for line in code)


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_every_link_leads_somewhere(name: str) -> None:
    for link in _LINK.findall(prose(TEXTS[name])):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), f"{name}: {link}"
        if anchor:
            assert anchor in headings(file.read_text(encoding="utf-8")), f"{name}: {link}"


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_every_study_that_is_shown_loads(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    for kind, block in _FENCE.findall(TEXTS[name]):
        if kind == "yaml":
            assert {"study", "base", "variants"} <= yaml.safe_load(block).keys()
            (tmp_path / "mine.yaml").write_text(block)
            load_study("mine.yaml")


@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_every_command_that_is_shown_exists(name: str) -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for line in shown_commands(TEXTS[name]):
        words = re.sub(r"--[\w-]+[= ]'[^']*'", "", line).split()
        if words[:1] == ["sweeper"] and len(words) > 1 and re.fullmatch(r"[a-z]+", words[1]):
            assert words[1] in commands, f"{name}: {line}"
            options = {option for parameter in commands[words[1]].params for option in parameter.opts} | {"--help"}
            assert set(re.findall(r"(?<=[\s\[])--[\w-]+", line)) <= options, f"{name}: {line}"
            if len(words) > 2 and re.fullmatch(r"[a-z][a-z0-9-]*", words[2]) and not name.startswith(RESULTS):
                assert words[2] in shipped_studies(), f"{name}: {line}"
        if words[:1] == ["make"]:
            assert set(words[1:2]) <= targets, f"{name}: {line}"
        for module in re.findall(r"python (?:-P )?-m ((?:tests|trainers)[\w.]*\w)(?![\w.]|`\.\.\.)", line):
            assert module == "tests.benchmarks" or find_spec(module), f"{name}: {line}"


def test_what_the_code_knows_is_as_the_code_says() -> None:
    """Else: python -m tests.docs."""
    assert [file for file, text in as_the_code_says().items() if text != TEXTS[file]] == []


def test_every_message_of_the_troubleshooting_is_said() -> None:
    _, _, part = TEXTS["sweeper/README.md"].partition("## Troubleshooting")
    said = re.findall(r"^\| `([^`]+)` \|", part.partition("\n## ")[0], re.MULTILINE)
    assert len(said) >= 15
    code = "\n".join(
        file.read_text(encoding="utf-8")
        for room in ("studies", "trainers", "dashboards", "sweeper")
        for file in (ROOT / room).rglob("*.py")
    )
    assert [message for message in said if message not in code] == []


def test_every_word_of_the_verdicts_is_said() -> None:
    (told,) = re.findall(r"^\| Verdict \| (.*) \|$", TEXTS["dashboards/README.md"], re.MULTILINE)
    code = "".join((ROOT / "dashboards" / name).read_text() for name in ("tables/short.py", "tuned/losses.py"))
    assert [word for word in re.split(r"[,;] ", told) if f'"{word}"' not in code and f'"{word}:' not in code] == []


def test_the_glossary_has_twenty_words_at_most() -> None:
    _, _, part = TEXTS["studies/README.md"].partition("\n## Words\n")
    assert 10 <= len(re.findall(r"^\| (?!word |---)", part.partition("\n## ")[0], re.MULTILINE)) <= 20


def test_the_front_page_is_short() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= LONGEST


def test_every_figure_of_the_front_page_stands_beside_a_link_to_its_command_and_date() -> None:
    blocks = [block for block in prose(TEXTS["README.md"]).split("\n\n") if not block.startswith(("#", "    ", "!"))]
    for before, block, after in zip(["", *blocks], blocks, [*blocks[1:], ""], strict=False):
        told = re.sub(r"`[^`]*`", "", block)
        if _FIGURE.search(told):
            assert any("README.md" in place or ".md)" in place for place in (before, block, after)), block


def test_every_room_and_every_result_has_a_readme() -> None:
    rooms = ("studies", "trainers", "dashboards", "sweeper", "tests/benchmarks", RESULTS)
    results = [str(folder.relative_to(ROOT)) for folder in (ROOT / RESULTS).iterdir() if folder.is_dir()]
    assert [place for place in (*rooms, *results) if not (ROOT / place / "README.md").exists()] == []
