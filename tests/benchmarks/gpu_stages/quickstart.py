"""The shipped study through the command line: worker processes, growing packs, MLflow, Optuna, table, export."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.benchmarks.gpu_stages.figures import Figures
from tests.benchmarks.gpu_stages.inputs import Size

_SHORT: Final = ("base.max_steps=40", "evaluate.prompts=128", "budget.trials=1")
_TINY: Final = (
    *("base.max_steps=3", "base.warmup_steps=1", "evaluate.prompts=8", "evaluate.max_new_tokens=8", "data.rows=64"),
    "budget.trials=1",
)


def measure(figures: Figures, size: Size, work: Path) -> None:
    """See the module."""
    folder = Path(tempfile.mkdtemp(dir=work))
    options = [word for text in (_TINY if size.is_tiny else _SHORT) for word in ("--set", text)]
    for name, more in (("run", []), ("table", []), ("export", ["--variant", "sigmoid"]), ("verify", ["--verify", "2"])):
        if name == "verify" and size.is_tiny:
            continue
        with figures.part(name):
            _command(figures, folder, name, ["run" if name == "verify" else name, "quickstart", *options, *more])
    for log in sorted(folder.rglob("worker-*.log"))[:2]:
        figures.note("log", file=log.name, tail=log.read_text(errors="replace")[-1500:])


def _command(figures: Figures, folder: Path, name: str, words: list[str]) -> None:
    began = time.monotonic()
    command = [sys.executable, "-W", "ignore", "-m", "sweeper", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    out = (done.stdout + done.stderr)[-3000:]
    bad = {"failed": f"exit code {done.returncode}"} if done.returncode else {}
    figures.note(name, rc=done.returncode, seconds=time.monotonic() - began, **bad, out=out.splitlines())
