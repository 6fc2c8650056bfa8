"""Checks of a study that need more than one of its keys: names, ranges, what can be compared, what would do nothing.

Every check gives problems with key path, value, rule and remedy; none stops at the first.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from math import prod

from studies.checks.controls import expectation_problems
from studies.checks.data import data_notices, data_problems
from studies.checks.judge import judge_problems
from studies.checks.rungs import rung_problems
from studies.checks.speed_probe import probe_problems
from studies.losses import table
from studies.records import METRICS
from studies.schema.paths import place_problems
from studies.schema.scenarios import arms_in, in_scenario, scenario_problems
from studies.schema.types import (
    MOST_AXES,
    Arm,
    Budget,
    Confirm,
    Distribution,
    FloatRange,
    IntRange,
    Runs,
    Simplex,
    StudySpec,
    Values,
)
from studies.schema.variants import Built, Problem, build_arm, name_problem

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_LONGEST_NAME = 64
_MOST_RUNS = 100_000  # more than a store's pages, or a person, can look at
_SEEDS = 2**32  # what torch and numpy take
_MOST_WORKERS = 1024
_NAME_RULE = (
    f"must be a safe folder name: letters, digits, '.', '_', '+' and '-', a letter or digit first, at most "
    f"{_LONGEST_NAME} characters"
)


def check_study(spec: StudySpec, already: Collection[str] = ()) -> list[Problem]:
    """Every mistake in a study whose structure is right. `already`: paths whose mistakes are named; what follows
    from them is not named again.
    """
    built = {name: build_arm(spec, name) for name in spec.variants}
    arms = {name: one.arm for name, one in built.items() if one.arm is not None}
    problems = [
        *_names(spec),
        *_model(spec),
        *_data(spec),
        *data_problems(spec),
        *place_problems(spec),
        *_output(spec),
        *_spaces(spec),
        *(problem for one in built.values() for problem in one.problems),
        *_inert_base(spec, built),
        *_nothing_to_vary(spec, arms),
        *_sampling(spec, arms),
        *_resources(spec),
        *_objective(spec, arms),
        *expectation_problems(spec),
        *_evaluation(spec),
        *judge_problems(spec),
        *_runs(spec),
        *scenario_problems(spec, arms),
        *rung_problems(spec, arms),
        *probe_problems(spec),
    ]
    if not problems:  # counting runs takes a study that is sound
        problems = _how_much(spec, arms)
    return [p for p in dict.fromkeys(problems) if not any(_follows(p.path, other) for other in already)]


def notices(spec: StudySpec) -> tuple[str, ...]:
    """What is right and may surprise, of the study as a whole; traps of one variant are in `Arm.warnings`."""
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
        found.append(f"sampler: {spec.sampler} learns little from {spec.budget.trials} trials a stratum; 20 or more")
    if spec.scenarios and any((s.label_flip or 0.0) > 0.5 for s in spec.scenarios.values()):
        found.append("scenarios: a label_flip above 0.5 teaches the opposite of the preferences")
    return (*found, *data_notices(spec))


def budget(spec: StudySpec) -> Budget:
    """The budget, with the whole grid where the file gives no number of trials."""
    if spec.sampler != "grid" or "trials" in spec.budget.model_fields_set:
        return spec.budget
    arms = [built.arm for built in (build_arm(spec, name) for name in spec.variants) if built.arm is not None]
    return spec.budget.model_copy(update={"trials": max(map(_grid_size, arms), default=1)})


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
        Problem(path, f"{name!r} {_NAME_RULE}")
        for path, name in named
        if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME
    ]
    if not spec.variants:
        problems.append(Problem("variants", "is empty: name the losses to compare, such as {sigmoid: {}, ipo: {}}"))
    if not spec.scenarios:
        problems.append(Problem("scenarios", "is empty: leave it out for the data as they are"))
    if spec.baseline is not None and spec.baseline not in spec.variants:
        near = table.suggest(spec.baseline, spec.variants)
        problems.append(
            Problem("baseline", f"{spec.baseline!r} is no variant{near}; there are {', '.join(spec.variants)}")
        )
    if spec.trainer not in ("dpo", "formula") and not re.fullmatch(r"[\w.]+:\w+", spec.trainer):
        near = table.suggest(spec.trainer, ("dpo", "formula"))
        problems.append(Problem("trainer", f"{spec.trainer!r} must be dpo, formula or your own as module:Class{near}"))
    return problems


def _model(spec: StudySpec) -> list[Problem]:
    if spec.trainer != "dpo":
        return []
    model = spec.base.get("model_name_or_path")
    path = "base.model_name_or_path"
    if model is None:
        return [Problem(path, "is needed and missing: a Hub id, a folder, or embedded")]
    if model == "embedded" and spec.data.path != "embedded":
        return [
            Problem(path, f"the embedded model knows only its own words, not {spec.data.path}: use data.path: embedded")
        ]
    if model != "embedded" and spec.data.path == "embedded":
        return [Problem("data.path", f"embedded data are written for the embedded model, not {model}: name your pairs")]
    return []


def _data(spec: StudySpec) -> list[Problem]:
    data = spec.data
    problems = [
        Problem(f"data.{name}", f"{value} must be at least {least}, or be left out")
        for name, least in (
            ("rows", 1),
            ("eval_rows", 1),
            ("max_prompt_length", 1),
            ("max_completion_length", 1),
            ("max_length", 2),
        )
        if (value := getattr(data, name)) is not None and value < least
    ]
    for name in ("max_prompt_length", "max_completion_length"):
        part = getattr(data, name)
        if part is not None and data.max_length is not None and part >= data.max_length:
            problems.append(
                Problem(
                    f"data.{name}",
                    f"{part} must be below max_length ({data.max_length}), which prompt and answer share",
                )
            )
    flips = [("data.label_flip", data.label_flip)]
    flips += [
        (f"scenarios.{n}.label_flip", s.label_flip) for n, s in spec.scenarios.items() if s.label_flip is not None
    ]
    problems += [
        Problem(path, f"{value:g} must be a share of the training pairs, in [0, 1]")
        for path, value in flips
        if not 0.0 <= value <= 1.0
    ]
    writers = [("data.pairs_from", data.pairs_from)]
    for name, scenario in spec.scenarios.items():
        writers += [(f"scenarios.{name}.pairs_from", scenario.pairs_from)] if scenario.pairs_from else []
        if scenario.rows is not None and scenario.rows < 1:
            problems.append(Problem(f"scenarios.{name}.rows", f"{scenario.rows} must be at least 1"))
    for path, writer in writers:
        if writer not in ("same", "better", "worse"):
            problems.append(
                Problem(
                    path,
                    f"{writer!r} must be same, better or worse{table.suggest(writer, ('same', 'better', 'worse'))}",
                )
            )
        elif writer != "same" and data.path != "embedded":
            problems.append(Problem(path, f"{writer!r} does nothing with {data.path}: only embedded data have writers"))
    return problems


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


def _how_much(spec: StudySpec, arms: Mapping[str, Arm]) -> list[Problem]:
    """More than could ever be planned, listed or trained, which is a slip of the keyboard."""
    problems = []
    for name, arm in arms.items():
        own = [len(arm.losses) - 1 if isinstance(d, Simplex) else k not in spec.space for k, d in arm.space.items()]
        if len(spec.space) + sum(own) > MOST_AXES:
            problems.append(
                Problem(
                    f"variants.{name}",
                    f"{len(spec.space) + sum(own)} numbers would be varied at once, the shared ones among them; "
                    f"{MOST_AXES} at most can be: fix some of them in base",
                )
            )
    grids = [_grid_size(arm) for arm in arms.values()] if spec.sampler == "grid" else []
    trials = spec.budget.trials if not grids or "trials" in spec.budget.model_fields_set else max(grids)
    strata = len(spec.scenarios) * (1 if spec.mode == "search" else len(arms))
    runs = 0
    for name, scenario in spec.scenarios.items():
        each = in_scenario(spec, name).runs
        parts = 1 if spec.mode == "search" else len(arms_in(spec, arms, name))
        runs += (scenario.trials or trials) * parts * len(each.blocks) * len(each.seeds)
    if runs > _MOST_RUNS:
        text = f"{trials} trials in each of {strata} strata are {runs} runs; a study can have {_MOST_RUNS}: lower it"
        problems.append(Problem("budget.trials", text))
    if max(grids, default=0) > _MOST_RUNS:
        text = f"the grid has {max(grids)} points, {_MOST_RUNS} at most are sorted: list fewer values, or use sobol"
        problems.append(Problem("space", text))
    return problems


def _grid_size(arm: Arm) -> int:
    """The points of the arm's grid."""
    return prod(len(d.values) for d in arm.space.values() if isinstance(d, Values))


