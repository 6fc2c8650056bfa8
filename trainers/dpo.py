"""The trainer of DPO runs: in packs what can share a pass, by TRL's own loop what cannot.

Knows no search, store or executor. What successive runs share stays loaded in the worker.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # DPOTrainer.__init__ sends it otherwise

import datasets
import torch
import transformers
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from studies.records import CONSEQUENCES, Cause, RunConfig, RunResult
from trainers.adapters import Unpackable
from trainers.checkpoints import KEEP_SECONDS
from trainers.data import DataError
from trainers.desk import ListDesk
from trainers.failures import ALONE, cause_of
from trainers.interface import Desk, Job, Pilot, pack_key
from trainers.member import Member, make_member
from trainers.pack import Pack
from trainers.peft_words import in_words_of_study
from trainers.pilot import run_pilot
from trainers.results import drop_state, write_result
from trainers.settings import hardware_settings, parse_settings, resolve_model, run_settings
from trainers.solo import train_alone
from trainers.warm import Warm, load_base

logger = logging.getLogger(__name__)

# How TRL and the data refuse settings.
_REFUSALS = (DataError, ValueError, TypeError, NotImplementedError)
_LOOK_SECONDS = 1.0


class DPOTrainerWorker:
    """Trains DPO runs; see `trainers.interface.Trainer`."""

    def __init__(self, keep_every: float = KEEP_SECONDS) -> None:
        """`keep_every`: seconds between what is kept of a run on disk, so that a killed worker costs no more."""
        self._keep_every = keep_every
        datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()
        self._warm = Warm()

    def train(self, job: Job, desk: Desk) -> None:
        """See `Trainer.train`. What diverges, or what TRL refuses, is a result; what the machine does is raised."""
        if job.placement.together < 1:
            self.alone(job, desk)
            return
        _Packing(self, desk, job).train()

    def member(self, job: Job, desk: Desk) -> Member | None:
        """The run, ready for a pack; None where it cannot train there: then it was trained alone and handed in."""
        job.folder.mkdir(parents=True, exist_ok=True)
        try:
            return self.make(job)
        except Unpackable as reason:
            logger.info("run %s trains alone: %s", job.config.key, reason)
            self.alone(job, desk)
        except _REFUSALS as error:
            traceback.print_exc()
            self._hand_in(job, Cause.REFUSED, in_words_of_study(error), desk)
        except (RuntimeError, MemoryError) as error:
            if cause_of(error) is Cause.INFRASTRUCTURE:
                raise
            self.forget()
            self._hand_in(job, cause_of(error), str(error), desk)
        return None

    def pilot(self, jobs: Sequence[Job], workers: int) -> Pilot:
        """See `trainers.pilot.run_pilot`. What it loads stays warm for the runs that follow."""
        return run_pilot(jobs, self, workers)

    def make(self, job: Job) -> Member:
        """See `trainers.pilot.Crew`."""
        try:
            return make_member(job, self._warm)
        finally:
            shutil.rmtree(job.folder / "trainer", ignore_errors=True)

    def empty_pack(self, job: Job) -> Pack:
        """See `trainers.pilot.Crew`."""
        return self.pack(job, ListDesk([]))

    def is_out_of_memory(self, error: BaseException) -> bool:
        """See `trainers.pilot.Crew`."""
        return cause_of(error) is not Cause.INFRASTRUCTURE

    def pack(self, job: Job, desk: Desk) -> Pack:
        """An empty pack around the base model of `job`."""
        settings = run_settings(job)
        args, model_args = parse_settings(settings, job.folder / "trainer", job.config.seed)
        model, tokenizer = self._warm.base(settings, args, model_args)
        chosen = job.placement.checkpointing
        checkpointing = args.gradient_checkpointing if chosen is None else chosen
        return Pack(model, tokenizer, desk, checkpointing=checkpointing, keep_every=self._keep_every)

    def forget(self) -> None:
        """Give the memory back that is kept for later runs."""
        self._warm = Warm()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def alone(self, job: Job, desk: Desk) -> None:
        """Train a run by TRL's own loop and hand it in."""
        desk.finish(self._train_alone(job, desk))

    def _hand_in(self, job: Job, cause: Cause, message: str, desk: Desk) -> None:
        result = RunResult(key=job.config.key, cause=cause, message=message)
        write_result(job.folder, result)
        desk.finish(result)

    def _train_alone(self, job: Job, desk: Desk) -> RunResult:
        job.folder.mkdir(parents=True, exist_ok=True)
        try:
            result = train_alone(job, desk, self._warm, self._keep_every)
        except _REFUSALS as error:
            traceback.print_exc()
            result = RunResult(key=job.config.key, cause=Cause.REFUSED, message=in_words_of_study(error))
        except RuntimeError as error:
            if cause_of(error) is Cause.INFRASTRUCTURE:
                raise
            self.forget()
            result = RunResult(key=job.config.key, cause=cause_of(error), message=str(error), facts=ALONE)
        write_result(job.folder, result)
        if result.cause is not Cause.USER_STOP and not CONSEQUENCES[result.cause].smaller:  # else it may go on
            drop_state(job.folder)
        return result


