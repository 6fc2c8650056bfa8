"""The names, types and choices of settings held against the installed TRL and transformers."""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from studies.checks.speed import PACE_SETTINGS
from studies.loading.trl_base import take_apart
from studies.losses import trl_settings as settings
from studies.spec import arms, load_study

CONSTRAINTS = Path(__file__).parents[3] / "constraints.txt"


def installed() -> dict[str, dataclasses.Field[Any]]:
    """Every field that `trl dpo --config` takes, by name."""
    from trl import DPOConfig, ModelConfig, ScriptArguments
    from trl.scripts.utils import DatasetMixtureConfig

    classes = (ScriptArguments, DPOConfig, ModelConfig, DatasetMixtureConfig)
    return {field.name: field for one in classes for field in dataclasses.fields(one)}


def installed_types() -> dict[str, str]:
    from trl import DPOConfig, ModelConfig, ScriptArguments
    from trl.scripts.utils import DatasetMixtureConfig

    names = installed()
    classes = (ScriptArguments, DPOConfig, ModelConfig, DatasetMixtureConfig)
    return {name: simple(hint) for one in classes for name, hint in typing.get_type_hints(one).items() if name in names}


def simple(hint: Any) -> str:
    """A type as `trl_settings` writes it: `float`, `int?`, `list|str?`."""
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        parts = {simple(member) for member in members}
        optional = "None" in parts or any(part.endswith("?") for part in parts)
        return "|".join(sorted({part.rstrip("?") for part in parts} - {"None"})) + "?" * optional
    if origin is typing.Literal:
        return "|".join(sorted({type(member).__name__ for member in members}))
    if hint is type(None):
        return "None"
    kind = origin or hint
    if issubclass(kind, enum.Enum):
        return "str"
    return str(kind.__name__) if kind in (int, float, bool, str, list, dict) else "object"


def test_names_and_types_are_those_of_the_installed_trl() -> None:
    """They change with transformers, whose `TrainingArguments` TRL's are: the table is of the pinned one."""
    if f"transformers=={version('transformers')}" not in CONSTRAINTS.read_text(encoding="utf-8").splitlines():
        pytest.skip(f"transformers {version('transformers')} is not the pinned one")
    assert dict(settings.TYPES) == installed_types()


def test_what_decides_the_pace_of_a_step_has_the_defaults_of_the_installed_trl() -> None:
    fields = installed()
    given = {name: fields[name].default for name in PACE_SETTINGS}
    assert {name: getattr(value, "value", value) for name, value in given.items()} == dict(PACE_SETTINGS)


def test_choices_are_those_of_the_installed_trl() -> None:
    from transformers.trainer_utils import SchedulerType
    from transformers.training_args import OptimizerNames

    fields = installed()
    assert {*settings.CHOICES["lr_scheduler_type"]} == {member.value for member in SchedulerType}
    assert {*settings.CHOICES["optim"]} == {member.value for member in OptimizerNames}
    for name in ("dtype", "truncation_mode", "bnb_4bit_quant_type", "train_sampling_strategy"):
        assert {*settings.CHOICES[name]} == {*fields[name].metadata["choices"]}
    help_text = fields["f_divergence_type"].metadata["help"]
    assert all(
        f"`{choice}`" in help_text or f"'{choice}'" in help_text for choice in settings.CHOICES["f_divergence_type"]
    )


@pytest.mark.parametrize("name", [*settings.RENAMED, *settings.DROPPED])
def test_a_name_that_is_said_to_be_gone_is_gone(name: str) -> None:
    assert name not in settings.TYPES


def test_a_warmup_below_one_is_a_share_of_all_steps() -> None:
    from trl import DPOConfig

    config = DPOConfig(output_dir="unused", warmup_steps=0.1, bf16=False, use_cpu=True, report_to="none")
    assert config.get_warmup_steps(200) == 20


@pytest.mark.parametrize("name", [*settings.RENAMED.values(), *settings.BOUNDS, *settings.CHOICES])
def test_every_name_that_a_rule_is_about_exists(name: str) -> None:
    assert name in settings.TYPES


