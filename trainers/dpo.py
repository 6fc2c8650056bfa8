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
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # DPOTrainer.__init__ sends it otherwise

import datasets
import transformers
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from studies.losses.batch_splitting import DEFAULT_ROWS, can_be_cut
from studies.records import ALONE_FACT, CONSEQUENCES, UNUSABLE_FACT, Cause, RunConfig, RunResult
from trainers.components.blame import in_words_of_study, refused_part
from trainers.components.settings import hardware_settings, parse_settings, resolve_model, run_settings
from trainers.components.worker_cache import WorkerCache, load_base
from trainers.data.pairs import DataError, JudgeError
from trainers.interface import DATA, JUDGE, MODEL, Decision, Doing, Job, Placement, Sized, Stopped, WorkQueue, pack_key
from trainers.job_list import JobList
from trainers.models import accelerator
from trainers.models.tokenizer import UnusableModel
from trainers.multi_lora.flat import Unpackable
from trainers.pack.growth import Growth
from trainers.pack.member import Member, make_member
from trainers.pack.pack import Pack
from trainers.run_folder.failures import ALONE, MEMORY, cause_of, told
from trainers.run_folder.results import drop_state, keep_result
from trainers.trl_loop.checkpoints import KEEP_SECONDS
from trainers.trl_loop.train import train_alone

logger = logging.getLogger(__name__)

# What no run with the same of it can use.
_INPUTS = {UnusableModel: MODEL, DataError: DATA, JudgeError: JUDGE}
_LOOK_SECONDS = 1.0
# While a pack grows: what it waits for is a sweep that hears of it and hands over more.
_GROWING_SECONDS = 0.1
_SHORT_SECONDS = 3.0


