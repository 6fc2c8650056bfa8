"""What all tests share: one thread a process, as tiny models are slower with more and numbers depend on it."""

import gc
import os
import sys
from functools import cache

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.pop("OPTUNA_STORAGE", None)  # of who runs the tests


def pytest_collection_finish() -> None:
    """Do once what stays as it is: look at the million objects of loaded modules for garbage, and for PEFT."""
    gc.collect()
    gc.freeze()
    if imports := sys.modules.get("accelerate.utils.imports"):  # parses the metadata of PEFT at every step of stock TRL
        vars(imports)["_is_package_available"] = cache(vars(imports)["_is_package_available"])
