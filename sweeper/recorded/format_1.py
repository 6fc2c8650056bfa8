"""Which runs of format 1 were asked what a study file asks now, by what Optuna's storage kept of it then. Only reads.

A run of format 1 says nothing of the space, sampler and rungs that it was asked under; the context of its stratum does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dashboards.store.addresses import sqlite_url
from dashboards.store.connection import StoreError
from studies.design.identity import Stratum, contexts_of, strata
from studies.design.points import Config, config_of_knobs, knobs_of
from studies.records import PROBE, RunRecord, Scalar
from studies.spec import ResolvedVariant, StudySpec

if TYPE_CHECKING:
    from sweeper.search.ledger import Ledger

# Number, variant and config.
_Trial = tuple[int, str, Config]


def asked_before(
    spec: StudySpec, arms: Mapping[str, ResolvedVariant], records: Iterable[RunRecord], storage: str | None = None
) -> Callable[[RunRecord], bool]:
    """Whether a run of format 1 may have been asked what the study asks now; a stratum that the storage does not know
    tells nothing against it. `storage`: Optuna's URL (None: the one in the working folder). Raises StoreError where it
    cannot be read.
    """
    old = [record for record in records if record.question is None and record.arm != PROBE]
    if not old:
        return lambda _record: True
    from sweeper.search.ledger import Ledger
    from sweeper.search.storage import StorageError

    try:
        asked = _asked(spec, arms, old, Ledger(storage or sqlite_url(Path.cwd() / "optuna.db"), spec.study))
    except StorageError as error:
        raise StoreError(str(error)) from error

    def is_asked(record: RunRecord) -> bool:
        found = asked.get((record.variant, record.scenario), True)
        if isinstance(found, bool):
            return found
        return (record.trial, record.variant, config_of_knobs(arms[record.variant], record.knobs)) in found

    return is_asked


def _asked(
    spec: StudySpec, arms: Mapping[str, ResolvedVariant], old: Collection[RunRecord], ledger: Ledger
) -> dict[tuple[str, str], Collection[_Trial] | bool]:
    """(variant, scenario) -> whether its runs of format 1 were asked this; where two things were, which trials."""
    kept, asked = ledger.contexts(), dict[tuple[str, str], Collection[_Trial] | bool]()
    for name, stratum in strata(spec, arms).items():
        mine = {n: context for n, context in kept.items() if n == name or n.startswith(f"{name}@")}
        here = {r.variant for r in old if r.scenario == stratum.scenario}
        same = contexts_of(spec, stratum, here) if mine and here else frozenset()
        matching = [n for n, context in mine.items() if context in same]
        found: Collection[_Trial] | bool = bool(matching) or not mine
        if matching and len(set(mine.values())) > 1:
            found = {trial for n in matching for trial in _trials(ledger.trials(n), stratum)}
        asked |= {(variant, stratum.scenario): found for variant in stratum.arms}
    return asked


def _trials(about: Mapping[int, Mapping[str, object]], stratum: Stratum) -> set[_Trial]:
    """Number, variant and config of each trial of a variant that the study has."""
    found = set[_Trial]()
    for number, one in about.items():
        arm = stratum.arms.get(str(one["variant"]))
        if arm is not None:
            knobs: Mapping[str, Scalar] = knobs_of(arm, one)
            found.add((number, arm.name, config_of_knobs(arm, knobs)))
    return found
