"""How a run's result is kept in its folder: `result.json`, written whole or not at all; loads no torch."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from pathlib import Path

from studies.records import UNSAVED_FACT, RunResult
from studies.redact import redact

logger = logging.getLogger(__name__)

RESULT_FILE = "result.json"
# The last state of a run in training and the one before it, see `trainers.state`.
STATE_FILE, EARLIER_FILE = "state.safetensors", "state-before.safetensors"
# Folder of the same of a run that trains alone, see `trainers.checkpoints`.
CHECKPOINTS = "checkpoints"


def write_result(folder: Path, result: RunResult) -> Path:
    """Write `result` as `folder/result.json` and return that path; the folder is made where it is missing.

    Secrets in its message, facts and samples are left out. The text goes to a temporary name, is flushed to the disk
    and then renamed, so that a reader, or a machine that loses power, finds the old file or the new one and never half
    of either. Raises OSError where it cannot be kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Not `model_dump_json`: pydantic writes NaN, which a diverged run has in its curve, as null.
    whole = result.model_dump(mode="json")
    said = {"message": redact(result.message), "facts": redact(result.facts), "samples": redact(whole["samples"])}
    text = json.dumps(whole | said, indent=1)
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=f".{RESULT_FILE}.")
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, folder / RESULT_FILE)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _flush_names(folder)
    return folder / RESULT_FILE


def keep_result(folder: Path, result: RunResult) -> RunResult:
    """`write_result`, and the result as it stands: where the disk does not take it, it says so. What was trained is not
    lost over it: whoever is handed the result keeps it too.
    """
    try:
        write_result(folder, result)
    except OSError as error:
        logger.warning("the result of run %s could not be written: %s", result.key, error)
        return result.model_copy(update={"facts": {**result.facts, UNSAVED_FACT: f"{RESULT_FILE}: {error}"}})
    return result


def read_result(folder: Path) -> RunResult | None:
    """The result kept in `folder`, or None where there is none or it cannot be read as one."""
    try:
        return RunResult.model_validate(json.loads((folder / RESULT_FILE).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return None


def drop_state(folder: Path) -> None:
    """Remove the states of a run that does not go on from them."""
    for name in (STATE_FILE, EARLIER_FILE):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def _flush_names(folder: Path) -> None:
    """Make the rename itself survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
