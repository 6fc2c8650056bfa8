"""Studies that are right: what loading completes, what arms hold, what a run's config says."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from studies.design.identity import context_of
from studies.records import DataConfig, EvaluationConfig, RunConfig, Scalar, digest
from studies.spec import (
    FloatRange,
    IntRange,
    ResolvedVariant,
    Simplex,
    Study,
    StudyError,
    StudySpec,
    Values,
    arms,
    load_study,
    not_yet,
    resolve_run,
    shipped_studies,
)
from sweeper.planning.plan import make_plan

BASE = "base: {model_name_or_path: embedded, use_peft: true, lora_r: 8, learning_rate: 1.0e-3, beta: 0.2}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def study(folder: Path, text: str, *overrides: str, base: str = BASE) -> StudySpec:
    file = folder / "study.yaml"
    file.write_text(f"study: mine\n{base}{text}")
    return load_study(file, overrides)


def run(spec: StudySpec, arm: str, scenario: str = "clean", seed: int = 0, **knobs: Scalar) -> RunConfig:
    return resolve_run(spec, arms(spec)[arm], scenario, trial=0, knobs=knobs, block=0, seed=seed)


# --- shipped studies ---------------------------------------------------------------------------------------------


def test_the_studies_that_ship_load_and_plan_and_say_what_they_ask() -> None:
    shipped = shipped_studies()
    asked_for = ["quickstart", "guide", "guide-small", "noise", "beta", "mixtures", "presets", "controls", "pairs"]
    of_the_guide = ("clean", "overfitting", "noise", "binary", "margins", "quality", "architectures")
    asked_for += [f"guide-{name}" for name in of_the_guide]
    assert set(shipped) == {*asked_for, "beta-lr-grid", "guide-smollm2", "lora-7b", "mixture", "smollm2"}
    for name, file in shipped.items():
        spec = load_study(name)
        assert spec.study == file.stem
        assert spec.question
        assert make_plan(Study.of(spec)).runs > 0
        assert file.read_text().startswith("# ")  # a head comment says what is asked
        assert not_yet(spec) == ()


def test_quickstart_compares_six_variants_over_eight_replicates_on_the_embedded_world() -> None:
    spec = load_study("quickstart")
    plan = make_plan(Study.of(spec))
    assert (len(plan.arms), spec.replicates, plan.runs) == (6, 8, 144)
    assert all(len(arm.points) == 2 and not arm.warnings for arm in plan.arms)
    assert (spec.base["model_name_or_path"], spec.data.path) == ("embedded", "embedded")


def test_the_grid_example_is_the_whole_grid() -> None:
    spec = load_study("beta-lr-grid")
    today, tuned = make_plan(Study.of(spec)).arms
    assert len({tuple(knobs.items()) for _, knobs in tuned.points}) == spec.budget.trials == 20
    assert (spec.baseline, len(today.points)) == ("today", 1)


def test_the_7b_example_takes_model_data_lengths_and_seed_from_an_existing_trl_file() -> None:
    spec = load_study("lora-7b")
    assert spec.base["model_name_or_path"] == "Qwen/Qwen2.5-7B-Instruct"
    assert (spec.base["dtype"], spec.base["warmup_steps"], spec.base["learning_rate"]) == ("bfloat16", 0.1, 5e-6)
    assert (spec.data.path, spec.data.eval_split) == ("trl-lib/ultrafeedback_binarized", "test")
    assert (spec.data.rows, spec.data.max_prompt_length, spec.data.max_length) == (3200, 512, 1024)
    assert spec.runs.seeds == (42,)
    for told in ("torch_dtype", "warmup_ratio", "loss_type", "output_dir", "report_to", "save_strategy"):
        assert any(notice.startswith(f"base.{told}: ") for notice in spec.notices)
    assert not {"output_dir", "report_to", "save_strategy", "logging_steps", "dataset_name"} & set(spec.base)


def test_the_smollm2_example_runs_on_local_copies(folder: Path) -> None:
    (folder / "model").mkdir()
    (folder / "pairs.jsonl").write_text("{}\n")
    spec = load_study("smollm2", ["base.model_name_or_path=model", "data.path=pairs.jsonl"])
    assert (spec.base["model_name_or_path"], spec.data.path) == ("model", "pairs.jsonl")


def test_the_settings_of_shipped_runs_are_read_by_trls_own_parser(folder: Path) -> None:
    from trl import DPOConfig, ModelConfig, ScriptArguments, TrlParser

    for name in shipped_studies():
        spec = load_study(name)
        made = list(arms(spec).values())
        for arm in (made[0], made[-1]):  # the last is the mixture, where there is one
            scenario = next(iter(spec.scenarios))
            config = resolve_run(spec, arm, scenario, trial=0, knobs=_first_point(spec, arm), block=0, seed=3)
            here = {"output_dir": "out", "dataset_name": "any", "bf16": False, "use_cpu": True}
            (folder / "config.yaml").write_text(yaml.safe_dump({**config.settings, **here}))
            parser = TrlParser((ScriptArguments, DPOConfig, ModelConfig))
            _, args, _ = parser.parse_args_and_config(["--config", "config.yaml"], fail_with_unknown_args=True)
            assert args.loss_type == list(arm.losses)
            assert (args.seed, args.max_length) == (3, spec.data.max_length)
            assert args.beta == config.settings.get("beta", 0.1)


def _first_point(spec: StudySpec, arm: ResolvedVariant) -> dict[str, Scalar]:
    knobs: dict[str, Scalar] = {}
    for knob, distribution in arm.space.items():
        if isinstance(distribution, Simplex):
            knobs.update({f"loss_weights.{loss}": 1 / len(arm.losses) for loss in arm.losses[1:]})
        else:
            knobs[knob] = distribution.values[0] if isinstance(distribution, Values) else distribution.low
    return knobs


def test_loading_a_study_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from studies.spec import arms, load_study\n"
        "arms(load_study('quickstart'))\n"
        "print(*sorted({'torch', 'trl', 'transformers', 'datasets', 'optuna', 'mlflow', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


# --- loading -----------------------------------------------------------------------------------------------------


def test_study_base_and_variants_are_enough(folder: Path) -> None:
    spec = study(folder, "variants: {sigmoid: , ipo: {}}")
    assert list(arms(spec)) == ["sigmoid", "ipo"]
    assert make_plan(Study.of(spec)).runs == 2


def test_text_that_is_a_number_becomes_one(folder: Path) -> None:
    spec = study(
        folder,
        "variants: {sigmoid: {points: [{learning_rate: 1e-5}], base: {warmup_steps: 1e1}}}\n"
        "space: {beta: {values: [1e-2, 0.1]}, learning_rate: {low: 1e-6, high: 1e-3, log: true},\n"
        "  lora_r: {low: 4, high: 8}}",
        base=BASE.replace("1.0e-3", "5e-6"),
    )
    assert spec.base["learning_rate"] == 5e-6
    assert spec.variants["sigmoid"].base["warmup_steps"] == 10.0
    assert spec.variants["sigmoid"].points[0]["learning_rate"] == 1e-5
    assert spec.space["beta"] == Values(values=(0.01, 0.1))
    assert spec.space["learning_rate"] == FloatRange(low=1e-6, high=1e-3, log=True)
    assert spec.space["lora_r"] == IntRange(low=4, high=8)


def test_a_variants_range_lies_over_the_shared_one_field_by_field(folder: Path) -> None:
    spec = study(
        folder,
        "variants: {sigmoid: {}, ipo: {space: {beta: {low: 0.5, high: 10}}}, hinge: {space: {beta: {high: 2}}},\n"
        "  sft: {space: {beta: null}}, robust: {space: {beta: {values: [1, 2]}}}}\n"
        "space: {beta: {low: 0.01, high: 1.0, log: true}, learning_rate: {values: [1e-4, 1e-3]}}",
    )
    made = arms(spec)
    assert made["ipo"].space["beta"] == FloatRange(low=0.5, high=10, log=True)
    assert made["hinge"].space["beta"] == FloatRange(low=0.01, high=2, log=True)
    assert made["robust"].space["beta"] == Values(values=(1.0, 2.0))
    assert list(made["sft"].space) == ["learning_rate"]
    assert made["sft"].left_out["beta"] == "the variant leaves it out"
    assert list(made["ipo"].space) == ["beta", "learning_rate"]


def test_loading_twice_what_was_dumped_gives_the_same_study(folder: Path) -> None:
    spec = load_study("lora-7b")
    assert StudySpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(("text", "seconds"), [("12h", 43200), ("30m", 1800), ("45s", 45), ("2d", 172800), ("90", 90)])
def test_wall_clock_is_written_with_a_unit(folder: Path, text: str, seconds: float) -> None:
    assert study(folder, f"variants: {{sigmoid: {{}}}}\nbudget: {{wall_clock: {text}}}").budget.wall_clock == seconds


def test_overrides_reach_anywhere_and_are_typed_by_yaml(folder: Path) -> None:
    spec = study(
        folder,
        "variants: {sigmoid: {points: [{beta: 0.1}]}}",
        "budget.trials=1",
        "base.learning_rate=5e-6",
        "variants.sigmoid.points.0.beta=0.7",
        "scenarios.noisy.label_flip=0.2",
        "objective={metric: kl}",
        "base.beta=null",
    )
    assert spec.base["learning_rate"] == 5e-6
    assert "beta" not in spec.base
    assert spec.variants["sigmoid"].points == ({"beta": 0.7},)
    assert spec.scenarios["noisy"].label_flip == 0.2
    assert (spec.objective.metric, spec.objective.direction) == ("kl", "minimize")


def test_an_override_lies_over_the_file_that_base_names(folder: Path) -> None:
    (folder / "trl.yaml").write_text("model_name_or_path: embedded\nlearning_rate: 1e-3\nmax_steps: 10\n")
    spec = study(folder, "variants: {sigmoid: {}}", "base.max_steps=20", base="base: trl.yaml\n")
    assert (spec.base["max_steps"], spec.base["learning_rate"]) == (20, 1e-3)


def test_paths_are_looked_for_here_and_beside_the_study_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "elsewhere").mkdir()
    (folder / "pairs.jsonl").write_text("{}\n")
    text = "variants: {sigmoid: {}}\ndata: {path: pairs.jsonl}"
    base = BASE.replace("embedded", "org/model")
    assert study(folder, text, base=base).data.path == "pairs.jsonl"
    monkeypatch.chdir(folder / "elsewhere")
    assert Path(study(folder, text, base=base).data.path) == folder / "pairs.jsonl"


def test_what_is_not_built_yet_is_parsed_and_said(folder: Path) -> None:
    spec = study(folder, "variants: {sigmoid: {}}\nresources: {gpus_per_run: 2}")
    assert [text.split(":")[0] for text in not_yet(spec)] == ["resources.gpus_per_run"]


def test_eval_loss_may_decide_where_loss_and_beta_are_the_same_for_all(folder: Path) -> None:
    spec = study(
        folder,
        "variants: {sigmoid: {}}\nspace: {learning_rate: {values: [1e-4, 1e-3]}}\nobjective: {metric: eval_loss}",
    )
    assert spec.objective.direction == "minimize"


def test_names_alike_in_their_first_ten_characters_are_told(folder: Path) -> None:
    spec = study(folder, "variants: {sigmoid-at-1: {loss_type: sigmoid}, sigmoid-at-2: {loss_type: sigmoid}}")
    assert any("first 10 characters" in notice for notice in spec.notices)


def test_the_guides_older_name_is_read_with_a_notice(folder: Path) -> None:
    spec = study(folder, "variants: {aot_pair: {}, old: {loss_type: aot_pair}}")
    assert {arm.losses for arm in arms(spec).values()} == {("aot_unpaired",)}
    assert sum("aot_unpaired since TRL 0.28" in notice for notice in spec.notices) == 2


# --- arms --------------------------------------------------------------------------------------------------------


def test_a_shared_knob_is_left_out_where_it_does_not_act_and_why_is_said(folder: Path) -> None:
    spec = study(
        folder,
        "variants: {sigmoid: {}, robust: {}, aot: {}, sft: {}}\n"
        "space: {label_smoothing: {values: [0.0, 0.2]}, beta: {values: [0.1, 0.3]}}",
        base=BASE.replace("beta: 0.2", "f_divergence_type: js_divergence"),
    )
    made = arms(spec)
    assert list(made["robust"].space) == ["label_smoothing", "beta"]
    assert list(made["sigmoid"].space) == ["beta"]
    assert "sigmoid ignores it" in made["sigmoid"].left_out["label_smoothing"]
    assert list(made["sft"].space) == []
    assert made["robust"].settings["f_divergence_type"] == "js_divergence"
    assert "f_divergence_type" not in made["aot"].settings
    assert "refuses" in made["aot"].left_out["f_divergence_type"]


def test_a_knob_that_the_variant_fixes_is_not_varied_there(folder: Path) -> None:
    spec = study(folder, "variants: {sigmoid: {base: {beta: 0.5}}, ipo: {}}\nspace: {beta: {values: [0.1, 0.3]}}")
    made = arms(spec)
    assert (made["sigmoid"].settings["beta"], list(made["sigmoid"].space)) == (0.5, [])
    assert made["sigmoid"].left_out["beta"] == "the variant fixes it"


def test_points_alone_are_all_that_an_arm_tries(folder: Path) -> None:
    spec = study(
        folder,
        "variants: {now: {loss_type: sigmoid, points: [{beta: 0.1}]}, ipo: {}, "
        "both: {loss_type: sigmoid, points: [{beta: 0.1}], space: {beta: {values: [0.5, 1.0]}}}}\n"
        "space: {beta: {values: [0.1, 0.3]}}",
    )
    made = arms(spec)
    assert (dict(made["now"].space), len(made["now"].points)) == ({}, 1)
    assert list(made["both"].space) == ["beta"]


def test_a_simplex_in_the_shared_space_is_for_mixtures_only(folder: Path) -> None:
    spec = study(
        folder,
        "variants: {sigmoid: {}, mix: {loss_type: [sigmoid, sft]},\n"
        "  fixed: {loss_type: [sigmoid, sft], loss_weights: [1, 2]}}\n"
        "space: {loss_weights: {type: simplex, corners: true}}",
    )
    made = arms(spec)
    assert dict(made["mix"].space) == {"loss_weights": Simplex(corners=True)}
    assert "mixture" in made["sigmoid"].left_out["loss_weights"]
    assert made["fixed"].left_out["loss_weights"] == "the variant fixes it"
    assert made["fixed"].settings["loss_weights"] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        ("discopop: {base: {discopop_tau: 0.05}}", "wrong sign"),
        ("discopop: {}", "wrong sign"),
        ("aot: {base: {per_device_train_batch_size: 1}}", "sigmoid"),
        ("robust: {space: {label_smoothing: {low: 0.0, high: 0.45}}}", "10 times"),
        ("sppo_hard: {base: {beta: 0.001}}", "500 nats"),
        ("ipo: {points: [{beta: 0.1, learning_rate: 1e-2}]}", "bandit"),
        ("mix: {loss_type: [sigmoid, ipo], base: {beta: 0.1}}", "most of this mixture's gradient"),
    ],
)
def test_a_trap_is_warned_of_and_not_refused(folder: Path, variant: str, words: str) -> None:
    spec = study(folder, f"variants: {{{variant}}}", base=BASE.replace(", beta: 0.2", ""))
    (arm,) = arms(spec).values()
    assert len(arm.warnings) == 1
    assert words in arm.warnings[0]


@pytest.mark.parametrize(
    "variant",
    [
        "discopop: {base: {discopop_tau: 0.2}}",
        "aot: {base: {per_device_train_batch_size: 16}}",
        "robust: {space: {label_smoothing: {low: 0.0, high: 0.3}}}",
        "sppo_hard: {base: {beta: 0.1}}",
        "ipo: {points: [{beta: 1.0, learning_rate: 1e-3}]}",
        "mix: {loss_type: [sigmoid, ipo], base: {beta: 1.0}}",
    ],
)
def test_what_is_no_trap_is_not_warned_of(folder: Path, variant: str) -> None:
    spec = study(folder, f"variants: {{{variant}}}", base=BASE.replace(", beta: 0.2", ""))
    assert [arm.warnings for arm in arms(spec).values()] == [()]


def test_arms_of_a_study_made_in_python_are_checked_too() -> None:
    spec = StudySpec.model_validate({"study": "a", "base": {"lora_r": 8}, "variants": {"sigmiod": {}, "ipo": {}}})
    with pytest.raises(StudyError) as caught:
        arms(spec)
    assert len(caught.value.problems) == 2


# --- runs --------------------------------------------------------------------------------------------------------


def test_a_run_holds_all_that_trl_is_told_and_nothing_of_the_sweep(folder: Path) -> None:
    spec = study(
        folder,
        "variants: {mix: {loss_type: [sigmoid, ipo, sft],\n"
        "  space: {loss_weights: {type: simplex}, beta: {low: 0.3, high: 1}}}}\n"
        "data: {max_length: 128}",
        base=BASE.rstrip("}\n") + ", output_dir: out, report_to: wandb, logging_steps: 5}\n",
    )
    config = run(spec, "mix", seed=7, beta=0.5, **{"loss_weights.ipo": 0.2, "loss_weights.sft": 0.5})
    assert config.settings == {
        "model_name_or_path": "embedded",
        "use_peft": True,
        "lora_r": 8,
        "learning_rate": 1e-3,
        "beta": 0.5,
        "loss_type": ["sigmoid", "ipo", "sft"],
        "loss_weights": pytest.approx([0.3, 0.2, 0.5]),
        "max_length": 128,
        "seed": 7,
    }
    assert config.knobs == {"beta": 0.5, "loss_weights.ipo": 0.2, "loss_weights.sft": 0.5}


def test_weights_that_are_not_those_of_the_mixture_are_refused(folder: Path) -> None:
    spec = study(folder, "variants: {mix: {loss_type: [sigmoid, ipo], space: {loss_weights: {type: simplex}}}}")
    with pytest.raises(ValueError, match=r"loss_weights\.ipo"):
        run(spec, "mix", **{"loss_weights.hinge": 0.5})
    with pytest.raises(ValueError, match="at most 1"):
        run(spec, "mix", **{"loss_weights.ipo": 1.5})


def test_a_scenario_changes_the_data_of_its_runs_only(folder: Path) -> None:
    spec = study(
        folder,
        "variants: {sigmoid: {}}\ndata: {path: embedded, rows: 500}\n"
        "scenarios: {clean: {}, noisy: {label_flip: 0.2, rows: 100, pairs_from: worse}}",
    )
    clean, noisy = run(spec, "sigmoid").data, run(spec, "sigmoid", "noisy").data
    assert (clean.label_flip, clean.rows, clean.pairs_from) == (0.0, 500, "same")
    assert (noisy.label_flip, noisy.rows, noisy.pairs_from) == (0.2, 100, "worse")


def test_rejected_answers_of_other_prompts_are_noticed_where_gold_ignores_the_prompt(folder: Path) -> None:
    text = "variants: {sigmoid: {}}\nscenarios: {clean: {}, shuffled: {rejected_from: another}}"
    assert any(notice.startswith("scenarios.shuffled: ") for notice in study(folder, text).notices)
    assert not any("scenarios.shuffled" in notice for notice in study(folder, text, "data.gold=prompt").notices)


def test_a_run_keeps_its_identity_from_version_to_version() -> None:
    """Where this changes, no run of an old store is found again: `EVALUATOR` alone may do so."""
    config = RunConfig(
        study="s",
        variant="v",
        scenario="clean",
        trial=0,
        block=1,
        seed=2,
        settings={"model_name_or_path": "embedded", "beta": 0.1},
        knobs={},
        data=DataConfig(rows=64, label_flip=0.2),
        evaluation=EvaluationConfig(prompts=32),
        evaluator="evaluator-3",
    )
    determined_by = {
        "trainer": "dpo",
        "settings": {"model_name_or_path": "embedded", "beta": 0.1},
        "block": 1,
        "seed": 2,
        "evaluator": "evaluator-3",
        "data": {"rows": 64, "label_flip": 0.2},
        "evaluation": {"prompts": 32},
    }
    assert config.key == digest(determined_by)


def test_where_rejected_answers_come_from_makes_another_run_and_the_default_none(folder: Path) -> None:
    spec = study(
        folder, "variants: {sigmoid: {}}\nscenarios: {a: {}, b: {rejected_from: own}, c: {rejected_from: model}}"
    )
    a, b, c = (run(spec, "sigmoid", scenario).key for scenario in ("a", "b", "c"))
    assert a == b != c


def test_a_stratums_question_names_only_what_differs_from_a_default(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a field that data, scenarios or evaluation get later leaves the trials of an old study comparable."""
    spec = study(
        folder, "variants: {sigmoid: {}}\ndata: {rows: 64}\nevaluate: {prompts: 32}\nscenarios: {a: {label_flip: 0.2}}"
    )
    asked: list[Any] = []

    def digest_of(value: Any) -> str:
        asked.append(value)
        return "digest"

    monkeypatch.setattr("studies.design.identity.digest", digest_of)
    assert context_of(spec, "a", arms(spec)) == "digest"
    parts = {name: asked[0][name] for name in ("data", "scenario", "evaluation")}
    assert parts == {"data": {"rows": 64}, "scenario": {"label_flip": 0.2}, "evaluation": {"prompts": 32}}
    assert asked[0]["arms"] == {"sigmoid": [arms(spec)["sigmoid"].settings, {}]}


