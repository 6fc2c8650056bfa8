"""Checks of a study that need more than one of its keys: names, ranges, what can be compared, what would do nothing.

Every check gives problems with key path, value, rule and remedy; none stops at the first.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection

from studies.checks.controls import claim_problems, expectation_problems
from studies.checks.data import data, data_notices, data_problems, model
from studies.checks.judge import judge_problems
from studies.checks.objective import evaluation, objective
from studies.checks.rungs import rung_problems
from studies.checks.runs import how_much, replicate_problems, resources, run_problems, sampling
from studies.checks.space import inert_base, nothing_to_vary, spaces
from studies.checks.speed import probe_notices, probe_problems
from studies.losses import rules, table
from studies.schema.knob_problems import Problem, hints
from studies.schema.paths import place_problems
from studies.schema.scenarios import scenario_problems
from studies.schema.types import (
    StudySpec,
)
from studies.schema.variants import build_arm
from studies.study import Study

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_LONGEST_NAME = 64
_NAME_RULE = (
    f"must be a safe folder name: letters, digits, '.', '_', '+' and '-', a letter or digit first, at most "
    f"{_LONGEST_NAME} characters"
)


def check_study(spec: StudySpec, already: Collection[str] = (), *, only_read: bool = False) -> list[Problem]:
    """Every mistake in a study whose structure is right. `already`: paths whose mistakes are named; what follows
    from them is not named again. `only_read`: what it names need not be there.
    """
    built = {name: build_arm(spec, name) for name in spec.variants}
    study = Study(spec, {name: one.arm for name, one in built.items() if one.arm is not None})
    problems = [
        *_names(spec),
        *model(spec),
        *data(spec),
        *data_problems(spec),
        *([] if only_read else place_problems(spec)),
        *_output(spec),
        *_notify(spec),
        *spaces(spec),
        *(problem for one in built.values() for problem in one.problems),
        *inert_base(spec, built),
        *nothing_to_vary(study),
        *sampling(study),
        *resources(spec),
        *objective(study),
        *expectation_problems(spec),
        *claim_problems(spec),
        *evaluation(spec),
        *judge_problems(spec),
        *run_problems(spec),
        *replicate_problems(spec),
        *scenario_problems(spec, study.variants),
        *rung_problems(study),
        *probe_problems(spec),
    ]
    if not problems:  # counting runs takes a study that is sound
        problems = how_much(study)
    return [p for p in dict.fromkeys(problems) if not any(_follows(p.path, other) for other in already)]


def notices(spec: StudySpec) -> tuple[str, ...]:
    """What is right and may surprise, of the study as a whole; traps of one are in `ResolvedVariant.warnings`."""
    found = []
    for name, variant in spec.variants.items():
        for loss in variant.loss_type or (name,):
            if loss in table.RENAMED:
                found.append(f"variants.{name}: {table.RENAMED[loss][1]}")
    short = Counter(name[:10] for name in spec.variants)
    twins = [name for name in spec.variants if short[name[:10]] > 1]
    if twins:
        found.append(f"variants: {', '.join(twins)} do not differ in their first 10 characters, which tables show")
    if spec.sampler in ("tpe", "sobol+tpe") and spec.mode == "compare" and spec.budget.trials < 20:
        found.append(f"sampler: {spec.sampler} learns little from {spec.budget.trials} trials of a variant; 20 or more")
    if spec.scenarios and any((s.label_flip or 0.0) > 0.5 for s in spec.scenarios.values()):
        found.append("scenarios: a label_flip above 0.5 teaches the opposite of the preferences")
    return (*found, *probe_notices(spec), *data_notices(spec))


def _follows(path: str, other: str) -> bool:
    """Whether a mistake at `path` may only be a consequence of one already named at `other`."""
    steps, others = path.split("."), other.split(".")
    short = min(len(steps), len(others))
    return steps[:short] == others[:short]


def _names(spec: StudySpec) -> list[Problem]:
    named = [("study", spec.study)]
    named += [(f"variants.{name}", name) for name in spec.variants]
    named += [(f"scenarios.{name}", name) for name in spec.scenarios]
    problems = [
        Problem(path, f"{name!r} {_NAME_RULE}", rule=_NAME_RULE)
        for path, name in named
        if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME
    ]
    if not spec.variants:
        problems.append(Problem("variants", "is empty: name the losses to compare, such as {sigmoid: {}, ipo: {}}"))
    if not spec.scenarios:
        problems.append(Problem("scenarios", "is empty: leave it out for the data as they are"))
    if spec.baseline is not None and spec.baseline not in spec.variants:
        near, known = rules.suggest(spec.baseline, spec.variants), f"there are {', '.join(spec.variants)}"
        text = f"{spec.baseline!r} is no variant{near}; {known}"
        problems.append(Problem("baseline", text, "is no variant", hints(near, known)))
    if spec.trainer not in ("dpo", "formula") and not re.fullmatch(r"[\w.]+:\w+", spec.trainer):
        near = rules.suggest(spec.trainer, ("dpo", "formula"))
        rule = "must be dpo, formula or your own as module:Class"
        problems.append(Problem("trainer", f"{spec.trainer!r} {rule}{near}", rule, hints(near)))
    return problems


def _notify(spec: StudySpec) -> list[Problem]:
    if spec.notify is None or (spec.notify.command and spec.notify.command[0].strip()):
        return []
    return [Problem("notify.command", "names no command: write its words, as [notify-send, done], or leave notify out")]


def _output(spec: StudySpec) -> list[Problem]:
    """A folder for runs that would lie outside of the working folder, or could not be made."""
    folder = spec.output.folder
    steps = folder.split("/")
    if all(_NAME.fullmatch(step) and len(step) <= _LONGEST_NAME for step in steps):
        return []
    return [
        Problem(
            "output.folder",
            f"{folder!r} must lie below the folder that sweeper is started in: names such as runs or out/runs, without "
            "a leading '/', '~' or '..'. To keep runs elsewhere start sweeper there, or make runs a link",
        )
    ]
