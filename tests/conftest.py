"""What all tests share: one thread a process, as tiny models are slower with more and numbers depend on it."""

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.pop("OPTUNA_STORAGE", None)  # of who runs the tests
