"""Which files of a folder make a split, as `datasets` finds them in a cloned repository; reads no row and no more than
the README.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from studies.loading.yaml_reader import UnusableYaml, parse
from studies.text.files import open_file

# `datasets/data_files.py`: what stands for a split in the name of a folder or file.
_KEYWORDS: Final[Mapping[str, Sequence[str]]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SHARD: Final = re.compile(r"data/(\w+(?:\.\w+)*)-\d{5}-of-\d{5}.*\..*")
_METADATA: Final = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})
_SAVED: Final = ("dataset_dict.json", "state.json")
_MOST_README: Final = 1 << 20


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote the folder."""
    return any((folder / name).is_file() for name in _SAVED)


def split_files(folder: Path, split: str, name: str | None, endings: Iterable[str]) -> list[Path]:
    """The files of a split, in order: those that the README names for the configuration `name`, else by their names.

    Raises ValueError where there are none, or the same split is there in two formats.
    """
    files = list(_data_files(folder, tuple(endings)))
    splits = _in_readme(folder, name, files)
    if splits is None and name is not None:
        raise ValueError(f"its README.md names no configuration, so data.name {name!r} does nothing; remove it")
    splits = splits or _by_names(folder, files)
    wanted = split if split in splits else next((s for s, words in _KEYWORDS.items() if split in words), split)
    if not splits:
        raise ValueError(f"it holds neither a saved dataset nor files of rows ({', '.join(endings)})")
    if not splits.get(wanted):
        raise ValueError(f"it has {', '.join(splits)}")
    found = splits[wanted]
    formats = sorted({_format(file) for file in found})
    if len(formats) > 1:
        raise ValueError(f"the split is there as {' and as '.join(formats)}: name one of the files as data.path")
    return found


def split_names(folder: Path, endings: Iterable[str]) -> tuple[str, ...]:
    """The splits that a folder has; none where it holds no data, or several configurations."""
    if is_saved(folder):
        try:
            named = json.loads((folder / "dataset_dict.json").read_bytes())["splits"]
        except (OSError, ValueError, KeyError, TypeError):
            return ("train",)  # as one unnamed dataset is read
        return tuple(map(str, named)) if isinstance(named, list) else ("train",)
    files = list(_data_files(folder, tuple(endings)))
    try:
        splits = _in_readme(folder, None, files) or _by_names(folder, files)
    except ValueError:
        return ()
    return tuple(split for split, found in splits.items() if found)


def _data_files(folder: Path, endings: tuple[str, ...]) -> Iterator[Path]:
    for file in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if not hidden and file.name not in _METADATA and file.name.lower().endswith(endings) and file.is_file():
            yield file


def _format(file: Path) -> str:
    return next(ending for ending in reversed(file.suffixes) if ending.lower() not in (".gz", ".zst")).lower()


def _by_names(folder: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """Shards in `data/`, else what a folder or else a file name says, else all of it for training."""
    names = {file: file.relative_to(folder).as_posix() for file in files}
    found: dict[str, list[Path]] = {}
    for file, name in names.items():
        if shard := _SHARD.fullmatch(name):
            found.setdefault(shard[1], []).append(file)
    for part in (slice(None, -1), slice(-1, None)):
        if found:
            break
        for file, name in names.items():
            words = set(re.split(r"[-._ 0-9/]+", "/".join(name.split("/")[part]).lower()))
            for split in (split for split, keywords in _KEYWORDS.items() if words & set(keywords)):
                found.setdefault(split, []).append(file)
    return found or ({"train": list(files)} if files else {})


def _in_readme(folder: Path, name: str | None, files: Sequence[Path]) -> dict[str, list[Path]] | None:
    """The splits of a configuration as the head of the README names them; None where it names none."""
    configs = [one for one in _configs(folder / "README.md") if isinstance(one, dict)]
    if not configs:
        return None
    names = [str(one.get("config_name", "default")) for one in configs]
    default = next((i for i, one in enumerate(configs) if one.get("default") is True or names[i] == "default"), None)
    if name is None and default is None and len(configs) > 1:
        raise ValueError(f"it has the configurations {', '.join(names)}: name one as data.name")
    if name is not None and name not in names:
        raise ValueError(f"it has the configurations {', '.join(names)}, not {name!r}")
    config = configs[names.index(name) if name is not None else default or 0]
    below = str(config.get("data_dir") or "")
    here = [file for file in files if file.relative_to(folder).as_posix().startswith(f"{below.strip('/')}/")]
    if "data_files" not in config:
        return _by_names(folder / below, here) if below else None if name is None else _by_names(folder, files)
    return {
        split: [file for pattern in patterns for file in _matching(folder / below, pattern, files)]
        for split, patterns in _patterns(config["data_files"]).items()
    }


def _configs(readme: Path) -> list[Any]:
    """What stands under `configs` in the head of a README, a block of YAML between lines of dashes."""
    try:
        with open_file(readme, os.O_RDONLY, links=True) as file:
            text = file.read(_MOST_README).decode(errors="ignore")  # the last character may be cut
    except OSError:
        return []
    head = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    try:
        values = parse(head[1]) if head else None
    except UnusableYaml:
        return []
    configs = values.get("configs") if isinstance(values, dict) else None
    return configs if isinstance(configs, list) else []


def _patterns(named: Any) -> dict[str, list[str]]:
    """`data_files` of a configuration: one pattern or several, by split or for training."""
    if isinstance(named, dict):
        return {str(split): _listed(paths) for split, paths in named.items()}
    found: dict[str, list[str]] = {}
    for one in named if isinstance(named, list) else [named]:
        if isinstance(one, dict):
            found.setdefault(str(one.get("split", "train")), []).extend(_listed(one.get("path")))
        else:
            found.setdefault("train", []).extend(_listed(one))
    return found


def _listed(paths: Any) -> list[str]:
    return [str(path) for path in (paths if isinstance(paths, list) else [paths]) if path]


def _matching(folder: Path, pattern: str, files: Sequence[Path]) -> list[Path]:
    """The data files that a pattern names; none that lie outside of the folder."""
    if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        raise ValueError(f"its README.md names files outside of it ({pattern})")
    named = set(folder.glob(pattern))
    return [file for file in files if file in named]
