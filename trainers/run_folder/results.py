"""How a run's result is kept in its folder: `result.json`, written whole or not at all; loads no torch.

A run's folder may hold what others have put there: nothing is read or removed through a link.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from studies.records import UNSAVED_FACT, RunResult
from studies.text.files import (
    UnusableFile,
    is_file,
    is_folder,
    parse_json,
    read_json,
    safetensors_header,
    write_whole,
)
from studies.text.lines import first_line_of
from studies.text.redact import redact

logger = logging.getLogger(__name__)

RESULT_FILE = "result.json"
# The last state of a run in training and the one before it, see `trainers.pack.state`.
STATE_FILE, EARLIER_FILE = "state.safetensors", "state-before.safetensors"
# Which attempt at a run has begun last, where workers are on several machines, see `sweeper.executors.elsewhere.fence`.
ATTEMPT_FILE: Final = "attempt"
# Folder of the same of a run that trains alone, see `trainers.trl_loop.checkpoints`.
CHECKPOINTS = "checkpoints"
CHECKPOINT_PREFIX: Final = "checkpoint-"  # transformers' own
COMPLETE: Final = "complete.json"  # of a whole checkpoint
ADAPTER: Final = "adapter"
# As PEFT's and transformers' `save_pretrained` call what they write.
_TRAINED: Final = re.compile(
    r"adapter_config\.json|adapter_model\.(safetensors|bin)|README\.md|config\.json|generation_config\.json"
    r"|(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?"
)
_KEY: Final = re.compile(r"[0-9a-f]{12}")


def write_result(folder: Path, result: RunResult) -> Path:
    """Write `result` as `folder/result.json` and return that path; the folder is made where it is missing.

    Secrets in its message, facts and samples are left out. Raises OSError where it cannot be kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Not `model_dump_json`: pydantic writes NaN, which a diverged run has in its curve, as null.
    whole = result.model_dump(mode="json")
    said = {"message": redact(result.message), "facts": redact(result.facts), "samples": redact(whole["samples"])}
    write_whole(folder / RESULT_FILE, json.dumps(whole | said, indent=1))
    return folder / RESULT_FILE


def keep_result(folder: Path, result: RunResult) -> RunResult:
    """`write_result`, and the result as it stands: where the disk does not take it, it says so. What was trained is not
    lost over it: whoever is handed the result keeps it too.
    """
    try:
        write_result(folder, result)
    except OSError as error:
        logger.warning("the result of run %s could not be written: %s", result.key, error)
        lost = "; ".join(filter(None, (str(result.facts.get(UNSAVED_FACT, "")), f"{RESULT_FILE}: {error}")))
        return result.model_copy(update={"facts": {**result.facts, UNSAVED_FACT: lost}})
    return result


def read_result(folder: Path) -> RunResult | None:
    """The result kept in `folder`, or None where there is none or it cannot be read as one."""
    try:
        return find_result(folder)
    except UnusableFile:
        return None


def find_result(folder: Path) -> RunResult | None:
    """The result kept in `folder`, or None where there is none. Raises UnusableFile for what is no result."""
    path = folder / RESULT_FILE
    if folder.is_symlink():
        raise UnusableFile(folder, "is a link, which is not followed")
    try:
        return RunResult.model_validate(read_json(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnusableFile:
        raise
    except ValueError as error:
        raise UnusableFile(path, f"is no result of a run ({first_line_of(error)})") from error


def is_run_folder(folder: Path) -> bool:
    """Whether a real folder is there that is named as the folder of a run."""
    return _KEY.fullmatch(folder.name) is not None and is_folder(folder)


def holds_run(folder: Path) -> bool:
    """Whether it is a run's folder, and a result, state or checkpoint in it says that it is of that run."""
    return is_run_folder(folder) and folder.name in _keys_in(folder)


def holds_state(folder: Path) -> bool:
    """Whether there is anything that `drop_state` would remove."""
    return any(os.path.lexists(folder / name) for name in (STATE_FILE, EARLIER_FILE, CHECKPOINTS))


def drop_state(folder: Path) -> None:
    """Remove the states of a run that does not go on from them."""
    if not is_folder(folder):
        return
    for name in (STATE_FILE, EARLIER_FILE):
        with suppress(IsADirectoryError, PermissionError):
            (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)  # which follows no link, also not its first


def adapter_files(run: Path) -> tuple[list[Path], list[Path]]:
    """What lies in the adapter of a run's folder: regular files of the names that PEFT and transformers give, and all
    else. Of a folder that is reached through a link, or is none, that itself is all else.
    """
    adapter = run / ADAPTER
    for place in (run, adapter):
        if not is_folder(place):
            return [], [place]
    found = sorted(adapter.iterdir())
    ours = [path for path in found if _TRAINED.fullmatch(path.name) and is_file(path)]
    return ours, [path for path in found if path not in ours]


def drop_adapter(folder: Path) -> None:
    """Remove what a run has trained."""
    if is_folder(folder):
        shutil.rmtree(folder / ADAPTER, ignore_errors=True)


def drop_result(folder: Path) -> None:
    """Remove the result of a run that is asked for again."""
    if is_folder(folder):
        (folder / RESULT_FILE).unlink(missing_ok=True)


def _keys_in(folder: Path) -> Iterator[object]:
    """The keys of runs that the files in a folder are of, as far as they can be read."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        yield read_json(folder / RESULT_FILE)["key"]
    for name in (STATE_FILE, EARLIER_FILE):
        with suppress(OSError, ValueError, KeyError, TypeError):
            yield parse_json(safetensors_header(folder / name)["__metadata__"]["run"])["key"]
    if is_folder(folder / CHECKPOINTS):
        for checkpoint in (folder / CHECKPOINTS).glob(f"{CHECKPOINT_PREFIX}*"):
            with suppress(OSError, ValueError, KeyError, TypeError):
                if is_folder(checkpoint):
                    yield read_json(checkpoint / COMPLETE)["key"]
