"""Guesses what a run takes before any was trained: for a first design, which a speed test corrects."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

_BEGINS: Final = 45.0  # seconds until the first run trains, and after the last one


@dataclass(frozen=True)
class Machine:
    """What a sweep runs on: so many worker processes, each on a GPU or a core."""

    workers: int
    gpu: bool

    @property
    def in_words(self) -> str:
        """As `2 GPUs`, `1 core`."""
        return f"{self.workers} {'GPU' if self.gpu else 'core'}{'s' if self.workers > 1 else ''}"


@dataclass(frozen=True)
class RunSize:
    """What decides how long a run takes: steps of so many pairs, tokens of a pair, and what is measured of it."""

    parameters: int
    steps: int
    pairs: int
    tokens: int
    held_out: int
    prompts: int
    new_tokens: int
    times_measured: int = 1


def guessed_seconds(run: RunSize, runs: int, machine: Machine) -> float:
    """Seconds of the wall clock for so many runs."""
    return runs * seconds_of(run, machine) / machine.workers + _BEGINS


def seconds_of(run: RunSize, machine: Machine) -> float:
    """Seconds of one worker for a run: 4 operations a parameter and token that trains (LoRA), 2 for one that is read
    or sampled.
    """
    trained = 4.0 * run.steps * run.pairs * 2 * run.tokens
    measured = 2.0 * run.times_measured * (2 * run.held_out * run.tokens + run.prompts * (run.new_tokens + run.tokens))
    steps = 0.002 * run.steps
    return run.parameters * (trained + measured) / _operations(run.parameters, machine) + steps + 0.3


def _operations(parameters: int, machine: Machine) -> float:
    """Operations a second, by how large the model is: small ones keep a device less busy. Cores as measured with packs
    of the embedded model, stories260k and SmolLM2-135M (tests/benchmarks/README.md); GPUs are a guess.
    """
    if machine.gpu:
        return min(1e14, 3e12 * math.sqrt(parameters / 1e6))
    return min(2.5e11, 2e10 * math.pow(parameters / 1e5, 0.36))
