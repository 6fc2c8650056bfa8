"""Records -> the same with every config under one trial number and every run once; knows no tables and no statistics.

A config is a variant in a scenario with its knobs, or with the same runs. Versions that asked for a config more than
once left several trials of it, each with an MLflow run of the one training that they share; and numbers of trials begin
anew where a study file is edited, so that two configs can have the same one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from studies.records import PROBE, RunRecord, State

_ORDER = (State.COMPLETE, State.PRUNED, State.FAIL, State.RUNNING)  # of twins the first speaks for the run


def distinct(records: Iterable[RunRecord]) -> tuple[RunRecord, ...]:
    """The records, in their order, as statistics count them: `trial` tells a config from the others of its stratum, and
    the run that several trials share is there once, in the unbiased phase where one of them was.

    A config has the least number of its trials; of two configs with the same one, the second gets a number of its own.
    Records of a probe stay as they are.
    """
    records = tuple(records)
    known = _numbered(records)
    twins: dict[object, list[int]] = defaultdict(list)
    for i, run in enumerate(known):
        place = (run.variant, run.scenario, run.trial, run.phase == "confirm", run.key, run.block, run.seed)
        twins[i if run.phase == PROBE else place].append(i)
    found: dict[int, RunRecord] = {}
    for of in twins.values():
        if len(of) == 1:  # as nearly always
            found[of[0]] = known[of[0]]
            continue
        first = min(of, key=lambda i: (_ORDER.index(records[i].state), records[i].trial, records[i].run_id))
        run = known[first]
        found[first] = _changed(run, phase="unbiased" if any(known[i].phase == "unbiased" for i in of) else run.phase)
    return tuple(found[i] for i in sorted(found))


def number_of(records: Sequence[RunRecord], variant: str, scenario: str, trial: int) -> int:
    """The number by which `distinct` knows the config of a trial of the store; `trial` itself where it has no run."""
    here = [
        known.trial
        for run, known in zip(records, _numbered(records), strict=True)
        if (run.variant, run.scenario) == (variant, scenario)
        and run.phase != PROBE
        and trial in (run.trial, known.trial)
    ]
    return trial if trial in here else next(iter(here), trial)


def _numbered(records: Sequence[RunRecord]) -> list[RunRecord]:
    """The records with the number of their config, and with all of its knobs."""
    strata: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, run in enumerate(records):
        if run.phase != PROBE:
            strata[run.variant, run.scenario].append(i)
    found = list(records)
    for places in strata.values():
        taken: set[int] = set()
        last = max(records[i].trial for i in places)
        for config in _configs(records, places):
            number = min(records[i].trial for i in config)
            if number in taken:
                last = number = last + 1
            taken.add(number)
            knobs = max((records[i].knobs for i in config), key=len)
            for i in config:
                found[i] = _changed(records[i], trial=number, knobs=knobs)
    return found


def _changed(run: RunRecord, **fields: object) -> RunRecord:
    """The run with other fields; itself where they are as they were."""
    return run if all(getattr(run, name) == value for name, value in fields.items()) else run.model_copy(update=fields)


def _configs(records: Sequence[RunRecord], places: Iterable[int]) -> list[list[int]]:
    """The places of one stratum's records by config, those with the same knobs or the same run, ordered by trial."""
    found: dict[object, list[int]] = {}
    ordered = sorted(places, key=lambda i: (records[i].trial, records[i].phase, records[i].block, records[i].run_id))
    for i in ordered:
        signs = _signs(records[i])
        mine = [found[sign] for sign in signs if sign in found] or [[]]
        into, other = mine[0], mine[-1]
        if other is not into:  # a fixed point that leaves a knob to base, and a sampled one that says the same
            into += other
            found |= {sign: into for j in other for sign in _signs(records[j])}
        into.append(i)
        found |= dict.fromkeys(signs, into)
    rank = {i: n for n, i in enumerate(ordered)}
    return sorted({id(of): of for of in found.values()}.values(), key=lambda of: min(rank[i] for i in of))


def _signs(run: RunRecord) -> tuple[object, object]:
    """What two records of a stratum have in common where they are of one config: either is enough."""
    return frozenset(run.knobs.items()), (run.key, run.block, run.seed)
