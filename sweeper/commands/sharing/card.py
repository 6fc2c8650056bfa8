"""The model card of what is shared: what it is, what was found, how it was made and how it is loaded.

It goes to others: no secret, no path of this machine and no row of the data stands in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from dashboards.report.study import written
from dashboards.tables.comparison import Comparison
from studies.records import COMMIT, DATA_DIGEST, EMBEDDED_MODELS
from studies.text.places import without_places
from studies.text.redact import is_secret, redact
from sweeper.commands.export import Chosen
from sweeper.commands.sharing.heads import packages
from sweeper.commands.sharing.weights import base_place

UNKNOWN = "unknown: fill in"
TRL_FILE = "trl.yaml"


@dataclass(frozen=True)
class Licences:
    """What the Hub says of the licences of base and data."""

    base: str = UNKNOWN
    data: str = UNKNOWN


@dataclass(frozen=True)
class Sharing:
    """What is shared, by its name on the Hub, and the commands that made it. `is_adapter`: or it is a whole model."""

    chosen: Chosen
    table: Comparison
    repository: str
    commands: Sequence[str]
    is_adapter: bool
    licences: Licences = Licences()

    @property
    def base(self) -> str | None:
        """The base's id on the Hub, None for one that lies there not."""
        name = str(self.chosen.config.settings["model_name_or_path"])
        return None if name in EMBEDDED_MODELS or base_place(name) is not None else name

    @property
    def data(self) -> str | None:
        """The data set's id on the Hub, None for one that lies there not."""
        name = self.chosen.config.data.path
        return None if name in EMBEDDED_MODELS or base_place(name) is not None else name


def card(shared: Sharing) -> str:
    """The text of the README.md."""
    head = {
        **({"base_model": shared.base} if shared.base else {}),
        **({"datasets": [shared.data]} if shared.data else {}),
        "library_name": "peft" if shared.is_adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["dpo", "trl", "dpo-sweeper", *(["lora"] if shared.is_adapter else [])],
    }
    losses = " + ".join(shared.chosen.config.settings["loss_type"])
    kind = "An adapter" if shared.is_adapter else "A model"
    parts = [
        f"# {shared.repository.rpartition('/')[2]}",
        f"{kind} trained on {_base_words(shared)} by DPO with the loss {losses}, in "
        "[TRL](https://github.com/huggingface/trl). Loss and settings were chosen by a sweep of dpo-sweeper.",
        "## What the sweep found",
        written(shared.table, "markdown", everything=False).strip(),
        "## How it was made",
        _made(shared),
        "```sh\n" + "\n".join(shared.commands) + "\n```",
        f"All settings of the training are in `{TRL_FILE}`, but for the pairs, which are not published here: "
        f"`trl dpo --config {TRL_FILE} --dataset_name YOUR_PAIRS --output_dir OUT`.",
        "## How to load it",
        f"```python\n{_loading(shared)}\n```",
        "## Licences",
        f"- base: {shared.licences.base}\n- data: {shared.licences.data}",
    ]
    body = public("\n\n".join(parts))
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n{body}\n"


def public(text: str) -> str:
    """The text without secrets and without places of this machine."""
    return without_places(str(redact(text)))


def public_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that others may read: those in which no secret and no place of this machine stands."""
    return {name: value for name, value in settings.items() if _is_public(value) and not is_secret(name)}


def _is_public(value: Any) -> bool:
    match value:
        case str():
            return public(value) == value
        case Mapping():
            return all(map(_is_public, (*value.keys(), *value.values())))
        case list() | tuple():
            return all(map(_is_public, value))
    return True


def _base_words(shared: Sharing) -> str:
    if shared.base:
        return f"[{shared.base}](https://huggingface.co/{shared.base})"
    name = str(shared.chosen.config.settings["model_name_or_path"])
    return f"{name}, a model of dpo-sweeper" if name in EMBEDDED_MODELS else "a model that is not published"


def _data_words(shared: Sharing) -> str:
    if shared.data:
        return f"[{shared.data}](https://huggingface.co/datasets/{shared.data})"
    of_world = shared.chosen.config.data.path in EMBEDDED_MODELS
    return "pairs of the embedded world of dpo-sweeper" if of_world else "pairs that are not published"


def _made(shared: Sharing) -> str:
    chosen = shared.chosen
    record, config = chosen.record, chosen.config
    last = config.settings.get("max_steps")
    stop = "at its end" if chosen.step in (None, last) else f"at step {chosen.step}" + (f" of {last}" if last else "")
    settings = ", ".join(f"{name} {value}" for name, value in record.knobs.items()) or "those of the study"
    scenario = "" if record.scenario.partition("#")[0] == "clean" else f", condition {record.scenario}"
    rows = {
        "study": f"{record.study}, variant {record.variant}{scenario}, trial {record.trial}, key {record.key}",
        "base": _base_words(shared) + _commit(record.content.get("base")),
        "data": _data_words(shared) + _commit(record.content.get("data")),
        "digest of the pairs": record.facts.get(DATA_DIGEST, "not recorded"),
        "draw and seed": f"block {record.block}, seed {record.seed}",
        "loss": " + ".join(config.settings["loss_type"]),
        "settings": settings,
        "stopped": stop,
        "trained on": record.facts.get("device", "unknown"),
        "versions": packages(),
    }
    lines = [f"| {name} | {_cell(str(text))} |" for name, text in rows.items()]
    return "\n".join(["| | |", "| --- | --- |", *lines])


def _cell(text: str) -> str:
    """Text in one line that does not end its cell."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _commit(content: str | None) -> str:
    return f", commit {content.removeprefix(COMMIT)}" if content is not None and content.startswith(COMMIT) else ""


def _loading(shared: Sharing) -> str:
    name = str(shared.chosen.config.settings["model_name_or_path"])
    embedded = name in EMBEDDED_MODELS
    base = f"model_path({name!r})" if embedded else repr(shared.base or "WHERE_THE_BASE_LIES")
    commit = (shared.chosen.record.content.get("base") or "").partition(COMMIT)[2] if shared.base else ""
    at = f", revision={commit!r}" if commit else ""
    lines = ["from transformers import AutoModelForCausalLM, AutoTokenizer", ""]
    lines = ["from trainers.world.paths import model_path  # of dpo-sweeper", *lines] if embedded else lines
    if shared.is_adapter:
        lines = ["from peft import PeftModel", *lines]
        lines += [
            f"base = AutoModelForCausalLM.from_pretrained({base}{at})",
            f"model = PeftModel.from_pretrained(base, {shared.repository!r})",
        ]
    else:
        lines += [f"model = AutoModelForCausalLM.from_pretrained({shared.repository!r})"]
    return "\n".join([*lines, f"tokenizer = AutoTokenizer.from_pretrained({base}{at})"])
