"""The runs of a timed probe and their order; pure, knows nothing of stores, executors or time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from studies.checks.speed_probe import unlike_steps
from studies.design.points import axes, to_knobs, value_at
from studies.records import EvaluationConfig, RunConfig, Scalar
from studies.spec import ResolvedVariant, StudySpec, resolve_run
from studies.text.plural import so_many

# As little as the trainer's evaluation can be: what it finds is not kept.
_UNMEASURED = EvaluationConfig(prompts=2, max_new_tokens=1, pairs=2)


def probe_round(spec: StudySpec, arms: Mapping[str, ResolvedVariant], number: int) -> tuple[RunConfig, ...]:
    """One run of every variant, in the order in which round `number` (from 0) times them.

    All have the data of the study's first scenario and block, and in a round the same seed, its number, so that their
    batches are the same. Raises ValueError for a study without a probe.
    """
    if spec.probe is None:
        raise ValueError(f"study {spec.study} has no probe")
    return tuple(_config(spec, arms[name], number, spec.probe.steps) for name in _order(list(arms), number))


def _order(names: Sequence[str], number: int) -> list[str]:
    """The variants, begun one further in every second round, and each second round backwards.

    Over the two rounds of a pair a machine that gets slower or faster at a steady rate does the same to every variant.
    """
    first = number // 2 % len(names)
    turned = [*names[first:], *names[:first]]
    return turned[::-1] if number % 2 else turned


def _config(spec: StudySpec, arm: ResolvedVariant, number: int, steps: int) -> RunConfig:
    config = resolve_run(
        spec,
        arm,
        next(iter(spec.scenarios)),
        trial=0,
        knobs=_knobs(arm, {axis.name: value_at(axis.distribution, 0.5) for axis in axes(spec, arm)}),
        block=spec.runs.blocks[0],
        seed=number,
    )
    settings = {**config.settings, "max_steps": steps}
    return config.model_copy(update={"settings": settings, "evaluation": _UNMEASURED})


def _knobs(arm: ResolvedVariant, middle: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
    """The middle of the arm's space, which the variants share as far as they share the space: a step takes as long at
    any beta, and not at any rank. An arm of fixed points has its first.
    """
    return to_knobs(arm, middle) if middle else next(iter(arm.points), {})


def probe_line(spec: StudySpec, arms: Mapping[str, ResolvedVariant]) -> str:
    """What the probe will do, in a sentence; empty for a study without one."""
    probe = spec.probe
    if probe is None:
        return ""
    runs = probe.rounds * len(arms)
    ratio = "" if spec.baseline else "; without a baseline no ratio is told"
    unlike = unlike_steps(probe_round(spec, arms, 0))
    warning = (
        f" Warning: the timed runs differ in {', '.join(unlike)}, so that their pace is not that of the losses alone: "
        "give every variant the same, or take no speed of a loss from the table."
    )
    return (
        f"Then a probe times each variant alone on the machine, in turn: {so_many(probe.rounds, 'round')} of "
        f"{so_many(probe.steps, 'step')}, {so_many(runs, 'more run')} and {so_many(runs * probe.steps, 'step')}, "
        f"on the data of {next(iter(spec.scenarios))}{ratio}." + (warning if unlike else "")
    )
