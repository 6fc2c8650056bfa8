"""A search whose database breaks: nothing is asked or told twice, whether or not it was taken before."""

from __future__ import annotations

import inspect
import random
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.storages._cached_storage import _CachedStorage

from studies.records import State
from studies.spec import arms, load_study
from sweeper.search import search as module
from sweeper.search.patience import waiting
from sweeper.search.patience.repeated import REPEATABLE, make_patient
from sweeper.search.patience.waiting import Patience, again
from sweeper.search.search import Search
from sweeper.search.storage import StorageError
from sweeper.search.trials import TrialOutcome

SERVER = "postgresql+psycopg://host/name"  # what the file is taken for, as a file is never away
STUDY = """
study: s
base: {model_name_or_path: embedded, use_peft: true, lora_r: 8, max_steps: 4}
variants: {sigmoid: {}}
space: {beta: {low: 0.01, high: 1.0, log: true}}
budget: {trials: 5}
sampler: tpe
objective: {metric: ranking_gain}
"""
OUTCOMES = (
    TrialOutcome(State.COMPLETE, 0.5, {"kl max": -1.0}),
    TrialOutcome(State.PRUNED, 0.1, {}, step=2),
    TrialOutcome(State.FAIL, None, {}),
    TrialOutcome(State.COMPLETE, None, {}),
)


@pytest.fixture(autouse=True)
def nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "FIRST_WAIT", 0.0)
    monkeypatch.setattr(waiting, "AWAY_SECONDS", 10.0)
    monkeypatch.setattr("optuna.storages._rdb.storage.time.sleep", lambda _: None)


def break_commits(engine: Any, *, taken: bool) -> None:
    """Have the connection break at two of five commits: when it is done and nobody has heard of it, or before."""
    commit, breaks = engine.dialect.do_commit, random.Random(3)

    def lose(connection: Any) -> None:
        broken = breaks.random() < 0.4
        if taken or not broken:
            commit(connection)
        if broken:
            raise sqlite3.OperationalError("server closed the connection")

    engine.dialect.do_commit = lose


def searched(file: Path, spec: Any, patience: Patience) -> list[Any]:
    """What Optuna holds once a sweep has asked for all trials, put some back, told all and closed."""
    search = Search(spec, arms(spec), f"sqlite:///{file}", patience=patience)
    put_back, number = set(), 0
    while (trial := search.ask()) is not None:
        if number % 5 == 3 and trial.number not in put_back:
            put_back.add(trial.number)
            search.requeue(trial)
        else:
            search.tell(trial, OUTCOMES[number % len(OUTCOMES)])
        number += 1
    search.close()
    names = sorted(optuna.get_all_study_names(f"sqlite:///{file}"))
    return [
        (name, *map(told, optuna.load_study(study_name=name, storage=f"sqlite:///{file}").trials)) for name in names
    ]


def told(trial: optuna.trial.FrozenTrial) -> Any:
    return trial.number, trial.state, trial.values, trial.params, trial.user_attrs, trial.intermediate_values


@pytest.mark.parametrize("taken", [False, True], ids=["nothing taken", "answer lost"])
def test_a_search_whose_database_breaks_again_and_again_asks_and_tells_as_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    spec = load_study(tmp_path / "study.yaml")
    expected = searched(tmp_path / "whole.db", spec, Patience())

    def patient(storage: Any, _url: str, patience: Patience) -> None:
        break_commits(storage.engine, taken=taken)
        make_patient(storage, SERVER, patience)

    monkeypatch.setattr(module, "make_patient", patient)
    said: list[str] = []
    assert searched(tmp_path / "broken.db", spec, Patience(said.append)) == expected
    assert any("server closed the connection" in line for line in said)
    assert not any(trial[1] is optuna.trial.TrialState.RUNNING for name, *trials in expected for trial in trials)


def test_every_call_of_optunas_cache_is_made_patient() -> None:
    asked = set(re.findall(r"self\._backend\.(\w+)\(", inspect.getsource(_CachedStorage)))
    unused = {name for name in asked if "heartbeat" in name or "stale" in name}
    own = {"_create_new_trial", "set_trial_state_values", "delete_study"}
    assert asked - unused - own == set(REPEATABLE)


def failing(times: int, error: Exception) -> Callable[[], str]:
    left = iter([error] * times)

    def call() -> str:
        for one in left:
            raise one
        return "answer"

    return call


LOST = sqlalchemy.exc.OperationalError("select", None, Exception("no route to host"))


def test_who_waits_is_told_once_what_for_and_for_how_long_and_when_it_is_over() -> None:
    said: list[str] = []
    url = "postgresql+psycopg://me:hush-hush@host/name"
    assert again(url, Patience(said.append), failing(3, LOST)) == "answer"
    assert len(said) == 2
    assert "no route to host" in said[0]
    assert "again for 10 s" in said[0]
    assert "host/name" in said[0]
    assert "hush-hush" not in said[0]
    assert "answers again" in said[1]


def test_waiting_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "AWAY_SECONDS", 0.0)
    with pytest.raises(sqlalchemy.exc.OperationalError):
        again(SERVER, Patience(lambda _: None), failing(3, LOST))


@pytest.mark.parametrize(
    ("url", "error"),
    [
        pytest.param("sqlite:///optuna.db", LOST, id="a file"),
        pytest.param(SERVER, sqlalchemy.exc.ProgrammingError("x", None, Exception("no column")), id="a mistake"),
    ],
)
def test_what_no_waiting_mends_is_told_at_once(url: str, error: Exception) -> None:
    with pytest.raises(type(error)):
        again(url, Patience(pytest.fail), failing(1, error))


def test_nothing_is_repeated_once_the_study_is_somebody_elses() -> None:
    calls: list[str] = []

    def lost() -> None:
        raise RuntimeError("taken over")

    with pytest.raises(RuntimeError, match="taken over"):
        again(SERVER, Patience(calls.append, lost), failing(1, LOST))


def test_a_lease_that_cannot_be_asked_for_yet_is_waited_for() -> None:
    away = StorageError("away")
    away.__cause__ = LOST
    asked = failing(2, away)

    def check() -> None:
        asked()

    assert again(SERVER, Patience(lambda _: None, check), failing(1, LOST)) == "answer"
