"""PEFT's refusals with the study's keys: it speaks of the fields of its own config. Loads no PEFT."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Final

# What PEFT says in a refusal -> the key of `base` that is to blame.
_KEYS: Final[Mapping[str, str]] = {
    "target modules": "lora_target_modules",
    "target_modules": "lora_target_modules",
    "target module": "lora_target_modules",
    "no modules were targeted": "lora_target_modules",
    "target_parameters": "lora_target_parameters",
    "modules_to_save": "lora_modules_to_save",
    "`r`": "lora_r",
    "dora": "use_dora",
    "rslora": "use_rslora",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
}


def in_words_of_study(error: BaseException) -> str:
    """What an exception says; where it is PEFT that raised it, behind the study's key that it is about."""
    text = str(error)
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or "peft" not in Path(frames[-1].filename).parts:
        return text
    key = next((key for words, key in _KEYS.items() if words in text.lower()), None)
    return text if key is None else f"base.{key}: {text}"
