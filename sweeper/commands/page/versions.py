"""The next version of a study file: a variant cloned with other settings, all else as it was written, comments too."""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import yaml

from dashboards.live.ports import Done, Edit, Version
from studies.loading import yaml_reader
from studies.spec import Study, StudyError, load_study
from studies.text.files import write_whole
from studies.text.redact import redact

NO_FILE: Final = "No file in this folder is this study."
BY_HAND: Final = "the file is written in a way that is changed by hand alone: change it in an editor"
MOST_VERSIONS: Final = 1000
MORE: Final = ("budget.trials", "replicates", "budget.wall_clock", "budget.gpu_hours")


def clone(here: Path, file: str | None, variant: str, name: str, settings: Mapping[str, str]) -> Version:
    """The study `file` with a copy of a variant under another `name`, with other settings: a number or a word fixes
    one, `{low: 0.1, high: 1.0}` samples it. Writes nothing.
    """

    def cloned(before: str, given: Any) -> tuple[Any, str]:
        wanted, changed = _cloned(given, variant, name, settings)
        return wanted, _inserted(before, variant, name, changed)

    return _next_version(here, file, cloned)


def more(here: Path, file: str | None, key: str, value: str) -> Version:
    """The study `file` with another value of a key, which is one of `MORE`. Writes nothing."""

    def raised(before: str, given: Any) -> tuple[Any, str]:
        if key not in MORE or not isinstance(given, dict):
            raise _Refused(BY_HAND)
        if not value:
            raise _Refused("say how many")
        path = key.split(".")
        return _with(given, path, yaml_reader.parse(value)), _rewritten(before, path, value)

    return _next_version(here, file, raised)


def _next_version(here: Path, file: str | None, make: Callable[[str, Any], tuple[Any, str]]) -> Version:
    """The file as `make` changes its text and what that says; it is refused where the two disagree."""
    if file is None or not (here / file).is_file():
        why = "no file in this folder is this study: save it as one, and run that"
        return Version(file or "", "", Edit("", ""), (), (why,))
    try:
        before = yaml_reader.read_text(here / file)
        wanted, text = make(before, yaml_reader.parse(before))
        if yaml_reader.parse(text) != wanted:
            raise _Refused(BY_HAND)
        if text == before:
            raise _Refused("the file says so already")
        Study.of(load_study(here / file, text=text))
    except (_Refused, yaml_reader.UnusableYaml, StudyError, yaml.YAMLError) as error:
        return Version(file, "", Edit("", ""), (), tuple(str(redact(str(error))).splitlines()))
    kept = _free((here / file).resolve()).name
    lines = difflib.unified_diff(before.splitlines(), text.splitlines(), file, file, lineterm="", n=2)
    return Version(file, kept, Edit(before, text), tuple(redact(list(lines))))


def write(here: Path, file: str | None, edit: Edit) -> Done:
    """Make an edit the study file, and keep the old one beside it; refused where the file has changed since."""
    if file is None:
        return Done("refused", NO_FILE)
    place = (here / file).resolve()  # a link stays one
    try:
        if yaml_reader.read_text(place) != edit.before:
            return Done("refused", f"{file} has changed since: look at the change again.")
        kept, mode = _free(place), stat.S_IMODE(place.stat().st_mode)
        with kept.open("x", encoding="utf-8", newline="") as old:
            os.fchmod(old.fileno(), mode)
            old.write(edit.before)
        write_whole(place, edit.text, mode)
    except (OSError, yaml_reader.UnusableYaml) as error:
        return Done("refused", f"{file} was not written: {error}")
    return Done("done", f"{file} is the next version, {kept.name} the one before.")


class _Refused(Exception):
    """Why there is no such version."""


