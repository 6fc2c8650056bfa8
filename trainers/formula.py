"""A trainer that answers from a formula in microseconds, for tests, plans and docs; knows no model, data or torch.

Nothing it says is true of any loss: the numbers only have the shape of real ones, so that the sweep, the store and
the tables meet an optimum, noise, over-optimisation and divergence without a training. With

    b = log10(beta / shape.beta)                      distance from the loss's best beta, in decades
    l = log10(learning_rate / shape.learning_rate)    and from its best learning rate
    s = label_smoothing - label_flip                  smoothing is best where it equals the share of flipped pairs
    p = (1 - exp(-3 t)) / (1 - exp(-3))               progress after a share t of the steps

a run of one loss has, with a noise of block and seed on its peak,

    ranking_gain = p * (1 - 2 * label_flip) * (shape.peak - .03 b^2 - .05 l^2) - .1 s^2
    kl           = 6 p * 10^(l - b / 2)               nats; grows with the learning rate, shrinks with beta
    gold         = 10 ranking_gain - .02 kl           so that too much KL costs reward

and a run above the learning rate `shape.diverges_above` turns non-finite half way. A mixture has the mean of the shapes
of its losses (of beta and learning rate, the geometric mean), weighted by `loss_weights`, and diverges where one of
them does. Its pace is that of the slowest, with a noise of the seed, which all runs of that seed share, and one of
its own.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from studies.records import Cause, Measurement, RunConfig, RunResult
from trainers.interface import Decision, Job, WorkQueue, pack_key
from trainers.run_folder.results import read_result, write_result

STEPS = 12
BLOCK_NOISE = 0.01
SEED_NOISE = 0.005
ROUND_NOISE, PACE_NOISE = 0.2, 0.01  # of the logarithm of the pace: a machine's mood, and a run's own
DEFAULTS: Mapping[str, float] = {"beta": 0.1, "learning_rate": 1e-6, "label_smoothing": 0.0, "max_steps": STEPS}


@dataclass(frozen=True)
class Shape:
    """Where a loss is best, how good it is there (a share of pairs), above which learning rate it diverges, and its
    steps a second.
    """

    peak: float
    beta: float
    learning_rate: float
    diverges_above: float = math.inf
    pace: float = 50.0


SHAPES: Mapping[str, Shape] = {
    "sigmoid": Shape(peak=0.20, beta=0.1, learning_rate=1e-5),
    "hinge": Shape(peak=0.17, beta=0.3, learning_rate=1e-5),
    "ipo": Shape(peak=0.19, beta=1.0, learning_rate=3e-6, diverges_above=1e-3),
    "robust": Shape(peak=0.18, beta=0.1, learning_rate=2e-5, diverges_above=3e-3, pace=40.0),
    "sft": Shape(peak=0.05, beta=0.1, learning_rate=2e-5),
}
OTHER = Shape(peak=0.15, beta=0.2, learning_rate=1e-5, diverges_above=1e-2)


class FormulaTrainer:
    """Answers every run from the formula of this module; the same config gives the same numbers on any machine."""

    def train(self, job: Job, desk: WorkQueue) -> None:
        """See `Trainer.train`. `max_steps` is the number of reported steps (12 where it is not given or below 1).

        Jobs train together as in a pack: step by step in turn, and one that ends makes room for another.
        """
        pack = [_run(job, desk)]
        while pack:
            while len(pack) < job.placement.together and (more := desk.take(pack_key(job.config))) is not None:
                pack.append(_run(more, desk))
            pack = [run for run in pack if next(run, False)]


def _run(job: Job, desk: WorkQueue) -> Iterator[bool]:
    """Train one run, a step at each `next`, and hand it in at the end."""
    config, key = job.config, job.config.key
    shape = _shape(config.settings)
    shape = replace(shape, peak=shape.peak + _noise(config))
    steps = _steps(config)
    diverges_at = steps // 2 + 1 if _number(config, "learning_rate") > shape.diverges_above else None
    kept = read_result(job.folder)
    goes_on = kept is not None and kept.key == key and kept.cause is Cause.PAUSED
    curve: list[tuple[int, Mapping[str, float]]] = list(kept.curve) if kept is not None and goes_on else []
    last = min(job.pause_at or steps, steps)
    cause, message = (Cause.PAUSED, f"paused after step {last} of {steps}") if last < steps else (Cause.FINISHED, "")
    for step in range(len(curve) + 1, last + 1):
        metrics = _training_metrics(config, shape, step / steps)
        if step == diverges_at:
            metrics = {**metrics, "loss": math.nan, "grad_norm": math.nan}
        curve.append((step, metrics))
        decision = desk.report(key, step, metrics)
        if step == diverges_at:
            cause, message = Cause.NON_FINITE, f"loss is not finite at step {step}"
            break
        if decision is Decision.STOP:
            cause, message = Cause.USER_STOP, f"stopped after step {step} of {steps}"
            break
        yield True
    result = RunResult(
        key=key,
        cause=cause,
        message=message,
        measurements=_measurements(config, shape, steps, len(curve)),
        curve=tuple(curve),
        facts={"trainer": "formula", "steps": len(curve)},
    )
    _hand_in(job, result, desk)


def _hand_in(job: Job, result: RunResult, desk: WorkQueue) -> None:
    write_result(job.folder, result)
    desk.finish(result)


def _shape(settings: Mapping[str, Any]) -> Shape:
    """The shape of the run's loss, or of its mixture."""
    losses = settings.get("loss_type", "sigmoid")
    shapes = [SHAPES.get(name, OTHER) for name in ([losses] if isinstance(losses, str) else losses)]
    weights = settings.get("loss_weights") or [1.0] * len(shapes)
    parts = [(weight / sum(weights), shape) for weight, shape in zip(weights, shapes, strict=True)]
    return Shape(
        peak=sum(share * shape.peak for share, shape in parts),
        beta=math.prod(shape.beta**share for share, shape in parts),
        learning_rate=math.prod(shape.learning_rate**share for share, shape in parts),
        diverges_above=min(shape.diverges_above for shape in shapes),
        pace=min(shape.pace for shape in shapes),
    )


