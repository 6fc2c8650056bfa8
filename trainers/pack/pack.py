"""Trains the runs of one pack together: one forward and backward pass for all, own steps, curve and end for each.

- `engine`: the arithmetic of a pass and of each run's AdamW step, by slot.
- `passes`: what goes through the engine next, and what a run counts of it.
- `admission`: what is compared before a run's first step.
- `ending`: what a run leaves on disk.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from functools import partial

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from studies.records import Cause
from studies.text.plural import so_many
from trainers.evaluation.evaluate import Evaluation, Unmeasured, evaluate_all
from trainers.evaluation.policies import packed_policies
from trainers.interface import Decision, Doing, Stopped, WorkQueue
from trainers.models import accelerator
from trainers.multi_lora.adapters import PackedAdapters
from trainers.pack.admission import first_gap, require_same_log_probs, start_gaps
from trainers.pack.ending import keep_state, write_ending
from trainers.pack.engine import Engine
from trainers.pack.member import Member
from trainers.pack.passes import count_and_step, forward_backward, read_sums
from trainers.pack.state import load_state
from trainers.run_folder.failures import cause_of, told


class Pack:
    """The runs that train together in this worker, around one base model."""

    def __init__(
        self,
        base: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        queue: WorkQueue,
        *,
        checkpointing: bool,
        keep_every: float,
    ) -> None:
        """`keep_every`: seconds between states kept on disk, two a run: the last and the one before."""
        self._base, self._tokenizer, self._queue = base, tokenizer, queue
        self._engine = Engine(base, checkpointing=checkpointing)
        self._device = self._engine.adapters.device
        self._checked = False
        self._keep_every = keep_every
        self.members: list[Member] = []
        self.passed = (0.0, 0, 0.0)
        """Of the last pass: seconds, of this process alone where it computes itself, tokens, and peak memory in MiB."""

    @property
    def adapters(self) -> PackedAdapters:
        """The adapters as they are now, and the model around them."""
        return self._engine.adapters

    def admit(self, members: Sequence[Member]) -> None:
        """Start runs, or resume them from their kept state. Raises Unpackable for a base that cannot be packed."""
        self._note_peak()  # of those that train already
        had = len(self.members)
        self._engine.add([m.run.adapter for m in members])
        self.members += members
        if not self._checked:
            require_same_log_probs(self._base, self._engine, members[0])
            self._checked = True
        for slot, member in enumerate(members, start=had):
            state = load_state(member.job.folder, member.key)
            if state is not None:
                self._engine.restore(slot, state.moments, state.progress.step)
                member.resume(state)
        new = [slot for slot, m in enumerate(self.members) if slot >= had and not m.begun]
        if new:
            for slot, gap in zip(new, start_gaps(self._base, self._engine, self.members, new), strict=True):
                self.members[slot].note(gap)
        self._settle()  # a state may be as far as the run is to go now

    def advance(self, *, timed: bool = False) -> None:
        """Train one micro-batch of every run, then log, measure and end the runs that are due.

        `timed`: wait for the device, so that `passed` holds the time of the pass itself. Else it is waited for where a
        run looks at its clock, so that passes from one look to the next have their time between them.
        """
        self._settle()  # what an earlier pass still owes, where memory ran out behind it
        if not self.members:
            return
        self._note_peak()
        started, computed = time.perf_counter(), time.process_time()
        before = sum(member.tokens for member in self.members)
        self.train_micro_batch()
        if self._device.type != "cpu" and (timed or any(m.logs or m.leaves or self._keeps(m) for m in self.members)):
            accelerator.wait()
        seconds = time.perf_counter() - started
        # Other work on a busy machine makes one thread wait, which says nothing of a pass.
        own = min(seconds, time.process_time() - computed) if self._device.type == "cpu" else seconds
        self.passed = (own, sum(member.tokens for member in self.members) - before, self._note_peak())
        share = seconds / len(self.members)
        for member in self.members:
            member.train_seconds += share
            member.window += share
            member.together = max(member.together, len(self.members))
        self._settle()

    def train_micro_batch(self) -> None:
        """Forward and backward over one micro-batch of every run; AdamW where a step ends."""
        done = forward_backward(self._engine, self.members)
        for member, work, metrics in zip(self.members, done.work, done.metrics, strict=True):
            if not member.begun:
                member.note(first_gap(self._base, self._engine, member, work, metrics))
                member.begun = True
        count_and_step(self._engine, self.members, done)

    def evaluate(self, slots: Sequence[int]) -> tuple[Evaluation | Unmeasured, ...]:
        """Measure the runs in `slots` as they are now, in one go."""
        members = [self.members[k] for k in slots]
        with self._engine.adapters.only(slots) as adapters, self._engine.autocast(members[0].precision):
            return evaluate_all(
                packed_policies(adapters, partial(_look, self._queue, members)),
                self._tokenizer,
                [m.pairs for m in members],
                members[0].job.config.evaluation,
                [m.numbers for m in members],
            )

    def keep_state(self, slot: int) -> None:
        """Write how far a run is, between two of its steps."""
        keep_state(self._engine, self.members[slot], slot)

    def take_out(self, slots: Sequence[int]) -> list[Member]:
        """Remove runs from the pack as they are, without a result."""
        left = [self.members[i] for i in slots]
        kept = [i for i in range(len(self.members)) if i not in slots]
        self._engine.keep(kept)
        self.members = [self.members[i] for i in kept]
        return left

    def begin_step_again(self) -> None:
        """Discard the micro-batches of unfinished steps, after a pass that failed."""
        self._engine.adapters.gradients.zero_()
        for member in self.members:
            member.begin_step_again()

    def _settle(self) -> None:
        """Do all that is due after a pass; a second call does nothing."""
        self._log()
        self._stop()
        self._measure()
        self._finish()
        self._keep_states()

    def _log(self) -> None:
        """Add points to curves and report them; one wait for the device, whatever the number of runs."""
        due = [m for m in self.members if m.logs]
        if not due:
            return
        for member, sums in zip(due, read_sums(due), strict=True):
            point = member.add_point(sums)
            if self._queue.report(member.key, member.step, point) is not Decision.CONTINUE:
                member.end(Cause.USER_STOP, f"stopped at step {member.step}")

    def _stop(self) -> None:
        """End the runs that the queue stops, each between two of its steps."""
        for member in self.members:
            if member.micro == 0 and self._queue.decision(member.key) is not Decision.CONTINUE:
                member.end(Cause.USER_STOP, f"stopped at step {member.step}")

    def _measure(self) -> None:
        """Evaluate the runs that are due, all in one go."""
        slots = [k for k, m in enumerate(self.members) if m.measures]
        if not slots:
            return
        started = time.perf_counter()
        due = [self.members[k] for k in slots]
        self._queue.tell(Doing(f"measuring {so_many(len(due), 'run')}"))
        try:
            found = _evaluate_each(self, slots)
        except Stopped:
            for member in due:  # it is measured when it goes on
                member.end(Cause.USER_STOP, f"stopped as it was measured after step {member.step}")
            return
        finally:
            self._queue.tell(Doing(""))
        accelerator.wait()
        self._note_peak()
        seconds = (time.perf_counter() - started) / len(due)
        for member, measured in zip(due, found, strict=True):
            member.evaluation_seconds += seconds
            member.add_evaluation(measured)

    def _finish(self) -> None:
        """Hand in the runs that end or pause, and make room."""
        leaving = [k for k, m in enumerate(self.members) if m.leaves]
        for k in leaving:
            self._queue.finish(write_ending(self._engine, self.members[k], k))
        if leaving:
            self.take_out(leaving)

    def _keep_states(self) -> None:
        """Keep how far every run is, so that a killed worker costs minutes: each at the first step after its time is
        over, since runs that accumulate are never all between two steps.
        """
        for slot, member in enumerate(self.members):
            if self._keeps(member):
                self.keep_state(slot)

    def _keeps(self, member: Member) -> bool:
        """Whether the run's state is kept now."""
        return member.micro == 0 and member.step > 0 and time.monotonic() - member.kept_at > self._keep_every

    def _note_peak(self) -> float:
        """The peak of memory since the last call, which is that of all runs that train; read with every pass, so that
        each run has the most of its own time, whoever ends beside it. On a CPU it is that of the process.
        """
        peak = accelerator.peak_memory()
        accelerator.begin_peak()
        for member in self.members:
            member.peak = max(member.peak, peak)
        return peak


def _look(queue: WorkQueue, members: Sequence[Member]) -> None:
    """Raises Stopped where the queue stops all of these runs: what is measured of the others is not thrown away."""
    if all(queue.decision(member.key) is Decision.STOP for member in members):
        raise Stopped


def _evaluate_each(pack: Pack, slots: Sequence[int]) -> Sequence[Evaluation | Exception]:
    """Evaluate runs together; where that fails, each alone, with the reason for each that cannot be measured. Raises
    Stopped.

    Where memory or the machine fails, all their states are kept, so that no step is trained again.
    """
    try:
        return pack.evaluate(slots)
    except Stopped:
        raise
    except Exception as error:
        if cause_of(error) is not Cause.REFUSED:
            for slot in slots:
                pack.keep_state(slot)
            raise
        if len(slots) > 1:
            return [found for slot in slots for found in _evaluate_each(pack, [slot])]
        traceback.print_exc()
        step = pack.members[slots[0]].step
        return [RuntimeError(f"it cannot be measured after step {step}: {told(error)}")]
