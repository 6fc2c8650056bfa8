"""Trains the runs of one pack: leads them through their steps, logs and measures them, and lets them go.

All go through one forward and backward pass (`trainers.pack.engine`); each has its own steps, curve, evaluations and
end. Knows where runs come from and go to only as a desk.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from studies.records import UNSAVED_FACT, Cause, RunResult
from trainers.components.outcome import START_METRICS
from trainers.components.start_check import measured_gaps, precision_of, training_gap
from trainers.evaluation.evaluate import Evaluation, NonFinite, Unmeasured, evaluate_all
from trainers.evaluation.policies import packed_policies
from trainers.interface import Decision, WorkQueue
from trainers.multi_lora.adapters import PackedAdapters
from trainers.multi_lora.flat import Unpackable
from trainers.multi_lora.layout import MicroBatch, hidden_states, micro_batch, pack_batch, packed_rows
from trainers.multi_lora.log_probs import token_log_probs
from trainers.pack.engine import Engine, Update, Work
from trainers.pack.member import Member, save_adapter
from trainers.pack.state import load_state, save_state
from trainers.run_folder.failures import cause_of, told
from trainers.run_folder.results import drop_state, keep_result

logger = logging.getLogger(__name__)

_CHECKED_PAIRS: Final = 4
# Of a row's summed log-prob, between the pack's layout and the model's own padded one, relative to its size.
_ROUNDING: Final = {torch.float64: 1e-6, torch.float32: 3e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


class Pack:
    """The runs that train together in this worker, around one base model."""

    def __init__(
        self,
        base: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        desk: WorkQueue,
        *,
        checkpointing: bool,
        keep_every: float,
    ) -> None:
        """`keep_every`: seconds between states kept on disk, two a run: the last and the one before."""
        self._base, self._tokenizer, self._desk = base, tokenizer, desk
        self._engine = Engine(base, checkpointing=checkpointing)
        self._device = self._engine.adapters.device
        self._checked = False
        self._keep_every = keep_every
        self.members: list[Member] = []
        self.passed = (0.0, 0)  # seconds of the last pass, of this process alone where it computes itself, and tokens

    @property
    def adapters(self) -> PackedAdapters:
        """The adapters as they are now, and the model around them."""
        return self._engine.adapters

    def admit(self, members: Sequence[Member]) -> None:
        """Let runs begin, or go on from their kept state. Raises Unpackable for a base that cannot be packed."""
        had = len(self.members)
        self._engine.add([m.run.adapter for m in members])
        self.members += members
        if not self._checked:
            self._check(members[0])
            self._checked = True
        for slot, member in enumerate(members, start=had):
            state = load_state(member.job.folder, member.key)
            if state is not None:
                self._engine.restore(slot, state.moments, state.progress.step)
                member.go_on(state)
        self._measure_start([slot for slot, m in enumerate(self.members) if slot >= had and not m.begun])
        self._settle()  # a state may be as far as the run is to go now

    def advance(self, *, timed: bool = False) -> None:
        """One micro-batch of every run, and what follows: a step, a point of the curve, an evaluation, an end.

        `timed`: wait for the device, so that what `passed` says is the time of the pass itself.
        """
        self._settle()  # what an earlier pass still owes, where memory ran out behind it
        if not self.members:
            return
        started, computed = time.perf_counter(), time.process_time()
        before = sum(member.tokens for member in self.members)
        self.train_micro_batch()
        if timed and self._device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        # Other work on a busy machine makes one thread wait, which says nothing of a pass.
        own = min(seconds, time.process_time() - computed) if self._device.type == "cpu" else seconds
        self.passed = (own, sum(member.tokens for member in self.members) - before)
        share = seconds / len(self.members)
        for member in self.members:
            member.train_seconds += share
            member.window += share
            member.together = max(member.together, len(self.members))
        self._settle()

    def _settle(self) -> None:
        """All that is due after a pass. Doing it again does nothing again."""
        self._log()
        self._heed()
        self._measure()
        self._let_go()
        self._keep_states()

    def _heed(self) -> None:
        """End the runs that are told to stop, each between two of its steps."""
        for member in self.members:
            if member.micro == 0 and self._desk.decision(member.key) is not Decision.CONTINUE:
                member.end(Cause.USER_STOP, f"stopped at step {member.step}")

    def _keep_states(self) -> None:
        """Keep how far every run is, so that a killed worker costs minutes: each at the first step after its time is
        over, since runs that accumulate are never all between two steps. A disk that is full costs the state, not
        the run.
        """
        now = time.monotonic()
        for slot, member in enumerate(self.members):
            if member.micro or member.step == 0 or now - member.kept_at <= self._keep_every:
                continue
            self.keep_state(slot)

    def keep_state(self, slot: int) -> None:
        """Write how far a run is, between two of its steps."""
        member = self.members[slot]
        member.kept_at = time.monotonic()
        try:
            save_state(member.job.folder, member.state(self._engine.moments(slot)))
        except OSError as error:
            logger.warning("the state of run %s could not be kept: %s", member.key, error)

    def take_out(self, slots: Sequence[int]) -> list[Member]:
        """Remove runs from the pack as they are, without a result."""
        left = [self.members[i] for i in slots]
        kept = [i for i in range(len(self.members)) if i not in slots]
        self._engine.keep(kept)
        self.members = [self.members[i] for i in kept]
        return left

    def begin_step_again(self) -> None:
        """Forget the micro-batches of unfinished steps, after a pass that did not come to its end."""
        self._engine.adapters.gradients.zero_()
        for member in self.members:
            member.micro = 0

    def train_micro_batch(self) -> None:
        """One micro-batch of every run and the steps that end with it, with no other consequence."""
        laid_out: dict[tuple[int, tuple[int, ...]], MicroBatch] = {}
        work = []
        for member in self.members:
            part, data = member.part, member.data
            key = (id(data.rows), part.rows)
            if key not in laid_out:
                laid_out[key] = micro_batch([data.rows[i] for i in part.rows], self._device)
            at = torch.tensor(part.rows, device=self._device)
            work.append(Work(laid_out[key], member.run.loss, (data.chosen[at], data.rejected[at]), part.of_step))
        losses, metrics = self._engine.accumulate(work, self._precision())
        for member, one, found in zip(self.members, work, metrics, strict=True):
            if not member.begun:
                self._look_at_start(member, one, found)
        updates: list[Update | None] = []
        for k, member in enumerate(self.members):
            found, share = metrics[k], member.part.of_micro_batch
            rewards = (found[name].to(losses.dtype) * share for name in ("reward_margin", "reward_accuracy"))
            member.sums = member.sums + torch.stack([losses[k], *rewards])
            member.sound = member.sound & torch.isfinite(losses[k])
            member.batches += share
            member.micro += 1
            member.tokens += work[k].micro.real_tokens
            ends = member.micro == len(member.run.steps[member.step])
            updates.append(Update(member.run.args, member.run.learning_rates[member.step]) if ends else None)
        if any(updates):
            self._step(updates)

    def _measure_start(self, slots: Sequence[int]) -> None:
        """Hold runs that begin against the reference's numbers that they will be measured with."""
        if not slots:
            return
        members = [self.members[k] for k in slots]
        with self._engine.adapters.only(slots) as adapters, self._autocast():
            gaps = measured_gaps(
                packed_policies(adapters),
                [m.numbers.held_out for m in members],
                [m.numbers.tokens.held_out for m in members],
                precision_of(self._base, members[0].run.args),
            )
        for member, gap in zip(members, gaps, strict=True):
            member.note(gap)

    def _look_at_start(self, member: Member, work: Work, found: Mapping[str, Tensor]) -> None:
        """Hold a run's first micro-batch, before its first step, against the reference's log-probs that it has."""
        member.begun = True
        rewards = [float(found[name]) for name in START_METRICS.values()]
        size = float(torch.cat(work.reference).abs().mean())
        pairs = [member.data.rows[i].ids for i in member.part.rows]
        reference = packed_policies(self._engine.adapters).reference
        with self._autocast():
            precision = precision_of(self._base, member.run.args)
            member.note(training_gap(rewards, member.run.args.beta, size, pairs, reference, precision))

    def _step(self, updates: Sequence[Update | None]) -> None:
        norms, sound = self._engine.step(updates, torch.stack([m.sound for m in self.members]))
        for k, member in enumerate(self.members):
            if updates[k] is not None:
                member.norm, member.sound = norms[k], member.sound & sound[k]
                member.step, member.micro = member.step + 1, 0

    def _precision(self) -> torch.dtype | None:
        """Of autocast, which is the same for all runs of a pack."""
        return torch.bfloat16 if self.members[0].run.args.bf16 else None

    def _log(self) -> None:
        """Add points to curves and report them; one wait for the device, whatever the number of runs."""
        logging = [m for m in self.members if m.logs]
        if not logging:
            return
        device = torch.stack([torch.cat([m.sums, m.norm[None], m.sound[None].to(m.sums.dtype)]) for m in logging])
        for member, (loss, margin, accuracy, norm, sound) in zip(logging, device.tolist(), strict=True):
            steps = member.step - member.logged
            values = {
                "loss": loss / steps,
                "grad_norm": norm,
                "learning_rate": member.run.learning_rates[member.step - 1],
                "reward_margin": margin / member.batches,
                "reward_accuracy": accuracy / member.batches,
            }
            member.step_seconds += [member.window / steps] * steps
            member.logged, member.batches, member.window = member.step, 0.0, 0.0
            member.sums = torch.zeros_like(member.sums)
            self._tell(member, values, sound=bool(sound))

    def _tell(self, member: Member, values: dict[str, float], *, sound: bool) -> None:
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad or not sound:
            what = f"{', '.join(bad)} not finite at" if bad else "a gradient was not finite by"
            member.end(Cause.NON_FINITE, f"{what} step {member.step}")
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        member.curve.append((member.step, finite))
        if self._desk.report(member.key, member.step, finite) is not Decision.CONTINUE:
            member.end(Cause.USER_STOP, f"stopped at step {member.step}")

    def _measure(self) -> None:
        """Evaluate the runs that are due, all in one go."""
        slots = [k for k, m in enumerate(self.members) if m.measures]
        if not slots:
            return
        started = time.perf_counter()
        due = [self.members[k] for k in slots]
        found = self._evaluate_or_tell(slots)
        seconds = (time.perf_counter() - started) / len(due)
        for member, measured in zip(due, found, strict=True):
            member.evaluation_seconds += seconds
            if isinstance(measured, NonFinite):
                member.end(Cause.NON_FINITE, str(measured))
            elif isinstance(measured, Exception):
                member.end(Cause.REFUSED, str(measured))
            else:
                member.measurements += [replace(m, step=member.step) for m in measured.measurements]
                member.samples = measured.samples

    def _evaluate_or_tell(self, slots: Sequence[int]) -> Sequence[Evaluation | Exception]:
        """Measure some of the runs; of each that cannot be measured, why, whatever the others are.

        Where memory or the machine fails, all of them are kept as they are: what is trained is not trained again.
        """
        try:
            return self.evaluate(slots)
        except Exception as error:
            if cause_of(error) is not Cause.REFUSED:
                for slot in slots:
                    self.keep_state(slot)
                raise
            if len(slots) > 1:
                return [found for slot in slots for found in self._evaluate_or_tell([slot])]
            traceback.print_exc()
            step = self.members[slots[0]].step
            return [RuntimeError(f"it cannot be measured after step {step}: {told(error)}")]

    def evaluate(self, slots: Sequence[int]) -> tuple[Evaluation | Unmeasured, ...]:
        """Measure some of the runs as they are now, in one go."""
        members = [self.members[k] for k in slots]
        with self._engine.adapters.only(slots) as adapters, self._autocast():
            return evaluate_all(
                packed_policies(adapters),
                self._tokenizer,
                [m.pairs for m in members],
                members[0].job.config.evaluation,
                [m.numbers for m in members],
            )

    def _autocast(self) -> torch.autocast:
        precision = self._precision()
        return torch.autocast(self._device.type, precision or torch.bfloat16, enabled=precision is not None)

    def _let_go(self) -> None:
        """Hand in the runs that end or pause here, and make room."""
        leaving = [k for k, m in enumerate(self.members) if m.leaves]
        for k in leaving:
            member = self.members[k]
            result = member.result()
            if member.job.keep_adapter and (result.cause is Cause.FINISHED or _is_unmeasured(member)):
                result = self._with_adapter(k, result)
            if result.cause is Cause.PAUSED:  # at a rung, from which it can go on by its state alone
                save_state(member.job.folder, member.state(self._engine.moments(k)))
            elif result.cause is Cause.USER_STOP:
                self.keep_state(k)
            result = keep_result(member.job.folder, result)
            if result.cause not in (Cause.PAUSED, Cause.USER_STOP):
                drop_state(member.job.folder)
            self._desk.finish(result)
        if leaving:
            self.take_out(leaving)

    def _with_adapter(self, slot: int, result: RunResult) -> RunResult:
        """The result beside its adapter; where that cannot be written, the numbers are kept, and say so."""
        member = self.members[slot]
        try:
            save_adapter(member, self._engine.adapters.read(slot))
        except Exception as error:
            traceback.print_exc()
            shutil.rmtree(member.job.folder / "adapter", ignore_errors=True)  # half of it is no adapter
            return result.model_copy(update={"facts": {**result.facts, UNSAVED_FACT: told(error)}})
        return result.model_copy(update={"adapter": "adapter"})

    def _check(self, member: Member) -> None:
        """`_compare`, where all that goes wrong with this model in a pack and not alone says that it trains alone."""
        try:
            self._compare(member)
        except Exception as error:
            if isinstance(error, Unpackable) or cause_of(error) is not Cause.REFUSED:
                raise
            raise Unpackable(f"the pack's way through this model meets {told(error)}") from error

    def _compare(self, member: Member) -> None:
        """Hold the pack's way through this model against the model's own, on a few rows, before anything is trained.

        An architecture that does something with positions, padding or windows that the layout does not know would
        train on other numbers; it is refused here instead.
        """
        micro = micro_batch(member.data.rows[:_CHECKED_PAIRS], self._device)
        batch = pack_batch([micro], self._device)
        model, precision = self._engine.adapters.model, self._precision()
        ids = batch.tokens[0][torch.from_numpy(micro.tokens_of).to(self._device)]
        with torch.no_grad(), self._autocast(), self._engine.adapters.off():
            with packed_rows(model):
                flat = token_log_probs(model, hidden_states(model, batch), batch.target)
            ours = batch.log_probs(0, flat).sum(1)
            logits = self._base(input_ids=ids, attention_mask=micro.attention_mask, use_cache=False).logits[:, :-1]
        theirs = (_chosen(logits, ids) * micro.completion_mask[:, 1:]).sum(1)
        dtype = precision or next(self._base.parameters()).dtype
        worst = float(((ours - theirs).abs() / (1 + theirs.abs())).max())
        if not worst <= _ROUNDING[dtype]:
            raise Unpackable(f"log-probs in the pack's layout are off by {worst:.2g} of their size")


def _is_unmeasured(member: Member) -> bool:
    """Whether a run was trained to its end and could not be measured there."""
    return member.cause is Cause.REFUSED and member.micro == 0 and member.step >= len(member.run.steps)


def _chosen(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probs [B, L-1] of the tokens that follow, from logits [B, L-1, V] and ids [B, L]."""
    wide = logits if logits.dtype is torch.float64 else logits.float()
    return wide.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
