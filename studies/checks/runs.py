"""Checks of how much is run: trials, blocks, seeds, sampling, resources."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod

from studies.records.paths import READABLE
from studies.records.world_units import SOURCE, tasks_of_replicates
from studies.schema.knob_problems import Problem
from studies.schema.scenarios import in_scenario
from studies.schema.types import (
    MOST_AXES,
    Budget,
    Confirm,
    ResolvedVariant,
    Runs,
    Simplex,
    SlurmJobs,
    StudySpec,
    Values,
)
from studies.schema.variants import build_arm
from studies.study import Study

_MOST_RUNS = 100_000  # more than a store's pages, or a person, can look at


_SEEDS = 2**32  # what torch and numpy take


_MOST_WORKERS = 1024


_ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*(:[1-9][0-9]{0,4})?")
_OPTION = re.compile(r"[\w(\[][\w.,:=+@|&*()\[\]/-]*")  # of sbatch
_SHORTEST_JOB = 180


_MOST_REPLICATES = 1000


def budget(spec: StudySpec) -> Budget:
    """The budget, with the whole grid where the file gives no number of trials."""
    if spec.sampler != "grid" or "trials" in spec.budget.model_fields_set:
        return spec.budget
    arms = [built.arm for built in (build_arm(spec, name) for name in spec.variants) if built.arm is not None]
    return spec.budget.model_copy(update={"trials": max(map(_grid_size, arms), default=1)})


def how_much(study: Study) -> list[Problem]:
    """More than could ever be planned, listed or trained, which is a slip of the keyboard."""
    spec = study.spec
    problems = []
    for name, arm in study.variants.items():
        added = [len(arm.losses) - 1 if isinstance(d, Simplex) else k not in spec.space for k, d in arm.space.items()]
        if len(spec.space) + sum(added) > MOST_AXES:
            problems.append(
                Problem(
                    f"variants.{name}",
                    f"{len(spec.space) + sum(added)} numbers would be varied at once, the shared ones among them; "
                    f"{MOST_AXES} at most can be: fix some of them in base",
                )
            )
    grids = [_grid_size(arm) for arm in study.variants.values()] if spec.sampler == "grid" else []
    trials = spec.budget.trials if not grids or "trials" in spec.budget.model_fields_set else max(grids)
    strata = len(spec.scenarios) * (1 if spec.mode == "search" else len(study.variants))
    runs = 0
    for name, own in study.by_scenario():
        each = own.spec.runs
        parts = 1 if spec.mode == "search" else len(own.variants)
        own_runs = (spec.scenarios[name].trials or trials) * parts * len(each.blocks) * len(each.seeds)
        runs += own_runs * (spec.replicates or 1)
    if runs > _MOST_RUNS:
        text = f"{trials} trials in each of {strata} searches are {runs} runs; a study can have {_MOST_RUNS}: lower it"
        problems.append(Problem("budget.trials", text))
    if max(grids, default=0) > _MOST_RUNS:
        text = f"the grid has {max(grids)} points, {_MOST_RUNS} at most are sorted: list fewer values, or use sobol"
        problems.append(Problem("space", text))
    return problems


def _grid_size(arm: ResolvedVariant) -> int:
    """The points of the arm's grid."""
    return prod(len(d.values) for d in arm.space.values() if isinstance(d, Values))


def resources(spec: StudySpec) -> list[Problem]:
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
    if resources.address is not None and not _ADDRESS.fullmatch(resources.address):
        text = f"{resources.address!r} is no HOST or HOST:PORT, such as login1 or 10.0.0.7:4711"
        problems.append(Problem("resources.address", text))
    return problems + _slurm(resources.slurm)


def _slurm(jobs: SlurmJobs) -> list[Problem]:
    problems = []
    for name in ("partition", "account", "qos", "gres", "constraint", "mem"):
        value = getattr(jobs, name)
        if value is not None and not _OPTION.fullmatch(value):
            text = f"{value!r} must be one word, as the option --{name} of sbatch takes it"
            problems.append(Problem(f"resources.slurm.{name}", text))
    if jobs.time is not None and not jobs.time >= _SHORTEST_JOB:
        text = f"{jobs.time:g} must be at least {_SHORTEST_JOB} seconds: a job is told to go a minute before its end"
        problems.append(Problem("resources.slurm.time", text))
    if jobs.cpus < 1:
        problems.append(Problem("resources.slurm.cpus", f"{jobs.cpus} must be at least 1"))
    return problems


