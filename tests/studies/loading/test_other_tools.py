"""Config files of other tools: what they are is said in a sentence, and for each of their keys what to write here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from studies.loading.other_tools import base_problems, study_problems
from studies.losses.trl_settings import DATA, TYPES
from studies.schema.dialects import BASES, SWEEPS
from studies.schema.types import StudySpec
from studies.spec import StudyError, load_study
from sweeper.cli.app import app

LLAMA_FACTORY = """
model_name_or_path: Qwen/Qwen2.5-0.5B-Instruct
trust_remote_code: true
stage: dpo
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
pref_beta: 0.2
pref_loss: sigmoid
dataset: dpo_en_demo
template: qwen
cutoff_len: 2048
max_samples: 1000
overwrite_cache: true
preprocessing_num_workers: 16
output_dir: saves/dpo
plot_loss: true
per_device_train_batch_size: 1
learning_rate: 5.0e-6
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
val_size: 0.1
resume_from_checkpoint: null
"""
AXOLOTL = """
base_model: org/model
model_type: LlamaForCausalLM
load_in_8bit: true
rl: dpo
datasets:
  - path: org/pairs
    split: train
dataset_prepared_path:
val_set_size: 0.05
sequence_len: 4096
sample_packing: false
adapter: lora
lora_model_dir:
lora_r: 32
lora_alpha: 16
lora_target_linear: true
lora_fan_in_fan_out:
wandb_project:
gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 4
optimizer: adamw_bnb_8bit
lr_scheduler: cosine
learning_rate: 0.0002
bf16: auto
fp16:
tf32: false
early_stopping_patience:
flash_attention: true
warmup_steps: 10
deepspeed:
special_tokens:
"""
OPEN_INSTRUCT = """
exp_name: mine
model_name_or_path: org/model
dataset_mixer_list: [org/pairs, "1.0"]
max_seq_length: 2048
use_flash_attn: true
dpo_loss_type: dpo_norm
dpo_beta: 5
learning_rate: 1.0e-6
with_tracking: true
"""
HANDBOOK = """
model_name_or_path: org/model
torch_dtype: bfloat16
dataset_mixer: {org/pairs: 1.0}
dataset_splits: [train_prefs, test_prefs]
preprocessing_num_workers: 12
bf16: true
beta: 0.01
learning_rate: 5.0e-7
max_length: 1024
"""
# tool -> (its file, what the sentence of a key must hold)
FILES: dict[str, tuple[str, dict[str, str]]] = {
    "LLaMA-Factory": (
        LLAMA_FACTORY,
        {
            "lora_rank": "write lora_r: 8",
            "pref_beta": "write beta: 0.2",
            "cutoff_len": "write max_length: 2048",
            "max_samples": "write data: {rows: 1000} in the study file",
            "val_size": "write data: {eval_rows:",
            "finetuning_type": "write use_peft: true",
            "lora_target": "lora_target_modules: all-linear",
            "pref_loss": "variants: {sigmoid: {}",
            "template": "leave it out",
            "dataset": "write dataset_name: dpo_en_demo",
            "": "leave out stage, overwrite_cache, preprocessing_num_workers, plot_loss",
        },
    ),
    "axolotl": (
        AXOLOTL,
        {
            "base_model": "write model_name_or_path: org/model",
            "micro_batch_size": "write per_device_train_batch_size: 2",
            "sequence_len": "write max_length: 4096",
            "num_epochs": "write num_train_epochs: 4",
            "optimizer": "write optim: adamw_bnb_8bit",
            "lr_scheduler": "write lr_scheduler_type: cosine",
            "adapter": "write use_peft: true",
            "lora_target_linear": "lora_target_modules: all-linear",
            "flash_attention": "attn_implementation: flash_attention_2",
            "val_set_size": "eval_rows",
            "bf16": "write bf16: true",
            "rl": "variants",
            "": "leave out model_type, ",
        },
    ),
    "open-instruct": (
        OPEN_INSTRUCT,
        {
            "dataset_mixer_list": "write dataset_name",
            "max_seq_length": "write max_length: 2048",
            "dpo_beta": "write beta: 5",
            "dpo_loss_type": "variants",
            "use_flash_attn": "attn_implementation: flash_attention_2",
            "": "leave out exp_name, with_tracking",
        },
    ),
    "the alignment-handbook": (
        HANDBOOK,
        {
            "dataset_mixer": "write dataset_name",
            "dataset_splits": "dataset_train_split",
            "preprocessing_num_workers": "dataset_num_proc",
        },
    ),
}


def refused(folder: Path, study: str, **files: str) -> list[str]:
    """The sentences with which a study is refused, without the file's name."""
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    file = folder / "study.yaml"
    file.write_text(study)
    with pytest.raises(StudyError) as caught:
        load_study(file)
    return [problem.removeprefix(f"{file}: ") for problem in caught.value.problems]


