"""The search in memory gives the answers of the one in Optuna's words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from studies.records import State
from studies.spec import StudySpec, arms, load_study
from sweeper.search.memory import MemorySearch
from sweeper.search.search import Search
from sweeper.search.trials import Trial, TrialOutcome
from sweeper.stores import Search as AnySearch

TEXT = (
    "study: s\nbase: {model_name_or_path: embedded, use_peft: true, lora_r: 8, max_steps: 4}\n"
    "variants: {sigmoid: {}, ipo: {points: [{beta: 0.5}]}}\nbudget: {trials: 2}\n"
    "space: {beta: {low: 0.01, high: 1.0, log: true}}\nobjective: {metric: ranking_gain}\n"
)
Open = Callable[[AnySearch | None], AnySearch]
Act = Callable[[Open], object]


def seen(search: AnySearch) -> list[Trial]:
    return [replace(trial, knobs=dict(trial.knobs)) for trial in search.trials()]


def ask(search: AnySearch) -> Trial:
    trial = search.ask()
    assert trial is not None
    return trial


def drains(open_search: Open) -> object:
    search, asked = open_search(None), []
    while (trial := search.ask()) is not None:
        search.tell(trial, TrialOutcome(State.COMPLETE, 1.0, {}))
        asked.append((trial.variant, trial.number, trial.phase, dict(trial.knobs)))
    return asked, seen(search), search.left(["sigmoid", "ipo"])


def is_killed(open_search: Open) -> object:
    search = open_search(None)
    for _ in range(3):
        ask(search)
    again = open_search(search)
    before, asked = seen(again), iter(again.ask, None)
    return before, [(trial.variant, trial.number) for trial in asked if trial is not None]


def fails(open_search: Open) -> object:
    search = open_search(None)
    first = ask(search)
    search.tell(first, TrialOutcome(State.FAIL, None, {}))
    again = open_search(search)
    return seen(again), [(trial.variant, trial.number) for trial in (ask(again), ask(again), ask(again))]


def puts_back(open_search: Open) -> object:
    search = open_search(None)
    first, second = ask(search), ask(search)
    search.requeue(first)
    return second.variant, search.ask(paused=[first.variant]), ask(search).number, seen(search)


def stops_at_a_rung(open_search: Open) -> object:
    search = open_search(None)
    trial = search.ask_in(search.strata[0], (0, 3))
    assert trial is not None
    search.keep_scores(trial, [(0.0, 1.5)])
    search.tell(trial, TrialOutcome(State.PRUNED, 0.5, {}, step=2))
    return seen(search)


def is_measured_later(open_search: Open) -> object:
    search = open_search(None)
    trial = ask(search)
    search.tell(trial, TrialOutcome(State.COMPLETE, None, {}))
    before = seen(search)
    search.retell(trial, TrialOutcome(State.COMPLETE, 2.0, {}))
    return before, seen(search)


@pytest.mark.parametrize("act", [drains, is_killed, fails, puts_back, stops_at_a_rung, is_measured_later])
def test_memory_answers_as_optuna_does(act: Act, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(TEXT)
    spec: StudySpec = load_study(file)

    def in_memory(before: AnySearch | None) -> AnySearch:
        assert before is None or isinstance(before, MemorySearch)
        return MemorySearch(spec, arms(spec), before)

    def in_optuna(_: AnySearch | None) -> AnySearch:
        return Search(spec, arms(spec), f"sqlite:///{tmp_path}/optuna.db")

    assert act(in_memory) == act(in_optuna)
