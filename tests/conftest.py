"""What all tests share: one thread a process, as tiny models are slower with more and numbers depend on it."""

import gc
import os
import signal
import sys
from functools import cache
from types import SimpleNamespace
from typing import Any

import hypothesis
import pytest
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


def pytest_configure() -> None:
    """Let Ctrl-C reach the tests and what they start, as at a terminal: a shell starts what runs in the background with
    the signal ignored, and children have it so.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Do once what stays as it is: look at the million objects of loaded modules for garbage, and for PEFT; and leave
    out what stock TRL has PEFT and accelerate find out at every step, by walking through all layers.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)  # as often as by default costs a twelfth of all time
    if "datasets.arrow_dataset" in sys.modules:
        _name_datasets_by_chance()
    if "torch" in sys.modules:
        _seed_no_absent_devices()
    if imports := sys.modules.get("accelerate.utils.imports"):  # parses the metadata of PEFT at every step of stock TRL
        vars(imports)["_is_package_available"] = cache(vars(imports)["_is_package_available"])
    if others := sys.modules.get("accelerate.utils.other"):
        vars(others)["has_compiled_regions"] = lambda _: False  # no test compiles a model
    if peft := sys.modules.get("peft"):
        peft.PeftModel.get_model_status = _whether_enabled


_NAMED_BY_CONTENT: dict[tuple[Any, str], Any] = {}
"""What names datasets, by module and function; `names_of_datasets` puts it back."""


def _name_datasets_by_chance() -> None:
    """At every `map` of TRL, datasets pickles the tokenizer with all that the function knows, to find in a cache on
    disk what a dataset in memory never is: two fifths of the making of a trainer.
    """
    from datasets import arrow_dataset, fingerprint

    def by_chance(*_: Any) -> str:
        return fingerprint.generate_random_fingerprint()

    for module, name in [
        (fingerprint, "update_fingerprint"),
        (arrow_dataset, "update_fingerprint"),
        (arrow_dataset, "generate_fingerprint"),
    ]:
        _NAMED_BY_CONTENT[module, name] = vars(module)[name]
        setattr(module, name, by_chance)


@pytest.fixture
def names_of_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal datasets have equal names, as where no test runs; for what TRL keeps by them."""
    for (module, name), plain in _NAMED_BY_CONTENT.items():
        monkeypatch.setattr(module, name, plain)


def _seed_no_absent_devices() -> None:
    """For the day when a GPU is found after all, torch keeps each seed with the lines of the program that set it."""
    import torch

    for device in ("cuda", "xpu", "mtia"):
        if not getattr(torch, device).is_available():
            getattr(torch, device).manual_seed_all = lambda _: None


def _whether_enabled(model: Any) -> SimpleNamespace:
    """Of a model's status what PEFT asks to turn its adapters off for a pass; the rest is written out of each layer. A
    model without any is refused there too.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    found = {not layer.disable_adapters for layer in model.modules() if isinstance(layer, BaseTunerLayer)}
    if not found:
        raise ValueError("No adapter layers found in the model")
    return SimpleNamespace(enabled=found.pop() if len(found) == 1 else "irregular")