@pytest.mark.parametrize(
    ("name", "given", "coerced"),
    [
        ("learning_rate", "1e-5", 1e-5),
        ("num_train_epochs", 3, 3.0),
        ("lora_r", 16.0, 16),
        ("lora_r", "16", 16),
        ("lora_r", 16.5, 16.5),
        ("lora_target_modules", "all-linear", ["all-linear"]),
        ("use_peft", True, True),
        ("dtype", "1e-5", "1e-5"),
        ("max_length", None, None),
        ("learning_rate", "fast", "fast"),
    ],
)
def test_a_value_gets_its_declared_type(name: str, given: object, coerced: object) -> None:
    result = settings.coerce(name, given)
    assert result == coerced
    assert type(result) is type(coerced)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", "fast"),
        ("learning_rate", -1e-5),
        ("learning_rate", float("nan")),
        ("learning_rate", None),
        ("learning_rate", True),
        ("lora_r", 16.5),
        ("use_peft", "yes"),
        ("dtype", "bf16"),
        ("lr_scheduler_type", "cosinus"),
        ("lora_dropout", 1.0),
        ("max_steps", -2),
    ],
)
def test_a_wrong_value_is_named(name: str, value: object) -> None:
    assert settings.type_problem(name, value) is not None


def test_old_names_are_read_under_their_new_ones_with_a_notice() -> None:
    base = take_apart({"torch_dtype": "bfloat16", "warmup_ratio": 0.1, "evaluation_strategy": "steps"})
    assert base.settings == {"dtype": "bfloat16", "warmup_steps": 0.1}
    assert len(base.notices) == 4  # three names read anew, and evaluation is the sweep's
    assert base.problems == []


@pytest.mark.parametrize("name", ["rpo_alpha", "label_smoothing_factor", "deepspeed", "group_by_length"])
def test_a_setting_that_cannot_be_used_is_refused_with_a_remedy(name: str) -> None:
    (problem,) = take_apart({name: 0.5}).problems
    assert problem.path == f"base.{name}"
    assert settings.REFUSED[name] in problem.text


def test_the_default_of_a_refused_setting_is_no_mistake() -> None:
    base = take_apart({"label_smoothing_factor": 0.0, "deepspeed": None, "fsdp": "", "reference_free": False})
    assert (base.settings, base.problems) == ({}, [])


def test_what_the_sweep_decides_is_left_out_with_a_notice() -> None:
    base = take_apart({"output_dir": "out", "report_to": "wandb", "env": {"A": 1}, "save_strategy": False})
    assert (base.settings, base.problems, len(base.notices)) == ({}, [], 4)


def test_a_dataset_of_the_base_becomes_the_data() -> None:
    named = take_apart({"dataset_name": "org/pairs", "dataset_config": "en", "max_prompt_length": 128})
    assert named.data == {"path": "org/pairs", "name": "en", "max_prompt_length": 128}
    listed = take_apart({"datasets": [{"path": "org/pairs", "split": "train[:50%]"}]})
    assert listed.data == {"path": "org/pairs", "split": "train[:50%]"}
    filed = take_apart({"datasets": [{"path": "json", "data_files": "pairs.jsonl"}]})
    assert filed.data == {"path": "pairs.jsonl"}


def test_a_test_split_is_read_only_where_the_base_evaluates() -> None:
    assert "eval_split" not in take_apart({"dataset_name": "org/pairs", "dataset_test_split": "test"}).data
    assert "eval_split" not in take_apart({"dataset_name": "org/pairs", "eval_strategy": False}).data
    assert take_apart({"dataset_name": "org/pairs", "eval_strategy": "steps"}).data["eval_split"] == "test"


def test_a_mix_of_datasets_is_refused() -> None:
    (problem,) = take_apart({"datasets": [{"path": "org/a"}, {"path": "org/b"}]}).problems
    assert "2 datasets" in problem.text


def test_a_null_that_trl_gives_no_meaning_stands_for_not_given() -> None:
    assert take_apart({"beta": None, "lora_r": None}).settings == {}
    assert take_apart({"max_length": None}).data == {"max_length": None}


