"""Facts about settings of free form: what runs or fetches code is refused wherever a study says it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from studies.loading.trl_base import take_apart
from studies.losses import trl_settings as settings
from studies.losses.free_settings import ALLOWED, free_problems
from studies.spec import StudyError, foreign_code, load_study

# What a study can set as text or as a list, beside the names with choices, and why no text there runs or fetches code.
TEXTS = {
    "model_name_or_path": "a folder or Hub id: what lies with it runs with trust_remote_code alone",
    "model_revision": "a commit or branch",
    "pad_token": "a token of the vocabulary",
    "length_column_name": "a column of the data",
    "optim_args": "name=value of the optimizer's numbers",
    "lora_target_modules": "names of layers",
    "lora_target_parameters": "names of parameters",
    "lora_modules_to_save": "names of layers",
    "label_names": "columns of the data",
    "optim_target_modules": "names of layers",
    "debug": "names of checks",
    "loss_type": "checked as losses",
    "loss_weights": "numbers",
    "pad_to_multiple_of": "a number, which TRL takes as text",
    "datasets": "taken apart into data",
}
NO_SETTING_OF_A_STUDY = {
    *settings.OWNED, *settings.REFUSED, *settings.DATA, *("streaming", "dataset_streaming", "trackio_static_space_id"),
}  # fmt: skip


def study(tmp_path: Path, **parts: Any) -> Path:
    base = {"model_name_or_path": "ORG/MODEL", "max_steps": 1} | parts.pop("base", {})
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": " b", "rejected": " c"}\n')
    whole = {"study": "s", "base": base, "data": {"path": "pairs.jsonl"}, "variants": {"sigmoid": {}}} | parts
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(whole))
    return tmp_path / "study.yaml"


def problems(file: Path) -> tuple[str, ...]:
    with pytest.raises(StudyError) as refused:
        load_study(file)
    return refused.value.problems


def test_every_setting_of_free_form_is_decided_on() -> None:
    free = {name for name, kind in settings.TYPES.items() if re.search("str|list|dict|object", kind)}
    assert free - NO_SETTING_OF_A_STUDY - settings.CHOICES.keys() - TEXTS.keys() == ALLOWED.keys()


KWARGS = [
    ({"trust_remote_code": True}, "trust_remote_code", "base.trust_remote_code"),
    ({"trust_remote_code": "true"}, "trust_remote_code", "base.trust_remote_code"),
    ({"weights_only": False}, "weights_only", "safetensors"),
    ({"token": "hf_x"}, "token", "HF_TOKEN"),
    ({"revision": "dev"}, "revision", "base.model_revision"),
    ({"code_revision": "dev"}, "code_revision", "code"),
    ({"subfolder": "x"}, "subfolder", "model_name_or_path"),
    ({"use_kernels": True}, "use_kernels", "code"),
    ({"allow_all_kernels": True}, "allow_all_kernels", "code"),
    ({"kernel_config": {"a": "b/c"}}, "kernel_config", "code"),
    ({"attn_implementation": "kernels-community/flash-attn2"}, "attn_implementation", "sdpa"),
    ({"attn_implementation": {"": "ORG/KERNEL"}}, "attn_implementation", "sdpa"),
    ({"auto_map": {"AutoModel": "m.M"}}, "auto_map", "leave it out"),
    ({"config": "elsewhere"}, "config", "leave it out"),
    ({"gguf_file": "x"}, "gguf_file", "leave it out"),
    ({"adapter_kwargs": {"trust_remote_code": True}}, "adapter_kwargs", "leave it out"),
    ({"quantization_config": {"quant_method": "mxfp4"}}, "quantization_config", "bitsandbytes"),
    ({"quantization_config": {"modules": {"a": {"b": "c"}}}}, "quantization_config", "load_in_4bit"),
    ({"max_memory": {"cpu": {"x": {}}}}, "max_memory", "number"),
    ({"trust remote code": True}, "trust remote code", "name of an argument"),
]


@pytest.mark.parametrize(("kwargs", "key", "remedy"), KWARGS)
@pytest.mark.parametrize("place", ["base", "text", "variant", "scenario", "point"])
def test_what_runs_or_fetches_code_is_refused_in_every_place(
    tmp_path: Path, place: str, kwargs: Mapping[str, Any], key: str, remedy: str
) -> None:
    given, text = {"model_init_kwargs": kwargs}, {"model_init_kwargs": json.dumps(kwargs)}
    places: dict[str, dict[str, Any]] = {
        "base": {"base": given},
        "text": {"base": text},
        "variant": {"variants": {"sigmoid": {"base": given}}},
        "scenario": {"scenarios": {"clean": {"base": given}}},
        "point": {"variants": {"sigmoid": {"points": [text]}}},
    }
    (told,) = problems(study(tmp_path, **places[place]))
    assert f"model_init_kwargs.{key}: " in told
    assert remedy in told


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("attn_implementation", "ORG/KERNEL", "native code"),
        ("attn_implementation", "ORG/KERNEL@rev:f", "native code"),
        ("attn_implementation", "paged|ORG/KERNEL", "native code"),
        ("torch_compile_backend", "evil.module", "inductor"),
        ("dataloader_multiprocessing_context", "evil", "spawn"),
        ("accelerator_config", "evil.json", "no file is read"),
        ("accelerator_config", {"deepspeed_plugin": "x"}, "split_batches"),
        ("gradient_checkpointing_kwargs", {"context_fn": "os.system"}, "use_reentrant"),
        ("activation_checkpointing_kwargs", {"context_fn": "os.system"}, "use_reentrant"),
        ("lr_scheduler_kwargs", {"a": {"b": {"c": 1}}}, "a list or mapping of such"),
        ("liger_kernel_config", {"a b": True}, "name of an argument"),
        ("deepspeed", "ds.json", "one device"),
        ("fsdp_config", "fsdp.json", "one device"),
    ],
)
def test_other_settings_hold_only_what_is_known(tmp_path: Path, setting: str, value: Any, told: str) -> None:
    for parts in ({"base": {setting: value}}, {"scenarios": {"clean": {"base": {setting: value}}}}):
        assert told in "\n".join(problems(study(tmp_path, **parts)))


@pytest.mark.parametrize("place", ["variant", "point", "scenario", "space"])
def test_foreign_code_is_let_in_by_the_base_of_the_study_alone(tmp_path: Path, place: str) -> None:
    setting = {"trust_remote_code": True}
    places: dict[str, dict[str, Any]] = {
        "variant": {"variants": {"sigmoid": {"base": setting}}},
        "point": {"variants": {"sigmoid": {"points": [setting]}}},
        "scenario": {"scenarios": {"clean": {"base": setting}}},
        "space": {"space": {"trust_remote_code": {"values": [True, False]}}},
    }
    assert "say it once, in base" in "\n".join(problems(study(tmp_path, **places[place])))


def test_all_models_whose_code_would_run_are_named(tmp_path: Path) -> None:
    own = {"loss_type": ["sigmoid"], "base": {"model_name_or_path": "ORG/OTHER"}}
    spec = load_study(study(tmp_path, base={"trust_remote_code": True}, variants={"sigmoid": {}, "own": own}))
    (warning,) = foreign_code(spec)
    assert "lies with ORG/MODEL and ORG/OTHER will run" in warning


CODE: list[tuple[dict[str, Any], str]] = [
    ({"trainer": "mine:Trainer"}, "trainer: Python code of mine:Trainer will run"),
    ({"notify": {"command": ["mail", "me"]}}, "notify.command: `sweeper run` will run mail me when it has ended"),
    ({"resources": {"slurm": {"setup": ["module load x"]}}}, "resources.slurm.setup: "),
    ({"resources": {"slurm": {"python": "/opt/python"}}}, "resources.slurm.python: "),
    (
        {"evaluate": {"judge": {"function": "json:dumps"}}},
        "evaluate.judge.function: Python code of json:dumps will run",
    ),
    (
        {"evaluate": {"judge": {"reward_model": "ORG/RM", "trust_remote_code": True}}},
        "evaluate.judge.trust_remote_code: Python code that lies with ORG/RM will run",
    ),
    (
        {"replicates": 8, "evaluate": {"judge": {"reward_model": "A/B"}, "second_judge": {"pairwise": "json:dumps"}}},
        "evaluate.second_judge.pairwise: Python code of json:dumps will run",
    ),
    (
        {"replicates": 8, "evaluate": {"judge": {"reward_model": "A/B"}, "check": {"function": "json:dumps"}}},
        "evaluate.check.function: Python code of json:dumps will run",
    ),
]


@pytest.mark.parametrize(("parts", "told"), CODE)
def test_all_code_that_a_study_names_is_warned_of(tmp_path: Path, parts: dict[str, Any], told: str) -> None:
    (warning,) = foreign_code(load_study(study(tmp_path, **parts)))
    assert warning.startswith(told)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("attn_implementation", "flash_attention_2"),
        ("model_init_kwargs", {"dtype": "bfloat16", "attn_implementation": "sdpa", "device_map": "auto"}),
        ("model_init_kwargs", {"torch_dtype": "auto", "use_cache": False, "low_cpu_mem_usage": True}),
        ("model_init_kwargs", {"device_map": {"": 0}, "max_memory": {"0": "20GiB"}, "rope_scaling": {"factor": 2.0}}),
        ("model_init_kwargs", {"quantization_config": {"load_in_4bit": True, "bnb_4bit_compute_dtype": "bfloat16"}}),
        ("model_init_kwargs", {}),
        ("model_init_kwargs", '{"use_cache": false}'),
        ("gradient_checkpointing_kwargs", {"use_reentrant": False}),
        ("accelerator_config", {"split_batches": False, "gradient_accumulation_kwargs": {"num_steps": 2}}),
        ("lr_scheduler_kwargs", {"min_lr_rate": 0.1, "num_cycles": 2}),
        ("liger_kernel_config", {"rope": True}),
        ("torch_compile_backend", "inductor"),
    ],
)
def test_what_people_give_stays(setting: str, value: Any) -> None:
    base = take_apart({setting: value})
    assert base.problems == []
    assert base.settings == {setting: value}


def test_keys_that_can_be_given_are_known_to_the_installed_libraries() -> None:
    from dataclasses import fields
    from inspect import signature

    from torch.utils.checkpoint import checkpoint
    from transformers.trainer_pt_utils import AcceleratorConfig

    assert ALLOWED["accelerator_config"] is not None
    assert {*ALLOWED["accelerator_config"]} == {field.name for field in fields(AcceleratorConfig)}
    known = {*signature(checkpoint).parameters, "preserve_rng_state", "offload", "every_n_layers"}
    assert {*(ALLOWED["gradient_checkpointing_kwargs"] or ())} <= known


def test_no_text_is_too_deep() -> None:
    assert free_problems("model_init_kwargs", "[" * 100_000) != []
