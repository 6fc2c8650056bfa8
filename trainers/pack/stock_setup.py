"""One run as stock TRL sets it up, for a pack to train: initial adapter, batches, learning rates and TRL's own loss.

TRL's `DPOTrainer` is really constructed, on the real base, so that seeds, checks, batch order and schedules are its
own; only its loop is not used. Knows nothing of other runs.
"""

from __future__ import annotations

import copy
import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

import torch
from peft import PeftConfig
from torch import Tensor
from transformers import SchedulerType, set_seed
from trl import DPOConfig, DPOTrainer

from studies.losses.table import couple_rows
from trainers.components.outcome import START_METRICS
from trainers.models.random_numbers import go_on_from, random_numbers, same_numbers
from trainers.multi_lora.drawing import Drawing
from trainers.multi_lora.flat import Adapter, Unpackable, read_adapter


class Part(NamedTuple):
    """A micro-batch, or a part of one: places in the training rows, and its share of the micro-batch, which has 1, and
    of the optimizer step, which has 1 too.
    """

    rows: tuple[int, ...]
    of_micro_batch: float
    of_step: float


Step = tuple[Part, ...]
"""What goes through the model for one optimizer step."""

_FUSED: Final = "adamw_torch_fused"
_ADAMW = ("adamw_torch", _FUSED)
_HALF: Final = (torch.bfloat16, torch.float16)
# Schedules that look at results cannot be written down before training.
_LOOKING = (SchedulerType.REDUCE_ON_PLATEAU, "greedy")


@dataclass(frozen=True)
class PreparedRun:
    """What a pack needs of one run. `learning_rates` [steps]: of each optimizer step; `loss`: see `StockLoss`."""

    args: DPOConfig
    adapter: Adapter
    peft_config: PeftConfig
    steps: tuple[Step, ...]
    learning_rates: tuple[float, ...]
    loss: StockLoss

    def rows(self, until: int | None) -> list[int]:
        """The training rows of the steps before `until` (None: of all), in their order."""
        return sorted({row for step in self.steps[: until or None] for part in step for row in part.rows})


class Initial(NamedTuple):
    """What a run begins with. `peft_config`: as injecting leaves it; `decays`: weight decay acts on all of the adapter,
    where it acts.
    """

    adapter: Adapter
    peft_config: PeftConfig
    decays: bool


def set_up(
    make: Callable[[PeftConfig], DPOTrainer], config: PeftConfig, seed: int, drawings: list[Drawing], *, inject: bool
) -> tuple[DPOTrainer, Initial]:
    """A constructed trainer, and what its run begins with.

    Most of a set-up goes by while PEFT injects an adapter: it wraps every layer of the base, to be unwrapped later. A
    pack wants no more of it than the adapter's first random numbers. So PEFT injects for the first run of a
    configuration alone. If the same numbers can be drawn without it, to the bit, `drawings` keeps how, and later runs
    draw theirs beside a trainer whose model carries no adapter. `inject`: this run needs the model with its adapter in
    place all the same. Raises Unpackable.
    """
    known = next((drawing for drawing in drawings if drawing.asked == config), None)
    if known is not None and not inject:
        set_seed(seed)  # as the trainer does before PEFT draws, and again at its end
        adapter = dict(known.draw())
        return make(known.empty_config), Initial(adapter, copy.deepcopy(known.injected), True)
    asked = copy.deepcopy(config)
    trainer = make(config)
    initial = _read(trainer)
    if known is None and initial.decays:
        drawing = Drawing.of(asked, trainer.model, initial.adapter)
        if _is_drawn(drawing, initial.adapter, seed):
            drawings.append(drawing)
    return trainer, initial


def _read(trainer: DPOTrainer) -> Initial:
    """From a model that carries the adapter. Raises Unpackable."""
    adapter, names = read_adapter(trainer.model), set(trainer.get_decay_parameter_names(trainer.model))
    decays = all(n in names for n, p in trainer.model.named_parameters() if p.requires_grad)
    return Initial(adapter, trainer.model.peft_config["default"], decays)