# What `TrainingArguments.to_dict()` of transformers 4 and the configs of TRL 0.x hold where nobody set anything.
DUMP: dict[str, Any] = {
    "overwrite_output_dir": False,
    "do_train": False,
    "do_eval": False,
    "do_predict": False,
    "evaluation_strategy": None,
    "eval_strategy": "no",
    "prediction_loss_only": False,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "per_gpu_train_batch_size": None,
    "per_gpu_eval_batch_size": None,
    "gradient_accumulation_steps": 1,
    "eval_accumulation_steps": None,
    "eval_delay": 0,
    "torch_empty_cache_steps": None,
    "learning_rate": 5e-05,
    "weight_decay": 0.0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-08,
    "max_grad_norm": 1.0,
    "num_train_epochs": 3.0,
    "max_steps": -1,
    "lr_scheduler_type": "linear",
    "lr_scheduler_kwargs": {},
    "warmup_ratio": 0.0,
    "warmup_steps": 0,
    "log_level": "passive",
    "log_level_replica": "warning",
    "log_on_each_node": True,
    "logging_dir": None,
    "logging_strategy": "steps",
    "logging_first_step": False,
    "logging_steps": 500,
    "logging_nan_inf_filter": True,
    "save_strategy": "steps",
    "save_steps": 500,
    "save_total_limit": None,
    "save_safetensors": True,
    "save_on_each_node": False,
    "save_only_model": False,
    "restore_callback_states_from_checkpoint": False,
    "no_cuda": False,
    "use_cpu": False,
    "use_mps_device": False,
    "seed": 42,
    "data_seed": None,
    "jit_mode_eval": False,
    "use_ipex": False,
    "bf16": False,
    "fp16": False,
    "fp16_opt_level": "O1",
    "half_precision_backend": "auto",
    "bf16_full_eval": False,
    "fp16_full_eval": False,
    "tf32": None,
    "local_rank": 0,
    "ddp_backend": None,
    "tpu_num_cores": None,
    "tpu_metrics_debug": False,
    "debug": [],
    "dataloader_drop_last": False,
    "eval_steps": None,
    "dataloader_num_workers": 0,
    "dataloader_prefetch_factor": None,
    "past_index": -1,
    "run_name": None,
    "disable_tqdm": False,
    "remove_unused_columns": True,
    "label_names": None,
    "load_best_model_at_end": False,
    "metric_for_best_model": None,
    "greater_is_better": None,
    "ignore_data_skip": False,
    "fsdp": [],
    "fsdp_min_num_params": 0,
    "fsdp_config": {"min_num_params": 0, "xla": False, "xla_fsdp_v2": False, "xla_fsdp_grad_ckpt": False},
    "fsdp_transformer_layer_cls_to_wrap": None,
    "accelerator_config": {
        "split_batches": False,
        "dispatch_batches": None,
        "even_batches": True,
        "use_seedable_sampler": True,
        "non_blocking": False,
        "gradient_accumulation_kwargs": None,
    },
    "deepspeed": None,
    "label_smoothing_factor": 0.0,
    "optim": "adamw_torch",
    "optim_args": None,
    "adafactor": False,
    "group_by_length": False,
    "length_column_name": "length",
    "report_to": "all",
    "ddp_find_unused_parameters": None,
    "ddp_bucket_cap_mb": None,
    "ddp_broadcast_buffers": None,
    "dataloader_pin_memory": True,
    "dataloader_persistent_workers": False,
    "skip_memory_metrics": True,
    "use_legacy_prediction_loop": False,
    "push_to_hub": False,
    "resume_from_checkpoint": None,
    "hub_model_id": None,
    "hub_strategy": "every_save",
    "hub_token": "<HUB_TOKEN>",
    "hub_private_repo": False,
    "hub_always_push": False,
    "gradient_checkpointing": False,
    "gradient_checkpointing_kwargs": None,
    "include_inputs_for_metrics": False,
    "include_for_metrics": [],
    "eval_do_concat_batches": True,
    "fp16_backend": "auto",
    "push_to_hub_model_id": None,
    "push_to_hub_organization": None,
    "push_to_hub_token": "<PUSH_TO_HUB_TOKEN>",
    "mp_parameters": "",
    "auto_find_batch_size": False,
    "full_determinism": False,
    "torchdynamo": None,
    "ray_scope": "last",
    "ddp_timeout": 1800,
    "torch_compile": False,
    "torch_compile_backend": None,
    "torch_compile_mode": None,
    "dispatch_batches": None,
    "split_batches": None,
    "include_tokens_per_second": False,
    "include_num_input_tokens_seen": False,
    "neftune_noise_alpha": None,
    "optim_target_modules": None,
    "batch_eval_metrics": False,
    "eval_on_start": False,
    "use_liger_kernel": False,
    "eval_use_gather_object": False,
    "average_tokens_across_devices": False,
    # DPOConfig
    "beta": 0.1,
    "label_smoothing": 0,
    "loss_type": "sigmoid",
    "loss_weights": None,
    "label_pad_token_id": -100,
    "padding_value": None,
    "truncation_mode": "keep_end",
    "max_length": 1024,
    "max_prompt_length": 512,
    "max_target_length": None,
    "max_completion_length": None,
    "is_encoder_decoder": None,
    "disable_dropout": True,
    "generate_during_eval": False,
    "precompute_ref_log_probs": False,
    "precompute_ref_batch_size": None,
    "dataset_num_proc": None,
    "model_init_kwargs": None,
    "ref_model_init_kwargs": None,
    "model_adapter_name": None,
    "ref_adapter_name": None,
    "base_model_attribute_name": "model",
    "reference_free": False,
    "force_use_ref_model": False,
    "f_divergence_type": "reverse_kl",
    "f_alpha_divergence_coef": 1.0,
    "sync_ref_model": False,
    "ref_model_mixup_alpha": 0.9,
    "ref_model_sync_steps": 64,
    "rpo_alpha": None,
    "discopop_tau": 0.05,
    "use_weighting": False,
    "use_num_logits_to_keep": False,
    "tools": None,
    # ModelConfig and ScriptArguments
    "model_revision": "main",
    "torch_dtype": None,
    "trust_remote_code": False,
    "attn_implementation": None,
    "use_peft": False,
    "lora_r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.05,
    "lora_target_modules": None,
    "lora_modules_to_save": None,
    "lora_task_type": "CAUSAL_LM",
    "use_rslora": False,
    "load_in_8bit": False,
    "load_in_4bit": False,
    "bnb_4bit_quant_type": "nf4",
    "use_bnb_nested_quant": False,
    "dataset_name": "org/pairs",
    "dataset_config": None,
    "dataset_train_split": "train",
    "dataset_test_split": "test",
    "gradient_checkpointing_use_reentrant": False,
    "ignore_bias_buffers": False,
}