def _number(config: RunConfig, name: str) -> float:
    """A setting as a number, or its default."""
    return float(config.settings.get(name, DEFAULTS[name]))


def _steps(config: RunConfig) -> int:
    """The number of steps that the run reports."""
    steps = int(_number(config, "max_steps"))
    return steps if steps > 0 else STEPS


def _progress(share: float) -> float:
    """How much of what the run will learn is learned after this share of its steps, 0 to 1."""
    return (1 - math.exp(-3 * share)) / (1 - math.exp(-3))


def _noise(config: RunConfig) -> float:
    """What the draw of the data (the same for all settings of a block) and that of the seed add to the peak."""
    block = random.Random(f"block {config.block}").gauss(0, BLOCK_NOISE)
    own = random.Random(f"run {config.block} {config.seed} {sorted(config.settings.items())}")
    return block + own.gauss(0, SEED_NOISE)


def _pace(config: RunConfig, shape: Shape) -> float:
    """Steps a second: the loss's own, times what the machine was like at that seed, times the run's own noise."""
    mood = random.Random(f"pace {config.seed}").gauss(0, ROUND_NOISE)
    own = random.Random(f"pace {config.key}").gauss(0, PACE_NOISE)
    return shape.pace * math.exp(mood + own)


def _distance(config: RunConfig, shape: Shape) -> tuple[float, float]:
    """`b` and `l` of the module's formula: decades from the best beta and from the best learning rate."""
    b = math.log10(_number(config, "beta") / shape.beta)
    return b, math.log10(_number(config, "learning_rate") / shape.learning_rate)