def test_shares_of_the_gradient_are_other_runs_and_another_question_than_weights(folder: Path) -> None:
    mix = "variants: {mix: {loss_type: [sigmoid, ipo], %sspace: {loss_weights: {type: simplex}}}}"
    weights, shares = (study(folder, mix % balance) for balance in ("", "balance: gradient, "))
    one, other = (run(spec, "mix", **{"loss_weights.ipo": 0.3}) for spec in (weights, shares))
    assert other.balance == "gradient"
    assert other.settings == one.settings
    assert other.key != one.key
    assert context_of(weights, "clean", arms(weights)) != context_of(shares, "clean", arms(shares))


def test_a_mixture_balanced_by_gradient_is_planned_as_one_and_not_warned_of(folder: Path) -> None:
    mix = "variants: {mix: {loss_type: [sigmoid, ipo], %spoints: [{loss_weights.ipo: 0.3}]}}"
    base = BASE.replace("beta: 0.2", "beta: 0.1")
    weights, shares = (study(folder, mix % balance, base=base) for balance in ("", "balance: gradient, "))
    (plain,), (balanced,) = (make_plan(Study.of(spec)).arms for spec in (weights, shares))
    assert any("balance: gradient in the variant" in warning for warning in plain.warnings)
    assert balanced.warnings == ()
    assert balanced.fixed == {**plain.fixed, "balance": "gradient"}


