"""Asking and telling, with real Optuna studies in real SQLite files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import optuna
import pytest

from studies.records import State
from studies.spec import StudySpec, arms, load_study
from sweeper.search.search import Search
from sweeper.search.trials import Trial, TrialOutcome

BASE = "study: s\nbase: {model_name_or_path: embedded, use_peft: true, lora_r: 8, max_steps: 4}\n"
THREE = (
    BASE + "variants: {sigmoid: {}, ipo: {}, hinge: {}}\n"
    "space: {beta: {low: 0.01, high: 1.0, log: true}}\nobjective: {metric: ranking_gain}\n"
)


def spec_of(tmp_path: Path, text: str) -> StudySpec:
    file = tmp_path / "study.yaml"
    file.write_text(text)
    return load_study(file)


def opened(tmp_path: Path, text: str) -> Search:
    spec = spec_of(tmp_path, text)
    return Search(spec, arms(spec), f"sqlite:///{tmp_path}/optuna.db")


def drain(search: Search) -> list[Trial]:
    trials = []
    while (trial := search.ask()) is not None:
        search.tell(trial, TrialOutcome(State.COMPLETE, float(trial.number), {}))
        trials.append(trial)
    return trials


def frozen(tmp_path: Path, name: str) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{tmp_path}/optuna.db").trials


def test_strata_take_turns(tmp_path: Path) -> None:
    trials = drain(opened(tmp_path, THREE + "budget: {trials: 2}\n"))
    assert [t.variant for t in trials] == ["sigmoid", "ipo", "hinge"] * 2


def test_every_stratum_is_an_optuna_study_with_its_knobs_as_params(tmp_path: Path) -> None:
    trials = drain(opened(tmp_path, THREE + "budget: {trials: 2}\n"))
    stored = frozen(tmp_path, "s/ipo/clean")
    assert [t.params for t in stored] == [dict(t.knobs) for t in trials if t.variant == "ipo"]
    assert [t.value for t in stored] == [0.0, 1.0]


def test_a_raised_budget_adds_only_the_missing_trials(tmp_path: Path) -> None:
    first = drain(opened(tmp_path, THREE + "budget: {trials: 2}\n"))
    second = drain(opened(tmp_path, THREE + "budget: {trials: 3}\n"))
    assert len(first) == 6
    assert len(second) == 3
    assert {t.number for t in second} == {2}


def test_a_variant_added_later_gets_the_same_points(tmp_path: Path) -> None:
    first = drain(opened(tmp_path, THREE + "budget: {trials: 2}\n"))
    more = THREE.replace("hinge: {}", "hinge: {}, robust: {base: {label_smoothing: 0.1}}")
    second = drain(opened(tmp_path, more + "budget: {trials: 2}\n"))
    assert [t.variant for t in second] == ["robust", "robust"]
    assert [t.knobs for t in second] == [t.knobs for t in first if t.variant == "sigmoid"]


def test_trials_left_running_by_a_killed_sweep_are_asked_again_with_the_same_knobs(tmp_path: Path) -> None:
    killed = opened(tmp_path, THREE + "budget: {trials: 2}\n")
    left = [killed.ask() for _ in range(4)]
    again = drain(opened(tmp_path, THREE + "budget: {trials: 2}\n"))
    assert [(t.variant, t.number, t.knobs) for t in left] == [
        (t.variant, t.number, t.knobs) for t in sorted(again, key=lambda t: t.number)[:4]
    ]
    assert len(again) == 6
    for name in ("sigmoid", "ipo", "hinge"):
        assert Counter(t.state.name for t in frozen(tmp_path, f"s/{name}/clean")) == {"COMPLETE": 2}


def test_a_requeued_trial_is_not_counted_twice(tmp_path: Path) -> None:
    search = opened(tmp_path, THREE + "budget: {trials: 1}\n")
    trial = search.ask()
    search.requeue(trial)
    assert len(drain(search)) == 3


def test_a_trial_that_the_machine_failed_is_asked_for_again_as_another(tmp_path: Path) -> None:
    search = opened(tmp_path, THREE + "budget: {trials: 1}\n")
    trial = search.ask()
    search.tell(trial, TrialOutcome(State.FAIL, None, {}))
    again = drain(opened(tmp_path, THREE + "budget: {trials: 1}\n"))
    assert (trial.variant, trial.knobs) in [(t.variant, t.knobs) for t in again]
    assert len(again) == 3


def test_an_infeasible_trial_carries_its_constraint(tmp_path: Path) -> None:
    search = opened(tmp_path, THREE + "budget: {trials: 1}\n")
    search.tell(search.ask(), TrialOutcome(State.PRUNED, -3.0, {"collapsed": 1.0}))
    (stored,) = frozen(tmp_path, "s/sigmoid/clean")
    assert stored.state is optuna.trial.TrialState.PRUNED
    assert stored.constraints == {"collapsed": 1.0}
    assert stored.intermediate_values == {0: -3.0}


def put_aside(folder: Path) -> list[str]:
    """The strata of which trials of another question are kept."""
    names = [s.study_name for s in optuna.get_all_study_summaries(f"sqlite:///{folder}/optuna.db")]
    return sorted({name.partition("@")[0] for name in names if "@" in name})


def test_an_edit_of_the_data_puts_the_old_trials_aside(tmp_path: Path) -> None:
    drain(opened(tmp_path, THREE + "budget: {trials: 1}\n"))
    search = opened(tmp_path, THREE + "budget: {trials: 1}\ndata: {rows: 64}\n")
    assert put_aside(tmp_path) == ["s/hinge/clean", "s/ipo/clean", "s/sigmoid/clean"]
    assert len(drain(search)) == 3


def test_tpe_learns_within_a_stratum(tmp_path: Path) -> None:
    text = BASE + "variants: {sigmoid: {}}\nspace: {beta: {low: 0.0, high: 1.0}}\nsampler: tpe\nbudget: {trials: 40}\n"
    search = opened(tmp_path, text.replace("low: 0.0", "low: 0.001"))
    tried = []
    while (trial := search.ask()) is not None:
        beta = float(trial.knobs["beta"])
        search.tell(trial, TrialOutcome(State.COMPLETE, -((beta - 0.8) ** 2), {}))
        tried.append(beta)
    late = tried[20:]
    assert sum(abs(b - 0.8) < 0.15 for b in late) > 10


def test_tpe_keeps_away_from_what_breaks_a_bound(tmp_path: Path) -> None:
    text = (
        BASE + "variants: {sigmoid: {}}\nspace: {beta: {low: 0.001, high: 1.0}}\nsampler: tpe\nbudget: {trials: 40}\n"
    )
    search = opened(tmp_path, text)
    tried = []
    while (trial := search.ask()) is not None:
        beta = float(trial.knobs["beta"])
        search.tell(
            trial, TrialOutcome(State.COMPLETE, beta, {"kl max": beta - 0.5})
        )  # better above .5, and not allowed
        tried.append(beta)
    assert sum(b <= 0.5 for b in tried[20:]) > 12


def test_sobol_then_tpe_starts_with_the_shared_points(tmp_path: Path) -> None:
    plain = drain(opened(tmp_path, THREE + "budget: {trials: 4}\n"))
    (tmp_path / "optuna.db").unlink()
    both = drain(opened(tmp_path, THREE + "sampler: sobol+tpe\nbudget: {trials: 4}\n"))
    assert [t.phase for t in both if t.variant == "ipo"] == ["unbiased", "unbiased", "tpe", "tpe"]
    assert [t.knobs for t in both if t.variant == "ipo"][:2] == [t.knobs for t in plain if t.variant == "ipo"][:2]


def test_a_joint_search_keeps_each_losss_beta_apart_and_shares_the_learning_rate(tmp_path: Path) -> None:
    text = (
        THREE.replace(
            "space: {beta", "mode: search\nspace: {learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}, beta"
        )
        + "budget: {trials: 12}\n"
    )
    trials = drain(opened(tmp_path, text))
    assert len(trials) == 12
    assert {t.variant for t in trials} == {"sigmoid", "ipo", "hinge"}
    for stored in frozen(tmp_path, "s/search/clean"):
        assert set(stored.params) == {"variant", "learning_rate", f"{stored.params['variant']}.beta"}


def test_points_outside_of_the_space_are_kept_as_params(tmp_path: Path) -> None:
    text = THREE.replace("sigmoid: {}", "sigmoid: {points: [{beta: 5.0}]}") + "budget: {trials: 1}\n"
    drain(opened(tmp_path, text))
    assert frozen(tmp_path, "s/sigmoid/clean")[0].params == {"beta": 5.0}


@pytest.mark.parametrize("sampler", ["sobol", "random", "tpe"])
def test_the_same_seed_gives_the_same_trials(tmp_path: Path, sampler: str) -> None:
    text = THREE + f"sampler: {sampler}\nbudget: {{trials: 3}}\n"
    first = [(t.variant, t.knobs) for t in drain(opened(tmp_path, text))]
    (tmp_path / "optuna.db").unlink()
    assert [(t.variant, t.knobs) for t in drain(opened(tmp_path, text))] == first


CHOICES = (
    BASE + "variants: {sigmoid: {}, ipo: {}}\nbudget: {trials: 2}\n"
    "space: {beta: {low: 0.01, high: 1.0, log: true}, learning_rate: {values: [1.0e-6, 5.0e-6]}}\n"
)


def test_an_added_choice_starts_the_strata_anew_and_taking_it_back_finds_the_old_trials(tmp_path: Path) -> None:
    assert len(drain(opened(tmp_path, CHOICES))) == 4
    wider = CHOICES.replace("5.0e-6]", "5.0e-6, 1.0e-5]")
    for _ in range(2):
        search = opened(tmp_path, wider)
        assert len(put_aside(tmp_path)) == 2
        drain(search)
        assert len(search.trials()) == 4
        back = opened(tmp_path, CHOICES)
        assert back.ask() is None
        assert len(back.trials()) == 4


@pytest.mark.parametrize("point", ["{beta: 2, learning_rate: 3.0e-6}", "{beta: 2.0, learning_rate: 1.0e-6}"])
def test_a_fixed_point_may_lie_anywhere(tmp_path: Path, point: str) -> None:
    own = "sigmoid: {points: [POINT], space: {beta: {low: 0.01, high: 1.0, log: true}}}".replace("POINT", point)
    trials = drain(opened(tmp_path, CHOICES.replace("sigmoid: {}", own)))
    assert [t.phase for t in trials if t.variant == "sigmoid"] == ["fixed", "unbiased", "unbiased"]


def test_a_changed_range_of_one_variant_keeps_the_shares_equal(tmp_path: Path) -> None:
    text = THREE.replace("ipo: {}", "ipo: {space: {beta: {low: 0.5, high: 10}}}") + "budget: {trials: 2}\n"
    drain(opened(tmp_path, text))
    search = opened(tmp_path, text.replace("high: 10", "high: 2"))
    assert put_aside(tmp_path) == ["s/ipo/clean"]
    drain(search)
    assert Counter(t.variant for t in search.trials()) == {"sigmoid": 2, "ipo": 2, "hinge": 2}


# ---- each config once ---------------------------------------------------------------------------------------------

SIX = (
    BASE + "variants: {sigmoid: {}, ipo: {}}\n"
    "space: {beta: {values: [0.1, 0.3]}, learning_rate: {values: [1.0e-6, 1.0e-5, 1.0e-4]}}\n"
)
SAMPLERS = [
    pytest.param("sampler: random", marks=pytest.mark.slow),
    "sampler: tpe",
    "sampler: sobol+tpe",
    "mode: search",
    pytest.param("mode: search\nsampler: random", marks=pytest.mark.slow),
]


def configs(trials: Sequence[Trial]) -> list[tuple[str, tuple[object, ...]]]:
    return [(t.variant, tuple(t.knobs.values())) for t in trials]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_config_is_asked_for_twice_and_the_end_is_that_of_the_space(tmp_path: Path, sampler: str) -> None:
    text = SIX + f"{sampler}\nbudget: {{trials: 30}}\n"
    first = configs(drain(opened(tmp_path, text)))
    assert len(first) == len(set(first)) == 12
    search = opened(tmp_path, text)
    assert not search.left(["sigmoid", "ipo"])
    assert search.ask() is None
    (tmp_path / "optuna.db").unlink()
    assert configs(drain(opened(tmp_path, text))) == first


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_smaller_budget_than_the_space_is_spent_on_distinct_configs(tmp_path: Path, sampler: str) -> None:
    trials = 5 if "search" not in sampler else 10
    text = SIX + f"{sampler}\nbudget: {{trials: {trials}}}\n"
    found = configs(drain(opened(tmp_path, text)))
    assert len(found) == len(set(found)) == 10
    more = configs(drain(opened(tmp_path, text.replace(f"trials: {trials}", "trials: 11"))))
    assert len({*found, *more}) == 12 - ("search" in sampler)
    assert not {*found} & {*more}


@pytest.mark.slow
def test_tpe_learns_though_it_gives_no_config_twice(tmp_path: Path) -> None:
    """17 of the 128 configs are good: 40 drawn at random would hold 5 of them."""
    text = BASE + "variants: {sigmoid: {}}\nspace: {lora_r: {low: 1, high: 64}, beta: {values: [0.1, 0.3]}}\n"
    search = opened(tmp_path, text + "sampler: tpe\nbudget: {trials: 40}\n")
    tried = []
    while (trial := search.ask()) is not None:
        rank, beta = float(trial.knobs["lora_r"]), float(trial.knobs["beta"])
        search.tell(trial, TrialOutcome(State.COMPLETE, -abs(rank - 40) - 20 * (beta != 0.1), {}))
        tried.append((rank, beta))
    assert len(set(tried)) == len(tried) == 40
    assert sum(abs(rank - 40) <= 8 and beta == 0.1 for rank, beta in tried) >= 10


def test_what_optuna_holds_of_a_trial_is_what_it_was_asked_with(tmp_path: Path) -> None:
    drain(opened(tmp_path, SIX + "mode: search\nbudget: {trials: 30}\n"))
    for stored in frozen(tmp_path, "s/search/clean"):
        about = json.loads(stored.user_attrs["trial"])
        assert stored.params["variant"] == about["variant"]
        assert stored.params["learning_rate"] == about["params"]["learning_rate"]
        assert stored.params[f"{about['variant']}.beta"] == about["params"]["beta"]


def test_a_joint_search_leaves_a_variant_whose_space_is_at_its_end(tmp_path: Path) -> None:
    text = (
        BASE + "mode: search\nvariants: {sigmoid: {base: {beta: 0.1}}, ipo: {points: [{beta: 0.3}]}, "
        "hinge: {space: {beta: {low: 0.01, high: 1.0}}}}\nbudget: {trials: 15}\n"
    )
    found = drain(opened(tmp_path, text))
    assert Counter(t.variant for t in found) == {"sigmoid": 1, "ipo": 1, "hinge": 14}
    assert [t.knobs for t in found if t.variant != "hinge"] == [{"beta": 0.3}, {}]


def test_a_paused_variant_keeps_what_is_left_of_a_joint_search(tmp_path: Path) -> None:
    search = opened(tmp_path, SIX + "mode: search\nbudget: {trials: 30}\n")
    found = []
    while (trial := search.ask(paused=["ipo"])) is not None:
        search.tell(trial, TrialOutcome(State.COMPLETE, 0.0, {}))
        found.append(trial)
    assert {t.variant for t in found} == {"sigmoid"}
    assert len(found) == 6
    assert search.left(["ipo"])
    assert {t.variant for t in drain(search)} == {"ipo"}
    assert len(search.trials()) == 12


def test_a_fixed_point_is_not_suggested_again(tmp_path: Path) -> None:
    own = "{points: [{beta: 0.1, learning_rate: 1.0e-5}], space: {beta: {values: [0.1, 0.3]}}}"
    for sampler in ("sampler: tpe", "mode: search"):
        found = configs(drain(opened(tmp_path, SIX.replace("ipo: {}", f"ipo: {own}") + f"{sampler}\n")))
        assert len(found) == len(set(found))
        (tmp_path / "optuna.db").unlink()


# ---- stores of versions that asked for a config again ---------------------------------------------------------------


def repeat(tmp_path: Path, name: str, number: int, state: optuna.trial.TrialState, times: int) -> None:
    """Leave `times` more trials of what trial `number` tried."""
    study = optuna.load_study(study_name=name, storage=f"sqlite:///{tmp_path}/optuna.db")
    old = study.trials[number]
    value = 0.0 if state is optuna.trial.TrialState.COMPLETE else None
    for _ in range(times):
        study.add_trial(
            optuna.trial.create_trial(
                state=state, value=value, params=old.params, distributions=old.distributions, user_attrs=old.user_attrs
            )
        )


def test_closed_repetitions_of_an_old_store_are_told_and_take_no_place(tmp_path: Path) -> None:
    text = SIX + "sampler: tpe\nbudget: {trials: 3}\n"
    drain(opened(tmp_path, text))
    repeat(tmp_path, "s/ipo/clean", 1, optuna.trial.TrialState.COMPLETE, times=4)
    search = opened(tmp_path, text)
    assert search.ask() is None
    assert [t.repeats for t in search.trials() if t.variant == "ipo"] == [False] * 3 + [True] * 4
    more = drain(opened(tmp_path, text.replace("trials: 3", "trials: 5")))
    assert Counter(t.variant for t in more) == {"sigmoid": 2, "ipo": 2}


def test_repetitions_that_an_old_sweep_left_waiting_are_not_asked_for(tmp_path: Path) -> None:
    text = SIX + "budget: {trials: 3}\n"
    drain(opened(tmp_path, text))
    repeat(tmp_path, "s/ipo/clean", 1, optuna.trial.TrialState.WAITING, times=2)
    repeat(tmp_path, "s/ipo/clean", 2, optuna.trial.TrialState.RUNNING, times=1)
    search = opened(tmp_path, text)
    assert search.ask() is None
    assert not search.left(["ipo"])
    assert Counter(t.state.name for t in frozen(tmp_path, "s/ipo/clean")) == {"COMPLETE": 3, "FAIL": 3}


def test_a_repeated_config_is_tried_again_once(tmp_path: Path) -> None:
    text = SIX + "budget: {trials: 3}\n"
    drain(opened(tmp_path, text))
    repeat(tmp_path, "s/ipo/clean", 1, optuna.trial.TrialState.COMPLETE, times=4)
    search = opened(tmp_path, text)
    search.again([t for t in search.trials() if t.variant == "ipo" and t.number not in (0, 2)])
    again = drain(search)
    assert len(again) == 1
    closed = [t for t in opened(tmp_path, text).trials() if t.variant == "ipo" and t.state is State.COMPLETE]
    assert [(t.number, t.repeats) for t in closed] == [(0, False), (2, False), (again[0].number, False)]


def test_what_is_measured_later_is_told_once_and_takes_no_place(tmp_path: Path) -> None:
    text = THREE.replace("objective:", "sampler: tpe\nobjective:") + "budget: {trials: 2}\n"
    search = opened(tmp_path, text)
    while (trial := search.ask()) is not None:
        search.tell(trial, TrialOutcome(State.COMPLETE, None, {}))
    again = opened(tmp_path, text)
    unmeasured = [trial for trial in again.trials() if trial.unmeasured]
    assert len(unmeasured) == len(again.trials()) == 6
    for trial in unmeasured:
        again.retell(trial, TrialOutcome(State.COMPLETE, float(trial.number), {"kl max": -1.0}))
    told = [t for t in frozen(tmp_path, "s/ipo/clean") if t.state is optuna.trial.TrialState.COMPLETE]
    assert [(t.value, t.params["beta"]) for t in told] == [
        (float(t.number), t.knobs["beta"]) for t in unmeasured if t.variant == "ipo"
    ]
    assert told[0].constraints == {"kl max": -1.0}
    third = opened(tmp_path, text)
    assert not [trial for trial in third.trials() if trial.unmeasured]
    assert third.ask() is None