def _spaces(spec: StudySpec) -> list[Problem]:
    """Names and shapes of what is varied, shared and by variant."""
    problems = []
    if "space" in spec.model_fields_set and not spec.space:
        problems.append(Problem("space", "is empty: leave it out to compare fixed settings, or say what to vary"))
    for knob, distribution in spec.space.items():
        wrong = None if knob == "loss_weights" else name_problem(knob)
        problems += [Problem(f"space.{knob}", wrong)] if wrong else []
        problems += _shape(f"space.{knob}", distribution)
    for name, variant in spec.variants.items():
        for knob, own in variant.space.items():
            if own is not None and own != spec.space.get(knob):
                problems += _shape(f"variants.{name}.space.{knob}", own)
        if "points" in variant.model_fields_set and not variant.points:
            problems.append(Problem(f"variants.{name}.points", "is empty: leave it out, or give a point"))
    return problems


def _shape(path: str, distribution: Distribution) -> list[Problem]:
    if isinstance(distribution, Simplex):
        return []
    if isinstance(distribution, Values):
        if not distribution.values:
            return [Problem(f"{path}.values", "is empty: list the values to try")]
        double = [v for i, v in enumerate(distribution.values) if v in distribution.values[:i]]
        return [Problem(f"{path}.values", f"{double[0]!r} is there twice")] if double else []
    return _range_shape(path, distribution)


