"""What lies in a folder that is named as a model from elsewhere: an adapter on a study's base, or a whole model.

Read from its small files, its tokenizer in a process that loads no torch; nothing in it is run.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from studies.schema.contents import Source
from studies.schema.paths import existing
from studies.text.files import read_json
from studies.text.plural import so_many
from trainers.contents import read_content
from trainers.models.bases import ADAPTER, CONFIG, TOKENIZER, UnusableModel, adapter_of, base_problems, weights
from trainers.preview import asked_aside, model_place

_CONFIGS: Final = (CONFIG, ADAPTER, "tokenizer_config.json")
_CODE: Final = "auto_map"  # by it transformers finds Python that lies with a model
_MOST_TOLD: Final = 60


@dataclass(frozen=True)
class Elsewhere:
    """A model that no run of the study trained. `path`: its folder, whole; `name`: that folder's; `content`: digest of
    what it holds, and of the model below an adapter.
    """

    path: str
    name: str
    content: str


def look_at_elsewhere(path: str, settings: Mapping[str, Any], *, is_adapter: bool) -> Elsewhere:
    """The adapter or the whole model in a folder, which a study with these settings of its base can measure.

    Raises UnusableModel for one on another base or with another tokenizer, without weights, or with code of its own.
    """
    option, other = ("--adapter", "--model") if is_adapter else ("--model", "--adapter")
    folder = existing(path)
    if folder is None or not folder.is_dir():
        raise UnusableModel(
            f"{option} {path}: there is no such folder here; of a model on the Hub, make one first: "
            "hf download ORG/NAME --local-dir FOLDER"
        )
    holds_adapter = (folder / ADAPTER).is_file()
    if is_adapter and not holds_adapter:
        whole = (folder / CONFIG).is_file() and weights(folder)
        below = sorted(place.parent.name for place in folder.glob(f"*/{ADAPTER}"))
        hint = f"it is a whole model: {other} {path}" if whole else "name the folder that `trl dpo` wrote"
        raise UnusableModel(
            f"{option} {path}: the folder has no {ADAPTER}; {f'{folder / below[-1]} has one' if below else hint}"
        )
    if not is_adapter and holds_adapter:
        raise UnusableModel(f"{option} {path}: it is an adapter: {other} {path}")
    _refuse_code(option, path, folder)
    if is_adapter:
        _refuse_other_base(option, str(folder), settings)
    elif problems := base_problems({"model_name_or_path": str(folder)}):
        raise UnusableModel(f"{option} {path}: {problems[0].removeprefix('base.model_name_or_path: ')}")
    else:
        _refuse_other_width(path, folder, settings)
    _refuse_other_tokenizer(option, path, folder, settings, needs_one=not is_adapter)
    content = content_of(str(folder))
    if content is None:
        raise UnusableModel(f"{option} {path}: its files cannot be read: check their permissions")
    return Elsewhere(str(folder.resolve()), folder.resolve().name, content)


def content_of(path: str) -> str | None:
    """Digest of an adapter's or a model's files, and of the model below an adapter; None where it cannot be read."""
    return read_content(Source("model", path))


def _refuse_code(option: str, path: str, folder: Path) -> None:
    for name in _CONFIGS:
        if (folder / name).is_file() and _CODE in _read(folder / name):
            raise UnusableModel(
                f"{option} {path}: its {name} names Python code that lies with it ({_CODE}), and no code of a model "
                "from elsewhere is run: save it as a plain transformers model, or measure an adapter on the base"
            )


def _refuse_other_base(option: str, path: str, settings: Mapping[str, Any]) -> None:
    adapter = adapter_of(path, Path(path) / ADAPTER)
    base = model_place(str(settings["model_name_or_path"]))
    if adapter.is_beside:
        raise UnusableModel(
            f"{option} {path}: a whole model lies beside the adapter, and the base must be the study's: move "
            f"{ADAPTER} and the adapter's weights into a folder of their own"
        )
    revisions = {revision for revision in (adapter.revision, settings.get("model_revision")) if revision}
    same_name = adapter.base == base and len(revisions) < 2
    if not same_name and (existing(base) is None or _held(adapter.base) != _held(base)):
        at = f" at {adapter.revision}" if adapter.revision else ""
        raise UnusableModel(
            f"{option} {path}: it is an adapter on {adapter.base}{at}, and the study's base is "
            f"{settings['model_name_or_path']}: take a study with that base; where both are the same model, write "
            f"{base} as base_model_name_or_path into its {ADAPTER}"
        )


def _held(model: str) -> str | None:
    return read_content(Source("model", model)) if existing(model) is not None else model


def _refuse_other_width(path: str, folder: Path, settings: Mapping[str, Any]) -> None:
    base = existing(model_place(str(settings["model_name_or_path"])))
    if base is None or not (base / CONFIG).is_file():
        return  # it lies on the Hub, or is an adapter: whoever loads both tells
    own, its = (_read(place / CONFIG).get("vocab_size") for place in (folder, base))
    if None not in (own, its) and own != its:
        raise UnusableModel(
            f"--model {path}: it has {own} tokens and the study's base {its}, and a distance between the two needs the "
            "same: take a study with its base"
        )


# ---- tokenizers ----------------------------------------------------------------------------------------------------


def _refuse_other_tokenizer(
    option: str, path: str, folder: Path, settings: Mapping[str, Any], *, needs_one: bool
) -> None:
    """An adapter without a tokenizer takes that of the model below it."""
    if not any((folder / name).is_file() for name in TOKENIZER):
        if needs_one:
            raise UnusableModel(f"{option} {path}: the folder has no tokenizer: save the study's beside the model")
        return
    if settings.get("trust_remote_code"):
        return  # the study's own tokenizer may be code, which a run alone executes
    base = model_place(str(settings["model_name_or_path"]))
    request = {"base": base, "revision": settings.get("model_revision"), "other": str(folder)}
    try:
        apart = asked_aside("trainers.examine.elsewhere", request)
    except (subprocess.SubprocessError, OSError, ValueError) as error:
        raise UnusableModel(
            f"{option} {path}: its tokenizer and that of {settings['model_name_or_path']} cannot be compared without "
            "torch; remove its tokenizer files where they are the same"
        ) from error
    if apart:
        raise UnusableModel(
            f"{option} {path}: its tokenizer is not that of the study's base {settings['model_name_or_path']} "
            f"({apart}), so that its texts and its distance would not be the same thing: take a study with its base, "
            "or save the tokenizer of the base beside it where that is what it was trained with"
        )


def _apart(own: Any, other: Any) -> str:
    """What two tokenizers differ in, "" where they read and end texts alike."""
    mine, its = own.get_vocab(), other.get_vocab()
    if odd := sorted({token for token, _ in mine.items() ^ its.items()}):
        token = odd[0]
        differ = so_many(len(odd), "token", "differs", "differ")
        return f"{differ}, such as {token!r}: {its.get(token)} and {mine.get(token)}"
    if own.eos_token != other.eos_token:
        return f"answers end with {_told(other.eos_token)} and {_told(own.eos_token)}"
    if other.chat_template is not None and own.chat_template != other.chat_template:
        return f"its chat template is another: {_told(other.chat_template)}"
    probe = "Tell me: is 12 + 3 = 15?\n\n  Yes, it's so. "
    if own(probe)["input_ids"] != other(probe)["input_ids"]:
        return "the same text has other tokens"
    return ""


def _told(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_TOLD else f"{text[:_MOST_TOLD]}..."


def _read(file: Path) -> Mapping[str, Any]:
    with suppress(OSError, ValueError):
        found = read_json(file, links=True)
        return found if isinstance(found, Mapping) else {}
    return {}


def main() -> None:
    """Answer the request on standard input with what two tokenizers differ in, as JSON."""
    sys.modules["torch"] = None  # type: ignore[assignment]
    request = json.load(sys.stdin)
    with redirect_stdout(sys.stderr):
        found = _answer(request)
    json.dump(found, sys.stdout)


def _answer(request: Mapping[str, Any]) -> str:
    from trainers.models.tokenizer import load_tokenizer

    places: Sequence[tuple[str, str | None]] = ((request["base"], request["revision"]), (request["other"], None))
    own, other = (load_tokenizer(place, revision, trust_remote_code=False) for place, revision in places)
    return _apart(own, other)


if __name__ == "__main__":
    main()
