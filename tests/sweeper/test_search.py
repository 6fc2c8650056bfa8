"""Asking and telling, with real Optuna studies in real SQLite files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import optuna
import pytest

from studies.records import State
from studies.spec import StudySpec, arms, load_study
from sweeper.search import Search, Trial, Verdict

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
        search.tell(trial, Verdict(State.COMPLETE, float(trial.number), {}))
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
    search.tell(trial, Verdict(State.FAIL, None, {}))
    again = drain(opened(tmp_path, THREE + "budget: {trials: 1}\n"))
    assert (trial.variant, trial.knobs) in [(t.variant, t.knobs) for t in again]
    assert len(again) == 3


def test_an_infeasible_trial_carries_its_constraint(tmp_path: Path) -> None:
    search = opened(tmp_path, THREE + "budget: {trials: 1}\n")
    search.tell(search.ask(), Verdict(State.PRUNED, -3.0, {"collapsed": 1.0}))
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
        search.tell(trial, Verdict(State.COMPLETE, -((beta - 0.8) ** 2), {}))
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
        search.tell(trial, Verdict(State.COMPLETE, beta, {"kl max": beta - 0.5}))  # better above .5, and not allowed
        tried.append(beta)
    assert sum(b <= 0.5 for b in tried[20:]) > 12


def test_sobol_then_tpe_starts_with_the_shared_points(tmp_path: Path) -> None:
    plain = drain(opened(tmp_path, THREE + "budget: {trials: 4}\n"))
    (tmp_path / "optuna.db").unlink()
    both = drain(opened(tmp_path, THREE + "sampler: sobol+tpe\nbudget: {trials: 4}\n"))
    assert [t.origin for t in both if t.variant == "ipo"] == ["unbiased", "unbiased", "tpe", "tpe"]
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
    assert [t.origin for t in trials if t.variant == "sigmoid"] == ["fixed", "unbiased", "unbiased"]


def test_a_changed_range_of_one_variant_keeps_the_shares_equal(tmp_path: Path) -> None:
    text = THREE.replace("ipo: {}", "ipo: {space: {beta: {low: 0.5, high: 10}}}") + "budget: {trials: 2}\n"
    drain(opened(tmp_path, text))
    search = opened(tmp_path, text.replace("high: 10", "high: 2"))
    assert put_aside(tmp_path) == ["s/ipo/clean"]
    drain(search)
    assert Counter(t.variant for t in search.trials()) == {"sigmoid": 2, "ipo": 2, "hinge": 2}
