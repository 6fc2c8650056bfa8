"""Where the embedded models live inside the package; does not load them and does not know torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from studies.records import EMBEDDED, EMBEDDED_GPT2

_FOLDERS: Final[Mapping[str, str]] = {EMBEDDED: "model", EMBEDDED_GPT2: "model_gpt2"}


def model_path(model: str = EMBEDDED) -> Path:
    """Folder of an embedded model in Hugging Face form; it is part of the installed package."""
    return Path(__file__).resolve().parent / _FOLDERS[model]


def embedded_path(name: str) -> Path | None:
    """The folder of the embedded model of that name; None where the name is not one's."""
    return model_path(name) if name in _FOLDERS else None
