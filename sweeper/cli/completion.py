"""What a shell offers for the words of a command: studies, by name and by file. Reads names of files alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_SHIPPED: Final = Path(__file__).parents[2] / "studies"
# Shells evaluate what they are offered: other names are not, though a command takes them.
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.+/-]+")
_MOST: Final = 200


def studies(incomplete: str) -> list[str]:
    """Study files below the folder that is being typed, and the names of shipped studies."""
    return _offered(incomplete, [*_files(incomplete), *_shipped()])


def kept(incomplete: str) -> list[str]:
    """Names of the studies that have a run folder here, and study files."""
    here = Path.cwd()
    names = [mark.parent.name for mark in here.glob("*/*/study.json")]
    return _offered(incomplete, [*names, *_files(incomplete)])


def _offered(incomplete: str, words: list[str]) -> list[str]:
    fit = (word for word in dict.fromkeys(words) if word.startswith(incomplete) and _PLAIN.fullmatch(word))
    return [word for word in fit if not word.startswith("-")][:_MOST]


def _shipped() -> Iterator[str]:
    """As `studies.loading.load.shipped_studies`, which reads the files to leave out those that are no studies."""
    for place in ("", "guide", "examples"):
        yield from sorted(path.stem for path in (_SHIPPED / place).glob("*.yaml"))


def _files(incomplete: str) -> Iterator[str]:
    """YAML files and folders in the folder that `incomplete` names."""
    folder, slash, _ = incomplete.rpartition("/")
    lead = folder + slash
    try:
        entries = sorted(Path(folder or ("/" if slash else ".")).iterdir())
    except OSError:
        return
    for path in entries:
        if path.name.startswith("."):
            continue
        if path.suffix in (".yaml", ".yml"):
            yield lead + path.name
        elif path.is_dir():
            yield f"{lead}{path.name}/"
