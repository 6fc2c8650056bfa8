"""A study whose runs take as long as a test says: what steers or kills a sweep is tried on it."""

from __future__ import annotations

from pathlib import Path

TRAINERS = Path(__file__).parents[1] / "soak"
STUDY = """
study: small
trainer: soak_trainers:Slow
base: {model_name_or_path: embedded, use_peft: true, lora_r: 8, max_steps: 10, learning_rate: 1.0e-5}
variants: {sigmoid: {}, ipo: {}}
space: {beta: {low: 0.01, high: 1.0, log: true}}
budget: {trials: 10}
resources: {env: [STEP_SECONDS]}
objective: {metric: ranking_gain}
"""