def sampling(study: Study) -> list[Problem]:
    spec = study.spec
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
    for name, arm in study.variants.items():
        for knob, distribution in arm.space.items():
            if not isinstance(distribution, Values):
                own = knob in spec.variants[name].space
                path = f"variants.{name}.space.{knob}" if own else f"space.{knob}"
                problems.append(
                    Problem(path, "a grid needs {values: [...]}; ranges and weights need sobol, random or tpe")
                )
    return problems


def replicate_problems(spec: StudySpec) -> list[Problem]:
    """Replicates that are none, or beside what they stand in the place of."""
    if spec.replicates is None:
        return []
    problems = []
    if not 1 <= spec.replicates <= _MOST_REPLICATES:
        problems.append(Problem("replicates", f"{spec.replicates} must be at least 1 and at most {_MOST_REPLICATES}"))
    if spec.data.path == SOURCE and spec.replicates > (most := tasks_of_replicates()):
        text = f"{spec.replicates} would use gold tasks twice, of which the embedded world has {most} for replicates"
        problems.append(Problem("replicates", f"{text}: at most so many, or replicates would not be independent"))
    if spec.objective.metric not in READABLE:
        text = f"cannot be told over {spec.objective.metric}, of which the untrained model's value is not known: use "
        problems.append(Problem("objective.metric", f"gains of replicates {text}{', '.join(sorted(READABLE))}"))
    if spec.mode == "search":
        problems.append(Problem("replicates", "compares variants: leave it out with mode: search, which finds one"))
    if len(spec.runs.seeds) > 1:
        text = (
            f"{list(spec.runs.seeds)} are several beside replicates, each of which has seeds of its own: name the first"
        )
        problems.append(Problem("runs.seeds", text))
    own = [("runs.blocks", "blocks" in spec.runs.model_fields_set), ("confirm", spec.confirm is not None)]
    own += [(f"scenarios.{n}.runs", s.runs is not None) for n, s in spec.scenarios.items()]
    own += [(f"scenarios.{n}.confirm", s.confirm is not None) for n, s in spec.scenarios.items()]
    text = "beside replicates, which bring their own draws to tune and to judge on: leave one of the two out"
    return problems + [Problem(path, text) for path, given in own if given]


def run_problems(spec: StudySpec) -> list[Problem]:
    problems = _blocks_and_seeds("", spec.runs, spec.confirm)
    if spec.confirm is not None:
        problems += kl_budgets("", spec.confirm, spec)
    for name, scenario in spec.scenarios.items():
        own = in_scenario(spec, name)
        if scenario.runs is not None or scenario.confirm is not None:
            problems += _blocks_and_seeds(f"scenarios.{name}.", own.runs, own.confirm)
        if scenario.confirm is not None:
            problems += kl_budgets(f"scenarios.{name}.", scenario.confirm, spec)
    return problems


def kl_budgets(where: str, confirm: Confirm, spec: StudySpec) -> list[Problem]:
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
        return [Problem(f"{where}confirm.top", f"{confirm.top} does nothing beside kl: one trial a budget is retested")]
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
        problems += stale_confirm(f"{where}confirm.blocks", runs, confirm)
    for path, numbers in groups:
        if not numbers:
            problems.append(Problem(path, "is empty: give at least one whole number"))
        if any(not 0 <= number < _SEEDS for number in numbers):
            problems.append(Problem(path, f"{list(numbers)} must be 0 or more and below 2**32"))
        if len(set(numbers)) < len(numbers):
            problems.append(Problem(path, f"{list(numbers)} holds a number twice: it would be the same run again"))
    return problems


def stale_confirm(path: str, runs: Runs, confirm: Confirm) -> list[Problem]:
    """Runs that the confirm phase would share with the search it is to confirm."""
    searched = {(block, seed) for block in runs.blocks for seed in runs.seeds}
    again = sorted(searched & {(block, seed) for block in confirm.blocks for seed in confirm.seeds})
    if not again:
        return []
    block, seed = again[0]
    return [Problem(path, f"block {block} with seed {seed} is already in runs: the best is retested on fresh ones")]
