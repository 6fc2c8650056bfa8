"""Whether two sweeps of one study say the same, and whether one has left anything open."""

from __future__ import annotations

from collections import Counter

import optuna

from studies.records import RunRecord

OF_THE_MACHINE = {"steps_per_second", "tokens_per_second", "peak_memory", "train_seconds", "evaluation_seconds"}


def numbers(records: list[RunRecord]) -> dict[tuple[object, ...], dict[str, str]]:
    """What each run has, by what it is: nothing of when and how fast it was trained. As text, as no number is NaN."""
    places = [(r.variant, r.scenario, r.phase, r.trial, r.block, r.seed) for r in records]
    assert not [place for place, count in Counter(places).items() if count > 1], "a run is there twice"
    found: dict[tuple[object, ...], dict[str, str]] = {}
    for place, record in zip(places, records, strict=True):
        measured = {n: repr(v) for n, v in record.metrics.items() if n not in OF_THE_MACHINE}
        errors = {f"error of {n}": repr(v) for n, v in record.errors.items() if n not in OF_THE_MACHINE}
        found[place] = {**measured, **errors, "is": f"{record.key} {record.state} {record.cause} {record.knobs}"}
    return found


def differences(one: list[RunRecord], other: list[RunRecord]) -> list[object]:
    """What is not the same in two sweeps of one study."""
    first, second = numbers(one), numbers(other)
    both = [(place, name) for place in first for name in {*first[place], *second.get(place, {})}]
    told = [(*at, first[at[0]].get(at[1]), second.get(at[0], {}).get(at[1])) for at in both]
    return [line for line in told if line[-1] != line[-2]] + [place for place in second if place not in first]


def trials(url: str) -> dict[str, list[tuple[object, ...]]]:
    """What Optuna holds of each stratum."""
    storage = optuna.storages.get_storage(url)  # one, as a server has few connections and a study a stratum is many
    found = {name: optuna.load_study(study_name=name, storage=storage) for name in optuna.get_all_study_names(storage)}
    return {name: [(t.number, t.state, t.params, t.values) for t in study.trials] for name, study in found.items()}
