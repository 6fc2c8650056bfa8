"""Which of a study's keys a refusal before the first step is about, in the words of TRL, transformers or PEFT.

They speak of arguments and fields of their own. Loads none of them.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from trainers.interface import ADAPTER, OPTIMIZER, SCHEDULE, SETTINGS
from trainers.run_folder.failures import told

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
# Functions of transformers in which a part of the training is made -> what its refusals hang on, and the keys of the
# study that shape it, the likeliest first.
_PARTS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "create_scheduler": (SCHEDULE, ("lr_scheduler_kwargs", "lr_scheduler_type")),
    "get_scheduler": (SCHEDULE, ("lr_scheduler_kwargs", "lr_scheduler_type")),
    "create_optimizer": (OPTIMIZER, ("optim_args", "optim_target_modules", "optim")),
    "get_optimizer_cls_and_kwargs": (OPTIMIZER, ("optim_args", "optim_target_modules", "optim")),
}
_IN_TRAINING: Final = "_inner_training_loop"  # of transformers' Trainer
_SHORTEST_KEY: Final = 4


def refused_part(error: BaseException) -> str | None:
    """What a refusal hangs on that was met in making a run ready, see `trainers.interface.HANGS_ON`; None where the
    run was in training.
    """
    names = _functions(error)
    part = next((_PARTS[name][0] for name in names if name in _PARTS), None)
    if part is not None or _IN_TRAINING in names:
        return part
    return ADAPTER if _is_of_peft(error) else SETTINGS


def in_words_of_study(error: BaseException, settings: Mapping[str, Any], knobs: Iterable[str] = ()) -> str:
    """What an exception says; where it is about a setting, behind the study's key. `knobs`: settings that it varies."""
    key, text = _key(error, settings), told(error)
    if key is None:
        return text
    place = f"{'space' if key in knobs else 'base'}.{key}"
    if _is_of_peft(error):
        return f"{place}: {error}"
    return f"{place}: {text.rstrip('.')}; correct it there, or leave it out"


def _key(error: BaseException, settings: Mapping[str, Any]) -> str | None:
    text = str(error)
    if _is_of_peft(error):
        return next((key for words, key in _KEYS.items() if words in text.lower()), None)
    given = [name for name in settings if settings[name] is not None]
    likely = next((_PARTS[name][1] for name in _functions(error) if name in _PARTS), ())
    named = [n for n in given if len(n) >= _SHORTEST_KEY and re.search(rf"(?<![\w.]){n}(?!\w)", text)]
    return next((name for name in (*named, *likely) if name in given and (name in likely or not likely)), None)


def _functions(error: BaseException) -> list[str]:
    """The names of the functions in which it was raised, the outermost first."""
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


def _is_of_peft(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and "peft" in Path(frames[-1].filename).parts
