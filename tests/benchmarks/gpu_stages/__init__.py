"""The stages of `tests.benchmarks.on_gpu`, a module each with `measure(figures, size, work)`, and what they share."""
