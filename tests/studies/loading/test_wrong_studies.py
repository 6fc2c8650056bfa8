"""Wrong study files: each is refused with all of its mistakes at once, each with place, value and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from studies.spec import StudyError, load_study
from sweeper.cli.app import app

GOOD = """
study: good
base: {model_name_or_path: embedded, use_peft: true, lora_r: 8, learning_rate: 1.0e-3, max_steps: 10}
variants: {sigmoid: {}}
"""

# name -> (study file, for each mistake what its sentence must hold)
WRONG: dict[str, tuple[str, list[list[str]]]] = {
    "unknown key": (GOOD + "sampelr: grid\n", [["sampelr", "unknown key", "did you mean sampler"]]),
    "unknown key deep inside": (
        GOOD + "data: {path: embedded, row: 10}\nbudget: {trails: 3}\n",
        [["data.row", "did you mean rows"], ["budget.trails", "did you mean trials"]],
    ),
    "misspelt loss": (
        GOOD.replace("sigmoid", "sigmiod"),
        [["variants.sigmiod", "'sigmiod'", "did you mean sigmoid", "aot_unpaired"]],
    ),
    "loss of another name": (
        GOOD.replace("{sigmoid: {}}", "{kto_pair: {}, ours: {loss_type: [simpo, sigmoid]}}"),
        [["variants.kto_pair", "removed", "bco_pair"], ["variants.ours.loss_type", "simpo", "sigmoid_norm"]],
    ),
    "knob that does nothing, named in the variant": (
        GOOD.replace(
            "{sigmoid: {}}",
            "{sigmoid: {space: {label_smoothing: {low: 0, high: 0.3}}}, sft: {base: {beta: 0.1}}, "
            "ipo: {points: [{discopop_tau: 0.2}]}}",
        ),
        [
            ["variants.sigmoid.space.label_smoothing", "does nothing on sigmoid", "robust"],
            ["variants.sft.base.beta", "beta does nothing on sft"],
            ["variants.ipo.points.0.discopop_tau", "does nothing on ipo", "discopop"],
        ],
    ),
    "shared knob that acts nowhere": (
        GOOD.replace("max_steps: 10", "max_steps: 10, discopop_tau: 0.2")
        + "space: {label_smoothing: {values: [0, 0.1]}}\n",
        [["base.discopop_tau", "no variant"], ["space.label_smoothing", "no variant", "sigmoid ignores it"]],
    ),
    "range out of bounds": (
        GOOD.replace("sigmoid: {}", "robust: {}, exo_pair: {}")
        + "space: {label_smoothing: {low: 0.0, high: 0.6}, beta: {low: 0.0, high: 1.0}}\n",
        [
            ["space.label_smoothing.high", "0.6", "[0, 0.5)", "robust"],
            ["space.label_smoothing.low", "0", "(0, 0.5)", "exo_pair"],
            ["space.beta.low", "0 must be above 0", "robust"],
            ["space.beta.low", "exo_pair"],
            ["space.label_smoothing.high", "exo_pair"],
        ],
    ),
    "range upside down": (
        GOOD + "space: {beta: {low: 1.0, high: 0.1}, learning_rate: {low: 1.0e-4, high: 1.0e-4}}\n",
        [["space.beta", "low 1", "high 0.1", "exchange"], ["space.learning_rate", "both 0.0001"]],
    ),
    "expectation that cannot be judged": (
        GOOD.replace(
            "{sigmoid: {}}",
            "{sigmoid: {}, ipo: {expect: invertd}, hinge: {expect: {equals: sigmoi}}, robust: {expect: {within: 0.1}}, "
            "apo_zero: {expect: {equals: apo_zero}}, aot: {expect: {equals: sigmoid, within: -1}}, "
            "nca_pair: {expect: {outcome: fails, equals: sigmoid}}, bco_pair: {expect: {outcome: fails, within: 0}}, "
            "apo_down: {expect: no_gain}}",
        ),
        [
            ["variants.ipo.expect.outcome", "'invertd'", "did you mean inverted"],
            ["variants.hinge.expect.equals", "'sigmoi' is no variant", "did you mean sigmoid"],
            ["variants.robust.expect", "outcome", "equals"],
            ["variants.apo_zero.expect.equals", "itself"],
            ["variants.aot.expect.within", "-1"],
            ["variants.nca_pair.expect", "one of the two"],
            ["variants.bco_pair.expect.within", "does nothing"],
            ["variants.apo_down.expect", "objective.tie_within"],
        ],
    ),
    "gain without a zero": (
        GOOD.replace("{sigmoid: {}}", "{sigmoid: {}, ipo: {expect: no_gain}}") + "objective: {metric: kl}\n",
        [["variants.ipo.expect", "kl is not 0 for the untrained model", "ranking_gain"]],
    ),
    "equal variants that never meet": (
        GOOD.replace("{sigmoid: {}}", "{sigmoid: {}, ipo: {expect: {equals: sigmoid}}}")
        + "scenarios: {a: {variants: [sigmoid]}, b: {variants: [ipo]}}\n",
        [["variants.ipo.expect.equals", "no scenario has both ipo and sigmoid"]],
    ),
    "control whose trials a search chooses": (
        GOOD.replace("{sigmoid: {}}", "{sigmoid: {}, ipo: {expect: {equals: sigmoid}}}")
        + "mode: search\nspace: {beta: {low: 0.1, high: 1.0}}\n",
        [["variants.ipo.expect", "mode: compare"], ["variants.ipo.expect", "tpe", "sobol"]],
    ),
    "logarithm of nothing": (
        GOOD + "space: {weight_decay: {low: 0.0, high: 0.1, log: true}}\n",
        [["space.weight_decay", "low 0 must be above 0 on a log scale"]],
    ),
    "weights of the wrong length": (
        GOOD.replace("{sigmoid: {}}", "{mix: {loss_type: [sigmoid, ipo], loss_weights: [1.0, 0.5, 0.2]}}"),
        [["variants.mix.loss_weights", "3 weights", "2 losses"]],
    ),
    "weights that cannot be": (
        GOOD.replace(
            "{sigmoid: {}}",
            "{a: {loss_type: [sigmoid, ipo], loss_weights: [0, 0]}, sigmoid: {loss_weights: [2.0]}, "
            "b: {loss_type: [sigmoid, sigmoid]}, c: {loss_type: hinge, space: {loss_weights: {type: simplex}}}, "
            "d: {loss_type: [sigmoid, ipo], space: {loss_weights: {low: 0, high: 1}}}}",
        ),
        [
            ["variants.a.loss_weights", "all zero"],
            ["variants.sigmoid.loss_weights", "does nothing on the single loss"],
            ["variants.b.loss_type", "twice"],
            ["variants.c.space.loss_weights", "does nothing on the single loss hinge"],
            ["variants.d.space.loss_weights", "simplex"],
        ],
    ),
    "shares of the gradient that mean nothing": (
        GOOD.replace(
            "{sigmoid: {}}",
            "{sigmoid: {balance: gradient}, a: {loss_type: [sigmoid, ipo], balance: norm}, "
            "b: {loss_type: [sigmoid, robust], loss_weights: [1.8, -0.8], balance: gradient}}",
        ),
        [
            ["variants.sigmoid.balance", "does nothing on the single loss sigmoid"],
            ["variants.a.balance", "'norm' must be one of", "gradient"],
            ["variants.b.loss_weights", "[1.8, -0.8] must be 0 or more with balance: gradient"],
        ],
    ),
    "shares of a gradient that there is not": (
        GOOD.replace("{sigmoid: {}}", "{mix: {loss_type: [sigmoid, ipo], balance: gradient}}") + "trainer: formula\n",
        [["variants.mix.balance", "dpo does and formula does not"]],
    ),
    "loss of a scale that every run has for itself": (
        GOOD.replace("{sigmoid: {}}", "{mix: {loss_type: [sigmoid, ipo], balance: gradient}}")
        + "objective: {metric: eval_loss}\n",
        [["objective.metric", "'eval_loss' cannot be compared"]],
    ),
    "empty space": (GOOD + "space: {}\n", [["space", "is empty"]]),
    "trials of nothing": (GOOD + "budget: {trials: 4}\n", [["budget.trials", "4 trials", "nothing is varied"]]),
    "empty lists": (
        GOOD + "space: {beta: {values: []}}\nruns: {blocks: [], seeds: []}\nevaluate: {at: []}\n",
        [
            ["space.beta.values", "is empty"],
            ["runs.blocks", "is empty"],
            ["runs.seeds", "is empty"],
            ["evaluate.at", "is empty"],
        ],
    ),
    "no variants": (GOOD.replace("{sigmoid: {}}", "{}"), [["variants", "is empty"]]),
    "missing keys": (
        "question: what?\n",
        [["study", "missing"], ["base", "missing", "model_name_or_path"], ["variants", "missing", "sigmoid"]],
    ),
    "missing data file": (
        GOOD.replace("embedded", "org/model") + "data: {path: pairs.jsonl}\n",
        [["data.path", "'pairs.jsonl'", "no such file", "Hub id"]],
    ),
    "missing model folder": (
        GOOD.replace("embedded", "./my-model") + "data: {path: org/pairs}\n",
        [["base.model_name_or_path", "'./my-model'", "no such folder"]],
    ),
    "missing base file": (
        GOOD.replace(GOOD.splitlines()[2], "base: my_trl.yaml"),
        [["base", "'my_trl.yaml'", "no such file"]],
    ),
    "number that stays text": (
        GOOD.replace("1.0e-3", "fast") + "space: {beta: {low: tiny, high: 1}}\n",
        [["base.learning_rate", "'fast'", "float"], ["space.beta.low", "'tiny'", "valid number"]],
    ),
    "no as the name of a variant": (
        GOOD.replace("{sigmoid: {}}", "{no: {loss_type: sigmoid}, ipo: {}}"),
        [["variants", "no, off or false", "quotes"]],
    ),
    "number as the name of a variant": (
        GOOD.replace("{sigmoid: {}}", "{1: {loss_type: sigmoid}}"),
        [["variants", "1 is not text"]],
    ),
    "unknown metric": (
        GOOD + "objective: {metric: acuracy, constraints: {klpertoken: {max: 1}, kl: {most: 1}}}\n",
        [
            ["objective.metric", "'acuracy'", "did you mean accuracy"],
            ["objective.constraints.klpertoken", "did you mean kl_per_token"],
            ["objective.constraints.kl", "min, max or both"],
        ],
    ),
    "a tie within nothing": (
        GOOD + "objective: {metric: ranking_gain, tie_within: 0}\n",
        [["objective.tie_within", "0 must be a positive number", "left out"]],
    ),
    "eval_loss across losses": (
        GOOD.replace("{sigmoid: {}}", "{sigmoid: {}, ipo: {}}") + "objective: {metric: eval_loss}\n",
        [["objective.metric", "'eval_loss'", "cannot be compared", "ranking_gain"]],
    ),
    "reward margins across betas": (
        GOOD + "space: {beta: {values: [0.1, 0.2]}}\nobjective: {metric: reward_margin, direction: maximize}\n",
        [["objective.metric", "'reward_margin'", "betas"]],
    ),
    "gold without a gold reward": (
        GOOD.replace("embedded", "org/model") + "data: {path: org/pairs}\nobjective: {metric: gold}\n",
        [["objective.metric", "'gold'", "ranking_gain", "evaluate.judge"]],
    ),
    "lora without peft": (
        GOOD.replace("use_peft: true, ", "") + "space: {lora_alpha: {values: [8, 16]}}\n",
        [["base.lora_r", "use_peft"], ["space.lora_alpha", "use_peft"]],
    ),
    "adapter on the head": (
        GOOD.replace("lora_r: 8", "lora_target_modules: [q_proj, lm_head]"),
        [["base.lora_target_modules", "lm_head", "never be trained"]],
    ),
    "one module by its last name": (
        GOOD.replace("lora_r: 8", "lora_target_modules: [q_proj]"),
        [["base.lora_target_modules", "'q_proj' alone", "regular expression", "['.*[.]q_proj']"]],
    ),
    "the wrong smoothing": (
        GOOD.replace("lora_r: 8", "label_smoothing_factor: 0.1"),
        [["base.label_smoothing_factor", "label_smoothing", "robust"]],
    ),
    "settings that left trl": (
        GOOD.replace("lora_r: 8", "rpo_alpha: 1.0, reference_free: true, bfloat: true"),
        [["base.rpo_alpha", "[sigmoid, sft]"], ["base.reference_free", "dropped"], ["base.bfloat", "no setting"]],
    ),
    "smoothing that exo_pair lacks": (
        GOOD.replace("sigmoid: {}", "exo_pair: {}, b: {loss_type: exo_pair, base: {label_smoothing: 0.0}}"),
        [["variants.exo_pair", "needs label_smoothing"], ["variants.b.base.label_smoothing", "0 must be in (0, 0.5)"]],
    ),
    "robust at one half": (
        GOOD.replace("sigmoid: {}", "robust: {base: {label_smoothing: 0.5}}"),
        [["variants.robust.base.label_smoothing", "0.5", "divides by zero"]],
    ),
    "weighting where TRL has none": (
        GOOD.replace(
            "sigmoid: {}",
            "aot: {base: {use_weighting: true}}, sft: {base: {use_weighting: true}}, "
            "hinge: {base: {use_weighting: true}}",
        ),
        [
            ["variants.aot.base.use_weighting", "refuses"],
            ["variants.sft.base.use_weighting", "crashes"],
            ["variants.hinge.base.use_weighting", "crashes"],
        ],
    ),
    "divergence where TRL has none": (
        GOOD.replace(
            "sigmoid: {}",
            "bco_pair: {base: {f_divergence_type: forward_kl}}, "
            "mix: {loss_type: [sigmoid, apo_zero], base: {f_divergence_type: js_divergence}}, "
            "sigmoid: {base: {f_alpha_divergence_coef: 0.3}}",
        ),
        [
            ["variants.bco_pair.base.f_divergence_type", "non-default f-divergence"],
            ["variants.mix.base.f_divergence_type", "apo_zero"],
            ["variants.sigmoid.base.f_alpha_divergence_coef", "alpha_divergence"],
        ],
    ),
    "lengths that leave no room": (
        GOOD + "data: {path: embedded, max_prompt_length: 64, max_completion_length: 90, max_length: 64}\n",
        [["data.max_prompt_length", "64", "below max_length"], ["data.max_completion_length", "90"]],
    ),
    "grid over a range": (
        GOOD + "space: {beta: {low: 0.1, high: 1.0}}\nsampler: grid\n",
        [["space.beta", "values"]],
    ),
    "values twice": (GOOD + "space: {beta: {values: [0.1, 1e-1]}}\n", [["space.beta.values", "0.1", "twice"]]),
    "key twice": (
        GOOD.replace("{sigmoid: {}}", "{sigmoid: {}, ipo: {}, sigmoid: {}}"),
        [["variants.sigmoid", "twice"]],
    ),
    "unsafe names": (
        GOOD.replace("study: good", "study: ../elsewhere").replace("sigmoid: {}", '"a/b": {loss_type: sigmoid}')
        + 'scenarios: {".hidden": {}}\n',
        [
            ["study", "'../elsewhere'", "folder name"],
            ["variants.a/b", "folder name"],
            ["scenarios..hidden", "folder name"],
        ],
    ),
    "bare values in the space": (
        GOOD + "space: {beta: 0.1, learning_rate: [1.0e-4, 1.0e-3]}\n",
        [["space.beta", "0.1 is one value", "base"], ["space.learning_rate", "{values: [...]}"]],
    ),
    "kind of distribution": (
        GOOD + "space: {beta: {type: normal, low: 0, high: 1}, learning_rate: {low: 1.0e-5, hi: 1.0e-3}}\n",
        [
            ["space.beta", "'normal'", "simplex"],
            ["space.learning_rate.hi", "did you mean high"],
            ["space.learning_rate.high", "missing"],
        ],
    ),
    "things varied in the wrong place": (
        GOOD
        + "space: {seed: {values: [0, 1]}, max_length: {values: [64, 128]}, output_dir: {values: [a, b]}, "
        + "loss_type: {values: [ipo, hinge]}, learning_rat: {values: [1.0e-4, 1.0e-3]}}\n",
        [
            ["space.seed", "runs"],
            ["space.max_length", "data"],
            ["space.output_dir", "names and logs"],
            ["space.loss_type", "variants"],
            ["space.learning_rat", "did you mean learning_rate"],
        ],
    ),
    "null for what is not shared": (
        GOOD.replace("sigmoid: {}", "sigmoid: {space: {beta: null}}"),
        [["variants.sigmoid.space.beta", "null"]],
    ),
    "fixed and varied": (
        GOOD.replace("sigmoid: {}", "sigmoid: {base: {beta: 0.2}, space: {beta: {values: [0.1, 0.3]}}}"),
        [["variants.sigmoid.base.beta", "keep one of the two"]],
    ),
    "points that leave a knob open": (
        GOOD.replace("sigmoid: {}", "ipo: {}, now: {loss_type: sigmoid, points: [{weight_decay: 0.1}]}")
        + "space: {beta: {values: [0.1, 0.3]}}\n",
        [["variants.now.points.0", "does not say beta"]],
    ),
    "confirming on the same draw": (
        GOOD + "runs: {blocks: [0, 1]}\nconfirm: {blocks: [1, 2]}\n",
        [["confirm.blocks", "block 1 with seed 0", "fresh"]],
    ),
    "numbers out of place": (
        GOOD
        + "runs: {blocks: [0, 0], seeds: [-1]}\nbudget: {trials: 0, wall_clock: soon}\nresources: {workers: 0}\n"
        + "evaluate: {at: [0.5, 2], prompts: 0}\nscenarios: {noisy: {label_flip: 1.5, rows: 0}}\n",
        [
            ["runs.blocks", "twice"],
            ["runs.seeds", "0 or more"],
            ["budget.trials", "0 must be at least 1"],
            ["budget.wall_clock", "'soon'", "12h"],
            ["resources.workers", "0"],
            ["evaluate.at", "2", "share"],
            ["evaluate.prompts", "0"],
            ["scenarios.noisy.label_flip", "1.5"],
            ["scenarios.noisy.rows", "0"],
        ],
    ),
    "jobs that no cluster takes": (
        GOOD + "resources: {address: 'here:now', slurm: {partition: 'a b', mem: '--x', time: 1m, cpus: 0, gpu: 1}}\n",
        [
            ["resources.address", "'here:now'", "10.0.0.7:4711"],
            ["resources.slurm.partition", "'a b'", "one word", "--partition"],
            ["resources.slurm.mem", "'--x'", "one word"],
            ["resources.slurm.time", "60", "180 seconds"],
            ["resources.slurm.cpus", "0 must be at least 1"],
            ["resources.slurm.gpu", "unknown key"],
        ],
    ),
    "scenarios that do nothing": (
        GOOD.replace("embedded", "org/model")
        + "data: {path: org/pairs, gold: prompt, flip_by: length}\nevaluate: {margin: 0}\n"
        + "scenarios: {clean: {}, biased: {label_flip: 0.2}, none: {flip_by: length}}\n",
        [
            ["data.gold", "'prompt'", "org/pairs", "only embedded data have gold"],
            ["data.flip_by", "'length'", "scenario clean", "label_flip is 0", "scenarios that flip"],
            ["scenarios.none.flip_by", "'length'", "label_flip is 0", "give label_flip"],
            ["evaluate.margin", "0", "above 0"],
        ],
    ),
    "answers that the embedded model cannot give": (
        GOOD.replace("embedded", "org/model")
        + "data: {path: org/pairs, rejected_from: model}\nscenarios: {own: {}, single: {rejected_from: model}}\n",
        [
            ["data.rejected_from", "'model'", "org/pairs", "sample your own model"],
            ["scenarios.single.rejected_from", "'model'", "org/pairs", "remove this"],
        ],
    ),
    "what scenarios cannot be": (
        GOOD + "data: {flip_by: chanse, gold: promt}\nscenarios: {a: {flip_by: lenght}, b: {rejected_from: others}}\n",
        [
            ["data.flip_by", "'chanse'", "did you mean chance"],
            ["data.gold", "'promt'", "did you mean prompt"],
            ["scenarios.a.flip_by", "'lenght'", "did you mean length"],
            ["scenarios.b.rejected_from", "'others'", "own", "another", "model"],
        ],
    ),
    "choices that are none": (
        GOOD + "sampler: gird\nmode: serach\nbaseline: sigmod\ntrainer: dop\noutput: {keep: bset}\n",
        [
            ["sampler", "'gird'", "did you mean grid"],
            ["mode", "'serach'", "did you mean search"],
            ["baseline", "'sigmod'", "did you mean sigmoid"],
            ["trainer", "'dop'", "did you mean dpo"],
            ["output.keep", "'bset'", "did you mean best"],
        ],
    ),
    "embedded model on foreign data": (
        GOOD + "data: {path: org/pairs}\n",
        [["base.model_name_or_path", "embedded"]],
    ),
    "lists where mappings belong": (
        "study: good\nbase: [a]\nvariants: [sigmoid, ipo]\nruns: 3\n",
        [["base", "mapping"], ["variants", "mapping"], ["runs", "mapping"]],
    ),
    "not YAML": ("study: [good\nbase: {", [["not YAML", "line"]]),
    "empty file": ("", [["empty"]]),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_study_is_refused_with_all_its_mistakes_at_once(folder: Path, name: str) -> None:
    text, expected = WRONG[name]
    file = folder / "study.yaml"
    file.write_text(text)
    with pytest.raises(StudyError) as caught:
        load_study(file)
    problems = list(caught.value.problems)
    assert len(problems) == len(expected), "\n".join(problems)
    refused = CliRunner().invoke(app, ["run", str(file)])
    assert refused.exit_code == 2
    assert refused.stderr == "".join(f"error: {problem}\n" for problem in problems)
    for words in expected:
        # Each mistake is told by a sentence of its own, which starts with file and place.
        held = next((p for p in problems if str(file) in p and all(word in p for word in words)), None)
        assert held is not None, f"{words} not in\n" + "\n".join(problems)
        problems.remove(held)
    assert list(folder.iterdir()) == [file]  # nothing was created


def test_the_study_that_the_wrong_ones_are_made_of_is_right(folder: Path) -> None:
    file = folder / "study.yaml"
    file.write_text(GOOD)
    assert load_study(file).study == "good"


def test_mistakes_of_structure_do_not_hide_the_others(folder: Path) -> None:
    file = folder / "study.yaml"
    file.write_text(
        GOOD.replace("{sigmoid: {}}", "{sigmiod: {}, ipo: {bass: {}}}")
        + "budget: {trials: many}\nobjective: {metric: happiness}\nspace: {beta: {low: 2, high: 1}}\n"
    )
    with pytest.raises(StudyError) as caught:
        load_study(file, ["runs.seeds=[]"])
    text = "\n".join(caught.value.problems)
    for place in (
        "variants.sigmiod",
        "variants.ipo.bass",
        "budget.trials",
        "objective.metric",
        "space.beta",
        "runs.seeds",
    ):
        assert f": {place}: " in text
    assert len(caught.value.problems) == 6


def test_a_study_that_does_not_exist_is_refused_with_the_shipped_names(folder: Path) -> None:
    with pytest.raises(StudyError, match="did you mean quickstart"):
        load_study("quickstrat")
    with pytest.raises(StudyError, match="no such file"):
        load_study(folder / "missing.yaml")
    with pytest.raises(StudyError, match="is a folder"):
        load_study(folder)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("budget.trials", "key.sub=value"),
        ("budget.trials=[1", "not a YAML value"),
        ("study.name=1", "no such place"),
        ("budget.trails=3", "did you mean trials"),
        ("variants.sigmoid.base.lora_r=0", "at least 1"),
    ],
)
def test_a_wrong_override_is_named(folder: Path, override: str, words: str) -> None:
    file = folder / "study.yaml"
    file.write_text(GOOD)
    with pytest.raises(StudyError) as caught:
        load_study(file, [override])
    (problem,) = caught.value.problems
    assert words in problem