def _is_drawn(drawing: Drawing, adapter: Adapter, seed: int) -> bool:
    """Whether a trainer just constructed has drawn its adapter so, right behind its seed, and ended with the seed set
    anew: then what follows draws the same, whoever drew the adapter.
    """
    ended = random_numbers()
    set_seed(seed)
    try:
        return same_numbers(random_numbers(), ended) and drawing.redraws(adapter)
    finally:
        go_on_from(ended)


def prepare(trainer: DPOTrainer, initial: Initial, compute: type[DPOTrainer], split: int = 1) -> PreparedRun:
    """Take from a constructed trainer what a pack needs. Consumes random numbers as its `train` would.

    `split`: into how many parts a micro-batch is taken, where its loss allows.

    Raises Unpackable for settings whose meaning lies in the stock loop.
    """
    args: DPOConfig = trainer.args
    _require_packable(args)
    adapter = initial.adapter
    if args.optim != _FUSED and any(lora.a.dtype in _HALF for lora in adapter.values()):
        raise Unpackable(f"{args.optim} rounds adapters in half precision after every operation, {_FUSED} once a step")
    if args.weight_decay and not initial.decays:
        raise Unpackable("weight decay acts on a part of the adapter only")
    steps = _steps(trainer, 1 if couple_rows(trainer.loss_types) else split)
    return PreparedRun(
        args=args,
        adapter=adapter,
        peft_config=initial.peft_config,
        steps=steps,
        learning_rates=_learning_rates(trainer, len(steps)),
        loss=StockLoss(trainer, compute),
    )


