"""Reads what a study's inputs hold: the bytes of local files and folders, the commit of what lies on the Hub.

Loads neither torch nor transformers. Keeps nothing: a hash of all bytes of the data, and of samples of the weights,
takes less than to find out whether an earlier one still holds.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import date
from fnmatch import fnmatch
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Final

from studies.records import COMMIT
from studies.schema.contents import DATED, JUDGE_FUNCTION, JUDGE_MODEL, Source
from studies.schema.paths import existing, is_hub_id
from studies.text.files import read_bytes
from trainers.models.bases import ADAPTER, UnusableModel, adapter_of
from trainers.models.template_date import is_dated

_WHOLE_MIB: Final = 64
"""Weights of more than this are read in `_BLOCKS` places: a training step changes every block of them."""
_BLOCKS, _BLOCK_BYTES, _HEAD_BYTES = 1000, 4096, 1 << 20
_REACH_SECONDS: Final = 5.0

# By which files of a model's folder its tokenizer is made; the others below make the model.
_OF_TOKENIZER: Final = (
    *("tokenizer*", "vocab*", "merges*", "special_tokens_map*", "added_tokens*", "*.jinja", "chat_template*"),
    *("*.model", "additional_chat_templates/*"),
)
_OF_MODEL: Final = ("*.json", "*.safetensors", "*.bin", "*.pt", "*.pth", "*.py", "*.gguf", "*.h5")
# What a training leaves beside its model, and no loader reads.
_LEFT_OVER: Final = (
    *("trainer_state.json", "training_args.bin", "*_results.json", "optimizer*", "scheduler*", "rng_state*"),
)
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


def read_content(source: Source) -> str | None:
    """The content of a source, None where it cannot be known now: nothing of that name, unreadable, Hub out of reach.

    `sha256:...` of bytes for what lies here, `commit:...` for what lies on the Hub at a name that can move.
    """
    place = existing(source.name)
    try:
        if source.what == JUDGE_FUNCTION:
            return _code_content(source.name.partition(":")[0])
        if place is None:
            return _hub_content(source) if is_hub_id(source.name) else None
        if source.what == DATED:
            return date.today().isoformat() if is_dated(_local_templates(place)) else None
        if place.is_file():
            return _sha256(_whole(place))
        return _folder_content(source, place) if place.is_dir() else None
    except OSError:
        return None


def _sha256(hexadecimal: str) -> str:
    """A digest as it is kept: 128 bits tell as well, and many sources must fit into a tag of MLflow."""
    return f"sha256:{hexadecimal[:32]}"


def _folder_content(source: Source, folder: Path) -> str | None:
    if source.what == "data":
        files = [file for file in folder.rglob("*") if file.is_file() and not _is_hidden(file, folder)]
        return _sha256(_files(folder, files))
    ours = list(_matching(folder, _OF_TOKENIZER))
    if source.what == JUDGE_MODEL:
        judge = [f for f in _matching(folder, (*_OF_TOKENIZER, *_OF_MODEL)) if not _named(f, _LEFT_OVER)]
        return _sha256(_files(folder, judge)) if judge else None
    if source.what == "tokenizer":
        return _sha256(_files(folder, ours)) if ours else None
    files = [f for f in _matching(folder, _OF_MODEL) if f not in ours and not _named(f, _LEFT_OVER)]
    below = _base_of_adapter(folder, ours)
    return _sha256(_files(folder, files, below)) if files else None


def _base_of_adapter(folder: Path, tokenizer: list[Path]) -> str:
    """The content of the model below an adapter in `folder`, and of its tokenizer where the adapter has none; nothing
    for a folder of a whole model. That it is merged is said too: before, such runs started from something else.
    """
    file = folder / ADAPTER
    if not file.is_file():
        return ""
    with suppress(UnusableModel):
        adapter = adapter_of(str(folder), file)
        if adapter.is_beside:
            return "merged"
        model = Source("model", adapter.base, adapter.revision)
        read = [model] if tokenizer else [model, model._replace(what="tokenizer")]
        return " ".join(["merged", *(str(read_content(source)) for source in read)])
    with suppress(OSError):
        return read_bytes(file, links=True).decode(errors="replace")
    return ""


def _matching(folder: Path, patterns: Iterable[str]) -> Iterator[Path]:
    for pattern in dict.fromkeys(patterns):
        yield from (file for file in folder.glob(pattern) if file.is_file() and not file.name.startswith("."))


def _named(file: Path, patterns: Iterable[str]) -> bool:
    return any(fnmatch(file.name, pattern) for pattern in patterns)


def _is_hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _files(folder: Path, files: Iterable[Path], beside: str = "") -> str:
    """Digest of names and bytes of files in `folder`, whatever order they are listed in."""
    found = hashlib.sha256(beside.encode())
    for file in sorted(set(files)):
        found.update(f"\0{file.relative_to(folder).as_posix()}\0{_sampled(file)}".encode())
    return found.hexdigest()


def _whole(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _sampled(file: Path) -> str:
    """Digest of a file; of large weights of their size, their head (names, shapes) and blocks spread evenly."""
    size = file.stat().st_size
    if size <= _WHOLE_MIB << 20 or not _named(file, ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.h5")):
        return _whole(file)
    found = hashlib.sha256(str(size).encode())
    with file.open("rb") as content:
        found.update(content.read(_HEAD_BYTES))
        for block in range(_BLOCKS):
            content.seek((size - _BLOCK_BYTES) * block // (_BLOCKS - 1))
            found.update(content.read(_BLOCK_BYTES))
    return found.hexdigest()


# ---- code of the user -----------------------------------------------------------------------------------------------


def _code_content(module: str) -> str | None:
    """The content of a module as `trainers.evaluation.judges` imports it: its file, or all those of its package, and of
    what they import from the working folder. Runs none of it.
    """
    here = Path.cwd()
    files = _code_files(module.partition(".")[0], here)
    waiting = list(files.values())
    while waiting:
        for name in _imported(waiting.pop()):
            more = _code_files(name, here, only_here=True)
            waiting += [file for label, file in more.items() if label not in files]
            files |= more
    found = hashlib.sha256()
    for label, file in sorted(files.items()):
        found.update(f"\0{label}\0{_whole(file)}".encode())
    return _sha256(found.hexdigest()) if files else None


def _code_files(name: str, here: Path, *, only_here: bool = False) -> dict[str, Path]:
    """The file of a module, or all Python files of a package, by what they are called in it."""
    spec = PathFinder.find_spec(name, [*sys.path, str(here)])
    if spec is None:
        return {}
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    places = folders or ([Path(spec.origin)] if spec.origin else [])
    if only_here:
        places = [place for place in places if place.parent == here]
    return {
        file.relative_to(place.parent).as_posix(): file
        for place in places
        for file in (place.rglob("*.py") if place.is_dir() else [place])
    }


def _imported(file: Path) -> set[str]:
    """The modules that a Python file imports by name, without what lies in them; none of one that cannot be read."""
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except (SyntaxError, ValueError, RecursionError):
        return set()
    named = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    named += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return {name.partition(".")[0] for name in named}


# ---- the Hub ------------------------------------------------------------------------------------------------------


def _hub_content(source: Source) -> str | None:
    """The commit that a name and revision stand for now; where the Hub is out of reach, when it was last loaded."""
    if source.what == DATED:
        revision = source.revision or ""
        commit = revision if _COMMIT.fullmatch(revision) else hub_commit(source._replace(what="model"))
        return date.today().isoformat() if is_dated(_hub_templates(source, commit)) else None
    if source.what == "tokenizer" or _COMMIT.fullmatch(source.revision or ""):
        return None  # the model's commit is its too; a commit says itself what it is
    commit = hub_commit(source)
    return None if commit is None else f"{COMMIT}{commit}"


def hub_commit(source: Source) -> str | None:
    """The commit of a Hub repository at its revision: of the Hub where it answers, else of the local cache."""
    from huggingface_hub import HfApi, constants

    kind = "dataset" if source.what == "data" else "model"
    if not constants.is_offline_mode():
        with suppress(Exception):  # out of reach, no such repository, no access: whoever loads it says which
            found = HfApi().repo_info(source.name, repo_type=kind, revision=source.revision, timeout=_REACH_SECONDS)
            return str(found.sha)
    cached = Path(constants.HF_HUB_CACHE) / f"{kind}s--{source.name.replace('/', '--')}" / "refs"
    with suppress(OSError):
        return (cached / (source.revision or "main")).read_text(encoding="utf-8").strip()
    return None


def _hub_templates(source: Source, commit: str | None) -> list[str]:
    """The texts in which a chat template may stand: of the local cache, else of the Hub, which is asked once."""
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.utils import build_hf_headers, get_session  # type: ignore[attr-defined]

    found = []
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        cached = try_to_load_from_cache(source.name, name, revision=commit or source.revision)
        if isinstance(cached, str):
            found.append(Path(cached).read_text(encoding="utf-8"))
        elif cached is None and commit is not None and not constants.is_offline_mode():
            url = f"{constants.ENDPOINT}/{source.name}/resolve/{commit}/{name}"
            with suppress(Exception):  # no such file, no access: whoever loads the model says which
                answer = get_session().get(
                    url, headers=build_hf_headers(), timeout=_REACH_SECONDS, follow_redirects=True
                )
                found += [answer.text] if answer.status_code == 200 else []
    return found


def _local_templates(folder: Path) -> list[str]:
    """The texts in which a chat template may stand."""
    files = [folder / "tokenizer_config.json", *_matching(folder, ("*.jinja", "chat_template*", "*/*.jinja"))]
    texts = []
    for file in files:
        with suppress(OSError, UnicodeDecodeError):
            texts.append(file.read_text(encoding="utf-8"))
    return texts
