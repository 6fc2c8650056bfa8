"""What a run leaves on disk: its state while it trains, its result, adapter or state when it leaves the pack."""

from __future__ import annotations

import logging
import shutil
import time
import traceback

from studies.records import UNSAVED_FACT, Cause, RunResult
from trainers.pack.engine import Engine
from trainers.pack.member import Member, save_adapter
from trainers.pack.state import save_state
from trainers.run_folder.failures import told
from trainers.run_folder.results import drop_state, keep_result

logger = logging.getLogger(__name__)


def keep_state(engine: Engine, member: Member, slot: int) -> None:
    """Write how far a run is, between two of its steps. A full disk costs the state, not the run."""
    member.kept_at = time.monotonic()
    try:
        save_state(member.job.folder, member.state(engine.moments(slot)))
    except OSError as error:
        logger.warning("the state of run %s could not be kept: %s", member.key, error)


def write_ending(engine: Engine, member: Member, slot: int) -> RunResult:
    """Write the result of a run that ends or pauses, with its adapter or with the state that it goes on from."""
    result = member.result()
    if member.job.keep_adapter and (result.cause is Cause.FINISHED or _is_unmeasured(member)):
        result = _with_adapter(engine, member, slot, result)
    if result.cause is Cause.PAUSED:  # at a rung, from which it can go on by its state alone
        save_state(member.job.folder, member.state(engine.moments(slot)))
    elif result.cause is Cause.USER_STOP:
        keep_state(engine, member, slot)
    result = keep_result(member.job.folder, result)
    if result.cause not in (Cause.PAUSED, Cause.USER_STOP):
        drop_state(member.job.folder)
    return result


def _with_adapter(engine: Engine, member: Member, slot: int, result: RunResult) -> RunResult:
    """Write the adapter and name it in the result; where the disk refuses it, keep the numbers and record why."""
    try:
        save_adapter(member, engine.adapters.read(slot))
    except Exception as error:
        traceback.print_exc()
        shutil.rmtree(member.job.folder / "adapter", ignore_errors=True)  # half of it is no adapter
        return result.model_copy(update={"facts": {**result.facts, UNSAVED_FACT: told(error)}})
    return result.model_copy(update={"adapter": "adapter"})


def _is_unmeasured(member: Member) -> bool:
    """Whether a run was trained to its end and could not be measured there."""
    return member.cause is Cause.REFUSED and member.micro == 0 and member.step >= len(member.run.steps)