def test_a_dump_of_all_settings_of_an_older_release_says_nothing_where_nobody_set_them() -> None:
    base = take_apart(DUMP)
    assert base.problems == []
    assert base.notices == ["base.loss_type: left out, every variant says its own"]
    assert {name: base.settings[name] for name in ("learning_rate", "warmup_steps", "use_cpu")} == {
        "learning_rate": 5e-5,
        "warmup_steps": 0.0,
        "use_cpu": False,
    }


def test_a_study_can_be_made_of_such_a_dump(tmp_path: Path) -> None:
    (tmp_path / "dump.yaml").write_text(yaml.safe_dump({**DUMP, "model_name_or_path": "org/model"}))
    (tmp_path / "study.yaml").write_text("study: s\nbase: dump.yaml\nvariants: {sigmoid: {}, ipo: {}}\n")
    spec = load_study(tmp_path / "study.yaml")
    assert len(spec.notices) == 1
    assert set(arms(spec)) == {"sigmoid", "ipo"}


def test_what_was_set_in_a_dump_of_an_older_release_is_said() -> None:
    set_by_somebody = {
        "warmup_ratio": 0.1,
        "output_dir": "out",
        "logging_steps": 10,
        "save_strategy": "epoch",
        "report_to": ["wandb"],
        "no_cuda": True,
        "torch_dtype": "bfloat16",
    }
    base = take_apart({**DUMP, **set_by_somebody})
    assert base.problems == []
    assert {notice.partition(":")[0] for notice in base.notices} == {
        "base.loss_type",
        *(f"base.{n}" for n in set_by_somebody),
    }
    assert [base.settings[name] for name in ("warmup_steps", "use_cpu", "dtype")] == [0.1, True, "bfloat16"]


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ({"warmup_ratio": 0.1, "warmup_steps": 0}, 0.1),
        ({"warmup_steps": 0, "warmup_ratio": "0.1"}, 0.1),
        ({"warmup_ratio": 0.1, "warmup_steps": 0.0}, 0.1),
        ({"warmup_ratio": 0.1, "warmup_steps": None}, 0.1),
        ({"warmup_ratio": 0.0, "warmup_steps": 20}, 20.0),
        ({"warmup_ratio": None, "warmup_steps": 20}, 20.0),
        ({"warmup_ratio": 0.1, "warmup_steps": 0.1}, 0.1),
        ({"warmup_ratio": 0.0, "warmup_steps": 0}, 0.0),
    ],
)
def test_of_a_ratio_and_steps_of_warmup_the_one_that_is_set_holds(given: dict[str, Any], steps: float) -> None:
    base = take_apart(given)
    assert (base.settings, base.problems) == ({"warmup_steps": steps}, [])


@pytest.mark.parametrize(
    "given", [{"warmup_ratio": 1.0}, {"warmup_ratio": 20, "warmup_steps": 0}, {"warmup_ratio": -1}]
)
def test_a_ratio_of_warmup_that_this_trl_would_take_for_steps_is_refused(given: dict[str, Any]) -> None:
    (problem,) = take_apart(given).problems
    assert problem.path == "base.warmup_ratio"
    assert "warmup_steps" in problem.text


def test_a_ratio_and_a_number_of_steps_contradict_each_other() -> None:
    (problem,) = take_apart({"warmup_ratio": 0.1, "warmup_steps": 20}).problems
    assert "keep warmup_steps" in problem.text
