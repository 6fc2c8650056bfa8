"""Sweeps in a process of their own, which outlives the terminal or the notebook that started it."""