def _cloned(given: Any, variant: str, name: str, settings: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The study with the copy, and the copy alone."""
    variants = given.get("variants") if isinstance(given, dict) else None
    if not isinstance(variants, dict) or variant not in variants:
        raise _Refused(f"the file has no variant {variant}")
    if not name or name in variants:
        raise _Refused(f"the copy needs a name of its own; the file has {', '.join(map(str, variants))}")
    copy = deepcopy(variants[variant]) or {}
    if not isinstance(copy, dict):
        raise _Refused(BY_HAND)
    copy.setdefault("loss_type", [variant])
    copy.pop("expect", None)
    for key, text in settings.items():
        if not key or not text:
            raise _Refused("a setting needs a name and a value, such as beta and 0.3")
        value = yaml_reader.parse(text)
        base, space = dict(copy.get("base") or {}), dict(copy.get("space") or {})
        base.pop(key, None)
        space.pop(key, None)
        if isinstance(value, dict):
            space[key] = value
        else:
            base[key] = value
            space |= {key: None} if key in (given.get("space") or {}) else {}
        copy = {
            **{field: old for field, old in copy.items() if field not in ("base", "space")},
            **({"base": base} if base else {}),
            **({"space": space} if space else {}),
        }
    return {**given, "variants": {**variants, name: copy}}, copy


def _inserted(text: str, variant: str, name: str, copy: Mapping[str, Any]) -> str:
    """The text with the copy behind its original. Raises _Refused."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    nodes = _value(root, "variants")
    key = next((key for key, _ in nodes.value if key.value == variant), None) if nodes is not None else None
    if nodes is None or key is None:
        raise _Refused(BY_HAND)
    entry = yaml.safe_dump({name: dict(copy)}, default_flow_style=True, sort_keys=False, width=10_000).strip()
    if nodes.flow_style:
        end = nodes.end_mark.index - 1
        inside = text[:end].rstrip()
        comma = "" if inside.endswith((",", "{")) else ","
        return f"{inside}{comma} {entry[1:-1]}{text[end:]}"
    last = _last(_value(nodes, variant) or key)
    line = text.find("\n", last.end_mark.index)
    at = len(text) if line < 0 else line
    return f"{text[:at]}\n{' ' * key.start_mark.column}{entry[1:-1]}{text[at:]}"


def _with(given: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """The mapping with another value of a key, `path` being the names that lead to it."""
    first, *rest = path
    inside = given.get(first)
    return {**given, first: _with(inside if isinstance(inside, dict) else {}, rest, value) if rest else value}


def _rewritten(text: str, path: Sequence[str], value: str) -> str:
    """The text with another value of a key; one that is not there is added to its mapping. Raises _Refused."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    within: Any = root if len(path) == 1 else _value(root, path[0])
    there = _value(within, path[-1])
    if isinstance(there, yaml.ScalarNode):
        return text[: there.start_mark.index] + value + text[there.end_mark.index :]
    if there is not None or not isinstance(root, yaml.MappingNode) or (root.flow_style and within in (root, None)):
        raise _Refused(BY_HAND)
    line = f"{path[-1]}: {value}"
    if within is root or within is None:
        return f"{text.rstrip()}\n{line if within is root else f'{path[0]}: {{{line}}}'}\n"
    if not within.value:
        raise _Refused(BY_HAND)
    if within.flow_style:
        end = within.end_mark.index - 1
        return f"{text[:end].rstrip().removesuffix(',')}, {line}{text[end:]}"
    start = within.start_mark
    return f"{text[: start.index]}{line}\n{' ' * start.column}{text[start.index :]}"


def _value(node: Any, key: str) -> Any:
    """The node of a key's value; None where there is none."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return next((value for name, value in pairs if name.value == key), None)


def _last(node: Any) -> Any:
    """The last node inside one that has no end of its own."""
    while isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    return node


def _free(file: Path) -> Path:
    """A name for the version before, which no command takes for the study."""
    names = (file.with_name(f"{file.name}.v{number}") for number in range(1, MOST_VERSIONS))
    return next(name for name in names if not os.path.lexists(name))