@pytest.mark.parametrize("tool", FILES)
def test_a_base_of_another_tool_is_named_and_each_of_its_keys_told(tool: str, tmp_path: Path) -> None:
    text, keys = FILES[tool]
    said = refused(tmp_path, "study: s\nbase: b.yaml\nvariants: {sigmoid: {}}\n", b=text)
    assert said[0] == f"base: looks like a file of {tool}; a base has the names of `trl dpo`, so write:"
    for key, words in keys.items():
        (sentence,) = [one for one in said[1:] if one.startswith(f"base.{key}: " if key else "base: ")]
        assert words in sentence
    places = {"base", "data.path", "base.bf16", *(f"base.{key}" for key in yaml.safe_load(text) if key not in TYPES)}
    assert not any("did you mean" in sentence or "no setting of" in sentence for sentence in said)
    assert {one.partition(":")[0] for one in said} <= places


@pytest.mark.parametrize("tool", FILES)
def test_such_a_file_given_as_the_study_is_told_to_be_none(tool: str, tmp_path: Path) -> None:
    said = refused(tmp_path, FILES[tool][0])
    assert said[0].startswith(f"study file: looks like a file of {tool}, not like a study: write a study that names it")
    assert not any("unknown key" in sentence for sentence in said)


def test_a_config_of_trl_given_as_the_study_is_told_to_be_none(tmp_path: Path) -> None:
    said = refused(tmp_path, "model_name_or_path: org/model\nlearning_rate: 1.0e-5\nbeta: 0.1\n")
    assert said[0].startswith("study file: looks like settings of `trl dpo`, not like a study")
    assert [one.partition(":")[0] for one in said] == ["study file", "study", "base", "variants"]


def test_what_follows_of_another_tools_keys_is_checked_beside_them(tmp_path: Path) -> None:
    """`micro_batch_size: 0` is a batch size of 0, and `dataset_name` is no longer missing."""
    text = AXOLOTL.replace("micro_batch_size: 2", "micro_batch_size: 0")
    said = refused(tmp_path, "study: s\nbase: b.yaml\nvariants: {sigmoid: {}}\n", b=text)
    assert "base.per_device_train_batch_size: 0 must be at least 1" in said
    assert not any(sentence.startswith("data.path") for sentence in said)


def test_one_key_of_another_tool_gets_its_name_and_no_sentence_on_the_file(tmp_path: Path) -> None:
    base = "{model_name_or_path: embedded, use_peft: true, lora_rank: 8}"
    variants = "{sigmoid: {space: {micro_batch_size: {values: [1, 2]}}}, ipo: {base: {sequence_len: 8}}}"
    said = refused(tmp_path, f"study: s\nbase: {base}\nvariants: {variants}\n")
    assert "base.lora_rank: write lora_r: 8" in said
    assert "variants.sigmoid.space.micro_batch_size: it is called per_device_train_batch_size here" in said
    assert "variants.ipo.base.sequence_len: it is called max_length here" in said
    assert len(said) == 3


