"""Gives a base model back as it was before a run."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from transformers import PreTrainedModel
from transformers.loss import loss_utils

from trainers.components.worker_cache import WorkerCache


def restore_base(policy: torch.nn.Module, cache: WorkerCache) -> None:
    """Give the next run the base model as it was before this one, or have it load another."""
    if not isinstance(policy, PeftModel):
        cache.drop_base()  # full fine-tuning changed the base itself
        return
    try:
        policy.disable_input_require_grads()
        _as_loaded(policy.unload())
    except Exception:  # what was trained is not lost over it
        traceback.print_exc()
        cache.drop_base()


def take_back(base: PreTrainedModel, tensors: Mapping[str, int], cache: WorkerCache) -> None:
    """Give the next run the base model of one that failed, with the half of an adapter that it may carry taken out;
    have it load another where that does not give the `tensors` of before, see `tensors_of`.

    Others may train around it: a second one beside it may not fit.
    """
    try:
        for name, module in list(base.named_modules()):
            inner = _inner(module)
            if inner is not None and _still_there(base, name) is module:  # one within another went with that
                parent, _, child = name.rpartition(".")
                setattr(base.get_submodule(parent), child, inner)
        if tensors_of(base) == tensors:
            base.disable_input_require_grads()
            _as_loaded(base)
            return
    except Exception:
        traceback.print_exc()
    cache.drop_base()


@contextmanager
def code_as_before(model: torch.nn.Module) -> Iterator[None]:
    """Inside, code may be put into the model's classes and their modules, as Liger's kernels are into those of
    transformers, where every model of the process finds it; behind, they have their own again.
    """
    kinds = {type(module) for module in model.modules()}
    modules = {sys.modules[kind.__module__] for kind in kinds if kind.__module__ in sys.modules}
    places: list[type | ModuleType] = [*kinds, *modules, torch.nn.functional, loss_utils]
    before = [(place, dict(vars(place))) for place in places]
    try:
        yield
    finally:
        for place, names in before:
            for name, value in names.items():
                if vars(place).get(name) is not value:
                    setattr(place, name, value)


def tensors_of(base: torch.nn.Module) -> Mapping[str, int]:
    """Which tensors a model is made of: the same as long as nothing was put in or taken out."""
    return {name: id(tensor) for name, tensor in (*base.named_parameters(), *base.named_buffers())}


def _inner(module: torch.nn.Module) -> torch.nn.Module | None:
    """The module that PEFT put this one around; None for one that is none of PEFT's."""
    if isinstance(module, BaseTunerLayer):
        return module.get_base_layer()  # type: ignore[no-any-return]
    return module.original_module if isinstance(module, AuxiliaryTrainingWrapper) else None


def _still_there(base: torch.nn.Module, name: str) -> torch.nn.Module | None:
    try:
        return base.get_submodule(name)
    except AttributeError:
        return None


def _as_loaded(base: PreTrainedModel) -> None:
    base.gradient_checkpointing_disable()
    base.__dict__.pop("forward", None)  # TRL's fused head, which every trainer wraps around what it finds
    base.__dict__.pop("peft_config", None)  # which the next PEFT model would take for its own
