"""What `probe` of a study file asks for, checked, and what a step's time depends on beside its loss; knows neither how
a step is timed nor what its time says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from studies.schema.knob_problems import Problem
from studies.schema.types import StudySpec

# What decides how long a step takes, whatever the loss: names of TRL with its defaults.
PACE_SETTINGS: Mapping[str, Any] = {
    "model_name_or_path": None,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "max_length": 1024,
    "use_peft": False,
    "lora_r": 16,
    "lora_dropout": 0.05,
    "lora_target_modules": None,
    "lora_target_parameters": None,
    "lora_modules_to_save": None,
    "use_dora": False,
    "load_in_4bit": False,
    "load_in_8bit": False,
    "dtype": "float32",
    "bf16": None,
    "fp16": False,
    "tf32": None,
    "gradient_checkpointing": True,
    "activation_offloading": False,
    "optim": "adamw_torch_fused",
    "attn_implementation": None,
    "padding_free": False,
    "precompute_ref_log_probs": False,
    "sync_ref_model": False,
    "use_weighting": False,
    "train_sampling_strategy": "random",
    "torch_compile": False,
    "use_liger_kernel": False,
}

TRAINER: Final = "dpo"
"""The trainer whose steps are timed."""
FEWEST_ROUNDS, MOST_ROUNDS = 5, 1000


def probe_problems(spec: StudySpec) -> list[Problem]:
    """Every mistake about the probe."""
    probe = spec.probe
    if probe is None:
        return []
    if spec.mode == "search":
        text = "compares the pace of variants, and mode: search compares none: leave it out, or use mode: compare"
        return [Problem("probe", text)]
    problems = []
    if not FEWEST_ROUNDS <= probe.rounds <= MOST_ROUNDS:
        text = (
            f"{probe.rounds} must be at least {FEWEST_ROUNDS}, below which the interval of a ratio says nothing, and "
            f"at most {MOST_ROUNDS}"
        )
        problems.append(Problem("probe.rounds", text))
    if len(spec.variants) == 1:
        problems.append(
            Problem("probe", "has one variant to time and none to compare it with: add one, or leave it out")
        )
    elif spec.baseline is None:
        text = f"times variants against a baseline: name it, such as baseline: {next(iter(spec.variants))}"
        problems.append(Problem("probe", text))
    return problems


def probe_notices(spec: StudySpec) -> list[str]:
    """What of the probe does nothing."""
    probe, found = spec.probe, []
    if probe is not None and probe.steps is not None:
        found.append("probe.steps: is not used any more, since whole steps are timed and no runs: leave it out")
    if probe is not None and spec.trainer != TRAINER:
        found.append(f"probe: times steps of TRL, and trainer {spec.trainer} makes none: nothing is timed")
    return found


def unlike_step(settings: Mapping[str, Any], baseline: Mapping[str, Any]) -> list[str]:
    """The settings in which steps differ from the baseline's beside their loss, in words: `lora_r (8, not 16)`."""
    found = []
    for name, default in PACE_SETTINGS.items():
        own, theirs = (_shown(of.get(name, default)) for of in (settings, baseline))
        if own != theirs:
            found.append(f"{name} ({own}, not {theirs})")
    return found


def _shown(value: Any) -> str:
    """A setting in words; lists of the same names in another order are the same."""
    return ", ".join(sorted(map(str, value))) if isinstance(value, list | tuple) else str(value)
