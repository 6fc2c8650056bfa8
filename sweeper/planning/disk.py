"""Estimates the disk use of a study before anything runs; loads no torch and no weights.

An adapter's size follows from its rank and the shapes of the adapted layers, which the headers of the model's
safetensors files hold; a state to resume from has the adapter and its optimizer's two moments, three times as much.
Full fine-tuning keeps the whole model instead of an adapter. Not counted: databases, logs, reference log-probs, and
adapters of runs whose trial is still open.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from studies.design.counts import planned_runs, planned_trials
from studies.design.halving import bracket_sizes
from studies.spec import IntRange, ResolvedVariant, Study, Values
from studies.text.files import safetensors_header
from trainers.world.paths import embedded_path

MEBIBYTE: Final = 2**20
_DTYPE_BYTES: Final = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}
_STORED_BYTES: Final = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}
_LARGEST_SIZE: Final = 2**40  # of a dimension
_RANK: Final = 16  # TRL's default
_DEFAULT_TARGETS: Final = ("q_proj", "v_proj", "c_attn", "query_key_value")  # PEFT's, for the usual architectures
_NOT_LINEAR: Final = ("embed", "wte", "wpe", "lm_head")
# The last state of a run, the one before, and the one that is being written.
_KEPT_STATES, _WRITTEN_STATES = 2, 1


@dataclass(frozen=True)
class DiskUse:
    """The number of adapters and states, and the bytes of one adapter, None where unknown.

    `states`: of runs in training; `paused`: of runs that wait at a rung. Each has the size of three adapters.
    """

    adapters: int
    states: int
    paused: int
    adapter_bytes: int | None

    @property
    def in_adapters(self) -> int:
        """The total, as a number of adapters."""
        return self.adapters + 3 * (self.states + self.paused)


def planned_disk(study: Study, workers: int, together: int) -> DiskUse:
    """What the study keeps, and what training needs beside it with so many workers, each with so many runs together (0:
    TRL's own loop).
    """
    spec = study.spec
    packs = together > 1 and any(arm.settings.get("use_peft") for arm in study.variants.values())
    best = sum(len(own.variants) * _runs_a_trial(own) for _, own in study.by_scenario())
    kept = {"none": 0, "best": best, "all": planned_runs(study)}[spec.output.keep]
    copies = best if spec.output.keep != "none" else 0  # MLflow has the best ones too
    brackets = bracket_sizes(spec, planned_trials(study)) if spec.rungs else [0]
    settings = [{**a.settings, "lora_r": _rank(a)} for a, _ in study.strata()]
    sizes = [adapter_bytes(one) for one in settings]
    known = [size for size in sizes if size is not None]
    return DiskUse(
        adapters=kept + copies,
        states=workers * (_KEPT_STATES * (together if packs else 1) + _WRITTEN_STATES),
        paused=_KEPT_STATES * max(brackets) * max(_runs_a_trial(own) for _, own in study.by_scenario()),
        adapter_bytes=max(known) if known and len(known) == len(sizes) else None,
    )


def _runs_a_trial(study: Study) -> int:
    runs = study.spec.runs
    return len(runs.blocks) * len(runs.seeds)


def describe_disk(use: DiskUse, model: str, *, guessed: bool) -> str:
    """The line that `plan` prints. `guessed`: the number of runs together is not decided yet."""
    parts = [f"{use.adapters} adapters kept", f"{use.states} states of runs in training"]
    parts += [f"{use.paused} states of runs at a rung"] if use.paused else []
    what = f"{', '.join(parts)}, a state being three adapters"
    when = ", with one run at a time on a worker, as long as no sweep has found more to be faster" if guessed else ""
    if use.adapter_bytes is None:
        return (
            f"Disk: about {use.in_adapters} times an adapter ({what}){when}; the size of an adapter of {model} is "
            "not known, as its weights are not on this machine or name their layers in a way that is not known here."
        )
    size = use.adapter_bytes / MEBIBYTE
    return f"Disk: about {use.in_adapters * size:.4g} MiB ({what}, an adapter {size:.2g} MiB){when}."


def adapter_bytes(settings: Mapping[str, Any]) -> int | None:
    """Bytes of the adapter, or the model, that a run with these TRL settings leaves. None where the model is not here,
    or its files are not those of a model.
    """
    try:
        shapes = {name: (shape, stored) for name, shape, stored in _shapes(settings)}  # some lie there twice
    except (OSError, KeyError, TypeError, ValueError):
        return None  # training will say what is wrong with the model
    if not shapes:
        return None
    if not settings.get("use_peft"):
        own = _DTYPE_BYTES.get(str(settings.get("dtype", "float32")))
        return sum(math.prod(shape) * (own or stored) for shape, stored in shapes.values())
    rank, targets = int(settings.get("lora_r") or _RANK), settings.get("lora_target_modules") or _DEFAULT_TARGETS
    quantized = settings.get("load_in_4bit") or settings.get("load_in_8bit")  # TRL then trains the adapter in bf16
    adapted = [shape for name, (shape, _) in shapes.items() if len(shape) == 2 and _is_adapted(name, targets)]
    return sum(rank * sum(shape) for shape in adapted) * (2 if quantized else 4) if adapted else None


def _is_adapted(weight: str, targets: Any) -> bool:
    """Whether PEFT adapts the module with this weight, as `target_modules` says."""
    module = weight.removesuffix(".weight")
    if targets in ("all-linear", ["all-linear"]):
        return not any(word in module for word in _NOT_LINEAR)
    if isinstance(targets, str):
        return re.fullmatch(targets, module) is not None
    return any(module == target or module.endswith(f".{target}") for target in targets)


def _rank(arm: ResolvedVariant) -> int:
    """The largest rank that a trial of the arm can have."""
    space = arm.space.get("lora_r")
    wide = (space.high,) if isinstance(space, IntRange) else space.values if isinstance(space, Values) else ()
    points = (point.get("lora_r", 0) for point in arm.points)
    return max(int(rank or 0) for rank in (arm.settings.get("lora_r") or _RANK, *points, *wide))


def _shapes(settings: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...], int]]:
    """Name, shape and bytes per number of every weight, from the headers of the model's files, which may lie in the
    Hub's cache. Raises OSError, KeyError, TypeError and ValueError where they are missing or not those of a model.
    """
    name = str(settings.get("model_name_or_path"))
    folder = embedded_path(name) or Path(name)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(name, revision=settings.get("model_revision"), local_files_only=True))
    for path in sorted(folder.glob("*.safetensors")):
        for weight, about in safetensors_header(path, links=True).items():  # the Hub's cache is made of links
            if weight == "__metadata__":
                continue
            shape = tuple(about["shape"])
            if not all(type(size) is int and 0 <= size <= _LARGEST_SIZE for size in shape):
                raise ValueError(f"{path}: {weight} has the shape {shape}")
            yield weight, shape, _STORED_BYTES.get(about["dtype"], 4)
