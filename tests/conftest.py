"""What all tests share: one thread a process, as tiny models are slower with more and numbers depend on it."""

import gc
import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.pop("OPTUNA_STORAGE", None)  # of who runs the tests


def pytest_collection_finish() -> None:
    """Have Python look no more, each time that it looks for garbage, at the million objects of loaded modules."""
    gc.collect()
    gc.freeze()