SWEEP = """
program: train.py
method: bayes
metric: {name: eval/loss, goal: minimize}
early_terminate: {type: hyperband, min_iter: 3}
run_cap: 20
parameters:
  beta: {min: 0.01, max: 1.0, distribution: log_uniform_values}
  learning_rate: {values: [1.0e-6, 1.0e-5]}
  lora_r: {min: 4, max: 64}
  max_steps: {value: 100}
  loss_type: {values: [sigmoid, ipo]}
"""


def test_a_wandb_sweep_is_named_and_each_of_its_keys_told(tmp_path: Path) -> None:
    said = refused(tmp_path, SWEEP)
    assert said[0] == "study file: looks like a file of W&B sweeps; a study says it so:"
    for sentence in (
        "method: write sampler: tpe for bayes, else grid or random",
        "run_cap: write budget: {trials: 20}",
        "parameters.beta: write space: {beta: {low: 0.01, high: 1.0, log: true}}",
        "parameters.learning_rate: write space: {learning_rate: {values: [1.0e-06, 1.0e-05]}}",
        "parameters.lora_r: write space: {lora_r: {low: 4, high: 64}}",
        "parameters.max_steps: write base: {max_steps: 100}",
        "parameters.loss_type: name losses as variants, such as variants: {sigmoid: {}, ipo: {}}",
        "study file: leave out program",
    ):
        assert sentence in said
    assert not any("unknown key" in sentence or "did you mean" in sentence for sentence in said)


def test_keys_of_optuna_in_a_study_are_told(tmp_path: Path) -> None:
    study = "study_name: mine\nn_trials: 20\ndirection: maximize\nbase: {model_name_or_path: embedded}\n"
    said = refused(tmp_path, f"{study}max_steps: 10\nvariants: {{sigmoid: {{}}}}\n")
    assert said == [
        "study file: looks like a file of Optuna or Ray Tune; a study says it so:",
        "study_name: write study: mine",
        "n_trials: write budget: {trials: 20}",
        "direction: write objective: {direction: maximize}",
        "max_steps: is a setting of TRL: write base: {max_steps: 10}",
    ]


# a distribution -> what to write
SPACES = {
    "{min: 0.01, max: 1.0}": "{low: 0.01, high: 1.0}",
    "{min: 0.01, max: 1.0, distribution: uniform}": "{low: 0.01, high: 1.0}",
    "{min: 1e-2, max: 1.0, distribution: log_uniform_values}": "{low: 0.01, high: 1.0, log: true}",
    "{min: 0.01, max: 1.0, distribution: inv_log_uniform_values}": "{low: 0.01, high: 1.0, log: true}",
    "{min: -4.60517, max: 0, distribution: log_uniform}": "{low: 0.01, high: 1.0, log: true}",
    "{values: [0.1, 0.5], distribution: categorical}": "{values: [0.1, 0.5]}",
    "{values: [0.1, 0.5], probabilities: [0.9, 0.1]}": "{values: [0.1, 0.5]}",
    "{min: 0.1, max: 0.5, q: 0.2, distribution: q_uniform}": "{values: [0.1, 0.3, 0.5]}",
    "{type: float, low: 0.1, high: 0.4, step: 0.1}": "{values: [0.1, 0.2, 0.3, 0.4]}",
    "{type: float, low: 0.1, high: 0.4, step: null, log: true}": "{low: 0.1, high: 0.4, log: true}",
    "{low: 0.1, high: 1.0, step: 0.001}": "{low: 0.1, high: 1.0}",
    "{type: categorical, choices: [0.1, 0.5]}": "{values: [0.1, 0.5]}",
    "{type: loguniform, low: 0.01, high: 1.0}": "{low: 0.01, high: 1.0, log: true}",
    "{distribution: normal, min: 0.1, max: 1.0}": "{low: ..., high: ...}",
    "{distribution: normal, mu: 0.1, sigma: 0.1}": "{low: ..., high: ...}",
    "{max: 1.0}": "{low: ..., high: ...}",
    "{min: 1.0, max: 0.1}": "{low: ..., high: ...}",
    "{min: low, max: []}": "{low: ..., high: ...}",
    "{min: 0, max: 1000, distribution: log_uniform}": "{low: ..., high: ...}",
}


