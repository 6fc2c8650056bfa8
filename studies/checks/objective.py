"""Checks of what runs are compared by."""

from __future__ import annotations

from collections.abc import Mapping

from studies.losses import rules, table
from studies.records import JUDGED, METRICS
from studies.records.paths import READABLE
from studies.records.world_units import SOURCE, tasks
from studies.schema.knob_problems import Problem
from studies.schema.types import (
    ResolvedVariant,
    StudySpec,
)
from studies.study import Study

_FEWEST_ON_THE_WAY = 4  # evaluations, of which the last is the end


def objective(study: Study) -> list[Problem]:
    spec = study.spec
    problems = []
    name = spec.objective.metric
    metric = METRICS.get(name)
    if metric is None:
        problems.append(Problem("objective.metric", _unknown_metric(name)))
    elif not metric.comparable and _scale_differs(study.variants):
        problems.append(
            Problem(
                "objective.metric",
                f"{name!r} cannot be compared across losses, betas or weights ({metric.what}): use ranking_gain, "
                "margin, or gold with embedded data",
            )
        )
    elif metric.better is None and "direction" not in spec.objective.model_fields_set:
        problems.append(
            Problem("objective.direction", f"{name} has no better end of its own: say maximize or minimize")
        )
    has_gold = spec.data.path == "embedded" or spec.evaluation.judge is not None or spec.trainer != "dpo"
    bounds = {f"objective.constraints.{bound}": bound for bound in spec.objective.constraints}
    problems += [
        Problem(
            path,
            f"{judged!r} needs data with a gold reward, which only embedded has, or a judge: use ranking_gain, or "
            "name a reward model or a function under evaluate.judge",
        )
        for path, judged in {"objective.metric": name, **bounds}.items()
        if judged in JUDGED and not has_gold
    ]
    if spec.evaluation.judge is not None and spec.evaluation.judge.pairwise is not None:
        problems += [
            Problem(path, f"{judged!r} is no number that a pairwise judge gives: use win_rate or lc_win_rate")
            for path, judged in {"objective.metric": name, **bounds}.items()
            if judged in ("gold", "gold_per_token")
        ]
    tie = spec.objective.tie_within
    if tie is not None and not 0.0 < tie < float("inf"):
        problems.append(
            Problem("objective.tie_within", f"{tie:g} must be a positive number in the metric's unit, or left out")
        )
    problems += _at_drift(spec)
    for bound, limits in spec.objective.constraints.items():
        path = f"objective.constraints.{bound}"
        if bound not in METRICS:
            problems.append(Problem(path, _unknown_metric(bound)))
        wrong = sorted(set(limits) - {"min", "max"})
        if wrong or not limits:
            problems.append(Problem(path, f"{dict(limits)} must hold min, max or both"))
        elif limits.get("min", float("-inf")) > limits.get("max", float("inf")):
            problems.append(Problem(path, f"min {limits['min']:g} is above max {limits['max']:g}"))
    return problems


def _at_drift(spec: StudySpec) -> list[Problem]:
    """A drift that no metric can be read at."""
    drift, path = spec.objective.at_drift, "objective.at_drift"
    if drift is None:
        return []
    if not 0.0 < drift < float("inf"):
        return [Problem(path, f"{drift:g} must be a positive number of nats a sequence")]
    problems = []
    worth = tasks()[0].oracle
    if spec.data.path == SOURCE and spec.objective.metric == "gold" and f"{drift:g}" not in worth:
        text = f"{drift:g} must be one of {', '.join(worth)} nats, at which it is known what gold is possible"
        problems.append(Problem(path, text))
    if spec.objective.metric not in READABLE:
        known = ", ".join(sorted(READABLE))
        problems.append(Problem(path, f"{spec.objective.metric} cannot be read on the way; {known} can be"))
    if spec.trainer == "dpo" and len(set(spec.evaluation.at)) < _FEWEST_ON_THE_WAY:
        text = "needs evaluations on the way: give at least four shares of the training, as in evaluate: {at: "
        problems.append(Problem(path, f"{text}[0.1, 0.18, 0.32, 0.56, 1.0]}}"))
    if spec.rungs is not None:
        problems.append(Problem(path, "beside rungs, which stop runs on the way: leave one of the two out"))
    budgets = [c for c in (spec.confirm, *(s.confirm for s in spec.scenarios.values())) if c is not None and c.kl]
    if budgets or "kl" in spec.objective.constraints:
        problems.append(Problem(path, "beside a bound on kl at the end of training: leave one of the two out"))
    return problems


def _unknown_metric(name: str) -> str:
    comparable = [metric for metric, about in METRICS.items() if about.comparable]
    return f"{name!r} is no measurement{rules.suggest(name, METRICS)}; there are {', '.join(comparable)}"


def _scale_differs(arms: Mapping[str, ResolvedVariant]) -> bool:
    """Whether losses, or knobs that scale a loss, differ between trials of the study."""
    if len({arm.losses for arm in arms.values()}) > 1 or any(arm.balance for arm in arms.values()):
        return True
    scaling = {*table.DEFAULTS, "loss_weights"}
    fixed = {tuple(str(arm.settings.get(knob)) for knob in sorted(scaling)) for arm in arms.values()}
    varied = any(
        knob.partition(".")[0] in scaling
        for arm in arms.values()
        for knob in [*arm.space, *(k for p in arm.points for k in p)]
    )
    return varied or len(fixed) > 1


def evaluation(spec: StudySpec) -> list[Problem]:
    what = spec.evaluation
    problems = [
        Problem(f"evaluate.{name}", f"{value} must be at least 1")
        for name in ("prompts", "max_new_tokens", "pairs", "batch_size")
        if (value := getattr(what, name)) is not None and value < 1
    ]
    if not 0.0 < what.margin < float("inf"):
        problems.append(Problem("evaluate.margin", f"{what.margin:g} must be a number of nats above 0"))
    if not what.at:
        problems.append(Problem("evaluate.at", "is empty: 1.0 measures at the end"))
    problems += [
        Problem("evaluate.at", f"{share:g} must be a share of the training, above 0 and at most 1")
        for share in what.at
        if not 0.0 < share <= 1.0
    ]
    return problems