def _require_packable(args: DPOConfig) -> None:
    optim = str(getattr(args.optim, "value", args.optim))
    schedule = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
    sampling = getattr(args.train_sampling_strategy, "value", args.train_sampling_strategy)
    reasons = {
        f"optim is {optim}": optim not in _ADAMW,
        f"lr_scheduler_type is {schedule}": schedule in [getattr(s, "value", s) for s in _LOOKING],
        f"train_sampling_strategy is {sampling}": sampling not in ("random", "sequential"),
        "use_weighting needs the whole distribution of every token": args.use_weighting,
        "dropout draws from the global random state": not args.disable_dropout,
        "fp16 scales each run's loss by its own history": args.fp16,
        "activations are offloaded": args.activation_offloading,
        "neftune_noise_alpha draws from the global random state": bool(args.neftune_noise_alpha),
        "torch_compile wraps the model": args.torch_compile,
        "the data loader has workers of its own": args.dataloader_num_workers > 0,
        "optim_args or optim_target_modules are given": bool(args.optim_args or args.optim_target_modules),
        "a router's auxiliary loss couples rows": bool(args.router_aux_loss_coef),
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise Unpackable("; ".join(found))


def _steps(trainer: DPOTrainer, split: int) -> tuple[Step, ...]:
    """All steps of the training, by the stock data loader over row numbers instead of rows.

    As `Trainer._inner_training_loop` and `_run_epoch` walk them: accumulation ends with the epoch.
    """
    args = trainer.args
    rows, collator = trainer.train_dataset, trainer.data_collator
    trainer.train_dataset, trainer.data_collator = list(range(len(rows))), list
    try:
        loader = trainer.get_train_dataloader()
        epochs, updates, *_, in_epoch, most = trainer.set_initial_training_values(args, loader)
        steps: list[Step] = []
        for epoch in range(epochs):
            if hasattr(loader, "set_epoch"):
                loader.set_epoch(epoch)
            batches = iter(loader)
            last = in_epoch % args.gradient_accumulation_steps or args.gradient_accumulation_steps
            for update in range(updates):
                count = last if update == updates - 1 else args.gradient_accumulation_steps
                steps.append(_parts([tuple(b) for b in itertools.islice(batches, count)], split))
                if len(steps) == most:
                    return tuple(steps)
        return tuple(steps)
    finally:
        trainer.train_dataset, trainer.data_collator = rows, collator


def _parts(micro_batches: Sequence[tuple[int, ...]], split: int) -> Step:
    """The parts of the micro-batches of a step, with the weights that stock gradient accumulation gives them."""
    found = []
    for rows in micro_batches:
        size = -(-len(rows) // split)
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            share = len(part) / len(rows)
            found.append(Part(part, share, share / len(micro_batches)))
    return tuple(found)


def _learning_rates(trainer: DPOTrainer, steps: int) -> tuple[float, ...]:
    """The learning rate of every step, by the stock scheduler over an optimizer that trains nothing."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=trainer.args.learning_rate)
    scheduler = trainer.create_scheduler(steps, optimizer)
    rates = []
    for _ in range(steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return tuple(rates)


CURVE_METRICS: Final[Mapping[str, str]] = {"rewards/margins": "reward_margin", "rewards/accuracies": "reward_accuracy"}
METRICS: Final = {**CURVE_METRICS, **START_METRICS}


class StockLoss:
    """TRL's own loss of one run (`DPOTrainer._compute_loss`), on log-probabilities that the pack has computed.

    `_compute_loss` takes the model as an argument and only calls it for a fused output, so the model given to it hands
    out the pack's numbers. Its metrics stay on the device: what TRL reads with `.item()`, a wait for the device each,
    is kept as a tensor, and what no curve shows is not computed.
    """

    def __init__(self, trainer: DPOTrainer, compute: type[DPOTrainer]) -> None:
        head = copy.copy(trainer)
        head.model = SimpleNamespace(training=True)
        head.accelerator = _OnDevice(trainer.accelerator.device)
        head.precompute_ref_logps = True
        head.callback_handler = head.optimizer = head.lr_scheduler = head.train_dataset = head.ref_model = None
        head.model_wrapped = None
        if head.aux_loss_enabled:
            raise Unpackable("a router's auxiliary loss couples rows")
        self._head = head
        self._compute: Callable[..., Tensor] = compute._compute_loss

    def __call__(
        self, log_probs: Tensor, attention_mask: Tensor, completion_mask: Tensor, reference: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss (a scalar) of a micro-batch and its metrics, of the curve and of the start.

        `log_probs` [2n, T-1], masks [2n, T], reference log-probs of chosen and rejected completions [n] each.
        """
        self._head._metrics = {"train": defaultdict(list)}
        self._head._total_train_tokens = 0
        inputs = {
            "input_ids": completion_mask,  # only its shape is looked at
            "attention_mask": attention_mask,
            "completion_mask": completion_mask,
            "ref_chosen_logps": reference[0],
            "ref_rejected_logps": reference[1],
        }
        nothing = _Nothing()
        output = SimpleNamespace(log_probs=log_probs, entropy=nothing, mean_logits=nothing, is_top1=nothing)
        loss = self._compute(self._head, lambda **_: output, inputs, False)
        metrics = self._head._metrics["train"]
        return loss, {ours: metrics[theirs][-1] for theirs, ours in METRICS.items()}


class _Nothing:
    """Stands for a tensor that no one looks at: whatever is done with it gives it again."""

    def _same(self, *_: Any, **__: Any) -> _Nothing:
        return self

    __getitem__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __and__ = __floordiv__ = _same
    __add__ = __radd__ = detach = sum = mean = item = _same

    def chunk(self, count: int, dim: int = 0) -> tuple[_Nothing, ...]:
        return (self,) * count

    def __gt__(self, _: Any) -> bool:
        return True


class _Kept:
    """A metric's tensor, read later: `.item()` leaves it on the device."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def mean(self) -> _Kept:
        return _Kept(self._tensor.mean())

    def item(self) -> Tensor:
        return self._tensor

    def sum(self) -> _Nothing:
        """Only counts of tokens are summed, which the pack knows already."""
        return _Nothing()


class _OnDevice:
    """What `_compute_loss` asks of an accelerator in a single process."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def gather(self, value: Tensor) -> _Kept:
        return _Kept(value)

    def gather_for_metrics(self, _: Any) -> _Nothing:
        return _Nothing()
