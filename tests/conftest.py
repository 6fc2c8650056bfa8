"""What all tests share: one thread a process, as tiny models are slower with more and numbers depend on it."""

import gc
import os
import sys
from functools import cache
from types import SimpleNamespace
from typing import Any

import hypothesis
import typer.testing

hypothesis.settings.register_profile("any load", deadline=None)  # how long an example takes hangs on the machine
hypothesis.settings.load_profile("any load")
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.pop("OPTUNA_STORAGE", None)  # of who runs the tests

# Reading the signatures of all commands takes as long as a small command does.
vars(typer.testing)["_get_command"] = cache(vars(typer.testing)["_get_command"])


def pytest_collection_finish() -> None:
    """Do once what stays as it is: look at the million objects of loaded modules for garbage, and for PEFT; and leave
    out what stock TRL has PEFT and accelerate find out at every step, by walking through all layers.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)  # as often as by default costs a twelfth of all time
    if imports := sys.modules.get("accelerate.utils.imports"):  # parses the metadata of PEFT at every step of stock TRL
        vars(imports)["_is_package_available"] = cache(vars(imports)["_is_package_available"])
    if others := sys.modules.get("accelerate.utils.other"):
        vars(others)["has_compiled_regions"] = lambda _: False  # no test compiles a model
    if peft := sys.modules.get("peft"):
        peft.PeftModel.get_model_status = _whether_enabled


def _whether_enabled(model: Any) -> SimpleNamespace:
    """Of a model's status what PEFT asks to turn its adapters off for a pass; the rest is written out of each layer."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found = {not layer.disable_adapters for layer in model.modules() if isinstance(layer, BaseTunerLayer)}
    return SimpleNamespace(enabled=found.pop() if len(found) == 1 else "irregular")
