"""The names, types and choices of settings held against the installed TRL and transformers."""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from typing import Any

import pytest

from studies import trl_settings as settings
from studies.base import take_apart
from studies.probing import PACE_SETTINGS


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
