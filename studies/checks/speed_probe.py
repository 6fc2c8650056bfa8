"""What `probe` of a study file asks for, checked; knows neither how a run is timed nor what its time says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from studies.records import RunConfig
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
    "train_sampling_strategy": "random",
    "torch_compile": False,
    "use_liger_kernel": False,
}

FEWEST_ROUNDS, MOST_ROUNDS = 5, 1000
FEWEST_STEPS, MOST_STEPS = 20, 10_000


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
    if not FEWEST_STEPS <= probe.steps <= MOST_STEPS:
        text = (
            f"{probe.steps} must be at least {FEWEST_STEPS}, since the first 10 steps of a run are not timed, and at "
            f"most {MOST_STEPS}"
        )
        problems.append(Problem("probe.steps", text))
    if len(spec.variants) == 1:
        problems.append(
            Problem("probe", "has one variant to time and none to compare it with: add one, or leave it out")
        )
    return problems


def unlike_steps(runs: Iterable[RunConfig]) -> list[str]:
    """The settings in which the steps of timed runs differ beside their loss, in words: `lora_r (8: sigmoid, ipo; 16:
    hinge)`.
    """
    runs, found = tuple(runs), []
    for name, default in PACE_SETTINGS.items():
        variants: dict[str, list[str]] = {}
        for run in runs:
            variants.setdefault(_shown(run.settings.get(name, default)), []).append(run.variant)
        if len(variants) > 1:
            said = "; ".join(f"{value}: {', '.join(names)}" for value, names in variants.items())
            found.append(f"{name} ({said})")
    return found


def _shown(value: Any) -> str:
    """A setting in words; lists of the same names in another order are the same."""
    return ", ".join(sorted(map(str, value))) if isinstance(value, list | tuple) else str(value)