class DPOTrainerWorker:
    """Trains DPO runs; see `trainers.interface.Trainer`."""

    def __init__(self, keep_every: float = KEEP_SECONDS) -> None:
        """`keep_every`: seconds between what is kept of a run on disk, so that a killed worker costs no more."""
        self._keep_every = keep_every
        datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()
        self._queue: WorkQueue | None = None
        self._growths: dict[str, Growth] = {}
        self._cache = WorkerCache(self._say, self._look)

    def train(self, job: Job, queue: WorkQueue) -> None:
        """See `Trainer.train`. What diverges, or what TRL refuses, is a result; what the machine does is raised."""
        self._queue = queue
        if job.placement.together < 1:
            self.alone(job, queue)
            return
        _Packing(self, queue, job).train()

    def growth(self, like: str, placement: Placement) -> Growth:
        """What is known of packs of these runs: of earlier ones in this worker too, where their size is left open."""
        if placement.begin is None:
            return Growth(placement)
        known = self._growths.setdefault(like, Growth(placement))
        known.at_most(placement.together)
        return known

    def member(self, job: Job, queue: WorkQueue, *, beside: bool) -> Member | None:
        """The run, ready for a pack; None where it cannot train there: then it was trained alone and handed in.

        `beside`: others are in training. Raises what memory runs out with beside them, and what the machine does.
        """
        job.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._look(job.config.key)
            return self.make(job)
        except Unpackable as reason:
            logger.info("run %s trains alone: %s", job.config.key, reason)
            self.alone(job, queue, str(reason))
        except Exception as error:
            result = None if beside and cause_of(error) in MEMORY else self.came_to(job, error)
            if result is None:
                raise
            queue.finish(keep_result(job.folder, result))
        return None

    def came_to(self, job: Job, error: Exception) -> RunResult | None:
        """What a run comes to that met this error; None where the machine is to blame, and it may be tried again."""
        stopped, key = isinstance(error, Stopped), job.config.key
        cause = Cause.USER_STOP if stopped else cause_of(error)
        if stopped:
            return RunResult(key=key, cause=cause, message=str(error))
        if cause is Cause.INFRASTRUCTURE:
            return None
        if cause in MEMORY:
            self.forget(error)
            return RunResult(key=key, cause=cause, message=str(error), facts=ALONE)
        traceback.print_exc()
        of = next((name for kind, name in _INPUTS.items() if isinstance(error, kind)), None)
        message = told(error) if of else in_words_of_study(error, job.config.settings, job.config.knobs)
        of = of or refused_part(error)
        return RunResult(key=key, cause=cause, message=message, facts={UNUSABLE_FACT: of} if of else {})

    def make(self, job: Job) -> Member:
        """A run, ready for a pack. Raises Unpackable and what TRL or the data refuse."""
        try:
            return make_member(job, self._cache)
        finally:
            shutil.rmtree(job.folder / "trainer", ignore_errors=True)

    def empty_pack(self, job: Job) -> Pack:
        """A pack around the base of a run, with no queue behind it."""
        return self.pack(job, JobList([]))

    def pack(self, job: Job, queue: WorkQueue) -> Pack:
        """An empty pack around the base model of `job`."""
        settings = run_settings(job)
        args, model_args = parse_settings(settings, job.folder / "trainer", job.config.seed)
        model, tokenizer = self._cache.base(settings, args, model_args)
        chosen = job.placement.checkpointing
        checkpointing = args.gradient_checkpointing if chosen is None else chosen
        return Pack(model, tokenizer, queue, checkpointing=checkpointing, keep_every=self._keep_every)

    def forget(self, error: BaseException | None = None) -> None:
        """Give the memory back that is kept for later runs, and what `error`, with which it ran out, still holds."""
        self._cache.forget()
        accelerator.free_memory(error)

    def forget_data(self, error: BaseException) -> None:
        """`forget`, but keep the base for the runs that are about to train around it."""
        self._cache.forget_data()
        accelerator.free_memory(error)

    def _look(self, key: str) -> None:
        """Raises Stopped where the queue stops the run."""
        if self._queue is not None and self._queue.decision(key) is Decision.STOP:
            raise Stopped("stopped as it was made ready")

    def _say(self, what: str) -> None:
        if self._queue is not None:
            self._queue.tell(Doing(what))

    def alone(self, job: Job, queue: WorkQueue, why: str = "") -> None:
        """Train a run by TRL's own loop and hand it in; `why`: no pack could take it."""
        queue.finish(self._train_alone(job, queue, why))

    def _train_alone(self, job: Job, queue: WorkQueue, why: str) -> RunResult:
        job = replace(job, placement=replace(job.placement, together=0))
        job.folder.mkdir(parents=True, exist_ok=True)
        try:
            result = train_alone(job, queue, self._cache, self._keep_every)
        except Exception as error:
            failed = self.came_to(job, error)
            if failed is None:
                raise
            result = failed
        if why:
            result = result.model_copy(update={"facts": {ALONE_FACT: why, **result.facts}})
        result = keep_result(job.folder, result)
        if result.cause is not Cause.USER_STOP and not CONSEQUENCES[result.cause].smaller:  # else it may go on
            drop_state(job.folder)
        return result