class _Packing:
    """Keeps one pack full: takes runs in, splits the pack where memory runs out, ends when there is nothing to do."""

    def __init__(self, worker: DPOTrainerWorker, desk: Desk, first: Job) -> None:
        self._worker, self._desk, self._first = worker, desk, first
        self._like = pack_key(first.config)
        self._together = first.placement.together
        self._backlog = [first]
        self._pack: Pack | None = None
        self._looked = -_LOOK_SECONDS

    def train(self) -> None:
        """Until neither the pack nor the desk has a run."""
        while self._fill():
            assert self._pack is not None
            members = self._pack.members
            try:
                self._pack.advance()
            except (RuntimeError, MemoryError) as error:
                if cause_of(error) is Cause.INFRASTRUCTURE:
                    raise
                self._split(error)
            if len(self._pack.members) < len(members):
                self._looked = -_LOOK_SECONDS

    def _fill(self) -> int:
        """Take runs in while there is room and there are some. Gives how many train now."""
        size = len(self._pack.members) if self._pack else 0
        # A pack that is short asks again now and then, not before every pass.
        if size >= self._together or (size and time.monotonic() - self._looked < _LOOK_SECONDS):
            return size
        self._looked = time.monotonic()
        new: list[Member] = []
        while size + len(new) < self._together:
            job = self._backlog.pop(0) if self._backlog else self._desk.take(self._like)
            if job is None:
                break
            member = self._worker.member(job, self._desk)
            new += [member] if member else []
        if new:
            self._admit(new)
        return len(self._pack.members) if self._pack else 0

    def _admit(self, new: list[Member]) -> None:
        try:
            if self._pack is None:
                self._pack = self._worker.pack(self._first, self._desk)
            self._pack.admit(new)
        except Unpackable as reason:
            logger.warning("runs train alone: %s", reason)
            self._pack = None
            for member in new:
                self._worker.alone(member.job, self._desk)

    def _split(self, error: Exception) -> None:
        """Halve the pack after it ran out of memory; what goes is trained later, from its beginning or kept state."""
        assert self._pack is not None
        pack = self._pack
        pack.begin_step_again()
        size = len(pack.members)
        self._together = max(1, size // 2)
        out = pack.take_out(list(range(self._together, size)) if size > 1 else [0])
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if size > 1:
            logger.warning("out of memory with %d runs together; going on with %d", size, self._together)
            self._backlog += [member.job for member in out]
            return
        result = RunResult(key=out[0].key, cause=cause_of(error), message=str(error), facts=ALONE)
        write_result(out[0].job.folder, result)
        self._desk.finish(result)


def load_adapter(config: RunConfig, adapter: Path) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """The trained policy of a finished run: its base model with the adapter at `adapter`."""
    args, model_args = parse_settings({**hardware_settings(), **config.settings}, adapter.parent / "trainer", 0)
    base, tokenizer = load_base(resolve_model(str(model_args.model_name_or_path)), args, model_args)
    return PeftModel.from_pretrained(base, str(adapter)), tokenizer