def _ranking_gain(config: RunConfig, shape: Shape, share: float) -> float:
    """The module's formula for ranking_gain after a share of the steps."""
    from_beta, from_rate = _distance(config, shape)
    flip = config.data.label_flip
    smoothing = _number(config, "label_smoothing") - flip
    learned = (1 - 2 * flip) * (shape.peak - 0.03 * from_beta**2 - 0.05 * from_rate**2)
    return _progress(share) * learned - 0.1 * smoothing**2


def _kl(config: RunConfig, shape: Shape, share: float) -> float:
    """The module's formula for kl, nats per sequence, after a share of the steps."""
    from_beta, from_rate = _distance(config, shape)
    return 6 * _progress(share) * 10 ** (from_rate - from_beta / 2)


def _training_metrics(config: RunConfig, shape: Shape, share: float) -> dict[str, float]:
    """What a trainer logs at a step; loss and reward margin are scaled by beta, as TRL's are."""
    margin = _number(config, "beta") * 2 * math.sqrt(_kl(config, shape, share))
    return {
        "loss": math.log1p(math.exp(-margin)),
        "grad_norm": math.exp(-margin),
        "learning_rate": _number(config, "learning_rate") * (1 - share),
        "reward_margin": margin,
        "reward_accuracy": _share(0.5 + _ranking_gain(config, shape, share)),
    }


def _share(value: float) -> float:
    """`value` as a share: within 0 and 1."""
    return min(1.0, max(0.0, value))


def _measurements(config: RunConfig, shape: Shape, steps: int, done: int) -> tuple[Measurement, ...]:
    """The evaluations that the config asks for up to the step `done`, the last one at the end of training, where the
    cost of the run is told too.
    """
    shares = sorted({*config.evaluation.at, 1.0})
    measured = [share for share in shares if round(share * steps) <= done]
    evaluations = [m for share in measured for m in _evaluation(config, shape, share, round(share * steps))]
    if done < steps:
        return tuple(evaluations)
    pace = _pace(config, shape)
    cost = {
        "steps_per_second": pace,
        "tokens_per_second": pace * 200,
        "peak_memory": 100.0,
        "train_seconds": steps / pace,
        "evaluation_seconds": 0.1 * len(shares),
    }
    return (*evaluations, *(Measurement(name, value, step=steps) for name, value in cost.items()))


def _evaluation(config: RunConfig, shape: Shape, share: float, step: int) -> list[Measurement]:
    """One evaluation; the errors are those of as many pairs and prompts as the config asks for."""
    gain = _ranking_gain(config, shape, share)
    kl = _kl(config, shape, share)
    gold = 10 * gain - 0.02 * kl
    margin = 2 * math.sqrt(kl)
    per_pair = 1 / math.sqrt(config.evaluation.pairs or 256)
    per_prompt = 1 / math.sqrt(config.evaluation.prompts)
    tokens = 12.0
    return [
        Measurement("gold", gold, per_prompt, step),
        Measurement("gold_per_token", gold / tokens, per_prompt / tokens, step),
        Measurement("kl", kl, 0.5 * kl * per_prompt, step),
        Measurement("kl_per_token", kl / tokens, 0.5 * kl * per_prompt / tokens, step),
        Measurement("margin", margin, margin * per_pair, step),
        Measurement("chosen_shift", 0.3 * margin, 0.3 * margin * per_pair, step),
        Measurement("rejected_shift", -0.7 * margin, 0.7 * margin * per_pair, step),
        Measurement("margin_share", _share(0.5 + 0.1 * (margin - 2.0)), 0.5 * per_pair, step),
        Measurement("accuracy", _share(0.5 + gain), 0.5 * per_pair, step),
        Measurement("ranking_gain", gain, 0.5 * per_pair, step),
        Measurement("length_ratio", 1 + 0.01 * kl, 0.1 * per_prompt, step),
        Measurement("entropy", 2 * math.exp(-0.02 * kl), 0.1 * per_prompt, step),
        Measurement("distinct", 0.8 * math.exp(-0.02 * kl), 0.1 * per_prompt, step),
        Measurement("train_accuracy", _share(0.55 + gain), 0.5 * per_pair, step),
    ]