class _Packing:
    """Keeps one pack full: takes runs in, lets it grow while that pays, makes it smaller where memory runs out, ends
    when there is nothing to do.
    """

    def __init__(self, worker: DPOTrainerWorker, queue: WorkQueue, first: Job) -> None:
        self._worker, self._queue = worker, queue
        self._like = pack_key(first.config)
        self._growth = worker.growth(self._like, first.placement)
        self._backlog = [first]
        self._pack: Pack | None = None
        self._looked = self._decided = -_LOOK_SECONDS
        self._is_cut = False  # a run goes on in smaller parts, and nobody knows yet whether they fit

    def train(self) -> None:
        """Until neither the pack nor the queue has a run."""
        while self._fill():
            pack = self._pack
            if pack is None:  # what was taken in did not fit, and more waits
                continue
            members = pack.members
            try:
                pack.advance(timed=self._growth.is_open)
            except Exception as error:
                self._meet(error, pack)
            else:
                if self._growth.passed(len(members), *pack.passed):
                    self._decide()
                elif self._is_cut:
                    self._queue.tell(Doing(""))
                self._is_cut = False
            if len(pack.members) < len(members):
                self._looked = -_LOOK_SECONDS

    def _meet(self, error: Exception, pack: Pack) -> None:
        """Go on after what a pack met, in its passes or as it took runs in. Raises what the machine does."""
        if cause_of(error) is Cause.INFRASTRUCTURE:
            raise error
        if cause_of(error) in MEMORY:
            self._make_smaller(pack, error)
        else:
            traceback.print_exc()
            self._dissolve(pack.members, f"the pack met {told(error)}")

    def _fill(self) -> int:
        """Take runs in while there is room and there are some. Gives how many train now, or else wait to."""
        size = len(self._pack.members) if self._pack else 0
        wait = _GROWING_SECONDS if self._growth.is_open else _LOOK_SECONDS
        # A pack that is short asks again now and then, not before every pass.
        if size >= self._growth.target or (size and time.monotonic() - self._looked < wait):
            return size
        self._looked = time.monotonic()
        new: list[Member] = []
        is_short = False
        while size + len(new) < self._growth.target and not is_short:
            job = self._backlog.pop(0) if self._backlog else self._queue.take(self._like)
            is_short = job is None
            if job is not None and (member := self._made(job, size + len(new))) is not None:
                new.append(member)
        if new:
            self._admit(new, time.monotonic() - self._looked)
        elif is_short and time.monotonic() - self._decided > _SHORT_SECONDS and self._growth.short():
            self._tell()
        return len(self._pack.members) if self._pack else len(self._backlog)

    def _made(self, job: Job, beside: int) -> Member | None:
        """The run, ready for the pack. Where there is no memory to make it ready beside so many others, it waits, and
        no more than those train together from now on.
        """
        try:
            member = self._worker.member(self._fitting(job), self._queue, beside=beside > 0)
        except Exception as error:
            if not beside or cause_of(error) not in MEMORY:
                raise
            self._worker.forget_data(error)
            logger.warning("out of memory as a run was made ready beside %d; going on with these", beside)
            self._growth.keep_to(beside)
            self._backlog.insert(0, job)
            return None
        if member is None and not beside:
            self._pack = None  # an empty one, around a base that may have been given up meanwhile
        return member

    def _fitting(self, job: Job) -> Job:
        """The job as runs like it fit into memory here."""
        return replace(job, placement=self._growth.fit(job.placement))

    def _admit(self, new: list[Member], seconds: float) -> None:
        had = list(self._pack.members) if self._pack is not None else []
        try:
            if self._pack is None:
                self._pack = self._worker.pack(new[0].job, self._queue)
            self._pack.admit(new)
        except Unpackable as reason:
            self._dissolve([*had, *new], str(reason))
            return
        except Exception as error:
            if cause_of(error) in MEMORY:
                self._turn_away(new, len(had), error)
            elif self._pack is None:
                raise
            else:
                self._meet(error, self._pack)
            return
        passes = sum(len(step) for step in new[0].run.steps)
        if self._growth.admitted(len(new), seconds, passes) or self._growth.is_open:
            self._decide()

    def _turn_away(self, new: list[Member], had: int, error: Exception) -> None:
        """Train later, fewer together, the runs that there was no memory to take in beside so many; or in smaller parts
        the one that was to train by itself.
        """
        accelerator.free_memory(error)
        if not had and len(new) == 1:
            self._pack = None
            self._take_smaller(new[0].job, error)
            return
        self._backlog = [*(member.job for member in new), *self._backlog]
        if had and self._pack is not None:
            self._growth.keep_to(had)
            self._shrink(self._pack, had)
        else:
            self._growth.halve(len(new))
            self._pack = None
        logger.warning("out of memory as runs were taken in; going on with %d", self._growth.target)
        self._decide()

    def _dissolve(self, members: Sequence[Member], why: str) -> None:
        """Train alone, from their beginning, the runs of a pack that met what no other try would do without."""
        logger.warning("runs train alone: %s", why)
        self._pack = None
        for member in members:
            self._worker.alone(member.job, self._queue, why)

    def _decide(self) -> None:
        """Take in at once what is wanted now, and tell of it."""
        self._looked, self._decided = -_LOOK_SECONDS, time.monotonic()
        self._tell()

    def _tell(self) -> None:
        """Tell how many train together from now on, or are tried, where nobody else decides."""
        growth = self._growth
        if growth.is_fixed:
            return
        tries = growth.is_open and not growth.is_short
        trying = f"training {growth.target} together, to see what a run takes then" if tries else ""
        self._queue.tell(Doing(trying))
        self._queue.tell(Sized(self._like, growth.target, growth.sizing()))

    def _make_smaller(self, pack: Pack, error: Exception) -> None:
        """Go on with fewer runs after the pack ran out of memory, or with one that takes less; what goes is trained
        later, from its beginning or kept state.
        """
        accelerator.free_memory(error)
        pack.begin_step_again()
        size = len(pack.members)
        if size == 1:
            if self._take_smaller(pack.members[0].job, error):
                accelerator.fits(lambda: pack.keep_state(0))
            self._pack = None
            return
        self._growth.halve(size)
        logger.warning("out of memory with %d runs together; going on with %d", size, self._growth.target)
        self._backlog += [member.job for member in pack.members[self._growth.target :]]
        self._shrink(pack, self._growth.target)
        self._decide()

    def _shrink(self, pack: Pack, size: int) -> None:
        """Keep the first `size` runs of the pack, whose others wait; where there is no memory even for that, none: they
        go on from their kept states too.
        """
        if not accelerator.fits(lambda: pack.take_out(list(range(size, len(pack.members))))):
            self._backlog = [*(member.job for member in pack.members[:size]), *self._backlog]
            self._pack = None

    def _take_smaller(self, job: Job, error: Exception) -> bool:
        """Let the one run go on in smaller parts, or with gradient checkpointing; hand it in as out of memory where it
        has both. Whether it goes on.
        """
        smaller = _smaller(job)
        if smaller is None:
            result = RunResult(key=job.config.key, cause=cause_of(error), message=str(error), facts=ALONE)
            self._queue.finish(keep_result(job.folder, result))
            return False
        place = smaller.placement
        how = f"{place.split} parts" + (" and gradient checkpointing" if place.checkpointing else "")
        logger.warning("out of memory with one run; going on with %s", how)
        self._growth.take_smaller(place.split, place.checkpointing)
        self._backlog.insert(0, smaller)
        self._decide()
        self._is_cut = True
        self._queue.tell(Doing(f"taking a run's micro-batches in {how}, as memory ran out"))
        return True


def _smaller(job: Job) -> Job | None:
    """The same run with less memory: a micro-batch in twice as many parts, down to single pairs, where its losses can
    be cut; then with gradient checkpointing, which costs a forward pass. None where it has both.
    """
    settings, place = job.config.settings, job.placement
    rows = int(settings.get("per_device_train_batch_size") or DEFAULT_ROWS)
    if can_be_cut(settings, 1) and place.split < rows:
        return replace(job, placement=replace(place, split=min(2 * place.split, rows)))
    if not (place.checkpointing or run_settings(job).get("gradient_checkpointing", True)):
        return replace(job, placement=replace(place, checkpointing=True))
    return None


def load_adapter(config: RunConfig, adapter: Path) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """The trained policy of a finished run: its base model with the adapter at `adapter`."""
    args, model_args = parse_settings(
        {**hardware_settings(), **config.settings}, adapter.parent / "trainer", config.seed
    )
    base, tokenizer = load_base(resolve_model(str(model_args.model_name_or_path)), args, model_args)
    return PeftModel.from_pretrained(base, str(adapter)), tokenizer
