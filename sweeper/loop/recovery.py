"""What stands when a sweep begins: MLflow, `result.json` and Optuna brought to one answer. Writes no store."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from studies.records import PROBE, Failure, RunConfig, RunResult, State
from studies.text.files import UnusableFile
from sweeper.loop.retries import PUT_OFF
from sweeper.search.trials import Trial
from sweeper.tracking.known_runs import KnownRun
from trainers.run_folder.results import RESULT_FILE, find_result, read_result

Place = tuple[str, str, str]
"""Where a run stands in the study: variant, scenario, key."""


def place_of(config: RunConfig) -> Place:
    """Where a run stands in the study."""
    return config.variant, config.scenario, config.key


@dataclass(frozen=True)
class FailedRun:
    """An MLflow run that failed and is to be replaced. It stands until another attempt begins: there may never be one,
    and then it is what people must be told.
    """

    run_id: str
    failure: Failure | None
    reason: str


@dataclass(frozen=True)
class Reconciled:
    """What MLflow and Optuna say together. `superseded`: MLflow runs that count no longer, and why; `failed`: those
    that another attempt replaces; `recorded`: those that stand; `trials`: those whose runs are looked up again, failed
    ones among them where they had a part in the decision of their bracket.
    """

    superseded: tuple[tuple[str, str], ...]
    failed: tuple[tuple[Place, FailedRun], ...]
    recorded: Mapping[Place, KnownRun]
    trials: tuple[Trial, ...]


def reconcile(known: Sequence[tuple[KnownRun, RunConfig | None]], trials: Sequence[Trial]) -> Reconciled:
    """Compare the recorded runs with Optuna's trials. `known`: each with its config where that has another key."""
    by_number = {(t.variant, t.scenario, t.number): t for t in trials}
    superseded: list[tuple[str, str]] = []
    failed: list[tuple[Place, FailedRun]] = []
    recorded: dict[Place, KnownRun] = {}
    for run, config in known:
        if run.phase == PROBE:
            continue  # a timed run of an earlier version, of no trial
        trial = by_number.get((run.variant, run.scenario, run.trial))
        place = (run.variant, run.scenario, run.key if config is None else config.key)
        if run.state is State.RUNNING:
            superseded.append((run.run_id, "interrupted"))
        elif run.cause in PUT_OFF:
            superseded.append((run.run_id, "tried again"))
        elif run.state is State.FAIL or (trial is not None and trial.state is State.FAIL):
            failed.append((place, FailedRun(run.run_id, run.failure, "tried again")))
        else:
            recorded[place] = run
    decided = {(trial.stratum, trial.bracket) for trial in by_number.values() if trial.scores}
    closed = tuple(
        trial
        for trial in by_number.values()
        if trial.state in (State.COMPLETE, State.PRUNED)
        # Where nothing is decided yet, another takes the place of one that failed.
        or (trial.state is State.FAIL and (trial.stratum, trial.bracket) in decided)
    )
    return Reconciled(tuple(superseded), tuple(failed), recorded, closed)


class Past:
    """The runs that a study has already, in MLflow and in their folders.

    The order of truth is: `result.json`, then MLflow, then Optuna.
    """

    def __init__(
        self,
        known: Sequence[tuple[KnownRun, RunConfig | None]],
        is_ours: Callable[[str, RunConfig, RunResult], bool],
        folder: Path,
        tell_user: Callable[[str], None],
    ) -> None:
        """`known`: the recorded runs that answer the study, with the numbers that those found of them who measure runs
        now, each that format 1 recorded with the config it is of; `is_ours`: whether a result in a folder of format 1,
        by its key there, may be taken for that of a config; `folder`: the study's runs.
        """
        self._known, self._is_ours, self._folder, self._tell_user = known, is_ours, folder, tell_user
        self._recorded: Mapping[Place, KnownRun] = {}
        self._named: set[str] = set()  # files that were told of

    def reconcile(self, trials: Sequence[Trial]) -> Reconciled:
        """Find out what stands, which the other methods then answer by."""
        found = reconcile(self._known, trials)
        self._recorded = found.recorded
        return found

    def recorded(self, config: RunConfig) -> KnownRun | None:
        """The MLflow run that stands for a config."""
        return self._recorded.get(place_of(config))

    def folder(self, config: RunConfig) -> Path:
        """The folder of a run, which has another name where format 1 gave it."""
        known = self.recorded(config)
        return self._folder / (config.key if known is None else known.key)

    def result(self, config: RunConfig) -> RunResult | None:
        """The result in a run's folder; says, once, where what is there is none, or is another run's."""
        folder = self.folder(config)
        try:
            result = find_result(folder)
            if result is None or result.key in (config.key, folder.name) or result.key in config.earlier_keys:
                return result
            said = f"{folder / RESULT_FILE} is the result of another run ({result.key})"
        except UnusableFile as error:
            said = str(error)
        if said not in self._named:
            self._named.add(said)
            self._tell_user(f"{said}: it is left out, and the run is trained again where nothing else has its numbers.")
        return None

    def take_over(self, config: RunConfig) -> None:
        """Give the folder of a run of format 1 that no store has any more the name that it has today."""
        if self.recorded(config) is not None:
            return
        folder = self._folder / config.key
        for earlier in config.earlier_keys - {config.key}:
            result = None if os.path.lexists(folder) else read_result(self._folder / earlier)
            if result is not None and self._is_ours(earlier, config, result):
                os.rename(self._folder / earlier, folder)
