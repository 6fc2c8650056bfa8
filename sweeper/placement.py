"""How a study's runs share devices: as the study says, as a kept pilot found, or as a new pilot finds.

Knows the executor's pilot and the file that keeps it; loads no torch and measures nothing itself.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from datetime import timedelta
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from studies.counts import so_many
from studies.foreign_files import read_json, write_whole
from studies.records import RunConfig, digest
from studies.spec import Arm, StudySpec, arms_in, in_scenario, resolve_run
from sweeper.executors import Executor
from sweeper.executors.devices import usable_cores, visible_gpus
from sweeper.leftovers import drop_scratch, scratch
from sweeper.own_folder import PILOT_FILE
from sweeper.plan import planned_runs
from sweeper.points import axes, planned_points, to_knobs, value_at
from trainers.interface import Job, Pilot, Placement, Timing, pack_key

# More than any pack that a pilot tries.
_MOST_RUNS = 32
# Below this many runs a worker, a pilot costs more than it can save.
_LEAST_RUNS = 4


def sample_runs(spec: StudySpec, arms: Mapping[str, Arm]) -> list[RunConfig]:
    """Runs of the study that could train in one pack, variants in turn: those of the most common pack key."""
    found = list(islice(_in_turn(spec, arms), _MOST_RUNS))
    commonest, _ = Counter(pack_key(config) for config in found).most_common(1)[0]
    return [config for config in found if pack_key(config) == commonest]


def _in_turn(spec: StudySpec, arms: Mapping[str, Arm]) -> Iterator[RunConfig]:
    scenario = next(iter(spec.scenarios))
    spec, arms = in_scenario(spec, scenario), arms_in(spec, arms, scenario)
    block, seed = spec.runs.blocks[0], spec.runs.seeds[0]
    known = {name: [p.params for p in planned_points(spec, arm)] for name, arm in arms.items()}
    for number in range(_MOST_RUNS):
        for name, arm in arms.items():
            middle = {axis.name: value_at(axis.distribution, 0.5) for axis in axes(spec, arm)}
            params = known[name][number] if number < len(known[name]) else middle
            if number < len(known[name]) or (number == 0 and not known[name]):
                knobs = to_knobs(arm, params)
                yield resolve_run(spec, arm, scenario, trial=number, knobs=knobs, block=block, seed=seed)


def kept_pilot(spec: StudySpec, arms: Mapping[str, Arm], runs: Path, workers: int | None) -> Pilot | None:
    """The pilot kept in the study's folder, if it was made for these runs on a machine like this one."""
    try:
        kept = read_json(runs / PILOT_FILE)
        return _pilot(kept["pilot"]) if kept["of"] == _identity(spec, arms, workers) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def make_pilot(
    spec: StudySpec, arms: Mapping[str, Arm], runs: Path, workers: int | None, pool: Executor
) -> tuple[Pilot | None, str]:
    """Let a worker of `pool` measure, and keep what it found. None, and why, where there is nothing to be found."""
    most = -(-planned_runs(spec, arms) // max(1, pool.slots))
    configs = sample_runs(spec, arms)[:most]
    # Beside the runs' own folders, so that the reference log-probs that it computes are theirs.
    jobs = [Job(config, scratch(runs, f"pilot-{config.key}")) for config in configs]
    answer = pool.pilot(jobs)
    for job in jobs:
        drop_scratch(job.folder)
    if answer.pilot is not None:
        kept = {"of": _identity(spec, arms, workers), "pilot": asdict(answer.pilot)}
        write_whole(runs / PILOT_FILE, json.dumps(kept, indent=1))
    return answer.pilot, answer.reason


def decide(
    spec: StudySpec,
    arms: Mapping[str, Arm],
    runs: Path,
    workers: int | None,
    pool: Executor,
    tell_user: Callable[[str], None],
) -> Placement:
    """The placement of the study's runs, and its say in the executor. Tells the user what was chosen and why."""
    if spec.resources.together is not None:
        placement = Placement(together=spec.resources.together)
    elif spec.trainer != "dpo" or planned_runs(spec, arms) < _LEAST_RUNS * max(1, pool.slots):
        placement = Placement()
    else:
        placement = _piloted(spec, arms, runs, workers, pool, tell_user)
    pool.together = placement.together
    return placement


def _piloted(
    spec: StudySpec,
    arms: Mapping[str, Arm],
    runs: Path,
    workers: int | None,
    pool: Executor,
    tell_user: Callable[[str], None],
) -> Placement:
    pilot, reason = kept_pilot(spec, arms, runs, workers), ""
    if pilot is None:
        tell_user("Measuring what a run costs here, to choose how many train together ...")
        pilot, reason = make_pilot(spec, arms, runs, workers, pool)
    if pilot is None:
        tell_user(f"No pilot: {reason}. Runs train one by one.")
        return Placement()
    tell_user(describe(pilot, planned_runs(spec, arms), pool.slots))
    return pilot.chosen


def describe(pilot: Pilot, runs: int, workers: int) -> str:
    """The choice, what it rests on, and the time that the study will take, in a sentence or two."""
    chosen = pilot.chosen
    best = next(t for t in pilot.timings if t.placement == chosen)
    extra = [f"micro-batches in {chosen.split} parts"] if chosen.split > 1 else []
    extra += ["gradient checkpointing"] if chosen.checkpointing else []
    extra += ["bf16"] if chosen.bf16 else []
    how = f"{chosen.together} together" if chosen.together > 1 else "one at a time"
    alone = next((t.seconds for t in pilot.timings if t.placement.together == 1 and t.seconds), None)
    gain = f" ({1000 * alone:.1f} ms alone)" if alone and chosen.together > 1 else ""
    wall = timedelta(seconds=round(runs * pilot.seconds_per_run / workers))
    return (
        f"Runs train {', '.join([how, *extra])} on each of {workers} workers ({pilot.device}): "
        f"{1000 * (best.seconds or 0):.1f} ms a micro-batch and run{gain}, {best.memory or 0:.0f} MiB; {pilot.reason}. "
        f"Expected: {wall} for {so_many(runs, 'run')}."
    )


def worker_count(spec: StudySpec, workers: int | None) -> int:
    """How many worker processes a run of the study starts."""
    return workers or spec.resources.workers or len(visible_gpus(os.environ)) or usable_cores()


def _identity(spec: StudySpec, arms: Mapping[str, Arm], workers: int | None) -> str:
    """What a pilot depends on."""
    configs = sample_runs(spec, arms)
    machine = [visible_gpus(os.environ), usable_cores(), worker_count(spec, workers)]
    return digest([pack_key(configs[0]), len(configs), machine, [version(p) for p in ("torch", "transformers", "trl")]])


def _pilot(kept: Mapping[str, Any]) -> Pilot:
    timings = tuple(Timing(Placement(**t["placement"]), t["seconds"], t["memory"]) for t in kept["timings"])
    return Pilot(**{**kept, "chosen": Placement(**kept["chosen"]), "timings": timings})
