"""Optuna's storage on a server that is away for a while: what is waited for, and what is safe to repeat."""