@pytest.mark.parametrize("written", SPACES)
def test_a_distribution_of_another_tool_is_told_as_a_study_writes_it(written: str, tmp_path: Path) -> None:
    base = "study: s\nbase: {model_name_or_path: embedded}\n"
    shared = refused(
        tmp_path, f"{base}variants: {{sigmoid: {{}}}}\nspace: {{beta: {written}}}\nbudget: {{trials: 2}}\n"
    )
    own = refused(tmp_path, f"{base}variants: {{sigmoid: {{space: {{beta: {written}}}}}}}\n")
    assert shared[0].startswith("space.beta: ")
    assert own[0].startswith("variants.sigmoid.space.beta: ")
    for said in (shared, own):
        assert f"write beta: {SPACES[written]}" in said[0]
    if "..." not in SPACES[written]:
        assert len(shared) == len(own) == 1
        right = tmp_path / "right.yaml"
        right.write_text(f"{base}variants: {{sigmoid: {{}}}}\nspace: {{beta: {SPACES[written]}}}\n")
        assert load_study(right).space["beta"] is not None


def test_a_whole_step_gives_whole_values(tmp_path: Path) -> None:
    base = "study: s\nbase: {model_name_or_path: embedded, use_peft: true}\nvariants: {sigmoid: {}}\n"
    said = refused(tmp_path, f"{base}space: {{lora_r: {{type: int, low: 4, high: 16, step: 4}}}}\n")
    assert said == ["space.lora_r: step: that is the way of Optuna; write lora_r: {values: [4, 8, 12, 16]}"]


def test_a_constant_of_a_sweep_belongs_into_the_base(tmp_path: Path) -> None:
    base = "study: s\nbase: {model_name_or_path: embedded}\nvariants: {sigmoid: {}}\n"
    said = refused(tmp_path, f"{base}space: {{learning_rate: {{value: 1.0e-5}}}}\n")
    assert said == ["space.learning_rate: value: that is the way of W&B sweeps; write base: {learning_rate: 1.0e-05}"]


def test_the_tables_name_settings_that_exist_and_no_key_that_trl_has() -> None:
    study = {"evaluate", *StudySpec.model_fields}
    for table in (*BASES, *SWEEPS):
        for key, remedy in table.keys.items():
            if remedy.startswith("="):
                name = remedy[1:].partition(" ")[0]
                assert name in TYPES or name in DATA or name.partition(".")[0] in study, (table.tool, key)
    for table in BASES:
        assert {key for key in table.keys if key in TYPES} <= {"bf16", "fp16", "tf32"}


@pytest.mark.parametrize("text", [*(file for file, _ in FILES.values()), SWEEP])
def test_nothing_is_created_and_no_traceback_shown(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("b.yaml").write_text(text)
    Path("study.yaml").write_text("study: s\nbase: b.yaml\nvariants: {sigmoid: {}}\n")
    for study in ("study.yaml", "b.yaml"):
        result = CliRunner().invoke(app, ["run", study])
        assert result.exit_code == 2
        assert "Traceback" not in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"b.yaml", "study.yaml"}


KEYS = sorted({key for table in (*BASES, *SWEEPS) for key in table.keys} | {"space", "variants", "min", "step", "type"})
NONSENSE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.integers(), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(KEYS) | st.none() | st.integers(), NONSENSE, max_size=8))
@settings(max_examples=200, deadline=None)
def test_nonsense_under_the_keys_of_other_tools_never_raises(raw: Mapping[Any, Any]) -> None:
    for found, _ in (base_problems(raw), study_problems(raw, {"space", "variants"})):
        assert all(problem.path and problem.text for problem in found)
