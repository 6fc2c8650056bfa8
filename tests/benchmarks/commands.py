"""How long the commands that people wait for take, from a cold process.

python -m tests.benchmarks.commands [--repeats 9]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time

COMMANDS = (("--help",), ("plan", "quickstart"))


def seconds(arguments: tuple[str, ...], folder: str) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "sweeper", *arguments], cwd=folder, capture_output=True, check=True)
    return time.perf_counter() - started


def main() -> None:
    """Print median and range of each command, repeats interleaved."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        rounds = [[seconds(arguments, folder) for arguments in COMMANDS] for _ in range(repeats + 1)][1:]
    for arguments, times in zip(COMMANDS, zip(*rounds, strict=True), strict=True):
        shown = f"median {statistics.median(times):.2f} s, {min(times):.2f} to {max(times):.2f}"
        print(f"sweeper {' '.join(arguments)}: {shown}")  # noqa: T201


if __name__ == "__main__":
    main()
