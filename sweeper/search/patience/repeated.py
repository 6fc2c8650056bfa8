"""Has Optuna's storage repeat what a database that went away may not have taken.

Each call of a storage is one transaction. Where the connection breaks while that is committed, nobody knows whether it
was: so what was taken is looked for before it is done again. For the one writer of its studies.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import TrialModel
from optuna.trial import FrozenTrial, TrialState

from sweeper.search.patience.waiting import Patience, again

# What Optuna's cache asks of its storage, beside what has a way of its own below. Repeated, these change nothing: they
# read, they set what is so already, or they add what is there already, which Optuna leaves as it is.
REPEATABLE: Final = (
    "create_new_study",
    "get_all_studies",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_system_attrs",
    "get_study_user_attrs",
    "get_trial",
    "get_trial_id_from_study_id_trial_number",
    "set_study_system_attr",
    "set_study_user_attr",
    "set_trial_intermediate_value",
    "set_trial_system_attr",
    "set_trial_user_attr",
    "_get_best_trial_id",
    "_get_trials",
    "_set_trial_param",
)


_Again = Callable[[Callable[[], Any]], Any]


def make_patient(storage: RDBStorage, url: str, patience: Patience) -> None:
    """Have calls of a storage on a server repeated while that is away, see `again`. A file is never away."""
    if url.startswith("sqlite"):
        return
    # What it says of a query that broke is said already.
    logging.getLogger("optuna.storages._rdb.storage").setLevel(logging.ERROR)

    def repeat(call: Callable[[], Any]) -> Any:
        return again(url, patience, call)

    def repeated(call: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given, **named: repeat(lambda: call(*given, **named))

    calls = {name: repeated(getattr(storage, name)) for name in REPEATABLE}
    calls["_create_new_trial"] = _creating_once(storage, repeat)
    calls["set_trial_state_values"] = _setting_once(storage, repeat)
    calls["delete_study"] = _deleting_once(storage, repeat)
    vars(storage).update(calls)


def _creating_once(storage: RDBStorage, repeat: _Again) -> Callable[..., FrozenTrial]:
    """Makes a trial. One more than there were at the first try is that which it made; Optuna repeats this by itself."""
    create, prepare = storage._create_new_trial, storage._get_prepared_new_trial

    def call(study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        before: list[int] = []

        def prepared(study: int, template: FrozenTrial | None, session: Any) -> Any:
            trials = session.query(TrialModel).filter(TrialModel.study_id == study)  # which is locked
            before.append(trials.count())
            if before[-1] > before[0]:
                return trials.order_by(TrialModel.trial_id.desc()).first()
            return prepare(study, template, session)

        vars(storage)["_get_prepared_new_trial"] = prepared
        made: FrozenTrial = repeat(lambda: create(study_id, template_trial))
        return made

    return call


def _setting_once(storage: RDBStorage, repeat: _Again) -> Callable[..., bool]:
    """Sets the state of a trial, which Optuna refuses for one that runs, or has ended."""
    set_state, get_trial = storage.set_trial_state_values, storage.get_trial

    def call(trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        tries = 0

        def attempt() -> bool:
            nonlocal tries
            tries += 1
            try:
                done = set_state(trial_id, state, values)
            except UpdateFinishedTrialError:
                if tries == 1:
                    raise
                done = False
            return done or (tries > 1 and get_trial(trial_id).state is state)

        done: bool = repeat(attempt)
        return done

    return call


def _deleting_once(storage: RDBStorage, repeat: _Again) -> Callable[[int], None]:
    """Removes an Optuna study, which Optuna refuses where there is none."""
    delete = storage.delete_study

    def call(study_id: int) -> None:
        tries = 0

        def attempt() -> None:
            nonlocal tries
            tries += 1
            try:
                delete(study_id)
            except KeyError:
                if tries == 1:
                    raise

        repeat(attempt)

    return call