def _range_shape(path: str, distribution: FloatRange | IntRange) -> list[Problem]:
    low, high = distribution.low, distribution.high
    if not float("-inf") < low < float("inf") or not float("-inf") < high < float("inf"):
        return [Problem(path, f"low {low:g} and high {high:g} must be finite")]
    if low > high:
        return [Problem(path, f"low {low:g} is above high {high:g}: exchange them")]
    if low == high:
        return [Problem(path, f"low and high are both {low:g}: a fixed value belongs to base")]
    if distribution.log and low <= 0:
        return [Problem(path, f"low {low:g} must be above 0 on a log scale")]
    return []


def _inert_base(spec: StudySpec, built: Mapping[str, Built]) -> list[Problem]:
    """Loss knobs of the shared base or space that act on no variant at all."""
    arms = [one.arm for one in built.values() if one.arm is not None]
    if not arms or len(arms) < len(built):
        return []
    problems = []
    for place, names in (("base", spec.base), ("space", spec.space)):
        for knob in names:
            reasons = [arm.left_out.get(knob) for arm in arms]
            overruled = any(
                knob in variant.base or variant.space.get(knob) is not None for variant in spec.variants.values()
            )
            unset = place == "base" and spec.base[knob] == table.DEFAULTS.get(knob)  # as a dump of all settings says it
            if all(reasons) and not (overruled or unset) and (knob in table.DEFAULTS or knob == "loss_weights"):
                if any(table.acts(arm.losses, knob) for arm in arms):
                    continue
                problems.append(Problem(f"{place}.{knob}", f"acts on no variant of this study: {reasons[0]}"))
    return problems