def test_a_knob_that_does_not_act_leaves_the_identity_of_a_run_alone(folder: Path) -> None:
    plain = study(folder, "variants: {sft: {}, sigmoid: {}}")
    other = study(folder, "variants: {sft: {}, sigmoid: {}}", "base.beta=0.9")
    assert run(plain, "sft").key == run(other, "sft").key
    assert run(plain, "sigmoid").key != run(other, "sigmoid").key


# --- files that make no sense ------------------------------------------------------------------------------------

EVERYTHING = f"""
study: everything
question: why?
{BASE.replace("embedded", "org/model")}
data: {{path: org/pairs, rows: 10}}
baseline: sigmoid
variants:
  sigmoid: {{}}
  mix: {{loss_type: [sigmoid, ipo], space: {{loss_weights: {{type: simplex}}, beta: {{low: 0.3, high: 1}}}}}}
  now: {{loss_type: sigmoid, points: [{{beta: 0.1}}]}}
space: {{beta: {{low: 0.1, high: 1, log: true}}}}
scenarios: {{clean: {{}}, noisy: {{label_flip: 0.2}}}}
runs: {{blocks: [0], seeds: [0]}}
confirm: {{top: 1, blocks: [1]}}
evaluate: {{at: [0.5, 1.0], judge: {{reward_model: a/b}}}}
objective: {{metric: gold, constraints: {{kl: {{max: 4}}}}}}
budget: {{trials: 2, wall_clock: 1h}}
resources: {{workers: 1}}
output: {{keep: best}}
"""


def _places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in pairs:
        yield from _places(value, (*path, key))


def test_nonsense_anywhere_in_a_study_is_refused_or_read_but_never_raises_anything_else(folder: Path) -> None:
    whole = yaml.safe_load(EVERYTHING)
    file = folder / "study.yaml"
    refused: list[StudyError] = []
    nonsense: list[Any] = [None, [], {}, "x", -1, {"low": 2}]
    for path in _places(whole):
        for value in nonsense:
            changed = copy.deepcopy(whole)
            parent: Any = changed
            for key in path[:-1]:
                parent = parent[key]
            parent[path[-1]] = value
            file.write_text(json.dumps(changed))  # JSON is YAML too, and quicker to write
            try:
                arms(load_study(file))
            except StudyError as error:
                refused.append(error)
    assert len(refused) > 200
    assert all(problem.startswith(str(file)) for error in refused for problem in error.problems)
