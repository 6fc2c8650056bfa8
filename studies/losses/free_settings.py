"""What settings of free form may hold: mappings whose every key TRL hands on, to what loads a model above all.

A loader takes keys that run code (`trust_remote_code`), fetch it (`use_kernels`), unpickle (`weights_only`), or load
something else than the study says (`revision`), and gets new ones with every release. So what is not named here is
refused, in the base of a study, its variants and scenarios alike. Plain data, as `studies.losses.trl_settings`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from studies.losses.trl_settings import CHOICES

Rule = Callable[[Any], str | None]
"""What a value must be where it is not that, None where it is right."""


def _yes_or_no(value: Any) -> str | None:
    return None if isinstance(value, bool) else "must be true or false"


def _number(value: Any) -> str | None:
    right = isinstance(value, int | float) and abs(value) < float("inf")
    return None if right else "must be a number, true or false"


def _plain(value: Any) -> str | None:
    """One level of anything that is data."""
    values = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else [value]
    right = all(one is None or isinstance(one, str | int | float) for one in values)
    return None if right else "must be a number, a word, or a list or mapping of such"


def _word(value: Any) -> str | None:
    right = isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_-]+", value)
    return None if right else "must be a word of letters, digits, '-' and '_'"


def _one_of(name: str) -> Rule:
    choices = CHOICES[name]
    return lambda value: None if value in choices else f"must be one of {', '.join(choices)}"


def _mapping(rules: Mapping[str, Rule]) -> Rule:
    """A mapping of these keys."""

    def wrong(value: Any) -> str | None:
        if not isinstance(value, Mapping):
            return "must be a mapping of keys"
        found = [(key, _wrong_key(key, value[key], rules)) for key in value]
        return next((f"holds {key!r}, which {text}" for key, text in found if text), None)

    return wrong


_BITS = {
    **dict.fromkeys(
        ("load_in_4bit", "load_in_8bit", "bnb_4bit_use_double_quant", "llm_int8_enable_fp32_cpu_offload"), _yes_or_no
    ),
    "llm_int8_has_fp16_weight": _yes_or_no,
    "llm_int8_threshold": _number,
    "llm_int8_skip_modules": _plain,
    "bnb_4bit_compute_dtype": _one_of("dtype"),
    "bnb_4bit_quant_type": _one_of("bnb_4bit_quant_type"),
    "bnb_4bit_quant_storage": _one_of("bnb_4bit_quant_storage"),
    "quant_method": lambda value: None if value == "bitsandbytes" else "must be bitsandbytes",
}
_CHECKPOINTING: Mapping[str, Rule] = {
    **dict.fromkeys(("use_reentrant", "preserve_rng_state", "debug", "early_stop", "offload"), _yes_or_no),
    "determinism_check": _word,
    "every_n_layers": _number,
}

ALLOWED: Mapping[str, Mapping[str, Rule] | None] = {
    "model_init_kwargs": {
        "dtype": _one_of("dtype"),
        "torch_dtype": _one_of("dtype"),
        "attn_implementation": _one_of("attn_implementation"),
        "variant": _word,
        **dict.fromkeys(("device_map", "max_memory", "rope_scaling", "rope_parameters"), _plain),
        **dict.fromkeys(
            ("low_cpu_mem_usage", "use_safetensors", "use_cache", "output_router_logits", "use_sliding_window"),
            _yes_or_no,
        ),
        "tie_word_embeddings": _yes_or_no,
        **dict.fromkeys(("max_position_embeddings", "rope_theta", "sliding_window", "router_aux_loss_coef"), _number),
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), _number),
        **dict.fromkeys(("attention_dropout", "hidden_dropout", "embd_pdrop", "attn_pdrop", "resid_pdrop"), _number),
        **dict.fromkeys(("attention_probs_dropout_prob", "hidden_dropout_prob", "dropout"), _number),
        "quantization_config": _mapping(_BITS),
    },
    "activation_checkpointing_kwargs": _CHECKPOINTING,
    "gradient_checkpointing_kwargs": _CHECKPOINTING,
    "accelerator_config": {
        **dict.fromkeys(("split_batches", "dispatch_batches", "even_batches", "use_seedable_sampler"), _yes_or_no),
        **dict.fromkeys(("non_blocking", "use_configured_state"), _yes_or_no),
        "gradient_accumulation_kwargs": _plain,
    },
    # Names of arguments of a schedule, or of layers that are replaced: any, with data for values.
    "lr_scheduler_kwargs": None,
    "liger_kernel_config": None,
}
"""The keys that a setting of free form may hold (None: any name of an argument) and what each of them may be."""

_CODE = "loads code from elsewhere, which no study can ask for"
INSTEAD: Mapping[str, str] = {
    "trust_remote_code": "runs Python code that lies with the model: say it once for the study, as "
    "base.trust_remote_code",
    "weights_only": "unpickles weights, which runs code: convert them to safetensors",
    **dict.fromkeys(("use_kernels", "kernel_config", "allow_all_kernels", "code_revision", "custom_generate"), _CODE),
    **dict.fromkeys(
        ("token", "use_auth_token"), "is a secret: sign in with `hf auth login`, or set HF_TOKEN in the shell"
    ),
    "revision": "loads another model than the study says: write base.model_revision",
    "subfolder": "loads another model than the study says: name its folder as base.model_name_or_path",
}
"""Why keys that somebody may want are not among them, and what to write."""


def free_problems(setting: str, value: Any) -> list[tuple[str, str]]:
    """What is wrong with the value of a setting, where it is one of free form: (key path from the setting on, rule and
    remedy).
    """
    if setting not in ALLOWED or value is None:
        return []
    if isinstance(value, str):
        value = _from_text(value)
    if not isinstance(value, Mapping):
        return [(setting, "must be a mapping of keys, here in the study: no file is read in its place")]
    rules = ALLOWED[setting]
    found = [(f"{setting}.{key}", _wrong_key(key, one, rules)) for key, one in value.items()]
    return [(path, text) for path, text in found if text is not None]


def _wrong_key(key: Any, value: Any, rules: Mapping[str, Rule] | None) -> str | None:
    """What is wrong with a key or its value."""
    if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z_]\w*", key, re.ASCII):
        return "must be the name of an argument"
    if rules is None:
        rules = {key: _plain}
    elif key in INSTEAD:
        return INSTEAD[key]
    if key not in rules:
        return f"is handed on to code that may do anything with it: leave it out; what can be given is {_list(rules)}"
    wrong = None if value is None else rules[key](value)
    shown = repr(value) if isinstance(value, str | int | float) else f"a {type(value).__name__}"
    return None if wrong is None else f"{shown} {wrong}"


def _list(rules: Mapping[str, Rule]) -> str:
    return ", ".join(sorted(rules))


def _from_text(text: str) -> Any:
    """The mapping that TRL reads from a text that looks like JSON; None where there is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