def _nothing_to_vary(spec: StudySpec, arms: Mapping[str, Arm]) -> list[Problem]:
    """Trials are asked for and no variant has anything to try."""
    asked = "trials" in spec.budget.model_fields_set and spec.budget.trials > 1
    if not arms or not asked or any(arm.space or len(arm.points) > 1 for arm in arms.values()):
        return []
    return [
        Problem(
            "budget.trials",
            f"{spec.budget.trials} trials are asked for and nothing is varied: say what to vary under space, give "
            "points, or leave trials out (more seeds of the same settings are runs: {seeds: [...]})",
        )
    ]


def _resources(spec: StudySpec) -> list[Problem]:
    """Numbers of workers, of runs that train together and of GPUs."""
    problems = []
    resources = spec.resources
    if resources.workers is not None and not 1 <= resources.workers <= _MOST_WORKERS:
        text = f"{resources.workers} must be at least 1 and at most {_MOST_WORKERS} (each is a process), or be left out"
        problems.append(Problem("resources.workers", text))
    if resources.together is not None and resources.together < 0:
        text = f"{resources.together} must be at least 0 (TRL's own loop), or be left out"
        problems.append(Problem("resources.together", text))
    if resources.gpus_per_run < 1:
        problems.append(Problem("resources.gpus_per_run", f"{resources.gpus_per_run} must be at least 1"))
    return problems


def _sampling(spec: StudySpec, arms: Mapping[str, Arm]) -> list[Problem]:
    problems = []
    if spec.budget.trials < 1:
        problems.append(Problem("budget.trials", f"{spec.budget.trials} must be at least 1"))
    times = {"wall_clock": spec.budget.wall_clock, "per_run": spec.budget.per_run}
    for name, limit in times.items():
        if limit is not None and not limit > 0:
            problems.append(Problem(f"budget.{name}", f"{limit:g} must be above 0 seconds"))
    if spec.budget.gpu_hours is not None and not spec.budget.gpu_hours > 0:
        problems.append(Problem("budget.gpu_hours", f"{spec.budget.gpu_hours:g} must be above 0 hours"))
    if spec.resources.attempts < 1:
        problems.append(Problem("resources.attempts", f"{spec.resources.attempts} must be at least 1"))
    problems += [
        Problem("resources.env", f"{name!r} is no name of an environment variable: name them, as in [OPENAI_API_KEY]")
        for name in spec.resources.env
        if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name)
    ]
    if spec.resources.retry_after < 0:
        problems.append(Problem("resources.retry_after", f"{spec.resources.retry_after:g} must be 0 seconds or more"))
    if not 0 <= spec.sampler_seed < _SEEDS:
        problems.append(Problem("sampler_seed", f"{spec.sampler_seed} must be 0 or more and below 2**32"))
    if spec.sampler != "grid":
        return problems
    if spec.mode == "search":
        problems.append(
            Problem("sampler", "'grid' cannot serve mode: search, whose space depends on the variant: use tpe")
        )
    for name, arm in arms.items():
        for knob, distribution in arm.space.items():
            if not isinstance(distribution, Values):
                own = knob in spec.variants[name].space
                path = f"variants.{name}.space.{knob}" if own else f"space.{knob}"
                problems.append(
                    Problem(path, "a grid needs {values: [...]}; ranges and weights need sobol, random or tpe")
                )
    return problems


def _objective(spec: StudySpec, arms: Mapping[str, Arm]) -> list[Problem]:
    problems = []
    name = spec.objective.metric
    metric = METRICS.get(name)
    if metric is None:
        problems.append(Problem("objective.metric", _unknown_metric(name)))
    elif not metric.comparable and _scale_differs(arms):
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
    if name.startswith("gold") and metric is not None and not has_gold:
        problems.append(
            Problem(
                "objective.metric",
                f"{name!r} needs data with a gold reward, which only embedded has, or a judge: use ranking_gain, or "
                "name a reward model or a function under evaluate.judge",
            )
        )
    tie = spec.objective.tie_within
    if tie is not None and not 0.0 < tie < float("inf"):
        problems.append(
            Problem("objective.tie_within", f"{tie:g} must be a positive number in the metric's unit, or left out")
        )
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


