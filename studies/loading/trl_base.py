"""What the base of a study says: flat TRL names, new or old, some of which a study file says elsewhere.

Turns an inline base or a user's existing TRL YAML into settings, data, seed and loss, telling what it moved or left
out. Plain data: reads no file and loads no TRL.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from studies.losses.free_settings import free_problems
from studies.losses.rules import suggest
from studies.losses.trl_settings import (
    DATA,
    DROPPED,
    OWNED,
    REFUSED,
    RENAMED,
    TYPES,
    UNSET,
    allows_none,
    coerce,
    type_problem,
)
from studies.schema.knob_problems import Problem, hints
from studies.text.secret_values import secrets_in

# Fields of an entry of `datasets:` (TRL's DatasetConfig) that a study's `data` can say.
_ENTRY = {"path": "path", "name": "name", "split": "split"}


@dataclass
class Base:
    """A base taken apart. `data` and `seed` fill in what the study file leaves open; `secrets` is not to be told."""

    settings: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    notices: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    secrets: frozenset[str] = frozenset()

    def wrong(self, name: str, text: str, rule: str | None = None, remedy: str | None = None) -> None:
        """Record a mistake in the setting `name`."""
        self.problems.append(Problem(f"base.{name}", text, rule, remedy))


def take_apart(raw: Mapping[Any, Any]) -> Base:
    """Every name of `raw` put where it belongs."""
    base = Base(secrets=secrets_in(raw))
    renamed = _renamed(raw, base)
    evaluates = renamed.get("eval_strategy") not in (None, "no", False)  # YAML reads a bare `no` as false
    for name, value in renamed.items():
        if _nobody_set(name, value):
            continue
        if name == "seed":
            _seed(value, base)
        elif name in ("loss_type", "loss_weights"):
            if value is None:
                continue
            base.notices.append(f"base.{name}: left out, every variant says its own")
        elif name == "datasets":
            _datasets(value, base)
        elif name in ("streaming", "dataset_streaming", "test_split_size", "ignore_bias_buffers"):
            if value:
                base.notices.append(f"base.{name}: left out, data are read whole and split as `data` says")
        elif name in DATA:
            _data(name, value, renamed, base)
        elif name in OWNED:
            base.notices.append(f"base.{name}: left out, {OWNED[name]}")
        elif name in DROPPED:
            base.notices.append(f"base.{name}: left out, {DROPPED[name]}")
        elif name in REFUSED:
            base.wrong(name, f"{value!r} cannot be used: {REFUSED[name]}")
        else:
            _setting(name, value, base)
    if not evaluates:
        base.data.pop("eval_split", None)
    elif renamed.get("dataset_name") and not renamed.get("datasets"):
        base.data.setdefault("eval_split", "test")  # TRL's default of dataset_test_split
    return base


def _nobody_set(name: str, value: Any) -> bool:
    """Whether a setting that the sweep decides, or that is gone, has the value that releases write out unasked."""
    if any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in UNSET.get(name, ())):
        return True
    empty = value is None or (isinstance(value, str | list | Mapping) and not value)
    return _is_off(value) if name in REFUSED else empty and (name in OWNED or name in DROPPED)


def _is_off(value: Any) -> bool:
    """Whether nothing in `value` is set: nothing at all, zero, no, or a mapping or list of such."""
    if isinstance(value, Mapping):
        return all(map(_is_off, value.values()))
    return value in (None, False, 0, "", "no", [])


def _renamed(raw: Mapping[Any, Any], base: Base) -> dict[str, Any]:
    """`raw` under the names of the installed TRL. Of an old and a new name for one setting the one that is set holds:
    a dump of old settings gives both, such as `warmup_steps: 0`, which means that `warmup_ratio` holds.
    """
    renamed: dict[str, Any] = {}
    for name, value in raw.items():
        new = RENAMED.get(name) if isinstance(name, str) else None
        if not isinstance(name, str):
            base.wrong(str(name), f"the name {name!r} must be text: put it in quotes")
        elif new is None:
            renamed.setdefault(name, value)
        elif name == "warmup_ratio" and not _is_share(value):
            base.wrong(
                name, f"{value!r} must be a share of all steps, in [0, 1): give a number of steps as warmup_steps"
            )
        elif new not in raw:
            if not _is_off(value):
                base.notices.append(f"base.{name}: read as {new}, its name in this TRL")
            renamed[new] = coerce(new, value)
        elif _is_off(coerce(new, value)) or coerce(new, value) == coerce(new, raw[new]):
            continue
        elif _is_off(coerce(new, raw[new])):
            base.notices.append(f"base.{name}: read as {new}, its name in this TRL, since {new} is {raw[new]!r}")
            renamed[new] = coerce(new, value)
        else:
            base.wrong(name, f"{name} is called {new} now, and both are given: keep {new}")
    return renamed


def _is_share(value: Any) -> bool:
    share = coerce("warmup_steps", value)
    return share is None or (isinstance(share, float) and 0.0 <= share < 1.0)


def _setting(name: str, value: Any, base: Base) -> None:
    if name not in TYPES:
        rule, near = f"no setting of `trl dpo` is called {name}", suggest(name, TYPES)
        base.wrong(name, rule + near, rule, hints(near))
        return
    value = coerce(name, value)
    if value is None and not allows_none(name):
        return  # null stands for "not given", as --set base.beta=null does
    wrong, inside = type_problem(name, value), free_problems(name, value)
    if wrong is not None:
        base.wrong(name, f"{value!r} {wrong}", wrong)
    elif inside:
        base.problems += [Problem(f"base.{path}", text) for path, text in inside]
    elif name == "lora_target_modules" and "lm_head" in (value or ()):
        base.wrong(
            name, f"{value!r} holds lm_head: TRL computes log-probs past it, so the adapter would never be trained"
        )
    elif name == "lora_target_modules" and (only := _only_module(value)):
        base.wrong(
            name,
            f"{only!r} alone is read by TRL as a regular expression of whole names (model.layers.0.self_attn.{only}), "
            f"which it matches none of: write [{'.*[.]' + only!r}], or name another module beside it",
        )
    elif name == "model_name_or_path" and not value:
        base.wrong(name, f"{value!r} is empty: give a Hub id, a folder, or embedded")
    else:
        base.settings[name] = value


def _only_module(value: Any) -> str | None:
    """The one module that is named by its last word alone, where that is all that is named."""
    names = [value] if isinstance(value, str) else list(value or ())
    return names[0] if len(names) == 1 and names[0] != "all-linear" and re.fullmatch(r"\w+", names[0]) else None


def _seed(value: Any, base: Base) -> None:
    if isinstance(value, int) and not isinstance(value, bool):
        base.seed = value
    else:
        base.wrong("seed", f"{value!r} must be a whole number")


def _data(name: str, value: Any, renamed: Mapping[str, Any], base: Base) -> None:
    """A name that says what the data is."""
    if renamed.get("datasets") and name.startswith("dataset_"):
        base.notices.append(f"base.{name}: left out, `datasets` is given and goes before it")
    else:
        base.data[DATA[name]] = value


def _datasets(value: Any, base: Base) -> None:
    """TRL's list of datasets to mix: one of them can be read, more cannot yet."""
    if not isinstance(value, list) or not all(isinstance(entry, Mapping) and entry.get("path") for entry in value):
        base.wrong("datasets", "must be a list of mappings with a path")
        return
    if not value:
        return
    if len(value) > 1:
        base.wrong(
            "datasets", f"mixes {len(value)} datasets: a study reads one; write them to one file and say data.path"
        )
        return
    entry = value[0]
    files = entry.get("data_files")
    if isinstance(files, str) or (isinstance(files, list) and len(files) == 1):
        base.data["path"] = files if isinstance(files, str) else files[0]
    elif files is not None or entry.get("data_dir") is not None:
        base.wrong("datasets.0", "data_dir and several data_files cannot be read: say one file or folder in data.path")
    else:
        base.data.update({_ENTRY[key]: item for key, item in entry.items() if key in _ENTRY and item is not None})
    for key in entry:
        if key in ("columns", "fraction"):
            base.notices.append(f"base.datasets.0.{key}: left out, the whole dataset is read")
        elif key not in (*_ENTRY, "data_files", "data_dir"):
            valid = "valid are path, name, data_files, split; pairs are read from the columns prompt, chosen, rejected"
            base.wrong(f"datasets.0.{key}", f"unknown key{suggest(key, _ENTRY)}; {valid}")
