"""The project's tests that need a GPU, and those of packs on this device."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch

from tests.benchmarks.gpu_stages.figures import Figures
from tests.benchmarks.gpu_stages.inputs import Size

_ROOT: Final = Path(__file__).parents[3]
OF_PACKS: Final = ("tests/trainers/pack/test_pack.py", "tests/trainers/evaluation/test_packed_evaluation.py")
_NOTHING: Final = 5
"""What pytest ends with where no test was chosen."""


def measure(figures: Figures, size: Size, work: Path) -> None:
    """See the module. Without a GPU the marked tests are only collected."""
    marked = [str(file) for file in sorted((_ROOT / "tests").rglob("test_*.py")) if _is_marked(file)]
    with figures.part("marked gpu"):
        only = [] if torch.cuda.is_available() else ["--collect-only"]
        if marked:
            _pytest(figures, "marked gpu", ["-m", "gpu", *only, *marked])
        else:
            figures.note("marked gpu", last="no test is marked gpu")
    with figures.part("of packs"):
        _pytest(figures, "of packs", [*OF_PACKS, *(["-k", "halved"] if size.is_tiny else [])])


def _is_marked(file: Path) -> bool:
    return "mark.gpu" in file.read_text(encoding="utf-8")


def _pytest(figures: Figures, name: str, words: Sequence[str]) -> None:
    """Run tests; their output goes to the log as it comes, and all of it into a file."""
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--tb=short", *words]
    lines: list[str] = []
    with (
        (figures.folder / "pytest.txt").open("a", encoding="utf-8") as file,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=_ROOT) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            file.flush()
            lines.append(line.rstrip())
    bad = {} if process.returncode in (0, _NOTHING) else {"failed": f"exit code {process.returncode}"}
    told = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    figures.note(name, rc=process.returncode, **bad, last=lines[-1] if lines else "", told=told[:40])