def _unknown_metric(name: str) -> str:
    comparable = [metric for metric, about in METRICS.items() if about.comparable]
    return f"{name!r} is no measurement{table.suggest(name, METRICS)}; there are {', '.join(comparable)}"


def _scale_differs(arms: Mapping[str, Arm]) -> bool:
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


def _evaluation(spec: StudySpec) -> list[Problem]:
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


def _runs(spec: StudySpec) -> list[Problem]:
    problems = _blocks_and_seeds("", spec.runs, spec.confirm)
    if spec.confirm is not None:
        problems += _kl_budgets("", spec.confirm, spec)
    for name, scenario in spec.scenarios.items():
        own = in_scenario(spec, name)
        if scenario.runs is not None or scenario.confirm is not None:
            problems += _blocks_and_seeds(f"scenarios.{name}.", own.runs, own.confirm)
        if scenario.confirm is not None:
            problems += _kl_budgets(f"scenarios.{name}.", scenario.confirm, spec)
    return problems


def _kl_budgets(where: str, confirm: Confirm, spec: StudySpec) -> list[Problem]:
    """KL budgets at which trials are to be confirmed; the one that the table's rows are about must be among them."""
    kl, path = confirm.kl, f"{where}confirm.kl"
    if not kl:
        return []
    if any(not 0.0 < budget < float("inf") for budget in kl) or len(set(kl)) < len(kl):
        return [Problem(path, f"{list(kl)} must be positive numbers of nats a sequence, each once")]
    bounds = dict(spec.objective.constraints.get("kl", {}))
    if bounds.get("max") not in kl:
        said = f"{bounds['max']:g}" if "max" in bounds else "no bound"
        text = f"{list(kl)} must hold the bound of objective.constraints.kl.max ({said}), which the rows are judged at"
        return [Problem(path, text)]
    if confirm.top != 1:
        return [
            Problem(f"{where}confirm.top", f"{confirm.top} does nothing beside kl: one trial a budget is confirmed")
        ]
    return []


def _blocks_and_seeds(where: str, runs: Runs, confirm: Confirm | None) -> list[Problem]:
    problems = []
    groups: list[tuple[str, Sequence[int]]] = [
        (f"{where}runs.blocks", runs.blocks),
        (f"{where}runs.seeds", runs.seeds),
    ]
    if confirm is not None:
        groups += [(f"{where}confirm.blocks", confirm.blocks), (f"{where}confirm.seeds", confirm.seeds)]
        if confirm.top < 1:
            problems.append(Problem(f"{where}confirm.top", f"{confirm.top} must be at least 1, or leave confirm out"))
        problems += _stale_confirm(f"{where}confirm.blocks", runs, confirm)
    for path, numbers in groups:
        if not numbers:
            problems.append(Problem(path, "is empty: give at least one whole number"))
        if any(not 0 <= number < _SEEDS for number in numbers):
            problems.append(Problem(path, f"{list(numbers)} must be 0 or more and below 2**32"))
        if len(set(numbers)) < len(numbers):
            problems.append(Problem(path, f"{list(numbers)} holds a number twice: it would be the same run again"))
    return problems


def _stale_confirm(path: str, runs: Runs, confirm: Confirm) -> list[Problem]:
    """Runs that the confirm phase would share with the search it is to confirm."""
    searched = {(block, seed) for block in runs.blocks for seed in runs.seeds}
    again = sorted(searched & {(block, seed) for block in confirm.blocks for seed in confirm.seeds})
    if not again:
        return []
    block, seed = again[0]
    return [Problem(path, f"block {block} with seed {seed} is already in runs: the best is confirmed on fresh ones")]
