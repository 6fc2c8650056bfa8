"""Decides how a study's runs share devices: as the study says, as an earlier sweep found, or as the workers find now.

Loads no torch and measures nothing itself.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, fields, replace
from datetime import timedelta
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from studies.design.counts import planned_runs
from studies.design.points import axes, planned_points, to_knobs, value_at
from studies.records import RunConfig, digest
from studies.spec import Study, StudySpec, resolve_run
from studies.text.files import read_json, write_whole
from studies.text.plural import so_many
from sweeper.executors.process.devices import default_workers, usable_cores, visible_gpus
from sweeper.folder.names import PILOT_FILE
from trainers.interface import Placement, Sized, Sizing, pack_key

_SIZING: TypeAdapter[Sizing] = TypeAdapter(Sizing)
# The largest pack on a CPU, and on a GPU, which small models do not fill with fewer.
_MOST_RUNS, _MOST_ON_GPU = 32, 128
_MOST_PARTS, _LONGEST_RUN = 1 << 20, 1e8  # of a micro-batch; seconds
# Of so few runs a worker none is left to join a pack once its size is found.
LEAST_RUNS = 4


def sample_runs(study: Study) -> list[RunConfig]:
    """Runs of the study that could train in one pack, variants in turn: those of the most common pack key."""
    found = list(islice(_in_turn(study), _MOST_RUNS))
    commonest, _ = Counter(pack_key(config) for config in found).most_common(1)[0]
    return [config for config in found if pack_key(config) == commonest]


def _in_turn(study: Study) -> Iterator[RunConfig]:
    scenario, study = next(study.by_scenario())
    spec = study.spec
    block, seed = spec.runs.blocks[0], spec.runs.seeds[0]
    known = {name: [p.params for p in planned_points(spec, arm)] for name, arm in study.variants.items()}
    for number in range(_MOST_RUNS):
        for name, arm in study.variants.items():
            middle = {axis.name: value_at(axis.distribution, 0.5) for axis in axes(spec, arm)}
            params = known[name][number] if number < len(known[name]) else middle
            if number < len(known[name]) or (number == 0 and not known[name]):
                knobs = to_knobs(arm, params)
                yield resolve_run(spec, arm, scenario, trial=number, knobs=knobs, block=block, seed=seed)


class Packs:
    """How the runs of one sweep share devices: as the study says, or as its workers find while they train.

    What they find is shown to the user, kept in the study's folder for the next sweep, and passed on with later runs,
    for workers that have not measured yet.
    """

    def __init__(
        self,
        study: Study,
        runs: Path,
        workers: int | None,
        count: int,
        tell_user: Callable[[str], None],
        *,
        elsewhere: bool = False,
    ) -> None:
        """`runs`: the study's folder; `workers`: the number asked for; `count`: the number there are; `elsewhere`: they
        are on other machines, each with its own GPU or what it is given of the host.
        """
        self._study, self._runs, self._tell_user = study, runs, tell_user
        self._workers, self._count, self._elsewhere = workers, max(1, count), elsewhere
        self._planned = planned_runs(study)
        self._of_worker: dict[str, int] = {}
        self._found: dict[str, dict[str, Sizing]] = {}
        self._told = ""
        self.placement = self._first()
        """How runs are placed of which nothing else is known."""
        self.together = self.placement.together if self.placement.begin is None else max(1, self.placement.begin)
        """How many runs a worker trains at once at most, by what the workers say."""

    def place(self, config: RunConfig, own: Placement) -> Placement:
        """The placement of a run that has the placement `own`, by what was found for runs like it."""
        found = self._best(pack_key(config)) if own.begin is not None else None
        if found is None:
            return own
        chosen = found.chosen
        checkpointing = chosen.checkpointing if own.checkpointing is None else own.checkpointing
        return replace(own, begin=chosen.together, split=max(own.split, chosen.split), checkpointing=checkpointing)

    def update(self, worker: str, news: Sized) -> None:
        """Update how many runs a worker trains at once, and what it has measured."""
        self._of_worker[worker] = news.together
        self.together = max(self._of_worker.values())
        if news.sizing is None or news.sizing.best is None:
            return
        self._found.setdefault(news.like, {})[worker] = news.sizing
        found = self._best(news.like)
        if found is None or news.like != pack_key(sample_runs(self._study)[0]):
            return
        self._keep(found)
        self._tell(found)

    def forget(self, worker: str) -> None:
        """Drop a worker that is gone."""
        self._of_worker.pop(worker, None)

    def _first(self) -> Placement:
        spec, count = self._study.spec, self._count
        if spec.resources.together is not None:
            return Placement(together=spec.resources.together)
        if spec.trainer != "dpo" or self._planned < LEAST_RUNS * count:
            return Placement()
        known = kept_sizing(self._study, self._runs, self._workers, elsewhere=self._elsewhere)
        shared = shared_placement(count, elsewhere=self._elsewhere)
        if known is None:
            return shared
        self._tell(known)
        return replace(
            known.chosen, together=shared.together, begin=known.chosen.together, workers=count, sharing=shared.sharing
        )

    def _best(self, like: str) -> Sizing | None:
        """The largest size that a worker found: each may have its own reason to take fewer."""
        found = self._found.get(like, {}).values()
        return max(found, key=lambda sizing: sizing.chosen.together, default=None)

    def _tell(self, found: Sizing) -> None:
        how = told_placement(found.chosen)
        if how != self._told:
            self._told = how
            self._tell_user(describe(found, self._planned, self._count))

    def _keep(self, found: Sizing) -> None:
        """Write the sizing to a file; a full disk does not stop the sweep."""
        study = self._study
        kept = {
            "of": _identity(study, self._workers, elsewhere=self._elsewhere),
            "length": _length(study),
            "pilot": asdict(found),
        }
        with suppress(OSError):
            write_whole(self._runs / PILOT_FILE, json.dumps(kept, indent=1))


def shared_placement(workers: int, *, elsewhere: bool) -> Placement:
    """How so many workers share the machine while the best size of packs is looked for: GPUs in turn, and the largest
    pack there.
    """
    if elsewhere:
        return Placement(together=_MOST_ON_GPU, workers=workers, begin=0)
    gpus = len(visible_gpus(os.environ))
    sharing = -(-workers // gpus) if gpus else 1
    return Placement(together=_MOST_ON_GPU if gpus else _MOST_RUNS, workers=workers, sharing=sharing, begin=0)


def kept_sizing(study: Study, runs: Path, workers: int | None, *, elsewhere: bool = False) -> Sizing | None:
    """What an earlier sweep of the study found for these runs on a machine like this one, or elsewhere. Where they took
    another number of steps then, the passes of a run are unknown (0).
    """
    try:
        kept = read_json(runs / PILOT_FILE)
        if kept["of"] != _identity(study, workers, elsewhere=elsewhere):
            return None
        found = _sizing(kept["pilot"])
        return found if kept.get("length") == _length(study) else replace(found, passes=0)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def describe(found: Sizing, runs: int, workers: int) -> str:
    """The size, its reason, and the time that the study will take, in a sentence or two."""
    best, chosen = found.best, found.chosen
    said = f"Runs train {told_placement(chosen)} on each of {so_many(workers, 'worker')} ({found.device})"
    if best is None:
        return f"{said}; {found.reason}."
    alone = next((t.seconds for t in found.timings if t.placement.together == 1 and t.seconds), None)
    gain = f" ({1000 * alone:.1f} ms alone)" if alone and chosen.together > 1 else ""
    told = f"{said}: {1000 * (best.seconds or 0):.1f} ms a micro-batch and run{gain}, {best.memory or 0:.0f} MiB; "
    if found.seconds_per_run is None:
        return f"{told}{found.reason}."
    wall = timedelta(seconds=round(runs * found.seconds_per_run / workers))
    return f"{told}{found.reason}. Training {so_many(runs, 'run')} takes about {wall}; measuring them comes on top."


def told_placement(chosen: Placement) -> str:
    """The placement in words."""
    how = f"{chosen.together} together" if chosen.together > 1 else "one at a time"
    extra = [f"micro-batches in {chosen.split} parts"] if chosen.split > 1 else []
    extra += ["gradient checkpointing"] if chosen.checkpointing else []
    extra += ["bf16"] if chosen.bf16 else []
    return ", ".join([how, *extra])


def worker_count(spec: StudySpec, workers: int | None) -> int:
    """The number of worker processes of a sweep."""
    return workers or spec.resources.workers or default_workers(visible_gpus(os.environ), usable_cores())


def _identity(study: Study, workers: int | None, *, elsewhere: bool) -> str:
    """A digest of what the best size depends on."""
    configs = sample_runs(study)
    count = worker_count(study.spec, workers)
    machine = ["elsewhere", count] if elsewhere else [visible_gpus(os.environ), usable_cores(), count]
    return digest([pack_key(configs[0]), len(configs), machine, [version(p) for p in ("torch", "transformers", "trl")]])


def _length(study: Study) -> str:
    """A digest of what the number of steps of a run depends on."""
    named = ("max_steps", "num_train_epochs", "gradient_accumulation_steps")
    return digest(
        [[config.settings.get(name) for name in named] for config in sample_runs(study)] + [study.spec.data.rows]
    )


def _sizing(kept: Mapping[str, Any]) -> Sizing:
    """Parse a sizing, also of earlier versions, which measured more. Raises ValueError for what is none."""
    found = _SIZING.validate_python({field.name: kept[field.name] for field in fields(Sizing)})
    sound = 1 <= found.chosen.together <= _MOST_ON_GPU and 1 <= found.chosen.split <= _MOST_PARTS
    if not (sound and 0.0 <= (found.seconds_per_run or 0.0) <= _LONGEST_RUN):
        raise ValueError("no size of packs")
    return found
