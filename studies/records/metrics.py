"""What is measured of a run: names, units, directions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Bumped whenever a number that `trainers/evaluation/evaluate.py` reports would change for the same adapter: behind the
# point where it changes by rounding alone, as it does from one machine to the next. Such versions are one measurer.
EVALUATOR = "evaluator-3.1"


# Of format 1. Stands in every run's key, as it did when the evaluator belonged to it: a newer one makes no other run.
FIRST_EVALUATOR = "evaluator-3"


@dataclass(frozen=True)
class Metric:
    """A named number of a run. `comparable` says whether it means the same for every loss and beta; `cost`, that it is
    what the run took of the machine, which differs between runs that are equal in all else.
    """

    unit: str
    comparable: bool
    better: str | None
    what: str
    cost: bool = False


METRICS: Mapping[str, Metric] = {
    "gold": Metric("gold", True, "maximize", "gold reward of samples, by the data or a judge, mean over prompts"),
    "gold_per_token": Metric("gold/token", True, "maximize", "gold reward of samples over their tokens"),
    "win_rate": Metric(
        "share", True, "maximize", "samples that the data or a judge puts above the untrained model's, ties 1/2"
    ),
    "lc_win_rate": Metric(
        "share", True, "maximize", "win_rate at equal length: from a logistic fit on the difference of lengths"
    ),
    "kl": Metric("nats/sequence", True, "minimize", "sequence KL to the reference on samples, Rao-Blackwellised"),
    "kl_per_token": Metric("nats/token", True, "minimize", "kl over the mean length of the samples"),
    "margin": Metric("nats", True, "maximize", "beta-free log-ratio margin on held-out pairs"),
    "margin_share": Metric("share", True, "maximize", "held-out pairs whose margin is at least evaluate.margin"),
    "sign_accuracy": Metric(
        "share",
        True,
        "maximize",
        "single held-out answers told right: good ones more likely than at first, bad less",
    ),
    "chosen_shift": Metric("nats", True, None, "log-ratio of the chosen side on held-out pairs"),
    "rejected_shift": Metric("nats", True, None, "log-ratio of the rejected side on held-out pairs"),
    "accuracy": Metric("share", True, "maximize", "held-out pairs ranked right relative to the reference, ties 1/2"),
    "ranking_gain": Metric(
        "share", True, "maximize", "held-out pairs ranked right by length-normalised log-prob, less the reference's"
    ),
    "length_ratio": Metric("ratio", True, None, "mean length of samples over the reference's"),
    "entropy": Metric("nats/token", True, None, "entropy of the policy along its own samples"),
    "distinct": Metric("share", True, "maximize", "distinct bigrams over bigrams in all samples"),
    "train_accuracy": Metric("share", True, None, "accuracy on a fixed part of the training pairs, as labelled"),
    "length_baseline": Metric("share", True, None, "accuracy of 'pick the longer answer' on held-out pairs"),
    "steps_per_second": Metric("1/s", True, "maximize", "optimizer steps a second, first steps dropped", True),
    "tokens_per_second": Metric("1/s", True, "maximize", "non-padding tokens trained a second", True),
    "peak_memory": Metric(
        "MiB", True, "minimize", "peak memory: of the device on a GPU, of the process on a CPU", True
    ),
    "train_seconds": Metric("s", True, "minimize", "wall time of training", True),
    "evaluation_seconds": Metric("s", True, None, "wall time of the evaluations", True),
    "loss": Metric("loss", False, "minimize", "training loss as TRL logs it; its scale depends on loss and beta"),
    "eval_loss": Metric("loss", False, "minimize", "TRL's evaluation loss; its scale depends on loss and beta"),
    "grad_norm": Metric("norm", False, None, "gradient norm before clipping"),
    "learning_rate": Metric("1", True, None, "learning rate at the step"),
    "reward_margin": Metric("beta*nats", False, None, "rewards/margins as TRL logs them; scaled by beta"),
    "reward_accuracy": Metric("share", False, None, "rewards/accuracies as TRL logs them; ties count as wrong"),
}


COSTS = frozenset(name for name, metric in METRICS.items() if metric.cost)
JUDGED = frozenset({"gold", "gold_per_token", "win_rate", "lc_win_rate"})


"""Metrics that hang on who judges samples, and on the evaluator that draws them."""


MEASURED = JUDGED | {
    *("kl", "kl_per_token", "margin", "margin_share", "chosen_shift", "rejected_shift", "accuracy", "ranking_gain"),
    *("sign_accuracy", "length_ratio", "entropy", "distinct", "train_accuracy", "length_baseline"),
}


"""Metrics that the evaluator gives. The others are what a training costs and logs."""


@dataclass(frozen=True)
class Measurement:
    """One measured number of a run.

    `error` is the standard error over evaluation samples, where there is one; `halves` the same number on each of two
    fixed halves of the samples, so that what is chosen by one can be read off the other.
    """

    name: str
    value: float
    error: float | None = None
    step: int = 0
    halves: tuple[float, float] | None = None


def evaluator() -> str:
    """The version of the measurements that this version of the code makes."""
    return EVALUATOR
